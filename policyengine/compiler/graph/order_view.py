"""The boxes of declared orders of calls: the states of each automaton, and the calls that lead from one to another."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.checker.patterns.step_letters import order_automaton
from policyengine.compiler.graph.box import Box, BoxKind
from policyengine.compiler.graph.endpoint_view import source_words
from policyengine.compiler.graph.selection import AgentReach
from policyengine.kernel.sequence_automaton import START, SequenceAutomaton, bits
from policyengine.runtime.globs import Glob


def order_boxes(kernel: k.Kernel, reach: AgentReach | None) -> Iterator[Box]:
    """Yield a box for each profile with an order of calls. `reach` selects the profiles that may apply to one agent."""
    for profile in kernel.profiles:
        if profile.order and (reach is None or may_apply(profile, reach.name)):
            states = tuple(state_boxes(order_automaton(profile.order)))
            yield Box(BoxKind.PROFILE, source_words(profile), "", profile.span.at, states)


def may_apply(profile: k.Profile, agent: str) -> bool:
    """Return whether a profile may apply to an agent. Its groups are unknown, so every profile of a group may apply."""
    match profile.agents:
        case k.ExactName(name):
            return name == agent
        case k.NamePattern(glob):
            return Glob(glob).matches(agent)
        case k.InGroup():
            return True


def state_boxes(automaton: SequenceAutomaton) -> Iterator[Box]:
    """Yield a box for each state of an automaton: the calls that lead to the state, and the calls that may follow."""
    for state in range(len(automaton.rows)):
        latest = "start" if state == START else f"after {' or '.join(automaton.latest(state))}"
        yield Box(BoxKind.STATE, f"{state}: {latest}", describe_exits(automaton, state))


def describe_exits(automaton: SequenceAutomaton, state: int) -> str:
    """Return the calls that may follow in a state, with the states to which they lead."""
    targets: dict[int, list[str]] = {}
    for letter, target in automaton.rows[state].items():
        targets.setdefault(target, []).append(" + ".join(automaton.steps[number] for number in bits(letter)))
    exits = [f"{' or '.join(calls)} → {target}" for target, calls in sorted(targets.items())]
    ends = ["the run may end"] if state in automaton.ends and state != START else []
    return "; ".join((*exits, *ends)) if exits else "; ".join((*ends, "no call may follow"))
