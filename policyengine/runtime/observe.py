"""Observe mode: the only place that turns a decision into an allow that contains the enforced outcome.

A request that the policy denies may pass. A request that no policy decided may not: a failure, a path that two servers
read differently, a request that an operator halted, or a request of an anonymous caller, who must first
authenticate.
"""

from __future__ import annotations

from msgspec.structs import replace

from policyengine.runtime.decision import Answer, Decision, Gate, Outcome, Principal

UNDECIDED_GATES = (Gate.FAILURE, Gate.MALFORMED_PATH, Gate.HALTED)
CHALLENGE_GATES = (Gate.IDENTITY, Gate.DEFAULT)
MAX_CACHED_ANSWERS = 1_024

_observed_answers: dict[tuple[int, bool], tuple[Answer, Answer]] = {}


def is_anonymous(decision: Decision) -> bool:
    """Return whether the caller is anonymous."""
    return decision.agent_and_user == (None, None)


def needs_challenge(decision: Decision) -> bool:
    """Return whether the response is a 401: authentication may help this caller."""
    return decision.outcome is Outcome.DENY and decision.gate in CHALLENGE_GATES and is_anonymous(decision)


def may_pass(decision: Decision) -> bool:
    """Return whether observe mode may let the request pass, independent of the policy."""
    return decision.allowed or not (decision.gate in UNDECIDED_GATES or needs_challenge(decision))


def apply_observe_mode(decision: Decision, passes: bool) -> Decision:
    """Return the decision in observe mode.

    If it `passes`, it becomes an allow, without a principal that the policy did not accept. Reasons and remedies stay,
    because they show why enforcement would stop the request.
    """
    nobody = passes and decision.gate is Gate.IDENTITY
    asker = Principal() if nobody else decision.asker
    return Decision(observed_answer(decision.answer, passes), asker, decision.stamp, decision.standings)


def observed_answer(answer: Answer, passes: bool) -> Answer:
    """Return the observed answer: one object for each original answer, so that it is encoded once."""
    key = id(answer), passes
    known = _observed_answers.get(key)
    if known is not None:  # the entry keeps its answer alive, so the id still belongs to it
        return known[1]
    if len(_observed_answers) >= MAX_CACHED_ANSWERS:
        _observed_answers.clear()
    outcome = Outcome.ALLOW if passes else answer.outcome
    made = replace(answer, outcome=outcome, would_be=answer.outcome, written={})
    _observed_answers[key] = answer, made
    return made
