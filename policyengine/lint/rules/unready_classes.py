"""Conditions on learned facts that never change for some agents, because their class has too few agents to be ready."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from policyengine import kernel as k
from policyengine.checker.patterns.glob_index import GlobIndex
from policyengine.checker.patterns.overlap import PatternIndex, place_overlaps
from policyengine.diagnostics.model import BoundExceededError, Diagnostic, RelatedLocation
from policyengine.kernel.expressions import rewrite
from policyengine.kernel.learned_facts import learned_facts, with_learned_facts
from policyengine.lint.absent_facts import possible_outcomes
from policyengine.lint.dead_limit_conditions import conditions_of_limits
from policyengine.lint.rules.learned_behavior import may_share_agent, reads_habits
from policyengine.lint.rules.shared_users import issuers_of
from policyengine.source import Span
from policyengine.typesystem import Scalar
from policyengine.vocabulary import NEUTRAL_VALUES

READY_AGENTS = 3  # minimum agents of a class that is ready
MAX_CLASSES_LISTED = 3
MAX_CLASSES_COMPARED = 500  # more classes are not compared with a rule that tests names
AGENT_ID = ("agent", "id")
DECIDED = ("==", "!=", "has", "like")  # relations whose result follows from the name
PROFILE_HINT = "write a pattern or a group after `for` that names at least three agents with the same work"
BLOCK_HINT = 'add a profile whose pattern or group names at least three agents with the same work: `for agent "{}*"`'


def unready_classes(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W921 where rules read learned facts about agents whose class can never be ready: for each class once, at
    the first of these facts.
    """
    if not with_learned_facts(kernel).reads_behavior:
        return
    left = dict.fromkeys([*small_profiles(kernel), *small_blocks(kernel)])
    index, common = index_classes(left), granted_by(kernel.anyones)
    with suppress(BoundExceededError):  # too many rules for an optional finding
        for place, condition in learned_conditions(kernel):
            near = left if any(place_overlaps(place, one) for one in common) else classes_at(place, index)
            found = classes_of_rule([one for one in near if one in left], condition)
            if found:
                fact = next(one for one in learned_facts(condition) if reads_habits(one))
                yield unready_finding(fact, found)
                left = {one: None for one in left if one not in found}


@dataclass(frozen=True, slots=True, eq=False)
class SmallClass:
    """A class of fewer than three agents: its name in messages, its declaration, the hint, and what agent blocks grant
    to its agents. `agent` is the name of its only agent, or None.
    """

    words: str
    declared: str
    span: Span
    hint: str
    patterns: tuple[k.Pattern, ...]
    agent: str | None = field(default=None)


ClassIndex: TypeAlias = PatternIndex[tuple[k.Pattern, SmallClass]]


def index_classes(classes: Iterable[SmallClass]) -> ClassIndex:
    index = ClassIndex()
    for small in classes:
        for pattern in small.patterns:
            index.add(pattern, (pattern, small))
    return index


def classes_at(place: k.Place, index: ClassIndex) -> dict[SmallClass, None]:
    """Return the classes whose agents have a grant at the place."""
    found = (item for pattern in place.patterns or (None,) for item in index.overlapping(pattern))
    return {one: None for pattern, one in found if place_overlaps(place, pattern)}


def classes_of_rule(classes: Sequence[SmallClass], condition: k.Expr) -> list[SmallClass]:
    """Return the classes to which a rule with the condition may apply; none if the condition tests the names of agents
    in a way that cannot be decided, or if there are too many of them.
    """
    reads = sum(is_agent_name(one) for one in k.walk(condition))
    tests = sum(isinstance(one, k.Relation) and tested_name(one) is not None for one in k.walk(condition))
    if reads == 0:
        return list(classes)
    if reads > tests or len(classes) > MAX_CLASSES_COMPARED:
        return []
    return [one for one in classes if one.agent is None or may_be_about(condition, one.agent)]


def unready_finding(fact: k.Fact, classes: Sequence[SmallClass]) -> Diagnostic:
    more = len(classes) - MAX_CLASSES_LISTED
    names = [one.words for one in classes[: MAX_CLASSES_LISTED if more > 0 else None]]
    listed = f"{', '.join(names)} and {more} more" if more > 0 else join_listed(names)
    value = str(NEUTRAL_VALUES[fact.path]).lower()
    message = (
        f"`{'.'.join(fact.path)}` is always {value} for {listed}: a class of fewer than three agents is never ready"
    )
    related = tuple(RelatedLocation(one.declared, one.span) for one in classes[:MAX_CLASSES_LISTED])
    return Diagnostic("W921", message, fact.span, classes[0].hint, related)


def join_listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


# ── Classes of few agents ─────────────────────────────────────────────────────────────────────


def small_profiles(kernel: k.Kernel) -> Iterator[SmallClass]:
    """Yield the profiles that fewer than three agents of each issuer have."""
    for profile in kernel.profiles:
        blocks = [block for block in kernel.agents if may_share_agent(profile.agents, block.who)]
        if blocks and most_agents(profile, blocks, kernel) < READY_AGENTS:
            only = profile.agents.name if isinstance(profile.agents, k.ExactName) else None
            words, patterns = f"the profile `{profile.name}`", granted_by(blocks)
            yield SmallClass(words, "the profile", profile.span, PROFILE_HINT, patterns, only)


def most_agents(profile: k.Profile, blocks: Sequence[k.AgentBlock], kernel: k.Kernel) -> int:
    """Return how many agents of one issuer may have the profile and be allowed a request, READY_AGENTS if the policy
    does not limit the number. An agent whose name has a profile of its own does not have the profile of a pattern or a
    group.
    """
    if isinstance(profile.agents, k.ExactName):
        return 1
    if any(block.grants for block in kernel.anyones):
        return READY_AGENTS
    apart = {one.agents.name for one in kernel.profiles if isinstance(one.agents, k.ExactName)}
    names: dict[str, set[str]] = {}
    for block in blocks:
        if not isinstance(block.who, k.ExactName):
            return READY_AGENTS
        for issuer in issuers_of(block):
            names.setdefault(issuer, set()).update({block.who.name} - apart)
    return max(map(len, names.values()), default=0)


def small_blocks(kernel: k.Kernel) -> Iterator[SmallClass]:
    """Yield the agents that an agent block names and that have no profile. Any agent may be in a group."""
    if any(isinstance(profile.agents, k.InGroup) for profile in kernel.profiles):
        return
    named: dict[str, list[k.AgentBlock]] = {}
    others: GlobIndex[k.AgentBlock] = GlobIndex()
    for block in kernel.agents:
        if isinstance(block.who, k.ExactName):
            named.setdefault(block.who.name, []).append(block)
        else:
            others.add(block.who.glob if isinstance(block.who, k.NamePattern) else "*", block)
    for name, blocks in named.items():
        who = blocks[0].who
        if not any(may_share_agent(profile.agents, who) for profile in kernel.profiles):
            more = [block for _, block in others.near(name) if may_share_agent(k.ExactName(name), block.who)]
            hint = BLOCK_HINT.format(name.rstrip("0123456789"))
            patterns = granted_by([*blocks, *more])
            yield SmallClass(f"`{blocks[0].label}`", "the agent block", blocks[0].span, hint, patterns, name)


def granted_by(blocks: Sequence[k.AgentBlock | k.AnyoneBlock]) -> tuple[k.Pattern, ...]:
    return tuple(dict.fromkeys(one.pattern for block in blocks for grant in block.grants for one in grant.openings))


# ── Rules that read learned facts ─────────────────────────────────────────────────────────────


def learned_conditions(kernel: k.Kernel) -> Iterator[tuple[k.Place, k.Expr]]:
    """Yield each condition that reads a fact which is neutral until the caller is ready, with the place of its rule."""
    for guard in kernel.guards:
        for effect in guard.effects:
            if effect.condition is not None and reads_habits(effect.condition):
                yield guard.place, effect.condition
    yield from ((limit.place, one) for limit, one, _ in conditions_of_limits(kernel) if reads_habits(one))


def may_be_about(condition: k.Expr, name: str) -> bool:
    """Return whether a condition may be true or unknown for an agent of this name."""
    return possible_outcomes(condition_for_agent(condition, name), lambda path: False) != {False}


def condition_for_agent(condition: k.Expr, name: str) -> k.Expr:
    """Return the condition with the results of the comparisons of the agent's name."""

    def result(part: k.Expr) -> k.Expr | None:
        other = tested_name(part) if isinstance(part, k.Relation) else None
        if not isinstance(part, k.Relation) or other is None:
            return None
        left, right = (name if is_agent_name(one) else other for one in (part.left, part.right))
        return k.Constant(part.row.holds(left, right), Scalar.BOOL, span=part.span)

    return rewrite(condition, result)


def tested_name(relation: k.Relation) -> Any:
    """Return the constant with which a relation compares the name of the agent; None for other relations."""
    for fact, other in ((relation.left, relation.right), (relation.right, relation.left)):
        if is_agent_name(fact) and isinstance(other, k.Constant) and relation.operator in DECIDED:
            return other.value
    return None


def is_agent_name(part: k.Expr) -> bool:
    return isinstance(part, k.Fact) and part.path == AGENT_ID
