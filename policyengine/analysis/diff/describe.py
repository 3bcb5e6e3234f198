"""When two answers differ, in words: for each fact that changed rules ask for, the states that make the difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import TypeAlias

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.analysis.diff.decision_diagrams import Path
from policyengine.analysis.diff.policy_view import Side
from policyengine.analysis.diff.regions import Comparison
from policyengine.analysis.diff.specialize import ISSUER, RESOURCE, SEGMENT, SOUND, Rewriter
from policyengine.analysis.diff.units import Unit, conditions_of
from policyengine.analysis.diff.witness_values import number
from policyengine.runtime.format_values import shown
from policyengine.solver.symbolic import Pair, Subject
from policyengine.solver.value_partition import Plain, State

MOST_WORDS = 6

MOST_FACTS = 3  # of a doubt that are named

# For each side the rules that only it has, and what rewrites their conditions.
OfSide: TypeAlias = tuple[Sequence[Unit], Rewriter, Side]
Changed: TypeAlias = tuple[OfSide, OfSide]


def condition_of(comparison: Comparison, path: Path, changed: Changed) -> str:
    """What must be so of the facts that the changed rules ask for; empty where it is always so."""
    asked, ends = asked_anew(changed), ends_of(comparison, path)
    said: list[str] = []
    for place, subject in enumerate(comparison.space.subjects):
        if asked & set(words_in(subject)) and any(fact in path for fact in comparison.sources(place)):
            said += words_of(comparison, path, ends, place, subject)
    return " and ".join(dict.fromkeys(said[:MOST_WORDS])) + (" and …" if len(said) > MOST_WORDS else "")


def words_of(
    comparison: Comparison, path: Path, ends: tuple[object, object], place: int, subject: Subject
) -> Iterator[str]:
    """The states of one fact that leave the difference as it is, unless all do; all else is as on the path."""
    sources = comparison.sources(place)
    places = [range(len(comparison.states(fact))) for fact in sources]
    every: dict[Plain, bool] = {}
    for chosen in product(*places):
        other = {**path, **dict(zip(sources, chosen, strict=True))}
        state = comparison.state_on(place, other)
        every[state] = every.get(state, False) or ends_of(comparison, other) == ends
    fitting = [state for state, fits in every.items() if fits]
    if len(fitting) < len(every):
        yield words_for(subject, fitting, list(every), comparison.space.constants[place])


def ends_of(comparison: Comparison, path: Path) -> tuple[object, object]:
    return comparison.diagrams.value(comparison.old, path), comparison.diagrams.value(comparison.new, path)


def asked_anew(changed: Changed) -> set[str]:
    """The facts in those parts of the changed rules that only one side has; all of them if just the order changed."""
    old, new = ({p: names for unit in units for p, names in asked_by(unit, by, side)} for units, by, side in changed)
    apart = {name for part, names in (old | new).items() if (part in old) != (part in new) for name in names}
    return apart or {name for names in (old | new).values() for name in names}


def asked_by(unit: Unit, rewrite: Rewriter, side: Side) -> Iterator[tuple[object, tuple[str, ...]]]:
    """Each part of a rule that asks for facts by itself, and which these are."""
    for condition in conditions_of(unit):
        for part in atoms(rewrite(condition)):
            yield part, tuple(words_in(part))
    for one in getattr(unit.block, "requirements", ()):
        yield ("acts for" if isinstance(one, k.ActsFor) else side.requirement(one)), REQUIRED[type(one).__name__]
    if isinstance(who := getattr(unit.block, "who", None), k.InGroup):
        yield who, ("agent.groups",)


def words_of_doubt(comparison: Comparison, ends: tuple[object, object]) -> str:
    """What a request would have to show that none did."""
    path = next(comparison.diagrams.paths(comparison.old, comparison.new, ends))
    places = [place for place in range(len(comparison.space.subjects)) if set(comparison.sources(place)) & set(path)]
    asked = [comparison.space.subjects[place] for place in places]
    hard = sorted(asked, key=lambda subject: rank_of_doubt(subject))
    names = list(dict.fromkeys(subject_words(one) for one in hard))
    named = ", ".join(f"`{name}`" for name in names[:MOST_FACTS]) + (" …" if len(names) > MOST_FACTS else "")
    why = (
        "what happened before is in no request" if any(map(looks_back, asked)) else "no request was found that shows it"
    )
    return f"the answers may differ by {named}, and {why}"


def looks_back(subject: Subject) -> bool:
    parts = [subject.left, subject.right] if isinstance(subject, Pair) else [subject]
    return any(isinstance(node, k.Happened | k.Aggregate) for part in parts for node in k.walk(part))


def rank_of_doubt(subject: Subject) -> int:
    """What requests are the least likely to show comes first."""
    if looks_back(subject):
        return 0
    if isinstance(subject, k.Quantifier | k.Matches | k.Overlaps | k.Subset | k.Apply | k.InWindow):
        return 1
    if isinstance(subject, Pair | k.Contains | k.Below | k.Like):
        return 2
    return 4 if isinstance(subject, k.Fact) and subject.path[0] in ("", "credential") else 3


def subject_words(subject: Subject) -> str:
    if isinstance(subject, Pair):
        return f"{name_of(subject.left)} and {name_of(subject.right)}"
    return " ".join(subject.span.text.split()) or sentence(subject)


def atoms(condition: k.Expr) -> Iterator[k.Expr]:
    match condition:
        case k.Named(_, expression):
            yield from atoms(expression)
        case k.Not(operand):
            yield from atoms(operand)
        case k.And(items) | k.Or(items):
            yield from (one for item in items for one in atoms(item))
        case _:
            yield condition


REQUIRED = {
    "IssuedBy": ("issuer",), "ActsAlone": ("credential.subject",), "ActsFor": ("credential.subject",),
    "CredentialKind": ("credential.kind",), "CredentialLifetime": ("credential.lifetime",),
    "CredentialAge": ("credential.age",), "CredentialBound": ("credential.bound",), "Valid": ("time",),
    "AttestedBy": ("attestation.verified", "attestation.by", "attestation.model", "attestation.model_hash",
                   "attestation.environment", "attestation.age"),
}  # fmt: skip


def words_in(subject: Subject) -> Iterator[str]:
    parts = [subject.left, subject.right] if isinstance(subject, Pair) else [subject]
    for part in parts:
        for node in k.walk(part):
            if isinstance(node, k.Fact | k.Attribute | k.Member):
                yield name_of(node)


def name_of(node: k.Expr) -> str:
    match node:
        case k.Named(_, expression):
            return name_of(expression)
        case k.Constant(value):
            return shown(value)
        case k.Variable(name):
            return name
        case k.Attribute(base, name) | k.Member(base, name):
            above = base.value.type if isinstance(base, k.Constant) and hasattr(base.value, "type") else name_of(base)
            return f"{above}.{name}"
        case k.Fact(path):
            return name_of_fact(path)
        case k.Apply(function, arguments):
            return f"{function}({', '.join(map(name_of, arguments))})"
        case k.Default(operand):
            return name_of(operand)
        case _:
            return " ".join(node.span.text.split())


def name_of_fact(path: tuple[str, ...]) -> str:
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


def words_for(subject: Subject, fitting: Sequence[Plain], states: Sequence[Plain], constants: set[Plain]) -> str:
    """`body.amount > 500 and body.amount <= 1000`, `user.plan in [free, team]`, `body.note is unknown` …"""
    if isinstance(subject, Pair):
        return pair_words(subject, fitting)
    name = name_of(subject)
    known = [one for one in fitting if one not in (State.ABSENT, State.BROKEN)]
    all_known = [one for one in states if one not in (State.ABSENT, State.BROKEN)]
    unknown = "" if len(known) == len(fitting) else f"{name} is unknown"
    if not known:
        return unknown
    if len(known) == len(all_known):
        return f"{name} is known"
    said = known_words(name, subject, known, all_known, constants)
    return f"({said} or {unknown})" if unknown else said


def pair_words(pair: Pair, fitting: Sequence[Plain]) -> str:
    signs = {frozenset({-1}): "<", frozenset({0}): "==", frozenset({1}): ">", frozenset({-1, 0}): "<=",
             frozenset({0, 1}): ">=", frozenset({-1, 1}): "!="}  # fmt: skip
    known = frozenset(int(one) for one in fitting if isinstance(one, Fraction))
    between = f"{name_of(pair.left)} {signs.get(known, '?')} {name_of(pair.right)}"
    unknown = f"{name_of(pair.left)} or {name_of(pair.right)} is unknown"
    if not known or len(known) == 3:
        return unknown if not known else f"{name_of(pair.left)} and {name_of(pair.right)} are known"
    return between if len(known) == len(fitting) else f"({between} or {unknown})"


def known_words(
    name: str, subject: k.Expr, known: Sequence[Plain], states: Sequence[Plain], constants: set[Plain]
) -> str:
    type_ = subject.type
    if all(isinstance(one, bool) for one in states):
        whole = name if isinstance(subject, k.Fact | k.Attribute | k.Member) else " ".join(sentence(subject).split())
        return whole if known[0] else f"not ({whole})" if " " in whole else f"not {whole}"
    if isinstance(states[0], Fraction) and not isinstance(type_, typesystem.Enum):
        return range_words(name, [one for one in known if isinstance(one, Fraction)], states, constants, type_)
    named = [one for one in known if one in constants or isinstance(type_, typesystem.Enum)]
    if len(named) == len(known):
        values = [value_words(one, type_) for one in named]
        return f"{name} == {values[0]}" if len(values) == 1 else f"{name} in [{', '.join(values)}]"
    others = [value_words(one, type_) for one in states if one in constants and one not in known]
    return f"{name} != {others[0]}" if len(others) == 1 else f"{name} not in [{', '.join(others)}]"


def sentence(subject: k.Expr) -> str:
    if isinstance(subject, k.Contains):
        return f"{name_of(subject.collection)} has {name_of(subject.item)}"
    return subject.span.text or name_of(subject)


def range_words(
    name: str, known: Sequence[Fraction], states: Sequence[Plain], constants: set[Plain], type_: typesystem.Type
) -> str:
    """The states stand in rising order; constants bound them."""
    ordered = sorted(one for one in states if isinstance(one, Fraction))
    limits = sorted(one for one in constants if isinstance(one, Fraction))
    first, last = min(known), max(known)
    said = []
    if first != ordered[0]:
        at_least = first in limits
        bound = first if at_least else max((one for one in limits if one < first), default=first)
        said.append(f"{name} {'>=' if at_least else '>'} {value_words(bound, type_)}")
    if last != ordered[-1]:
        at_most = last in limits
        bound = last if at_most else min((one for one in limits if one > last), default=last)
        said.append(f"{name} {'<=' if at_most else '<'} {value_words(bound, type_)}")
    if first == last and first in limits:
        return f"{name} == {value_words(first, type_)}"
    return " and ".join(said) or name


def value_words(value: Plain, type_: typesystem.Type) -> str:
    if isinstance(value, Fraction):
        return str(number(value, type_)) if isinstance(type_, typesystem.Enum) else shown(number(value, type_))
    return shown(value)
