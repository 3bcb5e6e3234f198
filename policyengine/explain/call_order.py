"""Explains why a request does not follow the declared order of calls."""

from __future__ import annotations

from collections.abc import Sequence

from policyengine import kernel as k
from policyengine.checker.patterns.step_letters import order_automaton
from policyengine.explain.endpoint_words import endpoint_words
from policyengine.kernel.sequence_automaton import LEFT, START
from policyengine.spec.facts import Facts
from policyengine.vocabulary import ORDER_STEP

SEQUENCE = ("behavior", "sequence")


def order_note(facts: Facts) -> str | None:
    """Return a note that says after which call a run left the declared order, and which call was expected. Return None
    if the step of the run or the profile of the agent is unknown."""
    step, profile = facts.bound.get(ORDER_STEP), profile_of(facts)
    if not isinstance(step, int) or profile is None or not profile.order:
        return None
    if step == LEFT:
        return "an earlier call of the run left the order"
    automaton, call = order_automaton(profile.order), endpoint_words(facts.request.endpoint)
    latest, expected = automaton.latest(step), automaton.expected(step)
    before = "at the start" if step == START else f"after {either(latest)}"
    return f"{before}, the order expects {either(expected) if expected else 'no further call'}, not {call}"


def either(words: Sequence[str]) -> str:
    return " or ".join(words)


def profile_of(facts: Facts) -> k.Profile | None:
    """Return the profile that applies to the agent of the request; None if none applies."""
    name, groups = facts.read(("agent", "id")), facts.read(("agent", "groups"))
    if not isinstance(name, str):
        return None
    known = frozenset(one for one in groups if isinstance(one, str)) if isinstance(groups, tuple | frozenset) else ()
    return k.applicable_profile(facts.kernel.profiles, name, known)
