"""Policies whose guards and limits read learned facts, and learned facts of callers."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from random import Random
from typing import Any

from policyengine.runtime.snapshot import NOT_READABLE
from policyengine.runtime.values import Invalid
from policyengine.typesystem import Scalar
from policyengine.vocabulary import CLUSTER_ID, CLUSTER_SIZE, LEARNED_FACTS, learned_name
from tests.generate import vocabulary as v
from tests.generate.expressions import Writer, atoms_at
from tests.generate.policies import RECALLED, File, Policy

FORMS = (
    "behavior.ready", "not behavior.ready", "behavior.burst", "behavior.trust > 0.9", "behavior.trust <= 0.2",
    "behavior.novelty > 0.3", "behavior.error_rate >= 0.5", "behavior.novelty > behavior.error_rate",
    "(behavior.trust + behavior.novelty) > 1", "behavior.trust == 0.5", "calm_caller",
    "behavior.sequence", "not behavior.sequence", "behavior.deviation > 0.5",
)  # fmt: skip
ACTS = (
    "deny when", "deny unless", "require", "confirm by role boss when", "confirm by user unless", "audit full when",
    "warn when", "step_up mfa unless", 'header "X-Checked" "yes" when',
)  # fmt: skip
GROUPED = ("cluster.size > 1", "cluster.size >= 30", "not (cluster.size == 1)", 'cluster.id == "ring"')
KEYS = ("agent.id", "user.id", "(user.id, agent.id)", "cluster.id", "(cluster.id, user.id)")
EVENTS = ("GET /notes/**", "(denied GET /notes/**)", "(GET /notes/** where past.behavior.trust < 0.5)")
VALUES: tuple[Any, ...] = (0, 1, *map(Decimal, ("0.5", "0.95", "0.1", "0.3", "0.125")))
SIZES: dict[tuple[str, ...], tuple[Any, ...]] = {
    CLUSTER_ID: ("ring", "other", "open/alice"), CLUSTER_SIZE: (1, 2, 3, 30)
}  # fmt: skip
WRONG: tuple[Any, ...] = (NOT_READABLE, Invalid("other"), None, "0.5", 0.5, [], 2**70)


def learning(random: Random) -> Policy:
    """Return a policy that opens a few endpoints to everybody, with rules there that read learned facts."""
    opened = f"may {', '.join(RECALLED)}"
    rules = [_rule(random, number) for number in range(random.choice([1, 2, 3]))]
    declarations = (
        v.ENTITIES, *(f"define {name} = context.flag" for name in v.DEFINED),
        "define calm_caller = behavior.trust > 0.5 and not behavior.burst", "issuer open { scopes none }",
        f"user any {{ {opened} }}", f'agent "*" {{ issued by open   acts for any user   {opened} }}', *rules,
        "scope refunds { TOOL billing/refund }",
    )  # fmt: skip
    return Policy((File("package acme.app", declarations),))


def _rule(random: Random, number: int) -> str:
    place, groups = random.choice(sorted(RECALLED.items()))
    if random.random() < 0.4:
        return _rate(random, number, place, groups)
    items = [f"{random.choice(ACTS)} {_condition(random, groups)}" for _ in range(random.choice([1, 1, 2]))]
    return f'guard "b{number}" on {place} {{ {"   ".join(items)} }}'


def _rate(random: Random, number: int, place: str, groups: tuple[str, ...]) -> str:
    when = f" when {_limit_condition(random, groups)}" if random.random() < 0.3 else ""
    items = ["4/1m burst 2"]
    items += [random.choice(["floor 1/1m", "floor 3/7m", "floor 1/1h"])] if random.random() < 0.4 else []
    items += [f"raise x3 at most 20/1m when {_limit_condition(random, groups)}"] if random.random() < 0.6 else []
    items += [f"clamp 1/1h for 10m when {_limit_condition(random, groups)}"] if random.random() < 0.6 else []
    return f'rate "b{number}" per {random.choice(KEYS)} on {place}{when} {{ {"   ".join(items)} }}'


def _limit_condition(random: Random, groups: tuple[str, ...]) -> str:
    """Return a condition of a limit, which may also read the group of the caller."""
    return random.choice(GROUPED) if random.random() < 0.2 else _condition(random, groups)


def _condition(random: Random, groups: tuple[str, ...]) -> str:
    """Return a condition on learned facts, sometimes with a condition on other facts, or with one about the past."""
    own, chance = random.choice(FORMS), random.random()
    if chance < 0.3:
        other = Writer(random, atoms_at(groups), None, 1, definitions=False).condition()
        return f"({own} {random.choice(['and', 'or'])} {other})"
    if chance < 0.5:
        within, keys = random.choice(["1h", "1d"]), random.choice(["", " per (user.id, behavior.burst)"])
        return f"({own} or after {random.choice(EVENTS)} within {within}{keys})"
    return own


def learned_facts(random: Random) -> dict[str, Any]:
    """Return learned facts of a caller: some of them missing, some unknown."""
    return dict(_facts(random))


def _facts(random: Random) -> Iterator[tuple[str, Any]]:
    for path, fact in LEARNED_FACTS.items():
        chance, name = random.random(), learned_name(path)
        if chance < 0.1:
            yield name, random.choice(WRONG)
        elif chance < 0.8:
            yield name, random.choice(SIZES.get(path) or ([True, False] if fact.type is Scalar.BOOL else VALUES))
