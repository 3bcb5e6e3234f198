"""The kernel's limits: how often and how much. The package exports them; what they mean stands in `spec/limits.py`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal as Word
from typing import TypeAlias

from policyengine.kernel.base import Node
from policyengine.kernel.endpoints import Place
from policyengine.kernel.expressions import Expr

StoreFailureMode: TypeAlias = Word["deny", "local", "allow"]


@dataclass(frozen=True, slots=True)
class Pace:
    """So many within so long, `burst` of them at once."""

    count: int
    within: timedelta
    burst: int

    def faster_than(self, other: Pace) -> bool:
        return self.count * other.within > other.count * self.within


@dataclass(frozen=True, slots=True)
class PaceByFact:
    """As many as a fact says, within so long; without a `burst` all of them at once."""

    count: Expr
    within: timedelta
    burst: int | None


@dataclass(frozen=True, slots=True)
class Raise(Node):
    """While the condition is true: `factor` times the pace (3/2 of it is 3, 2), but never faster than `at_most`."""

    factor: tuple[int, int]
    at_most: Pace
    when: Expr


@dataclass(frozen=True, slots=True)
class Clamp(Node):
    """While the condition is true or unknown: no faster than this; for so long more, once it was true (`lasts`)."""

    pace: Pace
    lasts: timedelta | None
    when: Expr


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit(Node):
    """So many under way: each until its outcome is reported, or for `lease` where nobody reports one."""

    most: int
    lease: timedelta


@dataclass(frozen=True, slots=True)
class Rate(Node):
    """How fast. One of `pace` and `at_once` is there at least; a request takes `cost` of the pace, or one.

    `floor` is what a cluster never takes a member below.
    """

    name: str
    package: str
    place: Place
    keys: tuple[Expr, ...]
    when: Expr | None
    pace: Pace | PaceByFact | None
    cost: Expr | None
    raises: tuple[Raise, ...]
    clamps: tuple[Clamp, ...]
    floor: Pace | None
    counting_denials: bool
    at_once: ConcurrencyLimit | None
    failing: StoreFailureMode


@dataclass(frozen=True, slots=True)
class BudgetLimit(Node):
    """What may come together within so long, this request included: a sum, how many, how many different ones."""

    function: Word["sum", "count", "distinct"]
    fact: Expr | None
    bound: Expr
    within: timedelta
    words: str


@dataclass(frozen=True, slots=True)
class Budget(Node):
    """How much."""

    name: str
    package: str
    place: Place
    keys: tuple[Expr, ...]
    when: Expr | None
    quotas: tuple[BudgetLimit, ...]
    failing: StoreFailureMode


Limit: TypeAlias = Rate | Budget
