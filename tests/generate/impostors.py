"""Objects of their own classes whose value differs from what their methods report, in every place of a question. The
value of such an object is the one that its base class stores; its methods report another. Two trees are built in
parallel: the question as sent, and the equivalent plain one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from random import Random
from typing import Any, NamedTuple, TypeAlias

from policyengine.typesystem import EntityRef
from tests.generate.requests import Question

Place: TypeAlias = tuple[str | int, ...]

OWN = frozenset({
    "__new__", "__init__", "__class__", "__init_subclass__", "__subclasshook__", "__getattribute__", "__setattr__",
    "__delattr__", "__dir__", "__doc__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__sizeof__",
    "__class_getitem__", "__dict__", "__getformat__", "__set_format__",
})  # fmt: skip
ASKED: Counter[str] = Counter()  # calls of each method of impostors


def answering(name: str, says: Callable[[Any], Any]) -> Callable[..., Any]:
    def method(self: Any, *given: Any, **named: Any) -> Any:
        ASKED[name] += 1
        return getattr(says(self), name)(*given, **named)

    return method


@cache
def impostor_of(base: type) -> type:
    """Return a class whose objects answer every call like the value that they report."""
    members = {name: answering(name, lambda self: self.__dict__["says"]) for name in dir(base) if name not in OWN}
    return type(f"Impostor{base.__name__.title()}", (base,), members)


def impostor(is_: Any, says: Any) -> Any:
    """Return an impostor of the type of the real value."""
    kind = impostor_of(type(is_))
    if isinstance(is_, datetime):
        found = kind(is_.year, is_.month, is_.day, is_.hour, is_.minute, is_.second, is_.microsecond, is_.tzinfo)
    elif isinstance(is_, timedelta):
        found = kind(is_.days, is_.seconds, is_.microseconds)
    else:
        found = kind(is_)
    found.__dict__["says"] = says
    return found


class Agreeable(str):
    """Equal to everything, with its own hash."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        ASKED["__eq__"] += 1
        return True

    def __ne__(self, other: object) -> bool:
        return False


class Changing(dict[str, Any]):
    """Returns different members when one is read, when all are read, and when they are read again."""

    def __init__(self, first: dict[str, Any], then: dict[str, Any]) -> None:
        super().__init__(then)
        self.first, self.reads = first, 0

    def items(self) -> Any:
        self.reads += 1
        return self.first.items() if self.reads == 1 else super().items()


class Elements(list[Any]):
    """Holds some elements, and yields others when iterated."""

    def __init__(self, gone_through: list[Any], held: list[Any]) -> None:
        super().__init__(held)
        self.gone_through = gone_through

    def __iter__(self) -> Iterator[Any]:
        return iter(self.gone_through)


class Pair(NamedTuple):
    """The object as sent, and its real value."""

    asked: Any
    real: Any


STRINGS = (
    "mallory", "alice", "bot", "acme", "GET", "DELETE", "HEAD", "/elsewhere", "/notes", "/v1/invoices/7", "clerk", "x",
    "invoices.write", "everything", "invoice", "billing", "refund", "body", "amount", "agent", "user", "id", "path", "",
)  # fmt: skip
LOOKED_UP = frozenset(
    {"method", "path", "id", "issuer", "name", "server", "type", "scopes", "groups", "claims", "headers"}
)
NUMBERS = (0, 1, 7, 500, 10_000, 2**63)


def posed(random: Random, value: Any) -> Pair:
    """Return an impostor in place of a value: usually its real value is another one, and it reports that value."""
    match value:
        case str():
            other = random.choice(STRINGS)
            if random.random() < 0.3:
                return Pair(Agreeable(other), other)
            is_, says = random.choice([(other, value), (other, value), (value, other), (value, value)])
            return Pair(impostor(is_, says), is_)
        case bool() | None:
            return posed(random, random.choice(["true", 1, Decimal(1)]))
        case int() | float() | Decimal():
            kind = random.choice([int, float, Decimal])
            is_, says = kind(random.choice(NUMBERS)), kind(value)
            return Pair(impostor(is_, says), is_)
        case datetime() | timedelta():
            return Pair(impostor(value, value + timedelta(days=400)), value)
        case list() | tuple():
            return elements(random, value)
        case dict():
            return members(random, value)
        case _:
            return Pair(value, value)


def elements(random: Random, value: list[Any] | tuple[Any, ...]) -> Pair:
    others = [random.choice(STRINGS)]
    match random.choice(["one", "one", "all", "instead"]) if value else "instead":
        case "one":
            at = random.randrange(len(value))
            one = posed(random, value[at])
            return Pair([*value[:at], one.asked, *value[at + 1 :]], [*value[:at], one.real, *value[at + 1 :]])
        case "all":
            pairs = [posed(random, one) for one in value]
            return Pair([one.asked for one in pairs], [one.real for one in pairs])
        case _:
            return Pair(Elements(others, list(value)), others)


def members(random: Random, value: dict[str, Any]) -> Pair:
    match random.choice(["name", "name", "changing", "reference"]) if value else "changing":
        case "name":
            name = random.choice(list(value))
            odd = posed(random, name)
            asked = {odd.asked if one == name else one: found for one, found in value.items()}
            merged = len(asked) < len(value)  # by an impostor that equals another name
            return Pair(asked, None if merged else renamed(value, name, odd.real))
        case "changing":
            return Pair(Changing(value, {name: random.choice(STRINGS) for name in value}), value)
        case _:
            parts = posed(random, "user"), posed(random, "alice")
            asked = EntityRef(*(one.asked for one in parts))
            return Pair(asked, EntityRef(*(one.real for one in parts)))


def renamed(value: dict[str, Any], name: str, to: str) -> Any:
    """Return None if two members would have the same name: it is undefined which one counts."""
    if to != name and to in value:
        return None
    return {to if one == name else one: found for one, found in value.items()}


# ── A question with impostors in it ───────────────────────────────────────────────────────────


def places(tree: Any, at: Place = ()) -> Iterator[Place]:
    yield at
    if isinstance(tree, dict | list):
        for name, one in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(one, (*at, name))


def at_place(tree: Any, at: Place, put: Callable[[Any], Any]) -> Any:
    """Return a copy of the tree with another value at the place."""
    if not at:
        return put(tree)
    name, *rest = at
    if isinstance(tree, dict):
        return {one: at_place(value, tuple(rest), put) if one == name else value for one, value in tree.items()}
    return [at_place(value, tuple(rest), put) if one == name else value for one, value in enumerate(tree)]


def with_impostor(random: Random, question: Question) -> Pair:
    """Return the question with an impostor somewhere. `real` is None if it has two members of one name."""
    everywhere = list(places(question))
    looked_up = [one for one in everywhere if one[-1:] and one[-1] in LOOKED_UP]
    where = random.choice(looked_up if looked_up and random.random() < 0.5 else everywhere)
    found: list[Pair] = []

    def put(value: Any) -> Any:
        found.append(posed(random, value))
        return found[0].asked

    asked = at_place(question, where, put)
    real = at_place(question, where, lambda _: found[0].real)
    return Pair(asked, None if found[0].real is None else real)
