"""The worst-case number of evaluation steps of rules, as a polynomial in n, the size of the largest collection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from itertools import zip_longest
from typing import Any, Protocol, TypeAlias, assert_never, get_args, get_type_hints

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.runtime.value_size import CHARACTERS_PER_STEP, measure_extent
from policyengine.runtime.values import MAX_ELEMENTS
from policyengine.spec.reason_texts import PROOFS
from policyengine.spec.work import count_elements, event_weight, is_collection, is_fixed, is_hashed, weight

Steps: TypeAlias = tuple[int, ...]  # coefficients of the powers of n, the lowest first

NO_STEPS: Steps = ()
ANY_SIZE: Steps = (0, 1)
MAX_EVENTS_PER_KEY = 10_000  # maximum events of one key


class Sizes(Protocol):
    """Upper bounds for the sizes of values that rules read."""

    def attribute(self, node: k.Attribute) -> Steps:
        """Return the size of a set or list attribute, or the steps of a string attribute."""

    def other(self, node: k.Expr) -> Steps:
        """Return the size of any other expression that is not a constant."""

    @property
    def above(self) -> int:
        """The maximum number of entities in which one entity may be."""

    @property
    def names(self) -> Steps:
        """The steps for the member names of a record."""


@dataclass(frozen=True, slots=True)
class UnlimitedSizes:
    """No bounds on sizes, except for the number of entities in which one entity may be: each of them may add to an
    inherited set.
    """

    above: int = 0
    names: Steps = ANY_SIZE

    def attribute(self, node: k.Attribute) -> Steps:
        return (0, 1 + self.above) if node.inherited else ANY_SIZE

    def other(self, node: k.Expr) -> Steps:
        return ANY_SIZE


def add_steps(*several: Steps) -> Steps:
    some = [one for one in several if one]
    return tuple(map(sum, zip_longest(*some, fillvalue=0))) if len(some) > 1 else some[0] if some else NO_STEPS


def multiply_steps(one: Steps, other: Steps) -> Steps:
    found = [0] * (len(one) + len(other) - 1) if one and other else []
    for power, steps in enumerate(one):
        for more, factor in enumerate(other):
            found[power + more] += steps * factor
    return tuple(found)


def max_steps(*several: Steps) -> Steps:
    """Return an upper bound of all these polynomials."""
    return tuple(map(max, zip_longest(*several, fillvalue=0))) if several else NO_STEPS


def evaluate_steps(steps: Steps, size: int) -> int:
    return sum(count * size**power for power, count in enumerate(steps))


def largest_size(steps: Steps, most: int) -> int:
    """Return the largest n, up to MAX_ELEMENTS, for which the polynomial is at most `most`; -1 if there is no such
    n."""
    low, high = -1, MAX_ELEMENTS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if evaluate_steps(steps, middle) <= most else (low, middle - 1)
    return low


# ── Steps of an expression ──────────────────────────────────────────────────────────────────


def steps_of(node: k.Expr, sizes: Sizes, looping: bool = False) -> Steps:
    """Return the steps of one evaluation; `looping` says whether it is inside a loop."""
    match node:
        case k.Fact() | k.Constant() | k.Variable():
            return NO_STEPS
        case k.Quantifier(_, _, domain, condition):
            each = add_steps((weight(condition),), steps_of(condition, sizes, True))
            return add_steps(steps_of(domain, sizes, looping), multiply_steps(size_of(domain, sizes), each))
        case k.HistoryCondition(event, _, since) | k.Aggregate(_, _, event, _, since):
            return add_steps(*(event_steps(one, sizes, looping) for one in (event, since) if one is not None))
        case _:
            own = own_steps(node, sizes, looping)
            return add_steps(own, *(steps_of(part, sizes, looping) for part in k.children(node)))


def own_steps(node: k.Expr, sizes: Sizes, looping: bool) -> Steps:
    match node:
        case k.Relation(_, left, right) if node.row.operands is k.Operands.COLLECTIONS:
            one, other = elements_of(left, sizes), elements_of(right, sizes)
            hashed = is_hashed(left) and is_hashed(right)
            return add_steps(one, other, NO_STEPS if hashed else multiply_steps(size_of(left, sizes), other))
        case k.Relation("==" | "!=", left, right) if is_collection(left) or is_collection(right):
            return add_steps(elements_of(left, sizes), elements_of(right, sizes))
        case k.Relation("has" | "holds", collection, item):
            if node.operator == "holds":
                return add_steps(size_of(collection, sizes), (sizes.above,))
            scans = (looping and not is_fixed(collection)) + 2 * (not is_hashed(collection))
            own = elements_of(item, sizes) if is_collection(item) else NO_STEPS
            return add_steps(own, multiply_steps((scans,), elements_of(collection, sizes)) if scans else NO_STEPS)
        case _:
            return steps_in_loop(node, sizes) if looping else NO_STEPS


def steps_in_loop(node: k.Expr, sizes: Sizes) -> Steps:
    match node:
        case k.Relation():
            return relation_steps_in_loop(node, sizes)
        case k.Call(_, arguments):
            return add_steps(*(reading_steps(one, sizes) for one in arguments))
        case k.Attribute() if not is_fixed(node):
            return add_steps(reading_steps(node, sizes), (sizes.above,))
        case k.Member():
            return add_steps(reading_steps(node, sizes), sizes.names)
        case _:
            return NO_STEPS


def relation_steps_in_loop(node: k.Relation, sizes: Sizes) -> Steps:
    match node.row.operands:
        case k.Operands.VALUES | k.Operands.ELEMENT | k.Operands.COLLECTIONS:
            return NO_STEPS
        case k.Operands.ENTITIES:
            return (sizes.above,)
        case k.Operands.PATTERN:
            return size_of(node.left, sizes)
        case k.Operands.NETWORKS | k.Operands.STRINGS:
            return add_steps(reading_steps(node.left, sizes), reading_steps(node.right, sizes))
        case _:
            assert_never(node.row.operands)


def reading_steps(node: k.Expr, sizes: Sizes) -> Steps:
    """Return the steps of reading the whole value, including the strings in it."""
    size, (levels, innermost) = size_of(node, sizes), nesting(node.type)
    if not levels:
        return size if innermost in (None, typesystem.Scalar.STRING) else NO_STEPS
    elements = elements_of(node, sizes)
    return add_steps(elements, multiply_steps(elements, size)) if innermost is typesystem.Scalar.STRING else elements


def event_steps(event: k.EventPattern, sizes: Sizes, looping: bool) -> Steps:
    keys = [steps_of(key, sizes, looping) for key in event.keys or ()]
    where = NO_STEPS if event.where is None else steps_of(event.where, sizes, True)
    each = add_steps((event_weight(event),), where) if looping else where
    return add_steps(*keys, multiply_steps((MAX_EVENTS_PER_KEY,), each))


def size_of(node: k.Expr, sizes: Sizes) -> Steps:
    """Return an upper bound for the size of the value: elements, or the steps of a string."""
    match node:
        case k.Constant(str() as text):
            return (len(text) // CHARACTERS_PER_STEP,)
        case k.Constant(tuple() as items):
            return (measure_extent(items),)
        case k.Constant():
            return NO_STEPS
        case k.Collection(items):  # its texts may have more steps than it has elements
            return max_steps((len(items),), *(size_of(item, sizes) for item in items))
        case k.DefinitionRef(_, inner):
            return size_of(inner, sizes)
        case k.Attribute():
            return sizes.attribute(node)
        case k.Default(operand, fallback):
            return max_steps(size_of(operand, sizes), size_of(fallback, sizes))
        case k.Call(_, arguments):  # an upper-case string may be longer
            return multiply_steps((3,), add_steps(*(size_of(one, sizes) for one in arguments)))
        case _:
            return sizes.other(node)


def elements_of(node: k.Expr, sizes: Sizes) -> Steps:
    """Return an upper bound for the number of elements, including those of nested collections."""
    match node:
        case k.Constant(value):
            return (count_elements(value),)
        case k.Collection(items):
            return add_steps((len(items),), *(elements_of(one, sizes) for one in items if is_collection(one)))
        case k.DefinitionRef(_, inner):
            return elements_of(inner, sizes)
        case k.Default(operand, fallback):
            return max_steps(elements_of(operand, sizes), elements_of(fallback, sizes))
        case _:
            size, (levels, _) = size_of(node, sizes), nesting(node.type)
            found = each = size
            for _ in range(levels - 1):
                each = multiply_steps(each, size)
                found = add_steps(found, each)
            return found


def nesting(type: typesystem.Type | None) -> tuple[int, typesystem.Type | None]:
    """Return how many levels of collections the type nests, and the type of the innermost elements."""
    levels = 0
    while isinstance(type, typesystem.SetType | typesystem.ListType):
        levels, type = levels + 1, type.element
    return levels, type


# ── Steps of a rule ─────────────────────────────────────────────────────────────────────────


def expressions(part: object) -> Iterable[k.Expr]:
    """Yield the outermost expressions in a part of the kernel."""
    if isinstance(part, tuple):
        for item in part:
            yield from expressions(item)
    elif isinstance(part, EXPRESSIONS):
        yield part
    elif is_dataclass(part):
        for name in fields_with_expressions(type(part)):  # type: ignore[arg-type]  # mypy checks the hashes of instances
            yield from expressions(getattr(part, name))


@cache
def fields_with_expressions(kind: type) -> tuple[str, ...]:
    """Return the fields of a part of the kernel that may hold expressions, by their annotations."""
    hints = get_type_hints(kind)
    return tuple(
        one.name for one in fields(kind) if one.name not in ("span", "type") and may_hold_expressions(hints[one.name])
    )


def may_hold_expressions(annotation: Any) -> bool:
    """Return whether a value of an annotated type may be an expression, or hold one."""
    if arguments := get_args(annotation):
        return any(map(may_hold_expressions, arguments))
    if not isinstance(annotation, type):
        return not (annotation is ... or isinstance(annotation, str))  # a string is one of a `Literal`
    if not is_dataclass(annotation):
        return annotation in (object, tuple)
    return issubclass(annotation, EXPRESSIONS) or bool(fields_with_expressions(annotation))


def steps_of_part(part: object, sizes: Sizes) -> Steps:
    """Return the steps of all expressions in a part of the kernel, each evaluated once."""
    return add_steps(*(steps_of(node, sizes) for node in expressions(part)))


def steps_of_guard(guard: k.Guard, sizes: Sizes) -> Steps:
    """Return the steps of a guard. A condition is evaluated once more for each proof that could make it false."""
    found = NO_STEPS
    for effect in guard.effects:
        proofs = 0
        if isinstance(effect, k.Deny) and effect.condition is not None:
            read = {node.path for node in k.walk(effect.condition) if isinstance(node, k.Fact)}
            proofs = sum(path in read for _, _, path, _ in PROOFS)
        found = add_steps(found, multiply_steps((1 + proofs,), steps_of_part(effect, sizes)))
    return found


EXPRESSIONS = tuple(k.Expr.__args__)
