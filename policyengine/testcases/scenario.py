"""What a test has given so far, the steps that change it, and the case that comes of it: plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias, assert_never

from policyengine.kernel.expressions import Expr
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.entities import EntityData
from policyengine.source import Span
from policyengine.typesystem import EntityRef

FactPath: TypeAlias = tuple[str, ...]
DEFAULT_TIME = datetime(2026, 1, 1, tzinfo=UTC)  # when a test takes place that does not say


@dataclass(frozen=True, slots=True)
class PutFact:
    """A raw fact where the wire has it; None takes it away."""

    path: FactPath
    value: object


@dataclass(frozen=True, slots=True)
class GivenApproval:
    """An approval of exactly what is asked, by `rule`, granted `age` before the request. `id` is unique in its test.

    With `of` it was granted for a request with other facts: `question` is that request, in its wire shape.
    """

    id: str
    rule: str
    by: str
    age: timedelta
    of: tuple[PutFact, ...] = ()
    question: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class PutAttribute:
    """An attribute of whatever `user`, `agent`, `tool` or `resource` turns out to be; None takes it away."""

    root: str
    name: str
    value: object


@dataclass(frozen=True, slots=True)
class PutRow:
    row: EntityData


@dataclass(frozen=True, slots=True)
class PutApprovals:
    approvals: tuple[GivenApproval, ...]


@dataclass(frozen=True, slots=True)
class PutTime:
    moment: datetime


ScenarioStep: TypeAlias = PutFact | PutAttribute | PutRow | PutApprovals | PutTime


@dataclass(frozen=True, slots=True)
class Scenario:
    """`facts` are as the wire has them, `rows` the directory, `attributes` by root and name."""

    facts: Mapping[str, object] = field(default_factory=dict)
    rows: Mapping[EntityRef, EntityData] = field(default_factory=dict)
    attributes: Mapping[tuple[str, str], object] = field(default_factory=dict)
    approvals: tuple[GivenApproval, ...] = ()
    now: datetime = DEFAULT_TIME

    def then(self, steps: Iterable[ScenarioStep]) -> Scenario:
        """The world after the steps, later ones over earlier ones. Rows are copied once for all, and only to change."""
        rows: dict[EntityRef, EntityData] = {}
        facts, attributes, approvals, now = self.facts, dict(self.attributes), self.approvals, self.now
        for step in steps:
            match step:
                case PutFact(path, value):
                    facts = put_path(facts, path, value)
                case PutAttribute(root, name, value):
                    attributes[root, name] = value
                case PutRow(row):
                    rows[row.ref] = row
                case PutApprovals(given):
                    approvals = given
                case PutTime(moment):
                    now = moment
                case _:
                    assert_never(step)
        return Scenario(facts, {**self.rows, **rows} if rows else self.rows, attributes, approvals, now)

    def at(self, moment: datetime) -> Scenario:
        return replace(self, now=moment)


def put_path(tree: Mapping[str, object], path: FactPath, value: object) -> dict[str, object]:
    """The tree with another leaf."""
    first, rest = path[0], path[1:]
    inner = tree.get(first)
    return {**tree, first: put_path(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}


class DetailMatchMode(StrEnum):
    """AMONG: beside others; EXACTLY: and no others, in any order; IN_ORDER: and no others, in this order."""

    AMONG = "among"
    EXACTLY = "exactly"
    IN_ORDER = "in order"


@dataclass(frozen=True, slots=True)
class ExpectedDetail:
    """`remedies: ["…"]`: what a decision must have beside its outcome. Reasons are rules, or gates."""

    member: str
    wanted: tuple[str | Gate, ...]
    compare: DetailMatchMode


@dataclass(frozen=True, slots=True)
class ExpectedOutcome:
    """What must come of a request: `deny by "x"`, `deny by default`, `not allow`; `text` as it is written.

    Of requests that are repeated, all must come to it; with `first`, the first one with this outcome has that number.
    `free` says that whatever comes is right.
    """

    outcome: Outcome
    text: str
    negated: bool = False
    rule: str | None = None
    gate: Gate | None = None
    details: tuple[ExpectedDetail, ...] = ()
    first: int | None = None
    free: bool = False

    @property
    def possible(self) -> frozenset[Outcome]:
        """The outcomes that meet it."""
        return frozenset(Outcome) - {self.outcome} if self.negated else frozenset({self.outcome})

    def of(self, number: int) -> ExpectedOutcome:
        """What must come of one of several requests, counted from 1."""
        if self.first is None:
            return self
        if number == self.first:
            return replace(self, first=None)
        if number < self.first:
            return ExpectedOutcome(self.outcome, self.text, negated=True)
        return ExpectedOutcome(self.outcome, self.text, negated=True, free=True)


@dataclass(frozen=True, slots=True)
class Repetition:
    """So many requests, evenly spread over a time: the first at its beginning, none at its end."""

    times: int
    within: timedelta

    def moments(self, start: datetime) -> Iterator[datetime]:
        return (start + self.within * number / self.times for number in range(self.times))


@dataclass(frozen=True, slots=True)
class ReportedResponse:
    """What the gateway reports once a request was made that was allowed: then it is over. `output` is a raw fact."""

    status: int
    output: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Case:
    """One request of a test, and what must come of it; or the same request several times.

    `question` is the request in its wire shape, made at `now`. Cases of one test with the same `sequence` share their
    state; `skip` says why a case is not run. `responded` is reported of each request that is allowed.
    """

    test: str
    package: str
    number: int
    sequence: int
    request: str
    question: Mapping[str, object]
    rows: Mapping[EntityRef, EntityData]
    attributes: Mapping[tuple[str, str], object]
    approvals: tuple[GivenApproval, ...]
    now: datetime
    expected: ExpectedOutcome
    skip: str | None
    span: Span = field(compare=False, repr=False)
    repeated: Repetition | None = None
    responded: ReportedResponse | None = None

    @property
    def requests(self) -> Iterator[Case]:
        """One by one, each at its time and with what must come of it."""
        if self.repeated is None:
            yield self
            return
        for number, now in enumerate(self.repeated.moments(self.now), 1):
            yield replace(self, now=now, expected=self.expected.of(number), repeated=None)


@dataclass(frozen=True, slots=True)
class Property:
    """What must come of every request: of those in `world` for which `where` is true (None: of all).

    Facts that the world gives are as given; all others are free.
    """

    test: str
    package: str
    number: int
    world: Scenario
    where: Expr | None
    expected: ExpectedOutcome
    skip: str | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class LoweredTests:
    """What tests show (`cases`) and what they claim (`properties`), in the order of the text."""

    cases: tuple[Case, ...] = ()
    properties: tuple[Property, ...] = ()
