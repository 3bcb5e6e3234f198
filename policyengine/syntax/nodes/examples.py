"""Fixtures and tests: the examples that a policy carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as Word
from typing import TypeAlias

from policyengine.syntax.nodes.base import Literal, Name, Node, Text
from policyengine.syntax.nodes.endpoints import Action, Http, Reserved, Tool
from policyengine.syntax.nodes.expressions import EntityLiteral, Expr, Reference

OutcomeWord: TypeAlias = Word["allow", "deny", "throttle", "confirm"]


@dataclass(frozen=True, slots=True)
class RecordLiteral(Node):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Pair(Node):
    """`body.amount: 90`, `args["content-type"]: "x"`, `"x-a": "b"` (a Text key)."""

    key: Reference | Text
    value: Value


@dataclass(frozen=True, slots=True)
class ValueList(Node):
    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class WordValue(Node):
    """A bare word as a value: an enum value, `absent`, a matrix variable."""

    text: str


@dataclass(frozen=True, slots=True)
class NegativeNumber(Node):
    number: Literal


Value: TypeAlias = Literal | Text | EntityLiteral | RecordLiteral | ValueList | WordValue | NegativeNumber


@dataclass(frozen=True, slots=True)
class Use(Node):
    fixtures: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class EntityRow(Node):
    """`user "alice" { roles: ["clerk"] } in team "legal"`."""

    entity: EntityLiteral
    attributes: RecordLiteral | None
    parents: tuple[EntityLiteral, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenEntities(Node):
    rows: tuple[EntityRow, ...]


@dataclass(frozen=True, slots=True)
class GivenAgent(Node):
    """`given agent "x" from acme for user "alice" { … }`."""

    name: Text
    issuer: Name | None
    user: Text | None
    attributes: RecordLiteral | None


@dataclass(frozen=True, slots=True)
class GivenFact(Node):
    """`given credential { … }`, `given user.roles ["clerk"]`, `given time 2026-…`."""

    fact: Reference
    value: Value


Setup: TypeAlias = Use | GivenEntities | GivenAgent | GivenFact


@dataclass(frozen=True, slots=True)
class RawHttp(Node):
    """`GET "/a//b"`: a path that no path token can spell."""

    methods: tuple[str, ...]
    path: Text


@dataclass(frozen=True, slots=True)
class ActionOn(Node):
    """`ACTION view invoice "42"`."""

    verb: Name
    type: Name
    id: Text


TestRequest: TypeAlias = Http | Tool | Action | Reserved | RawHttp | ActionOn


@dataclass(frozen=True, slots=True)
class Repeat(Node):
    count: Literal
    within: Literal


@dataclass(frozen=True, slots=True)
class After(Node):
    duration: Literal


@dataclass(frozen=True, slots=True)
class At(Node):
    date: Literal


Moment: TypeAlias = Repeat | After | At


@dataclass(frozen=True, slots=True)
class ByRule(Node):
    name: Text


@dataclass(frozen=True, slots=True)
class ByGate(Node):
    gate: Name


@dataclass(frozen=True, slots=True)
class Expected(Node):
    """`deny by "x"`, `not allow`, `first throttle at 21 by "x"`."""

    outcome: OutcomeWord
    reason: ByRule | ByGate | None = None
    negated: bool = False
    first_at: Literal | None = None


@dataclass(frozen=True, slots=True)
class Shot(Node):
    """One request and what it must come to."""

    moments: tuple[Moment, ...]
    request: TestRequest
    facts: RecordLiteral | None
    expected: Expected


@dataclass(frozen=True, slots=True)
class Column(Node):
    """A column of a table or an axis of a matrix: a fact or variable, or `request`."""

    fact: Reference | None


Cell: TypeAlias = Value | TestRequest | Expected


@dataclass(frozen=True, slots=True)
class Row(Node):
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table(Node):
    """`cases { | a | b | => | … }`."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Axis(Node):
    column: Column
    choices: tuple[Value | TestRequest, ...]


@dataclass(frozen=True, slots=True)
class Matrix(Node):
    """`cases for x in […], request in […] { … otherwise deny }`."""

    axes: tuple[Axis, ...]
    setup: tuple[Setup, ...]
    shots: tuple[Shot, ...]
    rows: tuple[Row, ...]
    otherwise: Expected | None


@dataclass(frozen=True, slots=True)
class Forall(Node):
    where: Expr | None
    expected: Expected


@dataclass(frozen=True, slots=True)
class Skip(Node):
    reason: Text


TestItem: TypeAlias = Setup | Shot | Table | Matrix | Forall | Skip


@dataclass(frozen=True, slots=True)
class FixtureDecl(Node):
    name: Name
    setup: tuple[Setup, ...]


@dataclass(frozen=True, slots=True)
class TestDecl(Node):
    name: Text
    items: tuple[TestItem, ...]
