"""What a decision becomes that is only observed: an allow, with what it would have been. The one place that says so.

A policy's no is let through. What no policy decided is not: a failure, a path that two servers read differently, and
somebody of whom nothing is known, who is asked to say who it is.
"""

from __future__ import annotations

from msgspec.structs import replace

from policyengine.runtime.decision import Answer, Decision, Gate, Outcome, Principal

UNDECIDED_GATES = (Gate.FAILURE, Gate.MALFORMED_PATH)
CHALLENGE_GATES = (Gate.IDENTITY, Gate.DEFAULT)
MAX_CACHED_ANSWERS = 1_024

_observed_answers: dict[tuple[int, bool], tuple[Answer, Answer]] = {}


def is_anonymous(decision: Decision) -> bool:
    """Whether nothing is known of who asks."""
    return decision.principal.agent is None and decision.principal.user is None


def needs_challenge(decision: Decision) -> bool:
    """Whether somebody who says who it is may get further: a 401."""
    return decision.outcome is Outcome.DENY and decision.gate in CHALLENGE_GATES and is_anonymous(decision)


def may_pass(decision: Decision) -> bool:
    """Whether it may be let through while it is observed, whatever the policy says."""
    return decision.allowed or not (decision.gate in UNDECIDED_GATES or needs_challenge(decision))


def apply_observe_mode(decision: Decision, passes: bool) -> Decision:
    """The decision as it is told while somebody observes.

    One that `passes` is an allow, and vouches for no name that the policy did not accept. Reasons and remedies stay:
    they say why it would have been stopped.
    """
    nobody = passes and decision.gate is Gate.IDENTITY
    asker = Principal() if nobody else decision.asker
    return Decision(observed_answer(decision.answer, passes), asker, decision.stamp, decision.standings)


def observed_answer(answer: Answer, passes: bool) -> Answer:
    """The same answer to all that come to the same end, so that it is written once."""
    key = id(answer), passes
    known = _observed_answers.get(key)
    if known is not None:  # of that very answer: it is kept as long as its number is
        return known[1]
    if len(_observed_answers) >= MAX_CACHED_ANSWERS:
        _observed_answers.clear()
    outcome = Outcome.ALLOW if passes else answer.outcome
    made = replace(answer, outcome=outcome, would_be=answer.outcome, written={})
    _observed_answers[key] = answer, made
    return made
