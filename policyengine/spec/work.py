"""The work of one decision in steps, whose number is limited. Steps are counted from the sizes of collections, never
with a clock.

The size of the policy bounds the work outside loops. A loop takes, for each element, as many steps as its condition has
parts. Other operations whose time depends on the size of a collection or text take steps in proportion to that size.
`step_count.py` counts the steps of a decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.runtime.value_size import CHARACTERS_PER_STEP

MAX_STEPS = 200_000
MAX_UNNOTICED_STEPS = 10_000  # too few for a noticeable delay
STEPS_PER_BLOCK_PART = 4  # steps for one part of a block, which takes longer than a part of a condition
HASHED = (typesystem.Scalar, typesystem.EnumType, typesystem.RefType)  # types of elements that are found by hash
CONSTANT_SIZE = frozenset(typesystem.Scalar) - {typesystem.Scalar.STRING}  # types whose values take no steps to read


@dataclass(frozen=True, slots=True)
class ExpressionIdentity:
    """An expression compared by identity, because hashing its content takes longer than evaluating it."""

    node: k.Expr

    def __hash__(self) -> int:
        return id(self.node)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExpressionIdentity) and self.node is other.node


def weight(condition: k.Expr) -> int:
    """Return the number of parts of a condition that are evaluated for each element of a loop around it."""
    return _weight(ExpressionIdentity(condition))


@lru_cache(maxsize=4_096)
def _weight(condition: ExpressionIdentity) -> int:
    return 1 + sum(weight(part) for part in parts_evaluated_once(condition.node))


def takes_steps(node: k.Expr, looping: bool) -> bool:
    """Return whether an evaluation may take steps, which does not depend on the values. `looping` says whether it is
    inside a loop or in the condition on a past request.
    """
    return _takes_steps(ExpressionIdentity(node), looping)


@lru_cache(maxsize=65_536)
def _takes_steps(expression: ExpressionIdentity, looping: bool) -> bool:
    node = expression.node
    match node:
        case k.Quantifier():
            return True
        case k.HistoryCondition(event, _, since) | k.Aggregate(_, _, event, _, since):
            several = [one for one in (event, since) if one is not None]
            wheres = [one.where for one in several if one.where is not None]
            keys = [key for one in several for key in one.keys or ()]
            return (
                looping or any(takes_steps(one, True) for one in wheres) or any(takes_steps(one, False) for one in keys)
            )
        case k.Attribute():
            own = looping and is_read_in_loop(node)
        case k.Member():
            own = looping
        case k.Call(_, arguments):
            own = looping and any(map(is_sized, arguments))
        case k.Relation():
            own = relation_takes_steps(node, looping)
        case _:
            own = False
    return own or any(takes_steps(part, looping) for part in k.children(node))


def relation_takes_steps(node: k.Relation, looping: bool) -> bool:
    match node.row.operands:
        case k.Operands.VALUES:
            return node.operator in ("==", "!=") and is_collection(node.left) and is_collection(node.right)
        case k.Operands.ELEMENT:
            if node.operator == "holds" and isinstance(node.right.type, typesystem.RefType):
                return True
            return (looping and not is_fixed(node.left)) or not (is_hashed(node.left) and is_atom(node.right))
        case k.Operands.COLLECTIONS:
            return True
        case _:
            return looping


def is_read_in_loop(node: k.Attribute | k.Member) -> bool:
    """Return whether each element of a loop reads the value again, which takes steps in proportion to its size."""
    return is_sized(node) and not is_fixed(node)


def is_sized(node: k.Expr) -> bool:
    """Return whether values of the type may be texts or collections."""
    return node.type not in CONSTANT_SIZE and not isinstance(node.type, typesystem.RefType)


def is_collection(node: k.Expr) -> bool:
    return isinstance(node.type, typesystem.SetType | typesystem.ListType)


def is_hashed(node: k.Expr) -> bool:
    """Return whether elements are certainly looked up by hash. Records have no hash, and neither do lists with unknown
    elements.
    """
    return isinstance(getattr(node.type, "element", None), HASHED)


def is_atom(node: k.Expr) -> bool:
    """Return whether the value is neither a collection nor a record."""
    return isinstance(node.type, HASHED)


def event_weight(event: k.EventPattern) -> int:
    """Return the number of parts that are evaluated for each event of a history."""
    return 1 if event.where is None else 1 + weight(event.where)


def head_steps(block: k.AgentBlock) -> int:
    """Return the steps of testing whether a block matches one hop: 0 unless the block has a condition."""
    return STEPS_PER_BLOCK_PART * weight(block.who.condition) if isinstance(block.who, k.PrincipalCondition) else 0


def hop_steps(block: k.AgentBlock) -> int:
    """Return the steps that a block may take for one hop that it matches: the steps of its requirements, grants and
    delegations."""
    conditions = [one.condition for one in block.requirements if isinstance(one, k.ActsFor)]
    conditions += [one.when for one in block.grants] + [one.when for one in block.delegates]
    patterns = sum(len(one.openings) for one in block.grants) + sum(len(one.patterns) for one in block.delegates)
    parts = sum(weight(one) for one in conditions if one is not None)
    return STEPS_PER_BLOCK_PART * (1 + len(block.requirements) + patterns + parts)


def parts_evaluated_once(node: k.Expr) -> Iterator[k.Expr]:
    """Yield the parts that are evaluated once with the expression. Inner loops count their own conditions."""
    match node:
        case k.Quantifier(_, _, domain, _):
            yield domain
        case k.Relation() if node.row.operands is k.Operands.PATTERN:
            yield node.left  # the pattern counts as part of the relation
        case k.HistoryCondition(event, _, since) | k.Aggregate(_, _, event, _, since):
            yield from (key for one in (event, since) if one is not None for key in one.keys or ())
        case _:
            yield from k.children(node)


def is_fixed(node: k.Expr) -> bool:
    """Return whether the value is read once in a decision: a constant, a fact, or an attribute of one of these."""
    while isinstance(node, k.Attribute | k.DefinitionRef):
        node = node.base if isinstance(node, k.Attribute) else node.expression
    return isinstance(node, k.Constant | k.Fact)


def reading_steps(*values: object) -> int:
    """Return the steps to read texts and collections, including the texts in them."""
    return sum(
        len(one) // CHARACTERS_PER_STEP if isinstance(one, str) else len(one) + reading_steps(*one)
        for one in values
        if isinstance(one, str | tuple)
    )


def count_elements(value: object) -> int:
    """Return the number of elements of a collection, including nested ones; 0 for other values."""
    if not isinstance(value, tuple):
        return 0
    return len(value) + sum([count_elements(one) for one in value if isinstance(one, tuple)])
