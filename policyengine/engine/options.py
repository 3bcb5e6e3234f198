"""Options of engines, declared once for every constructor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from policyengine.clock import Clock
from policyengine.diagnostics.suggest import suggest
from policyengine.stores.base import Store

if TYPE_CHECKING:
    from policyengine.approvals.settings import ApprovalSettings
    from policyengine.audit.log import DecisionLog
    from policyengine.behavior.shared import SharedTracker
    from policyengine.behavior.tracker import BehaviorTracker

SYNONYMS = {"entities": "directory", "directory": "entities"}  # constructors take either sources or an entity store


class EngineOptions(TypedDict, total=False):
    """Keyword arguments of `Engine` and of its constructors. `clock` returns the current time, timezone-aware; `ids`
    creates a decision's id from that time. With a `log`, each decision is logged before it is returned. `store` keeps
    the state that decisions spend; the default is the memory of this process (`docs/stores.md`). `behavior` keeps
    learned behavior in memory or in a folder, and is opened only if the policies read learned facts; the default is the
    memory of this process (`docs/behavior.md`). A store outside this process keeps learned behavior itself. `approvals`
    says how approvals are opened and answered (`docs/approvals.md`). `halt_file`
    is a file with halts, besides those in the store (`docs/halt.md`).
    """

    approvals: ApprovalSettings | None
    behavior: BehaviorTracker | SharedTracker | Path | None
    clock: Clock
    halt_file: Path | str | None
    ids: Callable[[datetime], str]
    log: DecisionLog | None
    store: Store | None


def reject_unknown_options(constructor: Callable[..., object], options: Mapping[str, object]) -> None:
    """Raise TypeError for a keyword argument that is not an option, as Python does for a function without
    `**options`."""
    unknown = next((name for name in options if name not in EngineOptions.__optional_keys__), None)
    if unknown is None:
        return
    known = {*signature(constructor).parameters, *EngineOptions.__optional_keys__} - {"self", "options"}
    synonym = SYNONYMS.get(unknown)
    meant = synonym if synonym in known else suggest(unknown, known)
    hint = "" if meant is None else f". Did you mean {meant!r}?"
    raise TypeError(f"{constructor.__qualname__}() got an unexpected keyword argument {unknown!r}{hint}")
