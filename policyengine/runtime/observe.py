"""What a decision becomes that is only observed: an allow, with what it would have been. The one place that says so.

A policy's no is let through. What no policy decided is not: a failure, a path that two servers read differently, and
somebody of whom nothing is known, who is asked to say who it is.
"""

from __future__ import annotations

from msgspec.structs import replace

from policyengine.runtime.decision import Answer, Decision, Gate, Outcome, Principal

UNDECIDED = (Gate.FAILURE, Gate.MALFORMED_PATH)
CHALLENGED = (Gate.IDENTITY, Gate.DEFAULT)
MOST_KEPT = 1_024

_made: dict[tuple[int, bool], tuple[Answer, Answer]] = {}


def anonymous(decision: Decision) -> bool:
    """Whether nothing is known of who asks."""
    return decision.principal.agent is None and decision.principal.user is None


def challenged(decision: Decision) -> bool:
    """Whether somebody who says who it is may get further: a 401."""
    return decision.outcome is Outcome.DENY and decision.gate in CHALLENGED and anonymous(decision)


def may_pass(decision: Decision) -> bool:
    """Whether it may be let through while it is observed, whatever the policy says."""
    return decision.allowed or not (decision.gate in UNDECIDED or challenged(decision))


def observed(decision: Decision, passes: bool) -> Decision:
    """The decision as it is told while somebody observes.

    One that `passes` is an allow, and vouches for no name that the policy did not accept. Reasons and remedies stay:
    they say why it would have been stopped.
    """
    nobody = passes and decision.gate is Gate.IDENTITY
    asker = Principal() if nobody else decision.asker
    return Decision(told(decision.answer, passes), asker, decision.stamp, decision.standings)


def told(answer: Answer, passes: bool) -> Answer:
    """The same answer to all that come to the same end, so that it is written once."""
    key = id(answer), passes
    known = _made.get(key)
    if known is not None:  # of that very answer: it is kept as long as its number is
        return known[1]
    if len(_made) >= MOST_KEPT:
        _made.clear()
    outcome = Outcome.ALLOW if passes else answer.outcome
    made = replace(answer, outcome=outcome, would_be=answer.outcome, written={})
    _made[key] = answer, made
    return made
