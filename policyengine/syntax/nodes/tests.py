"""Fixtures and tests in a policy."""

from __future__ import annotations

from typing import Literal as Word
from typing import TypeAlias

from policyengine.syntax.nodes.base import Literal, Name, Node, Text, node
from policyengine.syntax.nodes.endpoints import ActionPattern, HttpPattern, ReservedWord, ToolPattern
from policyengine.syntax.nodes.expressions import EntityLiteral, Expr, Reference

OutcomeWord: TypeAlias = Word["allow", "deny", "throttle", "confirm"]


@node()
class RecordLiteral(Node):
    pairs: tuple[RecordEntry, ...]


@node()
class RecordEntry(Node):
    """`body.amount: 90`, `args["content-type"]: "x"`, `"x-a": "b"` (a Text key)."""

    key: Reference | Text
    value: Value


@node()
class ValueList(Node):
    items: tuple[Value, ...]


@node()
class WordValue(Node):
    """An unquoted word as a value: an enum value, `absent`, or a matrix variable."""

    text: str


@node()
class NegativeNumber(Node):
    number: Literal


Value: TypeAlias = Literal | Text | EntityLiteral | RecordLiteral | ValueList | WordValue | NegativeNumber


@node()
class UseFixtures(Node):
    fixtures: tuple[Name, ...]


@node()
class EntityRow(Node):
    """`user "alice" { roles: ["clerk"] } in team "legal"`."""

    entity: EntityLiteral
    attributes: RecordLiteral | None
    parents: tuple[EntityLiteral, ...] = ()


@node()
class GivenEntities(Node):
    rows: tuple[EntityRow, ...]


@node()
class GivenAgent(Node):
    """`given agent "x" from acme for user "alice" { … }`."""

    name: Text
    issuer: Name | None
    user: Text | None
    attributes: RecordLiteral | None


@node()
class GivenFact(Node):
    """`given credential { … }`, `given user.roles ["clerk"]`, `given time 2026-…`."""

    fact: Reference
    value: Value


Setup: TypeAlias = UseFixtures | GivenEntities | GivenAgent | GivenFact


@node()
class RawHttp(Node):
    """`GET "/a//b"`: a path that a path token cannot express."""

    methods: tuple[str, ...]
    path: Text


@node()
class ActionOn(Node):
    """`ACTION view invoice "42"`."""

    verb: Name
    type: Name
    id: Text


TestRequest: TypeAlias = HttpPattern | ToolPattern | ActionPattern | ReservedWord | RawHttp | ActionOn


@node()
class Repeat(Node):
    count: Literal
    within: Literal


@node()
class AfterClause(Node):
    duration: Literal


@node()
class AtClause(Node):
    date: Literal


Moment: TypeAlias = Repeat | AfterClause | AtClause


@node()
class ByRule(Node):
    name: Text


@node()
class ByGate(Node):
    gate: Name


@node()
class ExpectationClause(Node):
    """`deny by "x" with { … }`, `not allow`, `first throttle at 21 by "x"`."""

    outcome: OutcomeWord
    reason: ByRule | ByGate | None = None
    negated: bool = False
    first_at: Literal | None = None
    details: RecordLiteral | None = None


@node()
class ResponseClause(Node):
    """`responded 201 { output.claim_id: 7 }`: the gateway's report about the response."""

    status: Literal
    output: RecordLiteral | None


@node()
class Shot(Node):
    """One test request and its expected outcome."""

    moments: tuple[Moment, ...]
    request: TestRequest
    facts: RecordLiteral | None
    expected: ExpectationClause
    responded: ResponseClause | None = None


@node()
class CaseTableColumn(Node):
    """A column of a table or an axis of a matrix: a fact or variable, or `request`."""

    fact: Reference | None


Cell: TypeAlias = Value | TestRequest | ExpectationClause


@node()
class CaseTableRow(Node):
    cells: tuple[Cell, ...]


@node()
class CaseTable(Node):
    """`cases { | a | b | => | … }`."""

    columns: tuple[CaseTableColumn, ...]
    rows: tuple[CaseTableRow, ...]


@node()
class CaseMatrixAxis(Node):
    column: CaseTableColumn
    choices: tuple[Value | TestRequest, ...]


@node()
class CaseMatrix(Node):
    """`cases for x in […], request in […] { … otherwise deny }`."""

    axes: tuple[CaseMatrixAxis, ...]
    setup: tuple[Setup, ...]
    shots: tuple[Shot, ...]
    rows: tuple[CaseTableRow, ...]
    otherwise: ExpectationClause | None


@node()
class Forall(Node):
    where: Expr | None
    expected: ExpectationClause


@node()
class Skip(Node):
    reason: Text


TestItem: TypeAlias = Setup | Shot | CaseTable | CaseMatrix | Forall | Skip


@node()
class FixtureDecl(Node):
    name: Name
    setup: tuple[Setup, ...]


@node()
class TestDecl(Node):
    name: Text
    items: tuple[TestItem, ...]
