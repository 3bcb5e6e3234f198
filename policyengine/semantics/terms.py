"""The kernel's expressions: every name resolved, every one typed. `kernel.py` says what rules do with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Literal as Word
from typing import TypeAlias

from policyengine.kinds import Type
from policyengine.runtime.values import Value
from policyengine.runtime.windows import Window
from policyengine.source import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Constant(Part):
    value: Value
    type: Type


@dataclass(frozen=True, slots=True)
class Fact(Part):
    """A fact by its path: `("body", "amount")`, `("user",)` for the user itself, `("request", "headers", "txn")`."""

    path: tuple[str, ...]
    type: Type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Attribute(Part):
    """An attribute of an entity: `resource.owner.tenant`. `id` of any reference is an attribute too."""

    base: Expr
    name: str
    type: Type
    optional: bool = False
    inherited: bool = False


@dataclass(frozen=True, slots=True)
class Member(Part):
    """A member of a record."""

    base: Expr
    name: str
    type: Type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Variable(Part):
    """The variable of a quantifier around it."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Collection(Part):
    """`[a, user.id]`: a list whose items are not all constant."""

    items: tuple[Expr, ...]
    type: Type


@dataclass(frozen=True, slots=True)
class Named(Part):
    """A `define` used by its name: transparent to meaning, there for explanations."""

    name: str
    expression: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Not(Part):
    operand: Expr


@dataclass(frozen=True, slots=True)
class And(Part):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or(Part):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Compare(Part):
    """Both sides have one type (int counts as number). Enums compare by rank: their type holds the order."""

    operator: Word["==", "!=", "<", "<=", ">", ">="]
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Contains(Part):
    """`item in collection` (`deep`: entities are in what holds them at any depth), `collection has item` (direct)."""

    collection: Expr
    item: Expr
    deep: bool


@dataclass(frozen=True, slots=True)
class Below(Part):
    """One entity in another, at any depth: `in` (reflexive), `below` (`strict`), `group has member` (`direct`)."""

    item: Expr
    ancestor: Expr
    strict: bool = False
    direct: bool = False


@dataclass(frozen=True, slots=True)
class InNetwork(Part):
    """An address within a network, or within any of a set or list of networks and addresses."""

    address: Expr
    networks: Expr


@dataclass(frozen=True, slots=True)
class InWindow(Part):
    instant: Expr
    window: Window


@dataclass(frozen=True, slots=True)
class Like(Part):
    operand: Expr
    pattern: str


@dataclass(frozen=True, slots=True)
class Matches(Part):
    operand: Expr
    pattern: str


@dataclass(frozen=True, slots=True)
class Overlaps(Part):
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Subset(Part):
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Present(Part):
    """`x is present`; `x is absent` is its Not."""

    operand: Fact | Attribute | Member


@dataclass(frozen=True, slots=True)
class Default(Part):
    """`x else d`: d when x is absent."""

    operand: Fact | Attribute | Member | Default
    fallback: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Arithmetic(Part):
    operator: Word["+", "-", "*"]
    left: Expr
    right: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Negative(Part):
    operand: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class Quantifier(Part):
    word: Word["any", "all"]
    variable: str
    domain: Expr
    condition: Expr


@dataclass(frozen=True, slots=True)
class Apply(Part):
    """A function of the vocabulary, by name; where the type is a reference, the entity whose id is the argument."""

    function: str
    arguments: tuple[Expr, ...]
    type: Type


Expr: TypeAlias = (
    Constant
    | Fact
    | Attribute
    | Member
    | Variable
    | Collection
    | Named
    | Not
    | And
    | Or
    | Compare
    | Contains
    | Below
    | InNetwork
    | InWindow
    | Like
    | Matches
    | Overlaps
    | Subset
    | Present
    | Default
    | Arithmetic
    | Negative
    | Quantifier
    | Apply
)


@cache
def members(kind: type[Part]) -> tuple[str, ...]:
    """The fields of a kind of expression: found once, as a large policy has hundreds of thousands of them."""
    return tuple(item.name for item in fields(kind) if item.name not in ("span", "type"))


def parts(expression: Expr) -> Iterator[Expr]:
    """The expressions directly inside an expression."""
    for name in members(type(expression)):  # type: ignore[arg-type]  # mypy asks instances, not the class, for a hash
        value = getattr(expression, name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Part):
                yield part  # type: ignore[misc]  # what is inside an expression is one


def walk(expression: Expr) -> Iterator[Expr]:
    """The expression and everything inside it, outermost first."""
    pending = [expression]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed(list(parts(current))))
