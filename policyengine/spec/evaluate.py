"""What an expression of the kernel means for the facts of one request: a value, or Unknown with its causes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.runtime import arithmetic, functions, windows
from policyengine.runtime.extent import names_steps
from policyengine.runtime.format_values import shown, shown_bare
from policyengine.runtime.patterns import Glob, compile_regex
from policyengine.runtime.request import Request, member_of
from policyengine.runtime.snapshot import NOT_ANSWERED, Membership, Snapshot
from policyengine.runtime.value_sets import family_of
from policyengine.runtime.values import Invalid, Known, Unknown, Value, coerce
from policyengine.spec import history
from policyengine.spec.facts import Facts, Path, ages, chain_facts, claims_of, hops_of, pending_attributes, presenter_of
from policyengine.spec.issuer_users import foreign_user
from policyengine.spec.kleene import conjunction, describe, disjunction, elements, is_absent, lift, negation
from policyengine.spec.match import Captures, match_pattern
from policyengine.spec.work import BEYOND, elements_in, is_fixed, reading_steps, weight
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import NEUTRAL


def facts_of(kernel: k.Kernel, request: Request, snapshot: Snapshot, now: datetime) -> Facts:
    """The facts of a request: what it says, what follows from the time, the path and the chain."""
    entities = snapshot.entities.with_rows(request.entities)
    times = {("time",): now, **ages(request, now), ("approval", "granted"): False}
    facts = Facts(kernel, request, entities, now, {**times, **NEUTRAL}, {}, history=snapshot.history)
    facts = _with_bindings(_with_user(facts))
    presenter, hops = presenter_of(facts), hops_of(facts)
    facts = facts.bind({("cluster", "id"): presenter.id}, who=(presenter, hops))
    return facts.bind(chain_facts(facts), claims={**claims_of(facts), **pending_attributes(facts)})


def _with_user(facts: Facts) -> Facts:
    """With a user who is unknown, where an issuer names one for whom it does not speak."""
    named = facts.read(("agent", "issuer")), facts.read(("credential", "issuer"))
    foreign = foreign_user(facts.kernel.issuers, named, facts.read(("user", "id")))
    return facts.bind(foreign) if foreign else facts


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
            return read_in_loop(node, lift(lambda entity: facts.attribute(entity, node), value(base, facts)), facts)
        case k.Compare(operator, left, right):
            return lift(lambda a, b: compare(operator, a, b, node, facts), value(left, facts), value(right, facts))
        case k.And(items):
            return conjunction([value(item, facts) for item in items])
        case k.Member(base):
            return lift(lambda record: member(record, node, facts), value(base, facts))
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
        case k.Contains(collection, item):
            return lift(lambda c, i: is_member(node, c, i, facts), value(collection, facts), value(item, facts))
        case k.Below(item, ancestor, strict, direct):
            both = value(item, facts), value(ancestor, facts)
            return lift(lambda i, a: below(i, a, facts, node.span.text, strict, direct), *both)
        case k.InNetwork(address, networks):
            return in_loop(in_networks, facts, value(address, facts), value(networks, facts))
        case k.InWindow(instant, window):
            return lift(lambda moment: windows.contains(window, moment), value(instant, facts))
        case k.Like(operand, pattern):
            return in_loop(Glob(pattern).matches, facts, value(operand, facts))
        case k.Matches(operand, pattern):
            return in_loop(lambda text: compile_regex(pattern).matches(text), facts, value(operand, facts))
        case k.Overlaps(left, right) | k.Subset(left, right):
            return lift(lambda a, b: compare_sets(node, a, b, facts), value(left, facts), value(right, facts))
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
        case k.Quantifier():
            return lift(lambda items: quantified(node, items, facts), value(node.domain, facts))
        case k.Apply(_, (id_,), typesystem.Ref() as type_):  # `invoice(args.id)`
            return lift(lambda known: coerce(known, type_, describe(node)), value(id_, facts))
        case k.Apply(function, arguments):
            given = [value(argument, facts) for argument in arguments]
            return in_loop(lambda *known: functions.call(function, known), facts, *given)
        case k.Past():
            return history.past(node, facts)
        case k.Happened():
            return history.happened(node, facts, value)
        case k.Aggregate():
            return history.aggregate(node, facts, value)
        case _:
            assert_never(node)


def quantified(node: k.Quantifier, items: tuple[Value, ...], facts: Facts) -> Value:
    """`any` folds as `or` does, `all` as `and`; an unknown element counts as unknown."""
    lacking = facts.work.lacks(len(items) * weight(node.condition), (node.domain, items))
    if lacking is not None:
        return lacking
    inside, bound = facts.in_loop()

    found: list[Value] = []
    for one in items:
        if isinstance(one, Unknown):
            found.append(one)
            continue
        bound["", node.variable] = one
        found.append(value(node.condition, inside))
        if facts.work.exceeded:
            return BEYOND
    return disjunction(found) if node.word == "any" else conjunction(found)


def read_in_loop(node: k.Attribute | k.Member, found: Value, facts: Facts) -> Value:
    """What was read; what is read for each element anew takes as long as it is."""
    if not facts.looping or is_fixed(node):
        return found
    return facts.work.lacks(reading_steps(found)) or found


def member(record: Mapping[str, object], node: k.Member, facts: Facts) -> Value:
    lacking = facts.work.lacks(names_steps(record)) if facts.looping else None
    if lacking is not None:
        return lacking
    return read_in_loop(node, coerce(member_of(record, node.name), node.type, describe(node)), facts)


def in_loop(function: Callable[..., Value], facts: Facts, *values: Value) -> Value:
    """As `lift`; in a loop what reads through texts and collections takes as long as they are."""

    def counted(*known: Value) -> Value:
        return facts.work.lacks(reading_steps(*known)) or function(*known)

    return lift(counted if facts.looping else function, *values)


def compare(operator: str, left: Value, right: Value, node: k.Compare, facts: Facts) -> Value:
    if operator in ("==", "!="):
        if isinstance(left, tuple) and isinstance(right, tuple):
            lacking = facts.work.lacks(elements_in(left) + elements_in(right), (node.left, left), (node.right, right))
            if lacking is not None:
                return lacking
        is_set = any(isinstance(side.type, typesystem.Set) for side in (node.left, node.right))
        same = arithmetic.equal(left, right, ordered=not is_set, fact=node.span.text)  # type: ignore[arg-type]
        return negation(same) if operator == "!=" else same
    ranks = next((s.type for s in (node.left, node.right) if isinstance(s.type, typesystem.Enum)), None)
    a, b = (ranks.values.index(s) if ranks else s for s in (left, right))
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]  # type: ignore[operator]


def is_member(node: k.Contains, collection: tuple[Value, ...], item: Known, facts: Facts) -> Value:
    if node.deep and isinstance(item, EntityRef):
        return is_within(collection, item, facts, node.span.text, node.collection)
    if facts.looping and not is_fixed(node.collection):
        lacking = facts.work.lacks(elements_in(collection), (node.collection, collection))
        if lacking is not None:
            return lacking
    return is_element(collection, item, facts)


def is_element(collection: tuple[Value, ...], item: Known, facts: Facts) -> Value:
    """Whether the item is an element; by a hash, where these values have one."""
    lacking = facts.work.lacks(elements_in(item)) if isinstance(item, tuple) else None
    lacking = lacking or facts.work.lacks_to_hash(collection)
    if lacking is not None:
        return lacking
    elements = facts.work.set_of(collection)
    if elements.decides(family_of(item)):
        return elements.has(item)
    return facts.work.lacks(elements_in(collection)) or equals_one(collection, item)


def equals_one(collection: Iterable[Value], item: Value) -> Value:
    return disjunction(lift(lambda a, b: arithmetic.equal(a, b), one, item) for one in collection)


def is_within(collection: tuple[Value, ...], item: EntityRef, facts: Facts, fact: str, node: k.Expr) -> Value:
    """Whether an entity is one of the elements, or in one at any depth."""
    above = facts.entities.ancestors(item)
    lacking = facts.work.lacks(len(collection) + len(above.refs), (node, collection))
    if lacking is not None:
        return lacking
    higher = frozenset(above.refs)

    def found(one: Value) -> Value:
        return lift(lambda ancestor: item == ancestor or is_above(ancestor, higher, above, item, facts, fact), one)

    return disjunction(found(one) for one in collection)


def compare_sets(node: k.Overlaps | k.Subset, left: tuple[Value, ...], right: tuple[Value, ...], facts: Facts) -> Value:
    """Each with each, as far as what follows; by hashes, where these values have some."""
    many, others = elements_in(left), elements_in(right)
    lacking = facts.work.lacks(many + others, (node.left, left), (node.right, right))
    if lacking is not None:
        return lacking
    one, other = facts.work.set_of(left), facts.work.set_of(right)
    if other.decides(one.family):
        return one.overlaps(other) if isinstance(node, k.Overlaps) else one.within(other)
    fold = disjunction if isinstance(node, k.Overlaps) else conjunction
    pairs = min(len(left) * others, len(right) * many)
    return facts.work.lacks(pairs) or fold(equals_one(right, item) for item in left)


def below(
    item: EntityRef, ancestor: EntityRef, facts: Facts, fact: str, strict: bool = False, direct: bool = False
) -> Value:
    """Membership at any depth; unknown where the directory has no row to tell. `fact` is how the policy says it."""
    if item == ancestor and not strict and not direct:
        return True
    above = facts.entities.parents(item) if direct else facts.entities.ancestors(item)
    lacking = facts.work.lacks(len(above.refs)) if facts.looping else None
    return lacking or is_above(ancestor, above.refs, above, item, facts, fact)


def is_above(
    ancestor: EntityRef, refs: Collection[EntityRef], above: Membership, item: EntityRef, facts: Facts, fact: str
) -> Value:
    """Whether it is among all that an entity is in, which are `refs`."""
    unsure = ancestor not in refs and not above.complete
    why = "not all of the way up is in the directory" if above.answered else NOT_ANSWERED
    found = Unknown.of(fact, why) if unsure else ancestor in refs
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
