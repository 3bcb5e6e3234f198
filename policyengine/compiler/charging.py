"""Rates and budgets of an endpoint → one function: what an allowed request takes of them, by whose count.

It gives a tuple: for a plain rate its meter and the key, else the charge as the specification says it. Where all rates
of an endpoint are plain and always apply, it gives no more than the keys, and a store in this process takes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from policyengine import kernel as k
from policyengine.compiler.emit import Writer
from policyengine.compiler.lines import Text
from policyengine.runtime.limits import CountKey, LimitCharge, SteadyRate
from policyengine.runtime.values import Value
from policyengine.spec import limits as spending
from policyengine.spec import trace as w
from policyengine.typesystem import EntityRef, Scalar


def meter_of(limit: k.Limit) -> SteadyRate | None:
    """For a rate of one pace for all, which each request takes one of, and nothing else."""
    if not isinstance(limit, k.Rate) or not isinstance(limit.pace, k.Pace):
        return None
    if limit.cost or limit.raises or limit.clamps or limit.at_once or limit.counting_denials:
        return None
    nobody = w.LimitTrace(limit, True)
    (limited,) = spending.limit_charges(nobody)
    return SteadyRate(limited)


# Takes what the rates of these meters cost, by their keys, at a time (nanoseconds): how they stand then, or None where
# one of them has no room for it, and nothing was taken.
Take: TypeAlias = Callable[[Any, int], tuple[tuple[SteadyRate, int], ...] | None]


@dataclass(frozen=True, slots=True)
class Taker:
    """The plain rates of an endpoint, of which a store takes at once."""

    meters: tuple[SteadyRate, ...]

    def charges(self, keys: Any) -> tuple[tuple[SteadyRate, CountKey | str], ...]:
        """The same, to be asked for in full."""
        return tuple(zip(self.meters, keys if len(self.meters) > 1 else (keys,), strict=True))


def plain_meters(limits: Sequence[k.Limit]) -> tuple[SteadyRate, ...]:
    """Of rates that are all plain and always apply; none where one is not."""
    meters = [None if limit.when is not None else meter_of(limit) for limit in limits]
    return () if None in meters else tuple(meter for meter in meters if meter is not None)


def by_agent_alone(limits: Sequence[k.Limit]) -> bool:
    """The commonest key: `per agent.id`."""
    keys = [key for limit in limits for key in limit.keys]
    return len(keys) == 1 and isinstance(keys[0], k.Fact) and keys[0].path == ("agent", "id")


def charged(limit: k.Limit, keys: tuple[Value, ...], numbers: tuple[Value, ...]) -> tuple[LimitCharge, ...] | None:
    """The charges of any limit, by what it reads: None where that cannot be counted."""
    seen = seen_with(limit, keys, numbers)
    return None if spending.unknown_limit_inputs(seen) else tuple(spending.limit_charges(seen))


NOBODY: Any = object()
MOST_CALLERS = 256  # whose charges are remembered: who asks again and again asks for the same
LONGEST_NAME = 256  # of a caller that is remembered
SAME = frozenset({str, int, bool, Decimal, EntityRef})  # of these what is equal, and of one type, is counted alike


@dataclass(slots=True)
class Charged:
    """The same of one limit, for those who asked lately as it was for them then."""

    limit: k.Limit
    known: dict[tuple[object, ...], tuple[LimitCharge, ...] | None] = field(default_factory=dict)

    def __call__(self, keys: tuple[Value, ...], numbers: tuple[Value, ...]) -> tuple[LimitCharge, ...] | None:
        types = (*map(type, keys), *map(type, numbers))
        if not SAME.issuperset(types):
            return charged(self.limit, keys, numbers)
        asked = keys, numbers, types
        found: tuple[LimitCharge, ...] | None = self.known.get(asked, NOBODY)
        if found is not NOBODY:
            return found
        if len(self.known) >= MOST_CALLERS:
            self.known.clear()
        found = charged(self.limit, keys, numbers)
        if all(len(one) <= LONGEST_NAME for one in keys if isinstance(one, str)):
            self.known[asked] = found
        return found


def seen_with(limit: k.Limit, keys: tuple[Value, ...], numbers: tuple[Value, ...]) -> w.LimitTrace:
    if isinstance(limit, k.Budget):
        pairs = zip(limit.quotas, numbers[::2], numbers[1::2], strict=True)
        read = tuple((bound, spending.budget_amount(quota, amount)) for quota, bound, amount in pairs)
        return w.LimitTrace(limit, True, True, keys, quotas=read)
    cost, count, *moves = numbers
    taken = 1 if limit.cost is None else spending.request_count(cost, limit.cost, 0)
    most = spending.request_count(count, limit.pace.count, 1) if isinstance(limit.pace, k.PaceByFact) else 1
    return w.LimitTrace(limit, True, True, keys, taken, most, tuple(moves))


@dataclass(frozen=True, slots=True)
class LimitWriter:
    """Writes the function of an endpoint's limits."""

    writer: Writer

    def keys(self, limits: Sequence[k.Limit]) -> None:
        """By whose count each plain rate is: the key alone where there is one rate."""
        keys = [self.key_of(limit) for limit in limits]
        self.writer.line(f"return {keys[0]}" if len(keys) == 1 else f"return ({', '.join(keys)})")

    def limits(self, limits: Sequence[k.Limit]) -> None:
        self.writer.line("charges = ()")
        for limit in limits:
            with self.writer.about(limit.span), self.when(limit):
                self.charge(limit)
        self.writer.line("return charges")

    @contextmanager
    def when(self, limit: k.Limit) -> Iterator[None]:
        """It acts when its condition is true; where that is unknown, the request is decided with care."""
        if limit.when is None:
            with nullcontext():
                yield
            return
        test = self.writer.test(limit.when)
        with self.writer.block(f"if {test}:"):
            yield

    def charge(self, limit: k.Limit) -> None:
        meter = meter_of(limit)
        if meter is not None:
            self.writer.line(f"charges += (({self.writer.constant(meter)}, {self.key_of(limit)}),)")
            return
        keys = "".join(f"{self.writer.reference(self.writer.key_value(key))}, " for key in limit.keys)
        numbers = "".join(f"{code}, " for code in self.numbers(limit))
        found = self.writer.put(f"{self.writer.constant(Charged(limit))}(({keys}), ({numbers}))")
        self.writer.unless(f"{found} is not None")
        self.writer.line(f"charges += {found}")

    def numbers(self, limit: k.Limit) -> Iterator[str]:
        if isinstance(limit, k.Budget):
            for quota in limit.quotas:
                yield self.writer.value(quota.bound).code
                yield "1" if quota.fact is None else self.writer.reference(self.writer.value(quota.fact))
            return
        yield "1" if limit.cost is None else self.writer.value(limit.cost).code
        yield self.writer.value(limit.pace.count).code if isinstance(limit.pace, k.PaceByFact) else "1"
        for when in (*(one.when for one in limit.raises), *(one.when for one in limit.clamps)):
            yield self.writer.test(when)

    def key_of(self, limit: k.Limit) -> str:
        with self.writer.about(limit.span):
            keys = [self.key(self.writer.key_value(key), key) for key in limit.keys]
        return keys[0] if len(keys) == 1 else f"({', '.join(keys)})"

    def key(self, text: Text, node: k.Expr) -> str:
        """As `key_text` spells it."""
        if text.of is not None:
            return f"{self.writer.constant(spelled)}({self.writer.word(text.of)}, {text.code})"
        if node.type is Scalar.STRING:
            return text.code
        return f"{self.writer.constant(spending.key_text)}({text.code})"


def spelled(type: str, id: str) -> str:
    return str(EntityRef(type, id))
