"""Evaluates an expression of the kernel for the facts of one request: a value, or Unknown with its causes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias, assert_never

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.kernel.resource_relations import RESOURCE_ID, compared_constant
from policyengine.runtime import arithmetic, calendar_windows, functions
from policyengine.runtime.endpoints import ActionEndpoint
from policyengine.runtime.fact_access import get_member
from policyengine.runtime.format_values import format_bare_value, format_value
from policyengine.runtime.pending_texts import compare_pending, pending_glob
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import NOT_ANSWERED, Membership, Snapshot
from policyengine.runtime.value_sets import family_of
from policyengine.runtime.values import Invalid, Known, Unknown, Value, coerce
from policyengine.spec import history
from policyengine.spec.facts import (
    Facts,
    Path,
    chain_facts,
    claimed_attributes,
    credential_ages,
    has_agent,
    hops_of,
    own_cluster,
    pending_attributes,
    presenter_of,
)
from policyengine.spec.facts_reader import FactsReader
from policyengine.spec.issuer_users import mask_foreign_user
from policyengine.spec.kleene import conjunction, describe, disjunction, elements, is_absent, lift, negate
from policyengine.spec.match_endpoint import Captures, match_pattern
from policyengine.spec.reason_texts import NOT_SHOWN
from policyengine.spec.step_count import StepCount, TooManyStepsError, binder_expressions, count_all
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import CLUSTER_ID, LEARNED_FACTS, NEUTRAL_VALUES, ORDER_STEP, learned_name

Bindings: TypeAlias = dict[Path, object]
TOO_MANY_STEPS = Unknown.of("the decision", "it takes too many steps")


def build_facts(kernel: k.Kernel, request: Request, snapshot: Snapshot, now: datetime) -> Facts:
    """Return the facts of a request: the given facts, and those that follow from time, path and chain."""
    facts = _with_bindings(given_facts(kernel, request, snapshot, now))
    presenter, hops = presenter_of(facts), hops_of(facts)
    own: Bindings = {} if CLUSTER_ID in facts.bound else {CLUSTER_ID: own_cluster(presenter, has_agent(request))}
    facts = facts.bind(own, who=(presenter, hops))
    return facts.bind(chain_facts(facts), claims={**claimed_attributes(facts), **pending_attributes(facts)})


def given_facts(kernel: k.Kernel, request: Request, snapshot: Snapshot, now: datetime) -> Facts:
    """Return the facts of a request before patterns bind any."""
    entities = snapshot.entities.with_rows(request.entities)
    times = {("time",): now, **credential_ages(request, now), ("approval", "granted"): False}
    bound = {**times, **NEUTRAL_VALUES, **learned_facts(snapshot)}
    return _with_user(Facts(kernel, request, entities, now, bound, {}, history=snapshot.history))


def learned_facts(snapshot: Snapshot) -> Bindings:
    """Return the facts that were learned about the caller, and the step of its run for explanations. Facts that are not
    learned yet stay neutral."""
    known = snapshot.behavior or {}
    return {path: known[name] for path in (*LEARNED_FACTS, ORDER_STEP) if (name := learned_name(path)) in known}


def _with_user(facts: Facts) -> Facts:
    """Return the facts, with the user unknown if an issuer names a user that it may not name."""
    named = facts.read(("agent", "issuer")), facts.read(("credential", "issuer"))
    foreign = mask_foreign_user(facts.kernel.issuers, named, facts.read(("user", "id")))
    return facts.bind(foreign) if foreign else facts


def captured_facts(kernel: k.Kernel, request: Request, snapshot: Snapshot, now: datetime) -> Facts:
    """Return the facts that `with` may read: the given facts, and the captures of all matching patterns."""
    facts = given_facts(kernel, request, snapshot, now)
    return bind_params(facts, bound_captures(matching_binders(facts)))


def matching_binders(facts: Facts, folding: k.Folding | None = "full") -> list[tuple[k.Binder, Captures]]:
    """Return the binders whose pattern matches, with its captures; with `folding` None, each pattern uses its own
    folding.
    """
    endpoint = facts.request.endpoint
    found = [(one, match_pattern(one.pattern, endpoint, folding)) for one in facts.kernel.binders]
    return [(one, captures) for one, captures in found if captures is not None]


def _with_bindings(facts: Facts) -> Facts:
    """Return the facts with the bindings of patterns: guards ignore letter case, grants match exactly."""
    loosely, strictly = matching_binders(facts), matching_binders(facts, None)
    captured = bind_params(facts, bound_captures(loosely))
    read = evaluate if may_evaluate_bindings((one for one, _ in loosely), captured) else too_many_steps
    bound = bound_facts(loosely, facts, read)
    loose = (frozenset(bound), bound_facts(strictly, facts, read)) if len(strictly) < len(loosely) else None
    return replace(facts.bind(bound), loose=loose)


def may_evaluate_bindings(binders: Iterable[k.Binder], facts: Facts) -> bool:
    """Return whether the expressions of `with` take no more steps than one decision may."""
    count, reader = StepCount(), FactsReader(facts, evaluate)
    try:
        for binder in binders:
            count_all(binder_expressions(binder), lambda: reader, count)
    except TooManyStepsError:
        return False
    return True


def too_many_steps(node: k.Expr, facts: Facts) -> Value:
    """Return the marker TOO_MANY_STEPS as the value of every binding. It is used if the bindings take too many steps;
    the request is then denied whatever their values are.
    """
    return TOO_MANY_STEPS


def bound_facts(matching: Sequence[tuple[k.Binder, Captures]], facts: Facts, read: history.Evaluator) -> Bindings:
    """Return the bindings of patterns: captures, the resource, and the facts of `with`, which reads the captures. A
    fact with two different bindings is Invalid.
    """
    found = bound_captures(matching)
    captured = bind_params(facts, found)
    for binder, _ in matching:
        for path, expression in binder.facts:
            bind_fact(found, path, read(expression, captured))
    return found


def bound_captures(matching: Iterable[tuple[k.Binder, Captures]]) -> Bindings:
    """Return the captures of patterns, and the resource that a typed capture names."""
    found: Bindings = {}
    for binder, captures in matching:
        for name, text in captures.items():
            bind_fact(found, ("params", name), text)
        if binder.resource is not None:
            captured = captures[binder.resource[1]]
            entity = EntityRef(binder.resource[0], captured) if isinstance(captured, str) else captured
            bind_fact(found, ("resource",), entity)
    return found


def bind_params(facts: Facts, found: Bindings) -> Facts:
    """Return the facts with the captures among these bindings."""
    params = {path: text for path, text in found.items() if path[0] == "params"}
    return facts.bind(params) if params else facts


def bind_fact(found: Bindings, path: Path, value: object) -> None:
    """Bind a fact. If it already has another value, it becomes Invalid."""
    differs = path in found and found[path] != value
    found[path] = Invalid("two patterns bind it differently") if differs else value


def evaluate(node: k.Expr, facts: Facts) -> Value:
    if isinstance(node, k.Fact):  # a fast check, because facts and constants are most common and `match` is slower
        return facts.read(node.path, node.type)
    if isinstance(node, k.Constant):
        return node.value
    match node:
        case k.Attribute(base):
            return lift(lambda entity: facts.attribute(entity, node), evaluate(base, facts))
        case k.Relation(_, left, right):
            value = evaluate_relation(node, evaluate(left, facts), evaluate(right, facts), facts)
            return settle_pending(node, value, facts) if isinstance(value, Unknown) else value
        case k.And(items):
            return conjunction([evaluate(item, facts) for item in items])
        case k.Member(base):
            return lift(
                lambda record: coerce(get_member(record, node.name), node.type, describe(node)), evaluate(base, facts)
            )
        case k.Variable(name):
            return facts.bound["", name]  # type: ignore[return-value]  # bound below, by its quantifier
        case k.Collection(items):
            return tuple(evaluate(item, facts) for item in items)
        case k.DefinitionRef(_, expression):
            return evaluate(expression, facts)
        case k.Not(operand):
            return negate(evaluate(operand, facts))
        case k.Or(items):
            return disjunction([evaluate(item, facts) for item in items])
        case k.InWindow(instant, window):
            return lift(lambda moment: calendar_windows.contains(window, moment), evaluate(instant, facts))
        case k.IsPresent(operand):
            one = evaluate(operand, facts)
            return not one.absent and one if isinstance(one, Unknown) else True
        case k.HasRow(entity):
            return lift(lambda ref: facts.has_row(ref, node.span.text), evaluate(entity, facts))
        case k.Default(operand, fallback):
            one = evaluate(operand, facts)
            return evaluate(fallback, facts) if is_absent(one) else one
        case k.Arithmetic(operator, left, right):
            calculate = {"+": arithmetic.add, "-": arithmetic.sub, "*": arithmetic.mul}[operator]
            return lift(lambda a, b: calculate(a, b, node.span.text), evaluate(left, facts), evaluate(right, facts))
        case k.UnaryMinus(operand):
            return lift(lambda a: arithmetic.neg(a, node.span.text), evaluate(operand, facts))
        case k.Quantifier():
            return lift(lambda items: evaluate_quantifier(node, items, facts), evaluate(node.domain, facts))
        case k.Call(_, (id_,), typesystem.RefType() as type_):  # `invoice(args.id)`
            return lift(lambda known: coerce(known, type_, describe(node)), evaluate(id_, facts))
        case k.Call(function, arguments):
            given = [evaluate(argument, facts) for argument in arguments]
            return lift(lambda *known: functions.call_function(function, known), *given)
        case k.PastFact():
            return history.evaluate_past(node, facts)
        case k.HistoryCondition():
            return history.evaluate_history_condition(node, facts, evaluate)
        case k.Aggregate():
            return history.evaluate_aggregate(node, facts, evaluate)
        case _:
            assert_never(node)


def evaluate_quantifier(node: k.Quantifier, items: tuple[Value, ...], facts: Facts) -> Value:
    """Return the value of a quantifier: `any` combines its elements like `or`, `all` like `and`; an unknown element
    gives an unknown value.
    """
    inside, bound = facts.in_loop()
    found: list[Value] = []
    for item in items:
        if isinstance(item, Unknown):
            found.append(item)
            continue
        bound["", node.variable] = item
        found.append(evaluate(node.condition, inside))
    return disjunction(found) if node.word == "any" else conjunction(found)


def evaluate_comparison(node: k.Relation, left: Value, right: Value) -> Value:
    operator = node.operator
    if operator in ("==", "!="):
        is_set = any(isinstance(side.type, typesystem.SetType) for side in (node.left, node.right))
        same = arithmetic.equal(left, right, ordered=not is_set, fact=node.span.text)  # type: ignore[arg-type]
        return negate(same) if operator == "!=" else same
    ranks = next((s.type for s in (node.left, node.right) if isinstance(s.type, typesystem.EnumType)), None)
    a, b = (ranks.values.index(s) if ranks else s for s in (left, right))
    return node.row.holds(a, b)


def contains_item(node: k.Relation, collection: tuple[Value, ...], item: Known, facts: Facts) -> Value:
    if node.operator == "holds" and isinstance(item, EntityRef):
        return is_in_any(collection, item, facts, node.span.text)
    return is_element(collection, item, facts)


def is_element(collection: tuple[Value, ...], item: Known, facts: Facts) -> Value:
    """Return whether the item is an element. Uses hashes if the values have them."""
    elements = facts.set_of(collection)
    return elements.has(item) if elements.decides(family_of(item)) else equals_any(collection, item)


def equals_any(collection: Iterable[Value], item: Value) -> Value:
    return disjunction(lift(lambda a, b: arithmetic.equal(a, b), one, item) for one in collection)


def is_in_any(collection: tuple[Value, ...], item: EntityRef, facts: Facts, fact: str) -> Value:
    """Return whether an entity is one of the elements, or a member of one at any depth."""
    above = facts.entities.ancestors(item)
    higher = frozenset(above.refs)

    def found(one: Value) -> Value:
        return lift(
            lambda ancestor: item == ancestor or is_among_ancestors(ancestor, higher, above, item, facts, fact), one
        )

    return disjunction(found(one) for one in collection)


def evaluate_relation(node: k.Relation, left: Value, right: Value, facts: Facts) -> Value:
    row = node.row
    match row.operands:
        case k.Operands.VALUES:
            return lift(lambda a, b: evaluate_comparison(node, a, b), left, right)
        case k.Operands.ELEMENT:
            return lift(lambda c, i: contains_item(node, c, i, facts), left, right)
        case k.Operands.ENTITIES:
            strict, direct = node.operator == "below", node.operator == "child of"
            return lift(lambda i, a: is_member_of(i, a, facts, node.span.text, strict, direct), left, right)
        case k.Operands.NETWORKS:
            return lift(in_networks, left, right)
        case k.Operands.PATTERN:
            return lift(lambda text: row.holds(text, right), left)
        case k.Operands.STRINGS:
            return lift(row.holds, left, right)
        case k.Operands.COLLECTIONS:
            return lift(lambda a, b: compare_sets(node, a, b, facts), left, right)
        case _:
            assert_never(row.operands)


def settle_pending(node: k.Relation, unknown: Unknown, facts: Facts) -> Value:
    """Return the result of a relation on a pending `resource.id` if it is the same for every possible ID."""
    constant = compared_constant(node)
    if constant is None or not isinstance(facts.request.endpoint, ActionEndpoint):
        return unknown
    glob = pending_glob(facts.request.fact(*RESOURCE_ID))
    result = None if glob is None else compare_pending(node.operator, glob, constant)
    return unknown if result is None else result


def compare_sets(node: k.Relation, left: tuple[Value, ...], right: tuple[Value, ...], facts: Facts) -> Value:
    """Compare each element with each until the result is clear. Uses hashes if the values have them."""
    one, other = facts.set_of(left), facts.set_of(right)
    if other.decides(one.family):
        return one.overlaps(other) if node.operator == "overlaps" else one.within(other)
    fold = disjunction if node.operator == "overlaps" else conjunction
    return fold(equals_any(right, item) for item in left)


def is_member_of(
    item: EntityRef, ancestor: EntityRef, facts: Facts, fact: str, strict: bool = False, direct: bool = False
) -> Value:
    """Return whether the item is a member at any depth; unknown if the entity store lacks a row. `fact` is the
    expression as the policy writes it.
    """
    if item == ancestor and not strict and not direct:
        return True
    above = facts.entities.parents(item) if direct else facts.entities.ancestors(item)
    return is_among_ancestors(ancestor, above.refs, above, item, facts, fact)


def is_among_ancestors(
    ancestor: EntityRef, refs: Collection[EntityRef], above: Membership, item: EntityRef, facts: Facts, fact: str
) -> Value:
    """Return whether `refs`, the ancestors of an entity, include the ancestor."""
    unsure = ancestor not in refs and not above.complete
    why = "the entity store does not have all ancestors of the entity" if above.answered else NOT_ANSWERED
    found = Unknown.of(fact, why) if unsure else ancestor in refs
    return facts.membership(item, ancestor, found)


def in_networks(address: Value, networks: Value) -> Value:
    def within(network: Value) -> Value:
        return address in network if hasattr(network, "prefixlen") else address == network  # type: ignore[operator]

    return disjunction(lift(within, network) for network in elements(networks))


def render_message(parts: k.Message, facts: Facts, *, to_caller: bool) -> str:
    """Return a message with its facts. The caller sees only facts of the request; the approver sees all facts."""

    def part(one: str | k.MessageFact) -> str:
        if isinstance(one, str):
            return one
        if to_caller and not one.to_caller:
            return NOT_SHOWN
        show = format_bare_value if is_capture(one.expression) else format_value
        return show(evaluate(one.expression, facts))

    return "".join(part(one) for one in parts)


def is_capture(expression: k.Expr) -> bool:
    """Return whether the expression is a path capture, or the id that comes from one."""
    match expression:
        case k.Fact(("params", _)) | k.Attribute(k.Fact(("params", _) | ("resource",)), "id"):
            return True
        case _:
            return False
