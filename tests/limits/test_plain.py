"""A store in this process does what a store in plain words does, whatever decisions ask of it, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policyengine.runtime.decision import ApproverSet, Effects, OpenedApproval
from policyengine.runtime.limits import (
    MICRO,
    BudgetCharge,
    Charge,
    ClampCharge,
    ConcurrencyCharge,
    LimitCharge,
    RateCharge,
    rate_unit,
)
from policyengine.stores.memory.store import MemoryStore
from tests.limits.plain import PlainStore
from tests.stores.conftest import ANY_SKEW

SECOND = 1_000_000
START = 1_800_000_000 * SECOND
DAY = 86_400 * SECOND
KEYS = st.sampled_from([("a",), ("b",), ("a", "b")])
CONFIRMS = st.sampled_from([(), ("v",), ("v",), ("v", "w")])


def takes(key: tuple[str, ...], cost: int, acts: bool, lasts: int, raised: bool) -> dict[str, RateCharge]:
    """One charge of each kind of rate: plain, counting denials, with a clamp, with paces of their own."""
    plain, both = rate_unit(((7, 3 * SECOND),)), rate_unit(((5, 2 * SECOND), (1, 20 * SECOND)))
    slow = ClampCharge(both.flow(1, 20 * SECOND, 1), acts, lasts if acts else 0)
    return {
        "plain": RateCharge("plain", key, cost, plain.flow(7, 3 * SECOND, 4), plain.token, plain.tick),
        "counts": RateCharge("counts", key, cost, plain.flow(7, 3 * SECOND, 4), plain.token, plain.tick, (), True),
        "clamped": RateCharge("clamped", key, cost, both.flow(5, 2 * SECOND, 5), *both, (slow,), False, False),
        "raised": RateCharge("raised", key, cost, both.flow(5, 2 * SECOND, 9 if raised else 3), *both, (), True, False),
    }


@st.composite
def charges(draw: st.DrawFn) -> tuple[Charge, ...]:
    key = draw(KEYS)
    lasts = draw(st.sampled_from([0, 0, 3_000]))
    some = takes(key, draw(st.integers(0, 6)), draw(st.booleans()), lasts, draw(st.booleans()))
    every: dict[str, Charge] = {
        **some,
        "sum": BudgetCharge("sum", key, 20 * MICRO, 3 * SECOND, draw(st.integers(0, 21)) * MICRO // 2),
        "distinct": BudgetCharge("distinct", key, 2 * MICRO, SECOND, value=draw(st.sampled_from(["x", "y", "z"]))),
        "hold": ConcurrencyCharge("hold", key, 2, 3 * SECOND),
    }
    return tuple(every[name] for name in draw(st.lists(st.sampled_from(sorted(every)), unique=True, max_size=4)))


class Stores(RuleBasedStateMachine):
    """Two stores, each asked the same."""

    def made(self) -> Any:
        return MemoryStore(max_skew=ANY_SKEW)

    @initialize()
    def begin(self) -> None:
        self.plain, self.store, self.now, self.decisions = PlainStore(), self.made(), START, 0

    @rule(asked=charges(), spends=st.lists(st.sampled_from("pqr"), unique=True, max_size=1),
          opens=st.booleans(), confirms=CONFIRMS, within=st.sampled_from([30.0, 86_400.0]), denied=st.booleans(),
          peek=st.booleans())  # fmt: skip
    def commit(
        self,
        asked: tuple[Charge, ...],
        spends: list[str],
        opens: bool,
        confirms: tuple[str, ...],
        within: float,
        denied: bool,
        peek: bool,
    ) -> None:
        self.decisions += 1
        limits = tuple(LimitCharge(one, one.rule, "x:1", one.rule) for one in asked)
        opened = (
            (OpenedApproval("r", "v", "role x", 1, within, "please", ApproverSet(role="x")),)
            if opens and not spends
            else ()
        )
        if denied:
            limits = tuple(one for one in limits if isinstance(one.charge, RateCharge) and one.charge.counts)
            effects = Effects(limits=limits, denied=bool(limits))
        else:
            effects = Effects(tuple(spends), opened, limits, confirms=confirms)
        name = f"d{self.decisions}"
        expected = self.plain.commit(effects, name, self.now, peek=peek)
        assert self.store.commit(effects, name, self.now, peek=peek) == expected

    @rule(number=st.integers(1, 30), refund=st.booleans())
    def finish(self, number: int, refund: bool) -> None:
        name = f"d{number}"
        assert self.store.finish(name, self.now, refund=refund) == self.plain.finish(name, self.now, refund=refund)

    @rule(pause=st.sampled_from([1, 1_000, 1_001, 400_000, SECOND, 3 * SECOND, 20 * SECOND, 100 * SECOND, DAY]))
    def wait(self, pause: int) -> None:
        self.now += pause

    @rule()
    def run_back(self) -> None:
        self.now -= 2 * SECOND

    @invariant()
    def knows_what_is_spent(self) -> None:
        if hasattr(self, "store"):
            assert self.store.spent_among("pqrs") == self.plain.spent_among("pqrs")


class Forgetting(Stores):
    """As small as a store can be before it looks for what may be forgotten."""

    def made(self) -> MemoryStore:
        store = MemoryStore(max_skew=ANY_SKEW)
        store._sweep_at = 0
        return store

    @rule()
    def forget(self) -> None:
        self.store._forget(self.plain.clock)


TestStores = Stores.TestCase
TestForgetting = Forgetting.TestCase
TestStores.settings = TestForgetting.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
