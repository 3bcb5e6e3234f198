"""Orders of calls that do not do what they seem to: steps that no call can match, orders that every sequence of calls
follows, and orders or facts without their counterpart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import by_method, covered, overlaps
from policyengine.checker.patterns.step_letters import order_automaton
from policyengine.diagnostics.model import Diagnostic
from policyengine.kernel.learned_facts import learned_facts
from policyengine.kernel.sequence_automaton import (
    LEFT,
    START,
    OrderSizeError,
    SequenceAutomaton,
    bits,
    distinct_steps,
    leaves,
    step_words,
)
from policyengine.lint.rules.learned_behavior import SEQUENCE, may_share_agent
from policyengine.source import Span


def unmatched_steps(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W915 for each step that no granted call of an agent of the profile matches."""
    for profile in kernel.profiles:
        granted = granted_patterns(kernel, profile)
        for step in leaves(profile.order) if granted else ():
            if not any(overlaps(pattern, other) for pattern in step.patterns for other in granted):
                message = f"no agent of the profile `{profile.name}` may call `{step_words(step)}`"
                hint = "write the endpoint as in a `may` of the agent, or remove the step"
                yield Diagnostic("W915", message, step.span, hint)


def orders_without_effect(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W916 for each order that every sequence of granted calls follows."""
    for profile in kernel.profiles:
        granted = granted_patterns(kernel, profile)
        if profile.order and granted and follows_always(profile.order, granted):
            message = f"every sequence of calls follows the order of the profile `{profile.name}`"
            hint = "remove `expect`, or narrow its steps"
            yield Diagnostic("W916", message, order_span(profile), hint)


def vain_sequence_reads(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W917 for each `behavior.sequence` in a policy in which no profile declares an order."""
    if not any(profile.order for profile in kernel.profiles):
        for span in dict.fromkeys(sequence_reads(kernel)):
            message = "`behavior.sequence` is always true, because no profile has `expect`"
            hint = "add the order of calls to a profile: `expect POST /auth -> GET /data/** repeated`"
            yield Diagnostic("W917", message, span, hint)


def unread_orders(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W918 for each order of a policy in which no rule reads `behavior.sequence`, but a rule reads another
    learned fact."""
    reads_another = any(fact.path != SEQUENCE for fact in learned_facts(rules_of(kernel)))
    if reads_another and not any(True for _ in sequence_reads(kernel)):
        for profile in kernel.profiles:
            if profile.order:
                message = f"no rule reads whether agents follow the order of the profile `{profile.name}`"
                hint = "add a rule, such as `deny when not behavior.sequence` in a guard, or remove `expect`"
                yield Diagnostic("W918", message, order_span(profile), hint)


def sequence_reads(kernel: k.Kernel) -> Iterator[Span]:
    return (fact.span for fact in learned_facts(rules_of(kernel)) if fact.path == SEQUENCE)


def rules_of(kernel: k.Kernel) -> tuple[object, ...]:
    return kernel.guards, kernel.limits


def order_span(profile: k.Profile) -> Span:
    return profile.order[0].span.to(profile.order[-1].span)


def granted_patterns(kernel: k.Kernel, profile: k.Profile) -> tuple[k.Pattern, ...]:
    """Return the patterns that blocks grant to agents of the profile; nothing without a block of such an agent."""
    grants = [grant for block in kernel.agents if may_share_agent(profile.agents, block.who) for grant in block.grants]
    grants += [grant for block in (kernel.anyones if grants else ()) for grant in block.grants]
    return tuple(dict.fromkeys(target.pattern for grant in grants for target in grant.openings))


def follows_always(order: tuple[k.CallStep | k.StepGroup, ...], granted: Sequence[k.Pattern]) -> bool:
    """Return whether every sequence of granted calls follows the order; never wrongly true."""
    try:
        automaton = order_automaton(order)
    except OrderSizeError:  # reported where the order is lowered
        return False
    return is_total(automaton, granted_letters(automaton, order, granted))


def is_total(automaton: SequenceAutomaton, letters: Collection[int]) -> bool:
    """Return whether no sequence of these letters leaves the order."""
    reached, pending = {START}, [START]
    while pending:
        state = pending.pop()
        following = {automaton.next(state, letter) for letter in letters}
        if LEFT in following:
            return False
        pending += following - reached
        reached |= following
    return True


def granted_letters(
    automaton: SequenceAutomaton, order: tuple[k.CallStep | k.StepGroup, ...], granted: Sequence[k.Pattern]
) -> set[int]:
    """Return all letters that granted calls can have, and perhaps others."""
    steps = [step.patterns for step in distinct_steps(order)]
    known = {letter for row in automaton.rows for letter in row}
    found: set[int] = set()
    for piece in (piece for pattern in granted for piece in by_method(pattern)):
        always = {number for number, patterns in enumerate(steps) if covered(piece, patterns)}
        near = {number for number, patterns in enumerate(steps) if any(overlaps(one, piece) for one in patterns)}
        found |= {letter for letter in known if always <= set(bits(letter)) <= near}
        if not always:
            found.add(0)
    return found
