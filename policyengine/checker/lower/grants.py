"""Lowering of grants: the endpoints of each `may`, and its condition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policyengine import kernel as k
from policyengine.checker.lower.context import MENTIONS_NOT_FOR_GRANTS, NOT_FOR_GRANTS, LoweringContext, facts_read
from policyengine.checker.patterns.overlap import PatternIndex
from policyengine.checker.types.schema import EVERYWHERE
from policyengine.source import Span
from policyengine.syntax import nodes as ast

NOT_FOR_GRANTS_MESSAGES = {
    "E415": ("behavior cannot grant access", "use it in a guard: `deny when …`, `confirm … when …`"),
    "E416": ("an approval cannot grant access", "require it in a guard: `confirm by …`"),
}


def lower_grants(items: Sequence[ast.Node], package: str, draft: LoweringContext) -> tuple[k.Grant, ...]:
    found = (lower_grant(item, package, draft) for item in items if isinstance(item, ast.May))
    return tuple(one for one in found if one is not None)


def lower_grant(may: ast.May, package: str, draft: LoweringContext) -> k.Grant | None:
    """Lower a `may`. Returns None if an error was reported."""
    opened = [lower_targets(target, package, draft) for target in may.targets]
    merged = merge_targets(opening for some in opened for opening in some or ())
    place = k.Place(tuple(dict.fromkeys(opening.pattern for opening in merged)), span=may.span)
    when = lower_grant_condition(may.when, place, package, draft)
    if None in opened or not merged or (may.when is not None and when is None):
        return None
    return k.Grant(merged, when, span=may.span)


def lower_targets(target: ast.Target, package: str, draft: LoweringContext) -> list[k.GrantTarget] | None:
    if not isinstance(target, ast.Name):
        pattern = draft.places.pattern(target, package, opening=True)
        return [k.GrantTarget(pattern, (), span=target.span)] if pattern else None
    scope = draft.program.find(package, "scope", target)
    if scope is None:
        return None
    return [
        k.GrantTarget(pattern, draft.places.carriers(owner), span=target.span)
        for owner, pattern in draft.places.of_scope(scope, opening=True)
    ]


def merge_targets(every: Iterable[k.GrantTarget]) -> tuple[k.GrantTarget, ...]:
    """Merge the targets of several scopes with the same pattern. Targets without a scope remain separate."""
    found: dict[tuple[k.Pattern, bool], k.GrantTarget] = {}
    for opening in every:
        known = found.setdefault((opening.pattern, bool(opening.carriers)), opening)
        if known is not opening:
            carriers = tuple(sorted({*known.carriers, *opening.carriers}))
            found[opening.pattern, bool(carriers)] = k.GrantTarget(opening.pattern, carriers, span=known.span)
    return tuple(found.values())


def lower_grant_condition(
    written: ast.Expr | None, place: k.Place, package: str, draft: LoweringContext
) -> k.Expr | None:
    if written is None:
        return None
    # Most conditions do not need the walk.
    suspect = draft.keyless or MENTIONS_NOT_FOR_GRANTS.search(written.span.text) is not None
    for node in ast.walk(written) if suspect else ():
        if isinstance(node, ast.Reference):
            report_not_for_grants(node.name.partition(".")[0], node.span, draft)
    here = draft.places.here(place) if place.patterns else EVERYWHERE  # no patterns: all of them had errors
    found = draft.condition(written, package, here)
    for fact, span in facts_read(found) if found and suspect else ():
        report_not_for_grants(fact.path[0], span, draft)
    if found is not None and suspect:
        report_past_behavior(found, draft)
    return found


def report_past_behavior(condition: k.Expr, draft: LoweringContext) -> None:
    """Report learned facts of past requests, which cannot grant access either."""
    for node in k.walk(condition):
        if isinstance(node, k.PastFact) and isinstance(node.fact, k.Fact) and node.fact.path[0] == "behavior":
            report_not_for_grants("behavior", node.span, draft)


def report_not_for_grants(root: str, span: Span, draft: LoweringContext) -> None:
    code = NOT_FOR_GRANTS.get(root)
    if code:
        message, hint = NOT_FOR_GRANTS_MESSAGES[code]
        draft.report(code, message, span, hint)


def index_blocks(blocks: Iterable[k.AgentBlock | k.UserBlock | k.AnyoneBlock]) -> PatternIndex[bool]:
    """Return an index of every pattern that the blocks grant."""
    index: PatternIndex[bool] = PatternIndex()
    patterns = {opening.pattern for block in blocks for one in block.grants for opening in one.openings}
    for pattern in patterns:
        index.add(pattern, True)
    return index
