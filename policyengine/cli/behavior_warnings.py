"""A warning about a folder of learned behavior that comes from other policies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyengine.behavior.tracker import BehaviorTracker
    from policyengine.engine import Engine
    from policyengine.kernel import Kernel

MAX_NAMED = 3  # classes that the warning names
FOREIGN_HINT = (
    "name the folder of these policies with `--behavior`, or learn from a log of these policies: "
    "`policyengine behavior learn LOG --policies POLICIES -o FOLDER`"
)


def foreign_behavior_warning(engine: Engine) -> str | None:
    """Return a warning if no class in the folder of learned behavior is a class of the policies; None if one is, if the
    folder is empty, or if there is no folder."""
    from policyengine.behavior.tracker import BehaviorTracker

    tracker = engine.behavior
    if not isinstance(tracker, BehaviorTracker) or tracker.folder is None:
        return None
    known, named = class_labels(engine.kernel), dict[tuple[str, str], None]()
    for issuer, group in learned_classes(tracker):
        if group in known and issuer in engine.kernel.issuers:
            return None
        named[issuer, group] = None
    if not named:
        return None
    shown = [f"`{group}` of {issuer}" if group else f"other callers of {issuer}" for issuer, group in sorted(named)]
    more = [f"{len(shown) - MAX_NAMED:,} more"] if len(shown) > MAX_NAMED else []
    return (
        f"no class of the callers in `{tracker.folder.path}` is in these policies, so these callers count as new; the "
        f"folder has {', '.join([*shown[:MAX_NAMED], *more])}"
    )


def class_labels(kernel: Kernel) -> set[str]:
    """Return the names of the classes of callers in policies: profiles and agent blocks."""
    return {f"profile {profile.name}" for profile in kernel.profiles} | {block.label for block in kernel.agents}


def learned_classes(tracker: BehaviorTracker) -> Iterator[tuple[str, str]]:
    """Yield the issuer and the name of each learned class; some are repeated."""
    yield from ((found.issuer, found.name) for found in tracker.state.model.content.classes)
    yield from ((caller.issuer, known.group) for caller, known in tracker.state.callers.items())
