"""What an expression of the kernel means for the facts of one request: a value, or Unknown with its causes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from policyengine import kinds
from policyengine.kinds import EntityRef
from policyengine.runtime import arithmetic, functions, windows
from policyengine.runtime.patterns import Glob, compile_regex
from policyengine.runtime.request import Request, member_of
from policyengine.runtime.show import shown, shown_bare
from policyengine.runtime.snapshot import NOT_ANSWERED, Snapshot
from policyengine.runtime.values import Invalid, Unknown, Value, coerce
from policyengine.semantics import kernel as k
from policyengine.semantics import recalling
from policyengine.semantics.facts import (
    Facts,
    Path,
    ages,
    chain_facts,
    claims_of,
    hops_of,
    pending_attributes,
    presenter_of,
)
from policyengine.semantics.kleene import conjunction, describe, disjunction, elements, is_absent, lift, negation
from policyengine.semantics.matching import Captures, match_pattern
from policyengine.vocabulary import NEUTRAL


def facts_of(kernel: k.Kernel, request: Request, snapshot: Snapshot, now: datetime) -> Facts:
    """The facts of a request: what it says, what follows from the time, the path and the chain."""
    entities = snapshot.entities.with_rows(request.entities)
    times = {("time",): now, **ages(request, now), ("approval", "granted"): False}
    facts = Facts(kernel, request, entities, now, {**times, **NEUTRAL}, {}, history=snapshot.history)
    facts = _with_bindings(facts)
    presenter, hops = presenter_of(facts), hops_of(facts)
    facts = facts.bind({("cluster", "id"): presenter.id}, who=(presenter, hops))
    return facts.bind(chain_facts(facts), claims={**claims_of(facts), **pending_attributes(facts)})


def _with_bindings(facts: Facts) -> Facts:
    """With what patterns bind: guards match without regard to case, and doors read what is bound by the letter."""
    endpoint = facts.request.endpoint
    found = [(one, match_pattern(one.pattern, endpoint, "full")) for one in facts.kernel.binders]
    loosely = [(one, captures) for one, captures in found if captures is not None]
    strictly = [(one, captures) for one, captures in loosely if match_pattern(one.pattern, endpoint) is not None]
    bound = bound_by(loosely, facts)
    loose = (frozenset(bound), bound_by(strictly, facts)) if len(strictly) < len(loosely) else None
    return replace(facts.bind(bound), loose=loose)


def bound_by(matching: Iterable[tuple[k.Binder, Captures]], facts: Facts) -> dict[Path, object]:
    """What patterns bind: captures, the resource, facts by `with`; two that differ bind nothing."""
    found: dict[Path, object] = {}

    def bind(path: Path, value: object) -> None:
        differs = path in found and found[path] != value
        found[path] = Invalid("two patterns bind it differently") if differs else value

    for binder, captures in matching:
        for name, text in captures.items():
            bind(("params", name), text)
        if binder.resource is not None:
            captured = captures[binder.resource[1]]
            bind(("resource",), EntityRef(binder.resource[0], captured) if isinstance(captured, str) else captured)
        for path, expression in binder.facts:
            bind(path, value(expression, facts))
    return found


def value(node: k.Expr, facts: Facts) -> Value:
    if isinstance(node, k.Fact):  # most are, or constants: to match against patterns takes longer
        return facts.read(node.path, node.type)
    if isinstance(node, k.Constant):
        return node.value
    match node:
        case k.Attribute(base):
            return lift(lambda entity: facts.attribute(entity, node), value(base, facts))
        case k.Compare(operator, left, right):
            return lift(lambda a, b: compare(operator, a, b, node), value(left, facts), value(right, facts))
        case k.And(items):
            return conjunction([value(item, facts) for item in items])
        case k.Member(base, name, type_):
            return lift(lambda record: coerce(member_of(record, name), type_, describe(node)), value(base, facts))
        case k.Variable(name):
            return facts.bound["", name]  # type: ignore[return-value]  # bound below, by its quantifier
        case k.Collection(items):
            return tuple(value(item, facts) for item in items)
        case k.Named(_, expression):
            return value(expression, facts)
        case k.Not(operand):
            return negation(value(operand, facts))
        case k.Or(items):
            return disjunction([value(item, facts) for item in items])
        case k.Contains(collection, item, deep):
            both = value(collection, facts), value(item, facts)
            return lift(lambda c, i: contains(c, i, deep, facts, node.span.text), *both)
        case k.Below(item, ancestor, strict, direct):
            both = value(item, facts), value(ancestor, facts)
            return lift(lambda i, a: below(i, a, facts, node.span.text, strict, direct), *both)
        case k.InNetwork(address, networks):
            return lift(in_networks, value(address, facts), value(networks, facts))
        case k.InWindow(instant, window):
            return lift(lambda moment: windows.contains(window, moment), value(instant, facts))
        case k.Like(operand, pattern):
            return lift(lambda text: Glob(pattern).matches(text), value(operand, facts))
        case k.Matches(operand, pattern):
            return lift(lambda text: compile_regex(pattern).matches(text), value(operand, facts))
        case k.Overlaps(left, right):
            both = value(left, facts), value(right, facts)
            return lift(lambda a, b: disjunction(contains(b, one, False, facts) for one in a), *both)
        case k.Subset(left, right):
            both = value(left, facts), value(right, facts)
            return lift(lambda a, b: conjunction(contains(b, one, False, facts) for one in a), *both)
        case k.Present(operand):
            one = value(operand, facts)
            return not one.absent and one if isinstance(one, Unknown) else True
        case k.HasRow(entity):
            return lift(lambda ref: facts.has_row(ref, node.span.text), value(entity, facts))
        case k.Default(operand, fallback):
            one = value(operand, facts)
            return value(fallback, facts) if is_absent(one) else one
        case k.Arithmetic(operator, left, right):
            calculate = {"+": arithmetic.add, "-": arithmetic.sub, "*": arithmetic.mul}[operator]
            return lift(lambda a, b: calculate(a, b, node.span.text), value(left, facts), value(right, facts))
        case k.Negative(operand):
            return lift(lambda a: arithmetic.neg(a, node.span.text), value(operand, facts))
        case k.Quantifier(word, variable, domain, condition):
            fold = disjunction if word == "any" else conjunction
            test = lambda one: value(condition, facts.bind({("", variable): one}))  # noqa: E731
            return lift(lambda items: fold(lift(test, one) for one in items), value(domain, facts))
        case k.Apply(_, (id_,), kinds.Ref() as type_):  # `invoice(args.id)`
            return lift(lambda known: coerce(known, type_, describe(node)), value(id_, facts))
        case k.Apply(function, arguments):
            given = [value(argument, facts) for argument in arguments]
            return lift(lambda *known: functions.call(function, known), *given)
        case k.Past():
            return recalling.past(node, facts)
        case k.Happened():
            return recalling.happened(node, facts, value)
        case k.Aggregate():
            return recalling.aggregate(node, facts, value)
        case _:
            assert_never(node)


def compare(operator: str, left: Value, right: Value, node: k.Compare) -> Value:
    if operator in ("==", "!="):
        is_set = any(isinstance(getattr(side, "type", None), kinds.Set) for side in (node.left, node.right))
        same = arithmetic.equal(left, right, ordered=not is_set, fact=node.span.text)  # type: ignore[arg-type]
        return negation(same) if operator == "!=" else same
    ranks = next((s.type for s in (node.left, node.right) if isinstance(getattr(s, "type", None), kinds.Enum)), None)  # type: ignore[union-attr]
    a, b = (ranks.values.index(s) if ranks else s for s in (left, right))  # type: ignore[union-attr]
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]  # type: ignore[operator]


def contains(collection: tuple[Value, ...], item: Value, deep: bool, facts: Facts, fact: str = "membership") -> Value:
    """Whether the item is an element, or (`deep`) an entity within one of the elements."""

    def found(one: Value) -> Value:
        if deep and isinstance(item, EntityRef):
            return lift(lambda ancestor: below(item, ancestor, facts, fact), one)
        return lift(lambda a, b: arithmetic.equal(a, b), one, item)

    return disjunction(found(one) for one in collection)


def below(
    item: EntityRef, ancestor: EntityRef, facts: Facts, fact: str, strict: bool = False, direct: bool = False
) -> Value:
    """Membership at any depth; unknown where the directory has no row to tell. `fact` is how the policy says it."""
    if item == ancestor and not strict and not direct:
        return True
    above = facts.entities.parents(item) if direct else facts.entities.ancestors(item)
    unsure = ancestor not in above.refs and not above.complete
    why = "not all of the way up is in the directory" if above.answered else NOT_ANSWERED
    found = Unknown.of(fact, why) if unsure else ancestor in above.refs
    return facts.membership(item, ancestor, found)


def in_networks(address: Value, networks: Value) -> Value:
    def within(network: Value) -> Value:
        return address in network if hasattr(network, "prefixlen") else address == network  # type: ignore[operator]

    return disjunction(lift(within, network) for network in elements(networks))


def message(parts: k.Message, facts: Facts, *, to_caller: bool) -> str:
    """A message with its facts. The caller sees those that came with the request; the approver sees all."""

    def part(one: str | k.Shown) -> str:
        if isinstance(one, str):
            return one
        if to_caller and not one.to_caller:
            return "(not shown)"
        show = shown_bare if is_captured(one.expression) else shown
        return show(value(one.expression, facts))

    return "".join(part(one) for one in parts)


def is_captured(expression: k.Expr) -> bool:
    """Whether it is what a path captured, or the id that came of it."""
    match expression:
        case k.Fact(("params", _)) | k.Attribute(k.Fact(("params", _) | ("resource",)), "id"):
            return True
        case _:
            return False
