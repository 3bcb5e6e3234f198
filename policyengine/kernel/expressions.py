"""The kernel's expressions, with names resolved and types known. The package describes how rules use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import cache
from typing import ClassVar, TypeAlias
from typing import Literal as Word

from policyengine.kernel.base import Node
from policyengine.kernel.binary_relations import RELATIONS, RelationRow
from policyengine.kernel.endpoints import Place
from policyengine.runtime.calendar_windows import Window
from policyengine.runtime.values import Value
from policyengine.typesystem import Scalar, Type


@dataclass(frozen=True, slots=True)
class Constant(Node):
    value: Value
    type: Type


@dataclass(frozen=True, slots=True)
class Fact(Node):
    """A fact by its path: `("body", "amount")`, `("user",)` for the user itself, `("request", "headers", "txn")`."""

    path: tuple[str, ...]
    type: Type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Attribute(Node):
    """An attribute of an entity: `resource.owner.tenant`; `id` is an attribute of every reference.

    `levels` of an inherited attribute are the entities that declare it, each with a flag: whether the attribute is
    empty if a row lacks it.
    """

    base: Expr
    name: str
    type: Type
    optional: bool = False
    levels: tuple[tuple[str, bool], ...] = ()

    @property
    def inherited(self) -> bool:
        return bool(self.levels)


@dataclass(frozen=True, slots=True)
class Member(Node):
    """A member of a record."""

    base: Expr
    name: str
    type: Type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Variable(Node):
    """A variable of an enclosing quantifier."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Collection(Node):
    """`[a, user.id]`: a list with items that are not all constants."""

    items: tuple[Expr, ...]
    type: Type


@dataclass(frozen=True, slots=True)
class DefinitionRef(Node):
    """A use of a `define`. It has the meaning of its expression; explanations show its name."""

    name: str
    expression: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Condition(Node):
    """An expression that is true, false or unknown."""

    type: ClassVar[Type] = Scalar.BOOL


@dataclass(frozen=True, slots=True)
class Not(Condition):
    operand: Expr


@dataclass(frozen=True, slots=True)
class And(Condition):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or(Condition):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class InWindow(Condition):
    instant: Expr
    window: Window


@dataclass(frozen=True, slots=True)
class Relation(Condition):
    """A binary relation; the row in `binary_relations.py` defines the meaning of `operator`."""

    operator: str
    left: Expr
    right: Expr

    @property
    def row(self) -> RelationRow:
        return RELATIONS[self.operator]


@dataclass(frozen=True, slots=True)
class IsPresent(Condition):
    """`x is present`; `x is absent` is its Not."""

    operand: Fact | Attribute | Member | PastFact


@dataclass(frozen=True, slots=True)
class HasRow(Condition):
    """`x is known`: whether the entity store has a row for the entity."""

    entity: Expr


@dataclass(frozen=True, slots=True)
class Default(Node):
    """`x else d`: d if x is absent."""

    operand: Fact | Attribute | Member | PastFact | Default
    fallback: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Arithmetic(Node):
    operator: Word["+", "-", "*"]
    left: Expr
    right: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class UnaryMinus(Node):
    operand: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Quantifier(Condition):
    word: Word["any", "all"]
    variable: str
    domain: Expr
    condition: Expr


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A call of a built-in function by name. If the type is a reference, `function` is an entity type and the argument
    is the id."""

    function: str
    arguments: tuple[Expr, ...]
    type: Type


@dataclass(frozen=True, slots=True)
class PastFact(Node):
    """`past.params.id`: the value of a fact at an earlier request. `past.status` and `past.output.x` are that request's
    outcome. The store keeps the value that `fact` had at that time.
    """

    fact: Fact | Attribute | Member
    type: Type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class EventPattern(Node):
    """A pattern of past requests, and the data that the store keeps about them.

    `keys` select the history of requests with equal values; None selects the requests of the same agent and user. `by
    another user` becomes a part of `where`, the only place for `PastFact`. `facts` are evaluated at the time of the
    event, in this order; `outputs` come with its report. If `latest`, only the last event of a key is needed. `watch`
    is a digest of all these members, equal for equal patterns in every policy. `status` says whether a sum or a
    distinct count of the events reads their `past.status`.
    """

    place: Place
    denied: bool
    where: Expr | None
    keys: tuple[Expr, ...] | None
    facts: tuple[Expr, ...]
    outputs: tuple[tuple[str, ...], ...]
    latest: bool
    watch: str
    status: bool = False


@dataclass(frozen=True, slots=True)
class HistoryCondition(Condition):
    """`after EV within D since EV2`; `no …` is its Not."""

    event: EventPattern
    within: timedelta
    since: EventPattern | None


@dataclass(frozen=True, slots=True)
class Aggregate(Node):
    """`count of …`, `sum past.f of …`, `distinct past.f of …`.

    `field` may be a Default whose parts are past facts and constants: `sum (past.f else 0) of …`.
    """

    function: Word["count", "sum", "distinct"]
    field: PastFact | Default | None
    event: EventPattern
    within: timedelta
    since: EventPattern | None
    type: Type


Expr: TypeAlias = (
    Constant
    | Fact
    | Attribute
    | Member
    | Variable
    | Collection
    | DefinitionRef
    | Not
    | And
    | Or
    | InWindow
    | Relation
    | IsPresent
    | HasRow
    | Default
    | Arithmetic
    | UnaryMinus
    | Quantifier
    | Call
    | PastFact
    | HistoryCondition
    | Aggregate
)


@cache
def child_fields(kind: type[Node]) -> tuple[str, ...]:
    """Return the fields of a kind of expression. Cached, because a large policy has hundreds of thousands of
    expressions."""
    return tuple(item.name for item in fields(kind) if item.name not in ("span", "type"))


def children(expression: Expr) -> Iterator[Expr]:
    """Yield the direct children of an expression. Facts inside a PastFact are not included: they belong to an earlier
    request."""
    if isinstance(expression, PastFact):
        return
    for name in child_fields(type(expression)):  # type: ignore[arg-type]  # mypy checks the hashes of instances
        value = getattr(expression, name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, EventPattern):
                yield from (*(part.keys or ()), *(() if part.where is None else (part.where,)))
            elif isinstance(part, Node):
                yield part  # type: ignore[misc]  # all nodes in an expression are expressions


def walk(expression: Expr) -> Iterator[Expr]:
    """Yield the expression and all its descendants, parents first."""
    pending = [expression]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed(list(children(current))))


def rewrite(expression: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """Return the expression with each part replaced by the result of `change`. If the result is None, the part stays
    and its children are rewritten.
    """
    found = change(expression)
    if found is not None:
        return found

    def inside(value: object) -> object:
        match value:
            case Node():
                return rewrite(value, change)  # type: ignore[arg-type]  # all nodes in an expression are expressions
            case tuple():
                return tuple(inside(one) for one in value)
            case _:
                return value

    changed = {name: inside(getattr(expression, name)) for name in child_fields(type(expression))}  # type: ignore[arg-type]
    return replace(expression, **changed)  # type: ignore[arg-type]  # the same fields, rewritten
