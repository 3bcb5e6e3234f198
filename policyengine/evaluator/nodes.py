"""Nodes of the program: values, which are known or Unknown. `get` returns the value."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from policyengine.evaluator.state import UNREAD, State
from policyengine.runtime.fact_access import fact_at, get_member
from policyengine.runtime.values import (
    ABSENT,
    DECIMAL_CONTEXT,
    MAX_ELEMENTS,
    MAX_INT,
    MAX_STRING_LENGTH,
    MIN_INT,
    Unknown,
    coerce,
)
from policyengine.typesystem import EntityRef, Type

Path = tuple[str, ...]

# How a raw fact becomes a value. GENERAL calls `coerce`; the other kinds first try a fast conversion.
GENERAL: Final = 0
STRING: Final = 1
INT: Final = 2
NUMBER: Final = 3
BOOL: Final = 4
REFERENCE: Final = 5
STRINGS: Final = 6
NUMBERS: Final = 7

# The place of a raw fact: in a member of a trusted root, in a member that the client names, deeper, or not in the
# request.
TRUSTED: Final = 0
CLIENT: Final = 1
DEEP: Final = 2
NOWHERE: Final = 3
TOOL_NAME: Final = 4
ACTION_ONLY: Final = 5

MAX_QUICK_STRINGS = 1_000


class Node:
    """A part of an expression."""

    __slots__ = ()

    def get(self, st: State) -> Any:
        """Return the value."""
        raise NotImplementedError


class BoundValue:
    """A value that a pattern binds at one endpoint, before it has a type."""

    __slots__ = ()

    def raw(self, st: State) -> Any:
        raise NotImplementedError


class Const(Node):
    """A constant."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def get(self, st: State) -> Any:
        return self.value


class FactNode(Node):
    """A fact with a slot. `raw` returns the untyped value from the request or from a binding."""

    __slots__ = ("fact", "index", "path", "type")

    def __init__(self, index: int, path: Path, type: Type, fact: str) -> None:
        self.index = index
        self.path = path
        self.type = type
        self.fact = fact

    def raw(self, st: State) -> Any:
        raise NotImplementedError

    def get(self, st: State) -> Any:
        try:
            value = st.values[self.index]
        except IndexError:
            value = st.grow(self.index)
        if value is UNREAD:
            value = st.values[self.index] = coerce(self.raw(st), self.type, self.fact)
        return value


class Slot(FactNode):
    """A fact that the request contains or that a pattern binds. It is read once in a decision."""

    __slots__ = ("access", "bindable", "direct", "given", "kind", "member", "missing", "only", "outer", "root")

    def __init__(
        self, index: int, path: Path, type: Type, fact: str, kind: int, access: int, only: str, bindable: bool
    ) -> None:
        super().__init__(index, path, type, fact)
        self.kind = kind
        self.access = access
        self.only = only  # the entity type, if the kind is REFERENCE
        self.bindable = bindable
        self.given: Path = (path[0], "id") if path in (("agent",), ("user",)) else path
        self.root = path[0]
        self.member = self.given[1] if len(self.given) > 1 else ""
        self.outer = path[:-1] if access == DEEP and len(path) > 2 and path[0] in ("body", "args", "context") else ()
        self.missing: Any = Unknown.missing(fact)
        # The location of such a fact does not depend on the endpoint.
        self.direct = not bindable and self.root != "user" and access in (TRUSTED, CLIENT)

    def raw(self, st: State) -> Any:
        if self.bindable and st.bindings is not None:
            binding = st.bindings.get(self.path)
            if binding is not None:
                return binding.raw(st)
        access = self.access
        if access == NOWHERE:
            return None
        if access == DEEP:
            return outer_member(st, self.path, self.bindable) if self.outer else fact_at(st.facts, self.given)
        if access == TOOL_NAME:
            return st.tool
        if access == ACTION_ONLY and not st.rules.is_action:
            return None
        if self.root == "user" and st.masked is not None:
            return st.masked
        holder = st.facts.get(self.root)
        if type(holder) is dict:
            raw = holder.get(self.member)
            if raw is not None or access == TRUSTED:
                return raw
        elif holder is None:
            return None
        return fact_at(st.facts, self.given)

    def get(self, st: State) -> Any:
        try:
            value = st.values[self.index]
        except IndexError:
            value = st.grow(self.index)
        if value is UNREAD:
            value = st.values[self.index] = self.read(st)
        return value

    def read(self, st: State) -> Any:
        raw: Any = None
        if self.direct:
            holder = st.facts.get(self.root)
            if type(holder) is dict:
                raw = holder.get(self.member)
                if raw is None and self.access == CLIENT and holder:
                    raw = fact_at(st.facts, self.given)
            elif holder is not None:
                raw = fact_at(st.facts, self.given)
        else:
            raw = self.raw(st)
        if raw is None or raw is ABSENT:
            return self.missing
        kind = self.kind
        if kind == STRING:
            if type(raw) is str and raw.isascii() and 0 < len(raw) <= MAX_STRING_LENGTH:
                return raw
        elif kind == INT:
            if type(raw) is int and MIN_INT <= raw <= MAX_INT:
                return raw
        elif kind == NUMBER:
            if type(raw) is int and MIN_INT <= raw <= MAX_INT:
                return raw
            if type(raw) is Decimal and raw.is_finite():
                try:
                    return DECIMAL_CONTEXT.create_decimal(raw)
                except ArithmeticError:
                    pass
        elif kind == BOOL:
            if raw is True or raw is False:
                return raw
        elif kind == REFERENCE:
            if type(raw) is str and raw.isascii() and 0 < len(raw) <= MAX_STRING_LENGTH:
                return EntityRef(self.only, raw)
        elif kind == STRINGS:
            known = quick_strings(raw)
            if known is not None:
                return known
        elif kind == NUMBERS and type(raw) is tuple and len(raw) <= MAX_ELEMENTS:
            for number in raw:
                if type(number) is not int or not MIN_INT <= number <= MAX_INT:
                    return coerce(raw, self.type, self.fact)
            return raw
        return coerce(raw, self.type, self.fact)


def quick_strings(raw: Any) -> Any:
    """Return a set of ordinary strings as a tuple; None if `coerce` must convert it."""
    if (type(raw) is not tuple and type(raw) is not list) or len(raw) > MAX_QUICK_STRINGS:
        return None
    for text in raw:
        if type(text) is not str or not text.isascii() or not 0 < len(text) <= MAX_STRING_LENGTH:
            return None
    return tuple(dict.fromkeys(raw)) if len(raw) > 1 else tuple(raw)


def outer_member(st: State, path: Path, bindable: bool) -> Any:
    """Return a member of an object that a pattern may have bound or, if it did not, of the object in the request. A
    null is returned as None.
    """
    if bindable and st.bindings is not None:
        binding = st.bindings.get(path)
        if binding is not None:
            return binding.raw(st)
    if len(path) == 2:
        return fact_at(st.facts, path)
    outer = outer_member(st, path[:-1], bindable)
    return outer if isinstance(outer, Unknown) else get_member(outer, path[-1])


class ResourceFact(FactNode):
    """The fact `resource`: bound by a path or, for an action, named by the request. The placeholder for an unknown
    resource counts as present.
    """

    __slots__ = ("bindable",)

    def __init__(self, index: int, path: Path, type: Type, fact: str, bindable: bool) -> None:
        super().__init__(index, path, type, fact)
        self.bindable = bindable

    def binding(self, st: State) -> BoundValue | None:
        return st.bindings.get(self.path) if self.bindable and st.bindings is not None else None

    def raw(self, st: State) -> Any:
        binding = self.binding(st)
        if binding is not None:
            return binding.raw(st)
        return fact_at(st.facts, self.path) if st.rules.is_action else ABSENT

    def get(self, st: State) -> Any:
        try:
            value = st.values[self.index]
        except IndexError:
            value = st.grow(self.index)
        if value is UNREAD:
            value = coerce(self.raw(st), self.type, self.fact)
            if type(value) is Unknown and (st.rules.is_action or self.binding(st) is not None):
                value = never_absent(value)
            st.values[self.index] = value
        return value


def never_absent(value: Unknown) -> Unknown:
    return Unknown(frozenset([cause.as_present() for cause in value.causes])) if value.absent else value


class ComputedFact(FactNode):
    """A fact that the engine computes: the time, ages, the chain, approvals."""

    __slots__ = ("compute",)

    def __init__(self, index: int, path: Path, type: Type, fact: str, compute: Callable[[State], Any]) -> None:
        super().__init__(index, path, type, fact)
        self.compute = compute

    def raw(self, st: State) -> Any:
        return self.compute(st)


class LearnedFact(FactNode):
    """A fact that is learned about the caller, by its name in the learned facts; `neutral` if nothing is learned.
    `latest` are the last untyped value and its typed value, because the values of usual callers rarely change."""

    __slots__ = ("latest", "name", "neutral")

    def __init__(self, index: int, path: Path, type: Type, fact: str, name: str, neutral: object) -> None:
        super().__init__(index, path, type, fact)
        self.latest: tuple[object, Any] = None, None
        self.name = name
        self.neutral = neutral

    def raw(self, st: State) -> Any:
        return self.neutral if st.behavior is None else st.behavior.get(self.name, self.neutral)

    def get(self, st: State) -> Any:
        try:
            value = st.values[self.index]
        except IndexError:
            value = st.grow(self.index)
        if value is UNREAD:
            raw, latest = self.raw(st), self.latest
            if latest[0] is not raw or raw is None:
                latest = self.latest = raw, coerce(raw, self.type, self.fact)
            value = st.values[self.index] = latest[1]
        return value


class RecordedFact(Node):
    """A fact that also records that it was read, if the decision collects the facts to which an approval is bound."""

    __slots__ = ("node",)

    def __init__(self, node: FactNode) -> None:
        self.node = node

    def get(self, st: State) -> Any:
        value = self.node.get(st)
        if st.recorder is not None:
            st.recorder.fact(st, self.node, value)
        return value


class FunctionValue(Node):
    """A function of values; unknown if one of them is unknown."""

    __slots__ = ("function", "items")

    def __init__(self, function: Callable[..., Any], items: tuple[Node, ...]) -> None:
        self.function = function
        self.items = items

    def get(self, st: State) -> Any:
        known = [item.get(st) for item in self.items]
        for value in known:
            if type(value) is Unknown:
                return merge(known)
        return self.function(*known)


def is_absent(value: Any) -> bool:
    return value is ABSENT or (type(value) is Unknown and value.absent)


def merge(values: list[Any]) -> Unknown:
    """Return the unknowns among the values as one."""
    unknown = [value for value in values if type(value) is Unknown]
    return unknown[0] if len(unknown) == 1 else Unknown.merge(*unknown)


class CollectionValue(Node):
    """A list with elements that are not all constants."""

    __slots__ = ("items",)

    def __init__(self, items: tuple[Node, ...]) -> None:
        self.items = items

    def get(self, st: State) -> Any:
        return tuple([item.get(st) for item in self.items])


class DefaultValue(Node):
    """`x else d`: d if x is absent."""

    __slots__ = ("fallback", "operand")

    def __init__(self, operand: Node, fallback: Node) -> None:
        self.operand = operand
        self.fallback = fallback

    def get(self, st: State) -> Any:
        value = self.operand.get(st)
        if type(value) is Unknown and value.absent:
            return self.fallback.get(st)
        return value


class VariableValue(Node):
    """The current element of a quantifier."""

    __slots__ = ("depth",)

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def get(self, st: State) -> Any:
        return st.variables[self.depth]
