"""What holds of coverage whatever the policy: layout and order change nothing, nothing impossible is ever seen."""

import random
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.entities.store import EntityStore
from policyengine.runtime.entities import EntityData
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import Unknown, Value
from policyengine.source import Source
from policyengine.spec import trace as w
from policyengine.spec.evaluate import build_facts
from policyengine.spec.reference import conclude, trace_request
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse
from policyengine.testing.coverage import Coverage, Point, conditions, merge_coverage, recorder
from policyengine.testing.coverage.conditions import ConditionPart, CoveredCondition
from policyengine.testing.coverage.policy_points import find_points
from policyengine.testing.coverage.recorder import CoverageRecorder
from policyengine.testing.runner import CaseTrace
from tests.depth import examples, scaled
from tests.generate import Case, cases, directory
from tests.testing.coverage.seeing import DOORS, coverage, coverage_of, guarded, policy, written
from tests.testing.running import PAYMENTS, checked

MORE = """
user where  user.plan  ==  enterprise { may invoices.read when  user.tenant   ==  "acme" }
agent where agent.id   like  "report-*" { issued by acme   acts for any user   may invoices.read }
guard "roles" on /v1/** except /v1/open/**, /v1/shut/**, GET /v1/invoices {
  deny when   user.plan  ==  free  and  (request.method  ==  "PUT"  or (any one in user.roles: one == "x"))
  audit full  unless  same_tenant
}
rate "reads" per (user.tenant,  agent.id) on GET /v1/** when  user.plan  ==  team {
  2/1m  burst 2   raise x2 at most 9/1m  when user.roles  has "boss"   counting denials
}
budget "money"  per user.id on refunds.create { sum body.amount <= 1_000 within 24h   count  <= 2 within 1h }
test "reads" {
  use clerks_bot
  GET /v1/invoices/42 => allow
  GET /v1/invoices/66 => deny
  PATCH /v1/invoices/42 => allow
  repeat 3 in 1s GET /v1/invoices => first throttle at 1
}
test "refunds" {
  use clerks_bot
  POST /v1/invoices/42/refunds { body.amount: 900 } => confirm
  POST /v1/invoices/42/refunds { body.amount: "x" } => deny
  POST /v1/invoices/42/refunds { attestation.age: 2h } => deny
}
"""
WHOLE = PAYMENTS + MORE
MODULE, _ = parse(Source("whole", WHOLE))
assert MODULE is not None
DECLARATIONS = [one.span.text for one in MODULE.declarations]
SEEN = coverage_of(checked(WHOLE))
GAP = re.compile(r"\n\s*|[ ]{2,}")


def same(one: Coverage, other: Coverage) -> bool:
    return set(one.points) == set(other.points) and one.by_case == other.by_case and one.fraction == other.fraction


def relaid(text: str, chance: random.Random) -> str:
    """The text with other gaps between its words."""
    return GAP.sub(lambda _: chance.choice([" ", "\n", "    ", "\n\n\t", "   # a word\n"]), text)


def test_the_law_policy_has_partial_coverage_of_every_kind() -> None:
    assert 0.3 < SEEN.fraction < 1
    assert len(SEEN.points) > 100
    assert all(count.seen and count.total for count in SEEN.kinds.values())


LAYOUTS = given(st.randoms(use_true_random=False), st.integers(1, 4))


def laid_out_otherwise(chance: random.Random, files: int) -> None:
    order = [relaid(text, chance) for text in DECLARATIONS]
    chance.shuffle(order)
    texts = ["\n".join(order[number::files]) for number in range(files)]
    assert same(coverage_of(checked(*texts)), SEEN)


@settings(max_examples=8)
@LAYOUTS
def test_layout_order_and_files_change_neither_points_nor_figure(chance: random.Random, files: int) -> None:
    laid_out_otherwise(chance, files)


@pytest.mark.deep
@settings(max_examples=1_000)
@LAYOUTS
def test_a_thousand_layouts_change_neither_points_nor_figure(chance: random.Random, files: int) -> None:
    laid_out_otherwise(chance, files)


def test_the_formatter_changes_neither_points_nor_figure() -> None:
    formatted = format_module(Source("whole", WHOLE))
    assert formatted != WHOLE
    assert same(coverage_of(checked(formatted)), SEEN)


@pytest.mark.parametrize(("old", "new"), [("> 500 ", "> 501 "), ("<= 15m", "<= 16m"), ("depth <= 3", "depth <= 4")])
def test_a_changed_meaning_makes_a_different_point_except_for_guard_conditions(old: str, new: str) -> None:
    """Not so a condition of a guard: its rule is known by the guard's name, as in tests and reasons."""
    other = coverage_of(checked(WHOLE.replace(old, new)))
    assert (set(other.points) == set(SEEN.points)) == (old == "> 500 ")


# ── By chance ─────────────────────────────────────────────────────────────────────────────────


def asked(case: Case) -> CaseTrace:
    """As a test asks: there is a directory, and its rows say all."""
    snapshot = Snapshot(EntityStore(whole(directory(case.rows))))
    request = replace(case.request, entities=tuple(whole(case.request.entities)))
    facts = build_facts(case.kernel, request, snapshot, case.now)
    seen = trace_request(facts, snapshot)
    return CaseTrace(facts, seen, conclude(facts, seen)[0])


SEEDS = pytest.mark.parametrize(
    "seeds", [range(start, start + 10) for start in range(0, examples(10, 40), 10)], ids=str
)


@lru_cache(maxsize=20)
def generated_cases(seed: int) -> tuple[Case, ...]:
    return tuple(cases(seed))


def whole(rows: Iterable[EntityData]) -> list[EntityData]:
    return [replace(row, partial=False) for row in rows]


@scaled
@SEEDS
def test_left_out_points_are_never_covered(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, object]] = []
    marked = 0

    def mark(part: ConditionPart, one: Value, found: set[Point]) -> None:
        nonlocal marked
        marked += 1
        truth = None if isinstance(one, Unknown) else one is True
        if truth not in part.truths:
            seen.append((part.span.text, truth))
        found.update([part.points[truth]] if truth in part.points else [])

    monkeypatch.setattr(conditions, "mark_part", mark)
    for seed in seeds:
        every = generated_cases(seed)
        watcher = CoverageRecorder(find_points(every[0].kernel))
        assert watcher.sights.points
        for case in every:
            assert watcher.shown(asked(case)) <= set(watcher.sights.points)
    assert marked
    assert seen == []


@scaled
@SEEDS
def test_coverage_observes_each_condition_as_the_specification_does(
    seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: dict[int, object] = {}
    observe = conditions.observe_condition

    def remembering(condition: CoveredCondition, facts: object, found: set[Point]) -> Value:
        one = observe(condition, facts, found)  # type: ignore[arg-type]
        observed[id(condition)] = one
        return one

    monkeypatch.setattr(recorder, "observe_condition", remembering)
    compared = 0
    for seed in seeds:
        every = generated_cases(seed)
        watcher = CoverageRecorder(find_points(every[0].kernel))
        for case in every:
            observed.clear()
            one = asked(case)
            watcher.shown(one)
            for seen, condition in conditions_seen(one.walk, watcher):
                if id(condition) in observed:
                    compared += 1
                    assert observed[id(condition)] == seen
    assert compared > 10


def conditions_seen(seen: w.DecisionTrace, watcher: CoverageRecorder) -> list[tuple[Value, CoveredCondition]]:
    """What the walk has of guards, and of blocks but for hops, where several may ask one condition."""
    found = []
    for guard in (one for one in seen.guards if one.covers):
        rules = watcher.sights.guards[id(guard.guard)].effects
        found += [(one.condition, rule.when) for one, rule in zip(guard.effects, rules, strict=True)]
    if not seen.hops:
        for block in (*seen.anyone, *seen.presenter, *(seen.user or ())):
            of = watcher.sights.blocks[id(block.block)]
            found += [(one.condition, rule.when) for one, rule in zip(block.grants, of.grants, strict=True)]
            found.append((block.applies, of.about))
    return [(value, condition) for value, condition in found if condition is not None]


# ── Together ──────────────────────────────────────────────────────────────────────────────────


def test_coverage_of_separate_runs_merges_to_that_of_one_run() -> None:
    rules, first, second = guarded("body.n > 5"), written(n="9"), written(n="1")
    both = coverage_of(checked(policy(rules, first), f'test "u" {{ use office {second} }}'))
    alone = coverage_of(checked(policy(rules, first)))
    other = coverage_of(checked(policy(rules, first).replace('test "t"', 'test "u"').replace(first, second)))
    assert same(alone.together(other), both)
    assert alone.together(other).fraction > max(alone.fraction, other.fraction)


def test_merged_coverage_keeps_equal_text_of_different_files_separate() -> None:
    texts = [policy(DOORS, f"{request} => allow") for request in ("GET /docs/1", "POST /docs/1")]
    one, other = (
        coverage_of(checked(*(["let a = 1", text] if number else [text]))) for number, text in enumerate(texts)
    )  # the second is in a file of another name
    assert merge_coverage([one, other]).count.total == one.count.total + other.count.total
    assert merge_coverage([one, other]).count.seen == one.count.seen + other.count.seen


def test_merged_coverage_counts_shared_points_once() -> None:
    one, other = coverage(DOORS, "GET /docs/1 => allow"), coverage(DOORS, "POST /docs/1 => allow")
    assert merge_coverage([one, other]).count.total == one.count.total
    assert merge_coverage([one, other]).count.seen > max(one.count.seen, other.count.seen)


def test_an_empty_merge_is_fully_covered() -> None:
    nothing = merge_coverage([])
    assert (nothing.fraction, nothing.count.percent, nothing.missing) == (1, "100 %", ())
