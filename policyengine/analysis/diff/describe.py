"""Describes the conditions under which two answers differ: the states of facts in changed rules that cause the
difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import TypeAlias, assert_never

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.analysis.diff.decision_diagrams import StatePath
from policyengine.analysis.diff.policy_view import PolicyView
from policyengine.analysis.diff.regions import RegionComparison
from policyengine.analysis.diff.rule_units import RuleUnit, unit_conditions
from policyengine.analysis.diff.specialize import ISSUER, RESOURCE, SEGMENT, SOUND, ConditionRewriter
from policyengine.runtime.format_values import format_value
from policyengine.solver.formulas import FactPair, Subject
from policyengine.solver.value_partition import AbstractValue, SpecialValue
from policyengine.solver.witness.values import state_value

MAX_CONDITIONS_SHOWN = 6

MAX_FACTS_SHOWN = 3  # maximum facts named for a region without proof

# For each side, the rules that only this side has, and the rewriter of their conditions.
UnitsOfPolicy: TypeAlias = tuple[Sequence[RuleUnit], ConditionRewriter, PolicyView]
ChangedUnits: TypeAlias = tuple[UnitsOfPolicy, UnitsOfPolicy]


def describe_condition(comparison: RegionComparison, path: StatePath, changed: ChangedUnits) -> str:
    """Return the condition on the facts of changed rules as text; empty if the rules have no condition."""
    asked, ends = newly_read_facts(changed), leaf_values(comparison, path)
    said: list[str] = []
    for place, subject in enumerate(comparison.space.subjects):
        if asked & set(fact_names(subject)) and any(fact in path for fact in comparison.sources(place)):
            said += describe_fact_states(comparison, path, ends, place, subject)
    return " and ".join(dict.fromkeys(said[:MAX_CONDITIONS_SHOWN])) + (
        " and …" if len(said) > MAX_CONDITIONS_SHOWN else ""
    )


def describe_fact_states(
    comparison: RegionComparison, path: StatePath, ends: tuple[object, object], place: int, subject: Subject
) -> Iterator[str]:
    """Yield the states of one fact that keep the difference, with all other facts as on the path; yield nothing if all
    states keep it.
    """
    sources = comparison.sources(place)
    places = [range(len(comparison.states(fact))) for fact in sources]
    every: dict[AbstractValue, bool] = {}
    for chosen in product(*places):
        other = {**path, **dict(zip(sources, chosen, strict=True))}
        state = comparison.state_on(place, other)
        every[state] = every.get(state, False) or leaf_values(comparison, other) == ends
    fitting = [state for state, fits in every.items() if fits]
    if len(fitting) < len(every):
        yield describe_states(subject, fitting, list(every), comparison.space.constants[place])


def leaf_values(comparison: RegionComparison, path: StatePath) -> tuple[object, object]:
    return comparison.diagrams.value(comparison.old, path), comparison.diagrams.value(comparison.new, path)


def newly_read_facts(changed: ChangedUnits) -> set[str]:
    """Return the facts in parts of changed rules that only one side has; all of them if only the order changed."""
    old, new = (
        {p: names for unit in units for p, names in facts_read_by(unit, by, side)} for units, by, side in changed
    )
    apart = {name for part, names in (old | new).items() if (part in old) != (part in new) for name in names}
    return apart or {name for names in (old | new).values() for name in names}


def facts_read_by(
    unit: RuleUnit, rewrite: ConditionRewriter, side: PolicyView
) -> Iterator[tuple[object, tuple[str, ...]]]:
    """Yield each atomic part of a rule and the facts that it reads."""
    for condition in unit_conditions(unit):
        for part in atomic_conditions(rewrite(condition)):
            yield part, tuple(fact_names(part))
    for requirement in getattr(unit.block, "requirements", ()):
        yield (
            ("acts for" if isinstance(requirement, k.ActsFor) else side.requirement(requirement)),
            REQUIREMENT_FACTS[type(requirement)],
        )
    if isinstance(who := getattr(unit.block, "who", None), k.InGroup):
        yield who, ("agent.groups",)


def describe_unproved(comparison: RegionComparison, ends: tuple[object, object]) -> str:
    """Return why a region is not proved, with the facts on which its answers may differ."""
    path = next(comparison.diagrams.paths(comparison.old, comparison.new, ends))
    places = [place for place in range(len(comparison.space.subjects)) if set(comparison.sources(place)) & set(path)]
    asked = [comparison.space.subjects[place] for place in places]
    hard = sorted(asked, key=lambda subject: unproved_rank(subject))
    names = list(dict.fromkeys(subject_text(one) for one in hard))
    named = ", ".join(f"`{name}`" for name in names[:MAX_FACTS_SHOWN]) + (" …" if len(names) > MAX_FACTS_SHOWN else "")
    why = "a generated request has no history" if any(map(reads_history, asked)) else "no example request was found"
    return f"the decisions may differ for some values of {named}, and {why}"


def reads_history(subject: Subject) -> bool:
    parts = [subject.left, subject.right] if isinstance(subject, FactPair) else [subject]
    return any(isinstance(node, k.HistoryCondition | k.Aggregate) for part in parts for node in k.walk(part))


def unproved_rank(subject: Subject) -> int:
    """Return a rank of the fact: facts that generated requests rarely reach come first."""
    if reads_history(subject):
        return 0
    if isinstance(subject, k.Relation):
        return relation_rank(subject)
    if isinstance(subject, k.Quantifier | k.Call | k.InWindow):
        return 1
    if isinstance(subject, FactPair):
        return 2
    return 4 if isinstance(subject, k.Fact) and subject.path[0] in ("", "credential") else 3


def relation_rank(relation: k.Relation) -> int:
    match relation.row.operands:
        case k.Operands.VALUES | k.Operands.NETWORKS:
            return 3
        case k.Operands.ELEMENT | k.Operands.ENTITIES:
            return 2
        case k.Operands.PATTERN | k.Operands.STRINGS | k.Operands.COLLECTIONS:
            return 2 if relation.operator == "like" else 1
        case _:
            assert_never(relation.row.operands)


def subject_text(subject: Subject) -> str:
    if isinstance(subject, FactPair):
        return f"{expression_name(subject.left)} and {expression_name(subject.right)}"
    return " ".join(subject.span.text.split()) or expression_text(subject)


def atomic_conditions(condition: k.Expr) -> Iterator[k.Expr]:
    match condition:
        case k.DefinitionRef(_, expression):
            yield from atomic_conditions(expression)
        case k.Not(operand):
            yield from atomic_conditions(operand)
        case k.And(items) | k.Or(items):
            yield from (one for item in items for one in atomic_conditions(item))
        case _:
            yield condition


REQUIREMENT_FACTS: dict[type[k.Requirement], tuple[str, ...]] = {
    k.IssuedBy: ("issuer",),
    k.ActsAlone: ("credential.subject",),
    k.ActsFor: ("credential.subject",),
    k.CredentialKinds: ("credential.kind",),
    k.CredentialLifetime: ("credential.lifetime",),
    k.CredentialAge: ("credential.age",),
    k.ProofOfPossession: ("credential.bound",),
    k.ValidityPeriod: ("time",),
    k.AttestedBy: (
        "attestation.verified",
        "attestation.by",
        "attestation.model",
        "attestation.model_hash",
        "attestation.environment",
        "attestation.age",
    ),
}


def fact_names(subject: Subject) -> Iterator[str]:
    parts = [subject.left, subject.right] if isinstance(subject, FactPair) else [subject]
    for part in parts:
        for node in k.walk(part):
            if isinstance(node, k.Fact | k.Attribute | k.Member):
                yield expression_name(node)


def expression_name(node: k.Expr) -> str:
    match node:
        case k.DefinitionRef(_, expression):
            return expression_name(expression)
        case k.Constant(value):
            return format_value(value)
        case k.Variable(name):
            return name
        case k.Attribute(base, name) | k.Member(base, name):
            above = (
                base.value.type
                if isinstance(base, k.Constant) and hasattr(base.value, "type")
                else expression_name(base)
            )
            return f"{above}.{name}"
        case k.Fact(path):
            return fact_name(path)
        case k.Call(function, arguments):
            return f"{function}({', '.join(map(expression_name, arguments))})"
        case k.Default(operand):
            return expression_name(operand)
        case _:
            return " ".join(node.span.text.split())


def fact_name(path: tuple[str, ...]) -> str:
    match path:
        case _ if path == ISSUER:
            return "issuer"
        case _ if path == SOUND:
            return "the chain"
        case ("segment", *_):
            return SEGMENT
        case ("resource", *_):
            return RESOURCE
        case ("depth", *_):
            return "chain.depth"
        case ("unsure" | "claimed", _, *rest) if rest:
            return ".".join(rest)
        case _:
            return ".".join(path)


def describe_states(
    subject: Subject, fitting: Sequence[AbstractValue], states: Sequence[AbstractValue], constants: set[AbstractValue]
) -> str:
    """Describe states as a condition: `body.amount > 500 and body.amount <= 1000`, `user.plan in [free, team]`,
    `body.note is unknown` …"""
    if isinstance(subject, FactPair):
        return describe_pair(subject, fitting)
    name = expression_name(subject)
    known = [one for one in fitting if one not in (SpecialValue.ABSENT, SpecialValue.BROKEN)]
    all_known = [one for one in states if one not in (SpecialValue.ABSENT, SpecialValue.BROKEN)]
    unknown = "" if len(known) == len(fitting) else f"{name} is unknown"
    if not known:
        return unknown
    if len(known) == len(all_known):
        return f"{name} is known"
    said = describe_known_states(name, subject, known, all_known, constants)
    return f"({said} or {unknown})" if unknown else said


def describe_pair(pair: FactPair, fitting: Sequence[AbstractValue]) -> str:
    signs = {frozenset({-1}): "<", frozenset({0}): "==", frozenset({1}): ">", frozenset({-1, 0}): "<=",
             frozenset({0, 1}): ">=", frozenset({-1, 1}): "!="}  # fmt: skip
    known = frozenset(int(one) for one in fitting if isinstance(one, Fraction))
    between = f"{expression_name(pair.left)} {signs.get(known, '?')} {expression_name(pair.right)}"
    unknown = f"{expression_name(pair.left)} or {expression_name(pair.right)} is unknown"
    if not known or len(known) == 3:
        return unknown if not known else f"{expression_name(pair.left)} and {expression_name(pair.right)} are known"
    return between if len(known) == len(fitting) else f"({between} or {unknown})"


def describe_known_states(
    name: str,
    subject: k.Expr,
    known: Sequence[AbstractValue],
    states: Sequence[AbstractValue],
    constants: set[AbstractValue],
) -> str:
    type_ = subject.type
    if all(isinstance(one, bool) for one in states):
        whole = (
            name if isinstance(subject, k.Fact | k.Attribute | k.Member) else " ".join(expression_text(subject).split())
        )
        return whole if known[0] else f"not ({whole})" if " " in whole else f"not {whole}"
    if isinstance(states[0], Fraction) and not isinstance(type_, typesystem.EnumType):
        return describe_range(name, [one for one in known if isinstance(one, Fraction)], states, constants, type_)
    named = [one for one in known if one in constants or isinstance(type_, typesystem.EnumType)]
    if len(named) == len(known):
        values = [format_state(one, type_) for one in named]
        return f"{name} == {values[0]}" if len(values) == 1 else f"{name} in [{', '.join(values)}]"
    others = [format_state(one, type_) for one in states if one in constants and one not in known]
    return f"{name} != {others[0]}" if len(others) == 1 else f"{name} not in [{', '.join(others)}]"


def expression_text(subject: k.Expr) -> str:
    match subject:
        case k.Relation("has" | "holds", collection, item):
            return f"{expression_name(collection)} has {expression_name(item)}"
    return subject.span.text or expression_name(subject)


def describe_range(
    name: str,
    known: Sequence[Fraction],
    states: Sequence[AbstractValue],
    constants: set[AbstractValue],
    type_: typesystem.Type,
) -> str:
    """Describe states as ranges between constants."""
    ordered = sorted(one for one in states if isinstance(one, Fraction))
    limits = sorted(one for one in constants if isinstance(one, Fraction))
    first, last = min(known), max(known)
    said = []
    if first != ordered[0]:
        at_least = first in limits
        bound = first if at_least else max((one for one in limits if one < first), default=first)
        said.append(f"{name} {'>=' if at_least else '>'} {format_state(bound, type_)}")
    if last != ordered[-1]:
        at_most = last in limits
        bound = last if at_most else min((one for one in limits if one > last), default=last)
        said.append(f"{name} {'<=' if at_most else '<'} {format_state(bound, type_)}")
    if first == last and first in limits:
        return f"{name} == {format_state(first, type_)}"
    return " and ".join(said) or name


def format_state(value: AbstractValue, type_: typesystem.Type) -> str:
    if isinstance(value, Fraction):
        return (
            str(state_value(value, type_))
            if isinstance(type_, typesystem.EnumType)
            else format_value(state_value(value, type_))
        )
    return format_value(value)
