"""Whatever is asked in whatever order, every store answers what the memory of a process answers, number for number."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine.runtime.limits import Charge
from policyengine.stores.memory.store import MemoryStore
from tests.stores.charges import SECOND, START, asks, budget, places, rate
from tests.stores.conftest import Fresh, fresh_everywhere

fresh = fresh_everywhere
KEYS = st.sampled_from(["alice", "bob"])
STEPS = st.sampled_from([0, 1, 999, SECOND // 3, SECOND, 7 * SECOND, 3_600 * SECOND, 86_400 * SECOND, -SECOND])


@st.composite
def rates(draw: st.DrawFn) -> Charge:
    """One rule has one window and one pace; its key, cost and what is in force differ from request to request."""
    which = draw(st.integers(0, 3))
    key, cost = draw(KEYS), draw(st.integers(0, 6))
    within = (SECOND, 7 * SECOND, 3_600 * SECOND, SECOND)[which]
    if which < 2:
        return rate(5 + which, within, key=key, cost=cost, rule=f"steady {which}", counts=which == 1)
    if which == 2:
        raised = draw(st.sampled_from([6, 12]))
        return rate(6, within, key=key, cost=cost, rule="raised", raised=raised, counts=True)
    acts = draw(st.booleans())
    lasts = draw(st.sampled_from([0, 5 * SECOND])) if acts else 0
    return rate(9, within, key=key, cost=cost, rule="clamped", clamp=(2, 3), acts=acts, lasts=lasts)


CHARGES = st.one_of(
    rates(),
    rates(),
    st.builds(lambda key, many: budget(7, 7 * SECOND, many, key=key, rule="sum"), KEYS, st.integers(0, 9)),
    st.builds(
        lambda key, one: budget(2, 7 * SECOND, value=one, key=key, rule="distinct"), KEYS, st.sampled_from("abc")
    ),
    st.builds(lambda key: places(2, 7 * SECOND, key=key, rule="held"), KEYS),
)
LIMITS = st.lists(CHARGES, max_size=4, unique_by=lambda one: (one.rule, one.key))
COMMITS = st.fixed_dictionaries(
    {
        "limits": LIMITS,
        "spends": st.lists(st.sampled_from("xyz"), max_size=2, unique=True).map(tuple),
        "opens": st.lists(st.sampled_from("vw"), max_size=1).map(tuple),
        "confirms": st.sampled_from([None, None, ("v",), ("v", "w")]),
        "denied": st.sampled_from([False, False, False, True]),
        "peek": st.sampled_from([False, False, False, True]),
        "step": STEPS,
    }
)
FINISHES = st.fixed_dictionaries({"finish": st.integers(1, 6), "refund": st.booleans(), "step": STEPS})
SEQUENCES = st.lists(st.one_of(COMMITS, COMMITS, COMMITS, FINISHES), min_size=1, max_size=20)


def did(store: Any, sequence: list[dict[str, Any]]) -> list[Any]:
    now, moved, told = START, 1, []
    for number, one in enumerate(sequence):
        now += one["step"]
        if "finish" in one:
            told.append(store.finish(f"{number - one['finish']}", max(moved, now), refund=one["refund"]))
            continue
        opens = () if one["spends"] else one["opens"]
        how = {"confirms": one["confirms"], "denied": one["denied"]}
        effects = asks(*one["limits"], spends=one["spends"], opens=opens, **how)
        # Whether a look moves its clock, or a step that nothing lasts of, is for a store to say.
        moved = moved if one["peek"] else max(moved, now)
        answer = store.commit(effects, f"{number}", moved, peek=one["peek"])
        told.append(answer if answer is None else (answer.standings, answer.failed))
        told.append(store.spent_among("xyz"))
    return told


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(sequence=SEQUENCES)
def test_a_store_gives_the_same_answers_as_the_memory_store(fresh: Fresh, sequence: list[dict[str, Any]]) -> None:
    assert did(fresh(), sequence) == did(MemoryStore(), sequence)


@pytest.mark.deep
@settings(max_examples=3_000, suppress_health_check=list(HealthCheck))
@given(sequence=SEQUENCES)
def test_a_store_gives_the_same_answers_as_the_memory_store_in_a_long_run(
    fresh: Fresh, sequence: list[dict[str, Any]]
) -> None:
    assert did(fresh(), sequence) == did(MemoryStore(), sequence)
