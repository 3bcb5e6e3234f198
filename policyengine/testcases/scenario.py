"""The scenario of a test, the steps that change it, and the resulting cases: plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias, assert_never

from policyengine.kernel.expressions import Expr
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.entities import EntityData
from policyengine.runtime.snapshot import LearnedFacts
from policyengine.source import Span
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import LEARNED_ROOTS, learned_name

FactPath: TypeAlias = tuple[str, ...]
DEFAULT_TIME = datetime(2026, 1, 1, tzinfo=UTC)  # the default time of a test


@dataclass(frozen=True, slots=True)
class PutFact:
    """Sets a raw fact at its path in the wire request; None removes it."""

    path: FactPath
    value: object


@dataclass(frozen=True, slots=True)
class GivenApproval:
    """An approval by `rule`, granted `age` before the request by a person for whom `issuer` vouches. `id` is unique in
    its test.

    It approves exactly the tested request or, with `of`, a request with other facts, which is `question` in wire shape.
    """

    id: str
    rule: str
    by: str
    age: timedelta
    of: tuple[PutFact, ...] = ()
    question: Mapping[str, object] | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class PutAttribute:
    """Sets an attribute of the request's `user`, `agent`, `tool` or `resource`; None removes it."""

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


@dataclass(frozen=True, slots=True)
class PutTrace:
    """Adds a file of events from which behavior is learned before the test."""

    path: Path


ScenarioStep: TypeAlias = PutFact | PutAttribute | PutRow | PutApprovals | PutTime | PutTrace


@dataclass(frozen=True, slots=True)
class Scenario:
    """The setup of a test: `facts` in wire shape, `rows` of entities, and `attributes` by root and name. `facts` also
    holds the learned facts, which are not part of the request. `traces` are files of events from which behavior is
    learned before the test.
    """

    facts: Mapping[str, object] = field(default_factory=dict)
    rows: Mapping[EntityRef, EntityData] = field(default_factory=dict)
    attributes: Mapping[tuple[str, str], object] = field(default_factory=dict)
    approvals: tuple[GivenApproval, ...] = ()
    now: datetime = DEFAULT_TIME
    traces: tuple[Path, ...] = ()

    def then(self, steps: Iterable[ScenarioStep]) -> Scenario:
        """Return the scenario after the steps; later steps win. Rows are copied once, and only if one changes."""
        rows: dict[EntityRef, EntityData] = {}
        facts, attributes, approvals, now = self.facts, dict(self.attributes), self.approvals, self.now
        traces = self.traces
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
                case PutTrace(path):
                    traces = (*traces, path)
                case _:
                    assert_never(step)
        return Scenario(facts, {**self.rows, **rows} if rows else self.rows, attributes, approvals, now, traces)

    def at(self, moment: datetime) -> Scenario:
        return replace(self, now=moment)


def learned_facts_in(facts: Mapping[str, object]) -> LearnedFacts:
    """Return the learned facts among the facts of a test, by their names in snapshots."""
    found: LearnedFacts = {}
    for root in LEARNED_ROOTS:
        given = facts.get(root)
        if isinstance(given, Mapping):
            found |= {learned_name((root, str(name))): value for name, value in given.items()}
    return found


def put_path(tree: Mapping[str, object], path: FactPath, value: object) -> dict[str, object]:
    """Return a copy of the tree with another leaf."""
    first, rest = path[0], path[1:]
    inner = tree.get(first)
    return {**tree, first: put_path(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}


class DetailMatchMode(StrEnum):
    """How expected values are compared.

    AMONG: other values are allowed; EXACTLY: no other values, in any order; IN_ORDER: no other values, in this order.
    """

    AMONG = "among"
    EXACTLY = "exactly"
    IN_ORDER = "in order"


@dataclass(frozen=True, slots=True)
class ExpectedDetail:
    """An expected detail of a decision, `remedies: ["…"]`. Reasons are rules or gates."""

    member: str
    wanted: tuple[str | Gate, ...]
    compare: DetailMatchMode


@dataclass(frozen=True, slots=True)
class ExpectedOutcome:
    """The expected outcome of a request: `deny by "x"`, `deny by default`, `not allow`; `text` is the source text.

    It must hold for all repetitions of a request; with `first`, the first repetition with this outcome must have that
    number. `free` accepts any outcome.
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
        """The outcomes that meet the expectation."""
        return frozenset(Outcome) - {self.outcome} if self.negated else frozenset({self.outcome})

    def of(self, number: int) -> ExpectedOutcome:
        """Return the expectation for one repetition, counted from 1."""
        if self.first is None:
            return self
        if number == self.first:
            return replace(self, first=None)
        if number < self.first:
            return ExpectedOutcome(self.outcome, self.text, negated=True)
        return ExpectedOutcome(self.outcome, self.text, negated=True, free=True)


@dataclass(frozen=True, slots=True)
class Repetition:
    """Requests spread evenly over a period: the first at the start of the period, none at its end."""

    times: int
    within: timedelta

    def moments(self, start: datetime) -> Iterator[datetime]:
        return (start + self.within * number / self.times for number in range(self.times))


@dataclass(frozen=True, slots=True)
class ReportedResponse:
    """The response that the gateway reports after an allowed request. `output` holds raw facts."""

    status: int
    output: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Case:
    """One request of a test with its expected outcome, or repetitions of it.

    `question` is the request in wire shape, made at `now`; `behavior` are the learned facts of its caller. Cases of
    one test with the same `sequence` share their state, and what is learned from `traces` and from each of them; `skip`
    is the reason to skip a case. `responded` is reported for each allowed request.
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
    behavior: LearnedFacts = field(default_factory=dict)
    traces: tuple[Path, ...] = ()

    @property
    def requests(self) -> Iterator[Case]:
        """The repetitions as single cases, each with its time and expected outcome."""
        if self.repeated is None:
            yield self
            return
        for number, now in enumerate(self.repeated.moments(self.now), 1):
            yield replace(self, now=now, expected=self.expected.of(number), repeated=None)


@dataclass(frozen=True, slots=True)
class Property:
    """An outcome that is expected of every request in `world` for which `where` is true; if `where` is None, of every
    request.

    Facts of the world are fixed; all others are free.
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
    """The cases and the properties (`forall`) of all tests, in source order."""

    cases: tuple[Case, ...] = ()
    properties: tuple[Property, ...] = ()
