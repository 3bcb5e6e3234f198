"""Compiled policies beside one entity store: everything that a decision runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from policyengine.compiler.evaluator import Evaluator
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision

# Members of a question to its decision; None where the fast path does not decide it.
FastPath: TypeAlias = Callable[[dict[str, object]], Decision | None]


@dataclass(frozen=True, slots=True)
class CompiledPolicies:
    """A decision reads this once, so that it sees one entity store only."""

    entities: EntityStore
    evaluator: Evaluator
    decide: FastPath  # spends
    evaluate: FastPath
    decide_without_waiting: FastPath  # spends; None also where it may take long
    entities_mark: bytes  # what the log calls the entity store
