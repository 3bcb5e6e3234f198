"""Translates kernel expressions to nodes of the program. Equal facts share a slot, so each is read once in
a decision.
"""

from __future__ import annotations

import operator as op
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, assert_never

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.evaluator import nodes as n
from policyengine.evaluator.conditions import (
    AT_LEAST,
    AT_MOST,
    LESS,
    MORE,
    All,
    AnyOf,
    Condition,
    Equal,
    Not,
    OneOf,
    OrderTest,
    Present,
    QuantifierTest,
    Truth,
)
from policyengine.evaluator.count_keys import count_key_node
from policyengine.evaluator.entity_nodes import (
    EntityAttribute,
    HasRowTest,
    MemberOfEntity,
    checked_reference,
    member_value,
)
from policyengine.evaluator.fact_reader import BEFORE_CHAIN, DERIVED
from policyengine.evaluator.history_nodes import AggregateValue, EventRules, HistoryTest, past_value
from policyengine.evaluator.relation_nodes import (
    CompareSets,
    HasElement,
    HasText,
    OrderRelation,
    PendingIdTest,
    SameText,
    SameValue,
    in_networks,
)
from policyengine.kernel.resource_relations import compared_constant
from policyengine.runtime import arithmetic, calendar_windows, functions
from policyengine.runtime.fact_access import CLIENT_ROOTS
from policyengine.runtime.pending_facts import HEADERS_PATH
from policyengine.spec.facts import RESOURCE, name_of
from policyengine.spec.history import conjuncts, describe_history, reads_past
from policyengine.spec.kleene import describe
from policyengine.typesystem import EnumType, ListType, RefType, Scalar, SetType, Type
from policyengine.vocabulary import CLUSTER_ID, LEARNED_FACTS, NEUTRAL_VALUES, STRINGS, learned_name

SCALAR_KINDS = {Scalar.STRING: n.STRING, Scalar.INT: n.INT, Scalar.NUMBER: n.NUMBER, Scalar.BOOL: n.BOOL}
ORDERS: dict[str, Callable[[Any, Any], bool]] = {"<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge}
HOW = {"<": LESS, "<=": AT_MOST, ">": MORE, ">=": AT_LEAST}
ARITHMETIC = {"+": arithmetic.add, "-": arithmetic.sub, "*": arithmetic.mul}
PRESENTER_ROOTS = frozenset({"agent", "user", "credential", "attestation"})
BOUND_BY_WITH = frozenset({"resource", "body", "args", "context"})
BINDABLE = BOUND_BY_WITH | {"params"}


@dataclass(slots=True)
class Scope:
    """Where an expression occurs.

    - `strict` expressions test every part and record the facts that they read, because an approval is bound to these
      facts
    - `given` expressions read the captures of patterns, but no fact that `with` binds
    - `depths` are the depths of the variables of the enclosing quantifiers; `event` is the enclosing pattern of past
      requests
    """

    strict: bool = False
    given: bool = False
    depths: dict[str, int] = field(default_factory=dict)
    event: k.EventPattern | None = None

    def inside(self, variable: str) -> Scope:
        return Scope(self.strict, self.given, {**self.depths, variable: len(self.depths)}, self.event)

    def at_event(self, event: k.EventPattern) -> Scope:
        return Scope(False, self.given, self.depths, event)


PLAIN = Scope()
STRICT = Scope(strict=True)
GIVEN = Scope(given=True)


class NodeBuilder:
    """Makes nodes and numbers their slots."""

    def __init__(self) -> None:
        self.slots: dict[tuple[object, ...], n.FactNode] = {}
        self.by_path: dict[n.Path, list[int]] = {}
        self.attributes: dict[tuple[object, ...], EntityAttribute] = {}
        self.hop_slots: list[int] = []  # slots of facts that differ from hop to hop
        self.count = 0
        self.places = 0
        self._nodes: dict[tuple[int, bool], tuple[k.Expr, n.Node]] = {}
        self._conditions: dict[tuple[int, bool], tuple[k.Expr, Condition]] = {}
        self._events: dict[tuple[int, bool], tuple[k.EventPattern, EventRules]] = {}

    def _new_slot(self) -> int:
        self.count += 1
        return self.count - 1

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────

    def fact(self, path: n.Path, type_: Type, scope: Scope = PLAIN) -> n.Node:
        node = self.slot(path, type_, given=scope.given)
        return n.RecordedFact(node) if scope.strict else node

    def slot(self, path: n.Path, type_: Type, *, given: bool = False) -> n.FactNode:
        computed = path in LEARNED_FACTS or path in DERIVED
        given = given and (path[0] in BOUND_BY_WITH or (computed and path not in BEFORE_CHAIN))
        key = (path, type_, given)
        found = self.slots.get(key)
        if found is None:
            found = self.slots[key] = self._make_slot(path, type_, given)
            self.by_path.setdefault(path, []).append(found.index)
            if path[0] in PRESENTER_ROOTS:
                self.hop_slots.append(found.index)
        return found

    def _make_slot(self, path: n.Path, type_: Type, given: bool) -> n.FactNode:
        index, name = self._new_slot(), name_of(path)
        if path in LEARNED_FACTS and path != CLUSTER_ID and not given:
            return n.LearnedFact(index, path, type_, name, learned_name(path), NEUTRAL_VALUES[path])
        if path in DERIVED and not given:
            return n.ComputedFact(index, path, type_, name, DERIVED[path])
        if path in NEUTRAL_VALUES:
            neutral = NEUTRAL_VALUES[path]
            return n.ComputedFact(index, path, type_, name, lambda _: neutral)
        if path == RESOURCE:
            return n.ResourceFact(index, path, type_, name, bindable=not given)
        kind, only = SCALAR_KINDS.get(type_, n.GENERAL) if isinstance(type_, Scalar) else n.GENERAL, ""
        if isinstance(type_, RefType) and len(type_.entities) == 1:
            kind, only = n.REFERENCE, next(iter(type_.entities))
        elif type_ == STRINGS:
            kind = n.STRINGS
        elif isinstance(type_, ListType) and type_.element in (Scalar.INT, Scalar.NUMBER):
            kind = n.NUMBERS
        return n.Slot(index, path, type_, name, kind, access_of(path), only, path[0] in BINDABLE and not given)

    def attribute(self, node: k.Attribute, scope: Scope) -> n.Node:
        base = self.value(node.base, scope)
        fact, levels = describe(node), dict(node.levels)
        varies = any(isinstance(part, k.Variable | k.PastFact) for part in k.walk(node))
        key = (id(base), node.name, node.type, scope.strict, varies)
        found = self.attributes.get(key)
        if found is None:
            index = -1 if varies or scope.strict else self._new_slot()
            if index >= 0 and any(isinstance(one, k.Fact) and one.path[0] in PRESENTER_ROOTS for one in k.walk(node)):
                self.hop_slots.append(index)
            self.places += 1
            found = EntityAttribute(index, self.places - 1, base, node.name, node.type, levels, fact)
            self.attributes[key] = found
        return found

    # ── Values ────────────────────────────────────────────────────────────────────────────────

    def value(self, node: k.Expr, scope: Scope = PLAIN) -> n.Node:
        """Return the node of an expression. The same expression outside of loops has one node."""
        shared = not scope.depths and scope.event is None and not scope.given
        known = self._nodes.get((id(node), scope.strict)) if shared else None
        if known is not None:
            return known[1]
        made = self._value(node, scope)
        if shared:
            self._nodes[id(node), scope.strict] = node, made
        return made

    def _value(self, node: k.Expr, scope: Scope) -> n.Node:
        match node:
            case k.Constant(value):
                return n.Const(value)
            case k.Fact(path, type_):
                return self.fact(path, type_, scope)
            case k.Attribute():
                return self.attribute(node, scope)
            case k.Member(base):
                return member_value(node, self.value(base, scope), describe(node))
            case k.Variable(name):
                return n.VariableValue(scope.depths[name])
            case k.Collection(items):
                return n.CollectionValue(tuple(self.value(item, scope) for item in items))
            case k.DefinitionRef(_, expression):
                return self.value(expression, scope)
            case k.Default(operand, fallback):
                return n.DefaultValue(self.value(operand, scope), self.value(fallback, scope))
            case k.Arithmetic(operator, left, right):
                calculate, text = ARITHMETIC[operator], node.span.text
                pair = (self.value(left, scope), self.value(right, scope))
                return n.FunctionValue(lambda a, b: calculate(a, b, text), pair)
            case k.UnaryMinus(operand):
                text = node.span.text
                return n.FunctionValue(lambda a: arithmetic.neg(a, text), (self.value(operand, scope),))
            case k.Call(_, (id_,), RefType() as type_):  # `invoice(args.id)`
                return n.FunctionValue(checked_reference(type_, describe(node)), (self.value(id_, scope),))
            case k.Call(function, arguments):
                given = tuple(self.value(argument, scope) for argument in arguments)
                return n.FunctionValue(lambda *known: functions.call_function(function, known), given)
            case k.PastFact():
                return past_value(node, scope.event, describe(node))
            case k.Aggregate(_, field_, event, within, since):
                rules = self._event_rules(event, since, scope)
                past = None if field_ is None else self.value(field_, scope.at_event(event))
                return AggregateValue(*rules, within, describe_history(node), node, past)
            case _:
                return self.condition(node, scope)

    # ── Conditions ────────────────────────────────────────────────────────────────────────────

    def condition(self, node: k.Expr, scope: Scope = PLAIN) -> Condition:
        shared = not scope.depths and scope.event is None and not scope.given
        known = self._conditions.get((id(node), scope.strict)) if shared else None
        if known is not None:
            return known[1]
        made = self._condition(node, scope)
        if shared:
            self._conditions[id(node), scope.strict] = node, made
        return made

    def _condition(self, node: k.Expr, scope: Scope) -> Condition:
        match node:
            case k.DefinitionRef(_, expression):
                return self.condition(expression, scope)
            case k.And(items):
                return All(tuple(self.condition(item, scope) for item in items), scope.strict)
            case k.Or(items):
                return AnyOf(tuple(self.condition(item, scope) for item in items), scope.strict)
            case k.Not(operand):
                return Not(self.condition(operand, scope))
            case k.IsPresent(operand):
                return Present(self.value(operand, scope))
            case k.HasRow(entity):
                return HasRowTest(self.value(entity, scope), node.span.text)
            case k.InWindow(instant, window):
                function = lambda moment: calendar_windows.contains(window, moment)  # noqa: E731
                return Truth(n.FunctionValue(function, (self.value(instant, scope),)))
            case k.Relation():
                made, constant = self.relation(node, scope), compared_constant(node)
                return made if constant is None else PendingIdTest(made, node.operator, constant)
            case k.Quantifier(word, variable, domain, condition):
                inner = self.condition(condition, scope.inside(variable))
                return QuantifierTest(word, len(scope.depths), self.value(domain, scope), inner, scope.strict)
            case k.HistoryCondition(event, within, since):
                return HistoryTest(*self._event_rules(event, since, scope), within, describe_history(node))
            case (
                k.Constant() | k.Fact() | k.Attribute() | k.Member() | k.Variable() | k.Collection() | k.Default()
                | k.Arithmetic() | k.UnaryMinus() | k.Call() | k.PastFact() | k.Aggregate()
            ):  # fmt: skip
                return Truth(self.value(node, scope))
            case _:
                assert_never(node)

    def relation(self, node: k.Relation, scope: Scope) -> Condition:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        row, text = node.row, node.span.text
        match row.operands:
            case k.Operands.VALUES:
                return self._comparison(node, left, right)
            case k.Operands.ELEMENT:
                return self._element(node, left, right)
            case k.Operands.ENTITIES:
                return MemberOfEntity(left, right, text, node.operator == "below", node.operator == "child of")
            case k.Operands.NETWORKS:
                return Truth(n.FunctionValue(in_networks, (left, right)))
            case k.Operands.PATTERN:
                assert isinstance(right, n.Const)  # a literal
                holds, pattern = row.holds, right.value
                return Truth(n.FunctionValue(lambda known: holds(known, pattern), (left,)))
            case k.Operands.STRINGS:
                return Truth(n.FunctionValue(row.holds, (left, right)))
            case k.Operands.COLLECTIONS:
                return CompareSets(left, right, node.operator == "overlaps")
            case _:
                assert_never(row.operands)

    def _comparison(self, node: k.Relation, left: n.Node, right: n.Node) -> Condition:
        operator, types = node.operator, (node.left.type, node.right.type)
        constant = right.value if isinstance(right, n.Const) else None
        if operator in ("==", "!="):
            negated = operator == "!="
            if is_simple(types[0]) and is_simple(types[1]) and type(constant) in (str, int, bool):
                return Equal(left, constant, negated)
            if all(type_ is Scalar.STRING for type_ in types):
                return SameText(left, right, negated)
            ordered = not any(isinstance(type_, SetType) for type_ in types)
            return SameValue(left, right, negated, ordered, node.span.text)
        ranks = next((type_.values for type_ in types if isinstance(type_, EnumType)), ())
        if not ranks and type(constant) in (int, timedelta):
            return OrderTest(left, constant, HOW[operator])
        return OrderRelation(left, right, ORDERS[operator], ranks)

    def _element(self, node: k.Relation, left: n.Node, right: n.Node) -> Condition:
        of, item = node.left.type, node.right.type
        texts = isinstance(of, typesystem.SetType | typesystem.ListType) and of.element is Scalar.STRING
        texts = texts and item is Scalar.STRING
        if texts and isinstance(right, n.Const) and isinstance(right.value, str):
            return HasText(left, right.value)
        if texts and isinstance(left, n.Const) and all(type(one) is str for one in left.value):
            return OneOf(right, frozenset(left.value))
        return HasElement(left, right, node.operator == "holds", texts, node.span.text)

    # ── History ───────────────────────────────────────────────────────────────────────────────

    def _event_rules(
        self, event: k.EventPattern, since: k.EventPattern | None, scope: Scope
    ) -> tuple[EventRules, EventRules | None]:
        return self.event(event, scope), None if since is None else self.event(since, scope)

    def event(self, event: k.EventPattern, scope: Scope = PLAIN) -> EventRules:
        shared = not scope.depths and scope.event is None
        known = self._events.get((id(event), scope.strict)) if shared else None
        if known is not None:
            return known[1]
        keys = None
        if event.keys is not None:
            keys = tuple(count_key_node(key, self.value(key, scope)) for key in event.keys)
        where = None if event.where is None else self.condition(event.where, scope.at_event(event))
        noted = tuple(self.value(one, scope) for one in noted_reads(event)) if scope.strict else ()
        equalities = tuple(self._equalities(event, scope))
        user = self.fact(("user", "id"), Scalar.STRING, scope)
        made = EventRules(event, keys, where, equalities, noted, user)
        if shared:
            self._events[id(event), scope.strict] = event, made
        return made

    def _equalities(self, event: k.EventPattern, scope: Scope) -> Iterator[tuple[int, n.Node]]:
        for part in conjuncts(event.where):
            match part:
                case k.Relation("==", k.PastFact(fact), other) | k.Relation("==", other, k.PastFact(fact)) if (
                    fact in event.facts and not reads_past(other)
                ):
                    yield event.facts.index(fact), self.value(other, scope)


def noted_reads(event: k.EventPattern) -> Iterator[k.Expr]:
    """Yield the facts of the current request that the condition on an event reads."""
    for node in k.walk(event.where) if event.where is not None else ():
        if isinstance(node, k.Fact | k.Attribute) and not any(isinstance(part, k.Variable) for part in k.walk(node)):
            yield node


def is_simple(type_: Type) -> bool:
    return type_ in (Scalar.STRING, Scalar.INT, Scalar.NUMBER, Scalar.BOOL) or isinstance(type_, EnumType)


def access_of(path: n.Path) -> int:
    """Return which container holds the raw fact of a path."""
    match path:
        case ("tool",):
            return n.TOOL_NAME
        case ("agent",) | ("user",):
            return n.TRUSTED
        case ("params", *_) | (_,):
            return n.NOWHERE
        case ("resource", *_):
            return n.ACTION_ONLY
        case (root, _) if path[:2] != HEADERS_PATH:
            return n.CLIENT if root in CLIENT_ROOTS else n.TRUSTED
        case _:
            return n.DEEP
