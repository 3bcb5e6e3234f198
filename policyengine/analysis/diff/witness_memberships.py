"""What is in what, made to order: elements of sets and lists, and things that others are in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import TYPE_CHECKING, Any, TypeAlias

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.analysis.diff import witness_values
from policyengine.kernel.expressions import rewrite
from policyengine.solver.satisfiability import evaluate_formula, subject_states
from policyengine.solver.symbolic import FactSpace, Subject, to_formula
from policyengine.solver.value_partition import AbstractValue
from policyengine.typesystem import EntityRef

if TYPE_CHECKING:
    from policyengine.analysis.diff.witness import WitnessBuilder

Quantified: TypeAlias = tuple[k.Quantifier, bool]

MAX_COMBINATIONS = 2_000


def forbidden_items(wanted: Mapping[Subject, AbstractValue]) -> dict[k.Expr, list[Any]]:
    """By set what it is not to hold, as far as that is a constant."""
    found: dict[k.Expr, list[Any]] = {}
    for subject, state in wanted.items():
        if state is not False:
            continue
        match subject:
            case k.Relation("has" | "holds", collection, k.Constant(item)):
                found.setdefault(collection, []).append(item)
            case k.Relation("overlaps", collection, k.Constant(tuple() as items)) | k.Relation(
                "overlaps", k.Constant(tuple() as items), collection
            ):
                found.setdefault(collection, []).extend(items)
            case _:
                pass
    return found


def fill_contains(filling: WitnessBuilder, collection: k.Expr, item: k.Expr, wanted: bool) -> None:
    if isinstance(collection, k.Constant | k.Collection):
        choices = filling.held(collection)
        filling.give(item, choices[0] if wanted and choices else filling.fresh(item.type))
        return
    unsaid = not wanted and filling.held(collection) is None and witness_values.is_empty_by_default(collection)
    held, one = [] if unsaid else filling.known(collection), filling.known(item)
    known = [*held] if isinstance(held, list | tuple) else []
    if wanted and one not in known:
        known.append(one)
    elif not wanted:
        known = [other for other in known if other != one]
        if isinstance(one, EntityRef):
            filling.row(one)
    filling.leave_out(collection) if unsaid else filling.give(collection, known)


def fill_membership(filling: WitnessBuilder, item: EntityRef, ancestor: EntityRef, wanted: bool) -> None:
    filling.row(item)
    filling.row(ancestor)
    if wanted and item != ancestor and ancestor not in filling.parents.setdefault(item, []):
        filling.parents[item].append(ancestor)


def fill_overlap(filling: WitnessBuilder, left: k.Expr, right: k.Expr, wanted: bool) -> None:
    one, other = filling.known(left), filling.known(right)
    sides = ((left, one, other), (right, other, one))
    if not wanted:
        for side, held, against in sides:
            if not isinstance(side, k.Constant) and held:
                filling.give(side, [item for item in held if item not in against])
                return
    unwanted = [item for side in (left, right) for item in filling.refused.get(side, ())]
    fitting = (item for item in (*other, *one, *sample_items(filling, left)) if item not in unwanted)
    common = next(fitting, None)
    for side, held, _ in sides:
        if wanted and common is not None and common not in held:
            filling.give(side, [*held, common])


def fill_subset(filling: WitnessBuilder, left: k.Expr, right: k.Expr, wanted: bool) -> None:
    one, other = filling.known(left), filling.known(right)
    if wanted:
        filling.give(right, [*other, *(item for item in one if item not in other)])
        if isinstance(right, k.Constant):
            filling.give(left, [item for item in one if item in other])
    else:
        filling.give(left, [*one, *(item for item in sample_items(filling, left) if item not in other)])


def sample_items(filling: WitnessBuilder, collection: k.Expr) -> list[Any]:
    type_ = collection.type
    return [filling.fresh(type_.element)] if isinstance(type_, typesystem.SetType | typesystem.ListType) else []


# ── Elements for which conditions hold ────────────────────────────────────────────────────────


def quantifiers_by_domain(wanted: Mapping[Subject, AbstractValue]) -> Iterator[list[Quantified]]:
    found: dict[k.Expr, list[Quantified]] = {}
    for subject, state in wanted.items():
        if isinstance(subject, k.Quantifier) and isinstance(state, bool):
            found.setdefault(subject.domain, []).append((subject, state))
    yield from found.values()


def fill_quantifiers(filling: WitnessBuilder, several: Sequence[Quantified]) -> None:
    """`any` is true, and `all` false, by one element, for which what is said of all of them is so, too."""
    by_one = [one for one in several if one[1] != (one[0].word == "all")]
    every = [one for one in several if one not in by_one]
    domain = several[0][0].domain
    held = filling.held(domain)
    found = [find_element(filling, [one, *every]) for one in by_one]
    more = len(held) - len(found) if isinstance(held, list | tuple) else 0
    if more > 0:  # its size was asked for
        found += [find_element(filling, every or several)] * more
    filling.give(domain, found)


def find_element(filling: WitnessBuilder, asked: Sequence[Quantified]) -> Any:
    """One for which all these conditions come out as wanted."""
    quantifier, space = asked[0][0], FactSpace()
    formulas = [
        (to_formula(rename_variable(one.condition, one.variable, quantifier), space), state) for one, state in asked
    ]
    choices = [subject_states(number, space) for number in range(len(space.subjects))]
    worlds = islice(product(*choices), MAX_COMBINATIONS)
    world = next(
        (one for one in worlds if all(evaluate_formula(formula, one) is state for formula, state in formulas)), None
    )
    filling.elements.pop(quantifier.variable, None)
    if world is not None:
        before = filling.refused, filling.constants
        inner = {one: tuple(space.constants[place]) for place, one in enumerate(space.subjects)}
        filling.constants = {**filling.constants, **inner}
        filling.fill(dict(zip(space.subjects, world, strict=True)))
        filling.refused, filling.constants = before
    found = filling.elements.pop(quantifier.variable, None)
    type_ = quantifier.domain.type
    if found is None and isinstance(type_, typesystem.SetType | typesystem.ListType):
        return filling.fresh(type_.element)
    return found


def rename_variable(condition: k.Expr, variable: str, other: k.Quantifier) -> k.Expr:
    """The condition about the element as the other quantifier calls it."""

    def renamed(part: k.Expr) -> k.Expr | None:
        if isinstance(part, k.Variable) and part.name == variable != other.variable:
            return k.Variable(other.variable, part.type, span=part.span)
        return None

    return rewrite(condition, renamed)
