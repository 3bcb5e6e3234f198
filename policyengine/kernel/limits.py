"""The kernel's rates and budgets; `spec/limits.py` defines their meaning. The package `kernel` re-exports
this module.
"""

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
    """`count` requests within a period, `burst` of them immediately."""

    count: int
    within: timedelta
    burst: int

    def faster_than(self, other: Pace) -> bool:
        return self.count * other.within > other.count * self.within


@dataclass(frozen=True, slots=True)
class PaceByFact:
    """A pace whose count is a fact. Without a `burst`, all requests may come immediately."""

    count: Expr
    within: timedelta
    burst: int | None


@dataclass(frozen=True, slots=True)
class Raise(Node):
    """A higher pace while the condition is true: `factor` times the pace (3/2 is `(3, 2)`), at most `at_most`."""

    factor: tuple[int, int]
    at_most: Pace
    when: Expr


@dataclass(frozen=True, slots=True)
class Clamp(Node):
    """A lower pace while the condition is true or unknown, and for `lasts` after it was true."""

    pace: Pace
    lasts: timedelta | None
    when: Expr


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit(Node):
    """A limit of concurrent requests. A request counts until its outcome is reported, or for `lease` if no outcome is
    reported.
    """

    most: int
    lease: timedelta


@dataclass(frozen=True, slots=True)
class Rate(Node):
    """A rate. At least one of `pace` and `at_once` is set; a request uses `cost` of the pace, or 1.

    `floor` is the minimum for a member of a cluster.
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
    """A limit for a period, which counts the current request: a sum, a number of requests, or a number of distinct
    values.
    """

    function: Word["sum", "count", "distinct"]
    fact: Expr | None
    bound: Expr
    within: timedelta
    words: str


@dataclass(frozen=True, slots=True)
class Budget(Node):
    """A budget: limits on totals within periods."""

    name: str
    package: str
    place: Place
    keys: tuple[Expr, ...]
    when: Expr | None
    quotas: tuple[BudgetLimit, ...]
    failing: StoreFailureMode


Limit: TypeAlias = Rate | Budget
