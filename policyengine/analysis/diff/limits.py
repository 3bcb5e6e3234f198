"""Compares the rates and budgets of two policies: added, removed, looser or tighter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TypeAlias, TypeVar

from policyengine import kernel as k
from policyengine.analysis.diff.answer_order import Direction
from policyengine.analysis.diff.endpoint_classes import EndpointClass
from policyengine.analysis.diff.model import LimitChange, RuleExcerpt, UnprovedRegion
from policyengine.checker.patterns.overlap import place_covers
from policyengine.kernel.fingerprint import CanonicalWriters
from policyengine.runtime.format_values import format_value
from policyengine.spec.limits import format_pace
from policyengine.spec.match_endpoint import place_covers as place_covers_endpoint

STRICTEST_FIRST = ("deny", "local", "allow")

Ordered = TypeVar("Ordered", bound=k.Node)
# True if the new part of a limit is tighter, False if it is looser, None if neither is certain.
IsTighter: TypeAlias = bool | None
BoundFacts: TypeAlias = Mapping[tuple[str, ...], k.Expr | None]


def limit_changes(old: k.Kernel, new: k.Kernel, *, reasons: bool = False) -> tuple[LimitChange, ...]:
    """Return the changed limits by kind, package and name. With `reasons`, include limits that were only renamed,
    because they count from zero.
    """
    before, after = ({limit_key(one): one for one in kernel.limits} for kernel in (old, new))
    gone = {name: one for name, one in before.items() if name not in after}
    come = {name: one for name, one in after.items() if name not in before}
    renamed = dict(find_renames(gone, come))
    both = [name for name in before if name in after and not have_same_portions(name, before, after)]
    found = [limit_change(before[name], after[name]) for name in both]
    found += [
        LimitChange(Direction.REASONS, limit_excerpt(gone[a]), limit_excerpt(come[b]))
        for a, b in renamed.items()
        if reasons
    ]
    lost, more = unmatched_limits(before, after), unmatched_limits(after, before)
    kept = {*renamed, *renamed.values()}
    found += [
        LimitChange(Direction.WIDENING, limit_excerpt(lost[name]), None) for name in gone if name in lost.keys() - kept
    ]
    found += [
        LimitChange(Direction.NARROWING, None, limit_excerpt(more[name])) for name in come if name in more.keys() - kept
    ]
    ranks = [*Direction]
    return tuple(sorted((one for one in found if one is not None), key=lambda one: ranks.index(one.direction)))


def rebound_limits(
    old: k.Kernel, new: k.Kernel, at: EndpointClass, before: BoundFacts, after: BoundFacts
) -> Iterator[UnprovedRegion]:  # fmt: skip
    """Yield limits that count by facts with changed bindings: the limit itself is the same, but it counts other
    requests.
    """
    moved = {path for path in {*before, *after} if before.get(path, ()) != after.get(path, ())}
    for limit in new.limits if moved else ():
        read = sorted(path for path in moved if reads_fact(limit, path))
        if read and place_covers_endpoint(limit.place, at.endpoint):
            names = ", ".join(f"`{'.'.join(path)}`" for path in read)
            why = f"{limit_kind(limit)} {format_value(limit.name)} counts by {names}, which is bound differently"
            yield UnprovedRegion(at.words, "everybody", why, 0, (limit_excerpt(limit),))


def reads_fact(limit: k.Limit, path: tuple[str, ...]) -> bool:
    asked = (node for part in limit_expressions(limit) for node in k.walk(part) if isinstance(node, k.Fact))
    return any(node.path[: len(path)] == path for node in asked)


def limit_expressions(limit: k.Limit) -> Iterator[k.Expr]:
    yield from limit.keys
    yield from () if limit.when is None else (limit.when,)
    match limit:
        case k.Budget(quotas=quotas):
            yield from (one for quota in quotas for one in (quota.fact, quota.bound) if one is not None)
        case k.Rate(pace=pace, cost=cost, raises=raises, clamps=clamps):
            yield from (*(one.when for one in raises), *(one.when for one in clamps))
            yield from () if cost is None else (cost,)
            yield from (pace.count,) if isinstance(pace, k.PaceByFact) else ()


LimitKey: TypeAlias = tuple[str, str, str]
LimitsByKey: TypeAlias = dict[LimitKey, k.Limit]


def unmatched_limits(limits: LimitsByKey, others: LimitsByKey) -> LimitsByKey:
    """Return the limits without those whose portions all exist under other names, because splitting or repeating a
    limit makes no difference.
    """
    known = {portion for one in others.values() for portion in portions(one)}
    return {name: one for name, one in limits.items() if name in others or not known.issuperset(portions(one))}


def have_same_portions(name: LimitKey, old: LimitsByKey, new: LimitsByKey) -> bool:
    """Return whether all portions of both limits of that name exist in the other policy, under any name."""
    known = [{portion for one in limits.values() for portion in portions(one)} for limits in (old, new)]
    return known[1].issuperset(portions(old[name])) and known[0].issuperset(portions(new[name]))


def portions(limit: k.Limit) -> Iterator[k.Limit]:
    """Yield each bound of a limit. A request must fit within all of them."""
    match normalize_limit(limit):
        case k.Budget() as budget:
            yield from (replace(budget, quotas=(one,)) for one in budget.quotas)
        case k.Rate() as rate:
            if rate.pace is not None:
                yield replace(rate, at_once=None)
            if rate.at_once is not None:
                nothing = replace(rate, pace=None, cost=None, raises=(), clamps=(), floor=None)
                yield replace(nothing, counting_denials=False)


def limit_key(limit: k.Limit) -> LimitKey:
    return limit_kind(limit), limit.package, limit.name


def find_renames(gone: dict[LimitKey, k.Limit], come: dict[LimitKey, k.Limit]) -> Iterator[tuple[LimitKey, LimitKey]]:
    taken: set[LimitKey] = set()
    for before, one in gone.items():
        for after, other in come.items():
            if after not in taken and normalize_limit(one) == normalize_limit(other):
                taken.add(after)
                yield before, after
                break


def normalize_limit(limit: k.Limit) -> k.Limit:
    """Return the limit without its name, with canonical numbers and order."""
    place, keys = replace(limit.place, patterns=sort_parts(limit.place.patterns)), sort_parts(limit.keys) or ()
    place = replace(place, excepts=sort_parts(place.excepts) or ())
    if isinstance(limit, k.Budget):
        quotas = tuple(replace(one, words="") for one in limit.quotas)
        return replace(limit, name="", package="", place=place, keys=keys, quotas=sort_parts(quotas) or ())
    raises, clamps = sort_parts(limit.raises) or (), sort_parts(limit.clamps) or ()
    return replace(limit, name="", package="", place=place, keys=keys, raises=raises, clamps=clamps)


def sort_parts(parts: tuple[Ordered, ...] | None) -> tuple[Ordered, ...] | None:
    return None if parts is None else tuple(sorted(parts, key=CanonicalWriters()))


def limit_change(old: k.Limit, new: k.Limit) -> LimitChange | None:
    if normalize_limit(old) == normalize_limit(new):
        return None
    parts = list(compare_limits(old, new))
    direction = Direction.CHANGED
    if None not in parts and len(set(parts)) == 1:
        direction = Direction.NARROWING if parts[0] else Direction.WIDENING
    return LimitChange(direction, limit_excerpt(old), limit_excerpt(new))


# ── Which limit is tighter ─────────────────────────────────────────────────────────────────────────


def compare_limits(old: k.Limit, new: k.Limit) -> Iterator[IsTighter]:
    """Yield for each part that differs whether the new part is tighter. Different keys are not comparable."""
    old, new = normalize_limit(old), normalize_limit(new)
    if old.keys != new.keys:
        yield None
    if old.place != new.place:
        yield decide_tighter(place_covers(new.place, old.place), place_covers(old.place, new.place))
    if old.when != new.when:
        yield True if new.when is None else False if old.when is None else None
    if old.failing != new.failing:
        yield STRICTEST_FIRST.index(new.failing) < STRICTEST_FIRST.index(old.failing)
    match old, new:
        case k.Rate(), k.Rate():
            yield from compare_rates(old, new)
        case k.Budget(), k.Budget():
            yield from compare_quotas(normalize_limit(old), normalize_limit(new))
        case _:
            yield None


def decide_tighter(tighter: bool, looser: bool) -> IsTighter:
    return tighter if tighter is not looser else None


def compare_rates(old: k.Rate, new: k.Rate) -> Iterator[IsTighter]:
    if old.pace is not None and new.pace is not None:
        yield from compare_paces(old.pace, new.pace)
    elif old.pace is not new.pace:
        yield new.pace is not None
    if old.at_once is not None and new.at_once is not None:
        yield from compare_concurrency(old.at_once, new.at_once)
    elif old.at_once is not new.at_once:
        yield new.at_once is not None
    if old.cost != new.cost:
        yield None
    if old.raises != new.raises:  # the smallest cap applies, so another cap may be tighter
        yield True if not new.raises else False if not old.raises else None
    if old.clamps != new.clamps:
        before, after = set(old.clamps), set(new.clamps)
        yield decide_tighter(before <= after, after <= before)
    if old.floor != new.floor:
        yield None
    if old.counting_denials != new.counting_denials:
        yield new.counting_denials


def compare_paces(old: k.Pace | k.PaceByFact, new: k.Pace | k.PaceByFact) -> Iterator[IsTighter]:
    if isinstance(old, k.Pace) and isinstance(new, k.Pace):
        slower, faster = old.faster_than(new), new.faster_than(old)
        yield from (slower,) if slower or faster else ()
        yield from is_lower(old.burst, new.burst)
    elif old != new:
        yield None


def compare_concurrency(old: k.ConcurrencyLimit, new: k.ConcurrencyLimit) -> Iterator[IsTighter]:
    yield from is_lower(old.most, new.most)
    if old.lease != new.lease:
        yield new.lease > old.lease


def compare_quotas(old: k.Limit, new: k.Limit) -> Iterator[IsTighter]:
    """Compare quotas of the same kind: a smaller bound over a longer time is tighter."""
    assert isinstance(old, k.Budget)
    assert isinstance(new, k.Budget)
    gone = [one for one in old.quotas if one not in new.quotas]
    come = [one for one in new.quotas if one not in old.quotas]
    for quota in gone:
        same = [other for other in come if (other.function, other.fact) == (quota.function, quota.fact)]
        if len(same) != 1:
            yield None if same else False
            continue
        come.remove(same[0])
        yield from compare_quota(quota, same[0])
    yield from (True for _ in come)


def compare_quota(old: k.BudgetLimit, new: k.BudgetLimit) -> Iterator[IsTighter]:
    if old.within != new.within:
        yield new.within > old.within
    bounds = [one.bound.value if isinstance(one.bound, k.Constant) else None for one in (old, new)]
    match bounds:
        case [int() | Decimal() as before, int() | Decimal() as after]:
            yield from is_lower(before, after)
        case _ if old.bound != new.bound:
            yield None
        case _:
            pass


def is_lower(old: int | Decimal, new: int | Decimal) -> Iterator[bool]:
    if old != new:
        yield new < old


# ── Words ─────────────────────────────────────────────────────────────────────────────────────


def limit_kind(limit: k.Limit) -> str:
    return "budget" if isinstance(limit, k.Budget) else "rate"


def limit_excerpt(limit: k.Limit) -> RuleExcerpt:
    return RuleExcerpt(f"{limit_kind(limit)} {format_value(limit.name)}", limit.span.at, describe_limit(limit))


def describe_limit(limit: k.Limit) -> str:
    """Return the limit on one line: `per agent.id on /v1/**: 100/1m burst 20, counting denials`."""
    keys = ", ".join(span_text(key) for key in limit.keys)
    place = "" if limit.place.patterns is None and not limit.place.excepts else f" {span_text(limit.place)}"
    when = "" if limit.when is None else f" when {span_text(limit.when)}"
    return f"per {keys}{place}{when}: {', '.join(limit_items(limit))}"


def limit_items(limit: k.Limit) -> Iterator[str]:
    if isinstance(limit, k.Budget):
        yield from (one.words for one in limit.quotas)
    else:
        yield from rate_items(limit)
    if limit.failing != "deny":
        yield f"on store failure {limit.failing}"


def rate_items(rate: k.Rate) -> Iterator[str]:
    if rate.pace is not None:
        yield format_pace(rate.pace)
    if rate.floor is not None:
        yield f"floor {format_pace(rate.floor)}"
    if rate.cost is not None:
        yield f"cost {span_text(rate.cost)}"
    yield from (span_text(one) for one in (*rate.raises, *rate.clamps))
    if rate.counting_denials:
        yield "counting denials"
    if rate.at_once is not None:
        yield span_text(rate.at_once)


def span_text(part: k.Node) -> str:
    return " ".join(part.span.text.split())
