"""Check that the checker could have produced a decoded expression: its operands have valid types."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

from policyengine import kernel as k
from policyengine.checker.names.symbols import BUILT_IN_ENTITIES
from policyengine.checker.types.calls import FUNCTIONS_BY_NAME, accepts_type, join_all
from policyengine.checker.types.compatibility import ADDRESSES, NUMBERS, are_comparable, is_assignable
from policyengine.checker.types.operators import arithmetic_type, is_ordered
from policyengine.compiler.bundle.tables import BundleDataError, DecodeContext
from policyengine.runtime import calendar_windows
from policyengine.runtime.patterns import PatternError
from policyengine.runtime.values import Unknown, coerce
from policyengine.typesystem import ListType, RecordType, RefType, Scalar, SetType, Type, UnresolvedType
from policyengine.vocabulary import BUILT_IN_FACTS as BUILT_IN
from policyengine.vocabulary import ENTITIES, ENTITY_ROOTS, LEARNED_FACTS, OPEN_ROOTS, STRING_MAPS

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_PATH_SEGMENTS = 100


def require(holds: bool, why: str) -> None:
    if not holds:
        raise BundleDataError(why)


# ── Names and values ──────────────────────────────────────────────────────────────────────────


def check_fact(fact: k.Fact, reading: DecodeContext) -> None:
    """Check that a fact is a path of the vocabulary with its type, or below a root whose members policies declare.
    Raises BundleDataError.
    """
    path, built_in = fact.path, BUILT_IN.get(fact.path)
    if path[:1] == ("past",):
        sound = (path == ("past", "status") and fact.type == Scalar.INT) or (path[1:2] == ("output",) and len(path) > 2)
        require(sound and len(path) <= MAX_PATH_SEGMENTS, "an outcome that cannot be reported")
        return
    require(0 < len(path) <= MAX_PATH_SEGMENTS and all(is_key(step) for step in path), "a path that is not a fact's")
    if built_in is not None:
        type_ = SetType(RefType(frozenset(reading.entities))) if built_in.type == ENTITIES else built_in.type
        require(fact.type == type_, f"`{built_in.name}` with another type")
        learned = path in LEARNED_FACTS
        require(reading.reads_behavior or not learned, "a learned fact in a policy that reads none")
    elif len(path) == 1:
        require(path[0] in ENTITY_ROOTS and isinstance(fact.type, RefType), f"`{path[0]}` is not a fact")
    elif path[:2] in STRING_MAPS:
        require(len(path) == 3 and fact.type == Scalar.STRING, f"`{'.'.join(path)}` is not a fact")
    else:
        require(path[0] in OPEN_ROOTS, f"`{'.'.join(path)}` is not a fact")


def is_key(step: str) -> bool:
    """Return whether a text is a valid name in a policy, plain or in brackets."""
    return bool(NAME.fullmatch(step)) or (step != "" and unicodedata.is_normalized("NFC", step))


def check_constant(constant: k.Constant, _: DecodeContext) -> None:
    known = coerce(constant.value, constant.type, "constant")
    require(not isinstance(known, Unknown) and is_same_constant(known, constant.value), "a constant of another type")


def is_same_constant(one: object, other: object) -> bool:
    """Return whether two constants are equal and have the same type: True is not 1, and an address is not its text."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(is_same_constant(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and one == other and not isinstance(one, Unknown)


def check_attribute(attribute: k.Attribute, _: DecodeContext) -> None:
    require(isinstance(attribute.base.type, RefType | UnresolvedType), "an attribute of a value that is not an entity")
    require(is_name(attribute.name), "an attribute without a name")
    require(not attribute.inherited or isinstance(attribute.type, SetType), "an inherited attribute that is not a set")
    require(all(is_name(name) for name, _ in attribute.levels), "an attribute of a value that is not an entity")


def check_member(member: k.Member, _: DecodeContext) -> None:
    base = member.base.type
    known = base.field(member.name) if isinstance(base, RecordType) else None
    require(
        isinstance(base, UnresolvedType) or (known is not None and known.type == member.type),
        "a member of a value that is not a record",
    )


def check_variable(variable: k.Variable, reading: DecodeContext) -> None:
    reading.unbound.append((variable.name, variable.type))


def check_quantifier(quantifier: k.Quantifier, reading: DecodeContext) -> None:
    """Check a quantifier: its variable is bound in its condition, not in its collection. Raises BundleDataError."""
    domain, name = quantifier.domain.type, quantifier.variable
    require(
        isinstance(domain, SetType | ListType) and is_name(name),
        "a quantifier over a value that is not a set or list",
    )
    element = domain.element if isinstance(domain, SetType | ListType) else domain
    inside = [node for node in k.walk(quantifier.domain) if isinstance(node, k.Variable)]
    require(all(node.name != name for node in inside), "a variable inside its own collection")
    places = [place for place, (known, _) in enumerate(reading.unbound) if known == name]
    mine = places[len(places) - count_uses(name, quantifier.condition) :]  # earlier variables belong to outer loops
    require(all(reading.unbound[place][1] == element for place in mine), "a variable of another type")
    reading.unbound[:] = [one for place, one in enumerate(reading.unbound) if place not in mine]
    check_condition(quantifier.condition)


def count_uses(name: str, node: k.Expr) -> int:
    """Return the number of uses of a variable in an expression, outside inner loops with a variable of the same
    name.
    """
    match node:
        case k.Variable(variable):
            return int(variable == name)
        case k.Quantifier() if node.variable == name:
            return count_uses(name, node.domain)
        case _:
            return sum(count_uses(name, part) for part in k.children(node))


def is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None


# ── Operators ─────────────────────────────────────────────────────────────────────────────────


def check_condition(expression: k.Expr | None) -> None:
    require(expression is None or expression.type == Scalar.BOOL, "a condition that is neither true nor false")


def check_logic(node: k.And | k.Or, _: DecodeContext) -> None:
    require(len(node.items) > 1, "`and` or `or` with fewer than two operands")
    for item in node.items:
        check_condition(item)


def check_comparison(node: k.Relation) -> None:
    left, right = node.left.type, node.right.type
    ordered = node.operator in ("==", "!=") or (is_ordered(left) and is_ordered(right))
    require(are_comparable(left, right) and ordered, f"`{node.operator}` between values that cannot be compared")


def check_element(node: k.Relation) -> None:
    collection, item = node.left.type, node.right.type
    require(isinstance(collection, SetType | ListType), "membership in a value that is not a set or list")
    element = collection.element if isinstance(collection, SetType | ListType) else collection
    entities = isinstance(item, RefType) and isinstance(element, RefType | UnresolvedType)
    direct = node.operator != "holds"
    require(entities or (direct and are_comparable(item, element)), "membership of a value of another type")


def check_hierarchy(node: k.Relation) -> None:
    both = isinstance(node.left.type, RefType) and isinstance(node.right.type, RefType)
    require(both, "a hierarchy of values that are not entities")


def check_network(node: k.Relation) -> None:
    networks = node.right.type
    element = networks.element if isinstance(networks, SetType | ListType) else networks
    sound = node.left.type == Scalar.IP and (element in ADDRESSES or element == UnresolvedType())
    require(sound and networks != Scalar.IP, "an address within a value that is not a network")


def check_has_row(node: k.HasRow, _: DecodeContext) -> None:
    require(isinstance(node.entity.type, RefType | UnresolvedType), "`is known` for a value that is not an entity")


def check_window(node: k.InWindow, _: DecodeContext) -> None:
    require(node.instant.type == Scalar.TIME, "a time window for a value that is not a time")


def check_relation(node: k.Relation, _: DecodeContext) -> None:
    row = k.RELATIONS.get(node.operator)
    if row is None:
        raise BundleDataError("an unknown relation")
    match row.operands:
        case k.Operands.VALUES:
            check_comparison(node)
        case k.Operands.ELEMENT:
            check_element(node)
        case k.Operands.ENTITIES:
            check_hierarchy(node)
        case k.Operands.NETWORKS:
            check_network(node)
        case k.Operands.PATTERN:
            check_pattern(node, row)
        case k.Operands.STRINGS:
            both = node.left.type == Scalar.STRING and node.right.type == Scalar.STRING
            require(both, f"`{row.operator}` for a value that is not a string")
        case k.Operands.COLLECTIONS:
            sound = have_common_element(node.left.type, node.right.type)
            require(sound, f"`{row.operator}` between values that are not sets of one type")
        case _:
            assert_never(row.operands)


def check_pattern(node: k.Relation, row: k.RelationRow) -> None:
    require(node.left.type == Scalar.STRING, f"`{row.operator}` for a value that is not a string")
    pattern = node.right.value if isinstance(node.right, k.Constant) else None
    if not isinstance(pattern, str):
        raise BundleDataError("a pattern that is not a string")
    try:
        row.check_pattern(pattern)
    except PatternError as error:
        raise BundleDataError(f"a pattern that cannot be used: {error.why}") from None


def have_common_element(left: Type, right: Type) -> bool:
    return (
        isinstance(left, SetType | ListType)
        and isinstance(right, SetType | ListType)
        and are_comparable(left.element, right.element)
    )


def check_collection(node: k.Collection, _: DecodeContext) -> None:
    element = node.type.element if isinstance(node.type, SetType | ListType) else None
    require(element is not None and all(fits_in(item.type, element) for item in node.items), "a mixed list")


def fits_in(item: Type, element: Type) -> bool:
    """Return whether a value fits into a list: in a list of networks, an address is a network that contains only this
    address.
    """
    return is_assignable(item, element) or (item == Scalar.IP and element == Scalar.CIDR)


def check_default(node: k.Default, _: DecodeContext) -> None:
    sides = (node.operand.type, node.fallback.type)
    require(all(is_assignable(side, node.type) for side in sides), "`else` with a value of another type")


def check_arithmetic(node: k.Arithmetic, _: DecodeContext) -> None:
    result = arithmetic_type(node.operator, node.left.type, node.right.type)
    require(
        result == node.type and result != UnresolvedType(), f"`{node.operator}` for an operand that it does not accept"
    )


def check_unary_minus(node: k.UnaryMinus, _: DecodeContext) -> None:
    require(
        node.operand.type == node.type and node.type in (*NUMBERS, Scalar.DURATION),
        "`-` for a value that is not a number",
    )


def check_definition_ref(node: k.DefinitionRef, _: DecodeContext) -> None:
    require(node.expression.type == node.type, "a definition of another type")


def check_call(node: k.Call, reading: DecodeContext) -> None:
    types = [argument.type for argument in node.arguments]
    function = FUNCTIONS_BY_NAME.get(node.function)
    if isinstance(node.type, RefType):
        sound = node.type.entities == {node.function} and types == [Scalar.STRING]
        require(sound and is_entity(node.function, reading), f"`{node.function}` does not convert this to an entity")
        return
    require(
        function is not None and len(function.parameters) == len(types), f"`{node.function}` is not a known function"
    )
    parameters = [parameter for _, parameter in function.parameters] if function else []
    fitting = all(
        accepts_type(parameter, actual, types[0]) for parameter, actual in zip(parameters, types, strict=True)
    )
    result = function.result if function and isinstance(function.result, Scalar) else join_all(types)
    require(fitting and result == node.type, f"`{node.function}` cannot take these")


# ── Windows of time ───────────────────────────────────────────────────────────────────────────


def check_daily(window: calendar_windows.Daily, _: DecodeContext) -> None:
    require(window.days is None or are_days(window.days), "a window without days")
    require(are_minutes(window.start_minute, window.end_minute), "an invalid time of day")
    require(window.start_minute != window.end_minute, "a window that begins where it ends")


def check_weekly(window: calendar_windows.Weekly, _: DecodeContext) -> None:
    require(are_days((window.start_day, window.end_day)), "an unknown day of the week")
    require(are_minutes(window.start_minute, window.end_minute), "an invalid time of day")


def check_days(window: calendar_windows.WholeDays, _: DecodeContext) -> None:
    require(are_days(window.days), "a window without days")


def check_absolute(window: calendar_windows.Absolute, _: DecodeContext) -> None:
    require(window.start < window.end, "a window that ends before it begins")


def are_days(days: Iterable[int]) -> bool:
    numbers = list(days)
    return bool(numbers) and all(0 <= number <= 6 for number in numbers)


def are_minutes(*minutes: int) -> bool:
    return all(0 <= minute <= calendar_windows.MINUTES_PER_DAY for minute in minutes)


def is_entity(name: str, reading: DecodeContext) -> bool:
    return name in reading.entities or name in BUILT_IN_ENTITIES


def check_condition_of(attribute: str) -> Callable[[Any, DecodeContext], None]:
    """Return a function that checks the condition in this attribute of a part."""
    return lambda part, _: check_condition(getattr(part, attribute))


TERMS: Mapping[type, Callable[[Any, DecodeContext], None]] = {
    k.Constant: check_constant,
    k.Fact: check_fact,
    k.Attribute: check_attribute,
    k.Member: check_member,
    k.Variable: check_variable,
    k.Quantifier: check_quantifier,
    k.Collection: check_collection,
    k.DefinitionRef: check_definition_ref,
    k.Not: check_condition_of("operand"),
    k.And: check_logic,
    k.Or: check_logic,
    k.HasRow: check_has_row,
    k.InWindow: check_window,
    k.Relation: check_relation,
    k.Default: check_default,
    k.Arithmetic: check_arithmetic,
    k.UnaryMinus: check_unary_minus,
    k.Call: check_call,
    calendar_windows.Daily: check_daily,
    calendar_windows.Weekly: check_weekly,
    calendar_windows.WholeDays: check_days,
    calendar_windows.Absolute: check_absolute,
}
