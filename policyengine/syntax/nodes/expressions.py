"""Expressions, including time windows and history."""

from __future__ import annotations

from dataclasses import field
from typing import Literal as Word
from typing import TypeAlias

from policyengine.source import Span
from policyengine.syntax.nodes.base import Literal, Name, Node, Text, node
from policyengine.syntax.nodes.endpoints import Target


@node()
class Reference(Node):
    """A name in an expression, with bracketed keys: `user.id`, `request.headers["x-id"]`, `free`."""

    name: str
    keys: tuple[Text, ...] = ()


@node()
class ListLiteral(Node):
    items: tuple[Expr, ...]


@node()
class EntityLiteral(Node):
    """`team "legal"`."""

    type: Name
    id: Text


@node()
class Call(Node):
    function: Name
    arguments: tuple[Expr, ...]


@node()
class Not(Node):
    operand: Expr


@node()
class UnaryMinus(Node):
    operand: Expr


@node()
class Logic(Node):
    """`a and b and c`. If `operators` contains both `and` and `or`, the checker requires parentheses."""

    operators: tuple[str, ...]
    items: tuple[Expr, ...]


@node()
class Binary(Node):
    """A binary operation. `operator` is spelled as in the grammar; `operator_span` is its position, for error
    messages.
    """

    operator: str
    left: Expr
    right: Expr
    operator_span: Span = field(compare=False, repr=False)


@node()
class Presence(Node):
    """`x is present`, `x is absent`."""

    operand: Expr
    present: bool


@node()
class HasRow(Node):
    """`x is known`."""

    operand: Expr


@node()
class Else(Node):
    operand: Expr
    fallback: Expr


@node()
class Quantifier(Node):
    """`any x in s: c`, `all x in s: c`."""

    quantifier: Word["any", "all"]
    variable: Name
    domain: Expr
    condition: Expr


@node()
class WithinWindow(Node):
    """`time within WINDOW`."""

    operand: Expr
    window: Window


# Time windows; the zone is mandatory.


@node()
class DailyWindow(Node):
    """`mon..fri 08:00..18:00 "Zone"`; no days means every day, a single day has `last_day` None."""

    first_day: Name | None
    last_day: Name | None
    start: Literal
    end: Literal
    zone: Text


@node()
class WholeDaysWindow(Node):
    """`sat..sun "Zone"`."""

    first_day: Name
    last_day: Name
    zone: Text


@node()
class WeeklyWindow(Node):
    """`fri 16:00..mon 08:00 "Zone"`: one continuous period across days."""

    first_day: Name
    start: Literal
    last_day: Name
    end: Literal
    zone: Text


@node()
class AbsoluteWindow(Node):
    """`2026-12-24..2027-01-02 "Zone"`."""

    start: Literal
    end: Literal
    zone: Text


Window: TypeAlias = DailyWindow | WholeDaysWindow | WeeklyWindow | AbsoluteWindow


# History.


@node()
class EventPattern(Node):
    """A pattern of past events: a target with its qualifiers."""

    target: Target
    denied: bool = False
    by_user: Word["another", "any"] | None = None
    where: Expr | None = None


@node()
class HistoryQuery(Node):
    """`EV within D [since EV] [per (keys)]`."""

    event: EventPattern
    within: Literal
    since: EventPattern | None = None
    per: tuple[Reference | Call, ...] = ()


@node()
class HistoryCondition(Node):
    """`after …`, or `no …` if `negated`."""

    history: HistoryQuery
    negated: bool


@node()
class Aggregate(Node):
    """`count of …`, `sum past.f of …`, `distinct (past.f else d) of …`."""

    function: Word["count", "sum", "distinct"]
    field: Expr | None
    history: HistoryQuery


Expr: TypeAlias = (
    Literal
    | Text
    | Reference
    | ListLiteral
    | EntityLiteral
    | Call
    | Not
    | UnaryMinus
    | Logic
    | Binary
    | Presence
    | HasRow
    | Else
    | Quantifier
    | WithinWindow
    | HistoryCondition
    | Aggregate
)
