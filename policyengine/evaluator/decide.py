"""Decides a question with a program, and returns the decision and the effects of committing it."""

from __future__ import annotations

from typing import Any, TypeAlias

from policyengine.evaluator.approvals import ConfirmApproval, approval_facts, find_approval
from policyengine.evaluator.fact_reader import read_claims, read_hops, read_presenter
from policyengine.evaluator.program import EndpointRules, PolicyProgram
from policyengine.evaluator.records import NO_WINDOWS, needed_windows
from policyengine.evaluator.rules import CONFIRM
from policyengine.evaluator.state import State
from policyengine.evaluator.verdicts import NO_EFFECTS, Verdict, principal_of
from policyengine.evaluator.walker import ActingEffect, Passage, pass_guards, walk
from policyengine.runtime.decision import Answer, Decision, Effects, Gate, Outcome, Reason
from policyengine.runtime.endpoints import HttpEndpoint, MalformedEndpoint, ToolEndpoint
from policyengine.runtime.history import WindowKey
from policyengine.runtime.ids import Stamp
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Entities, LearnedFacts, Snapshot
from policyengine.typesystem import EntityRef

KeptAttributes: TypeAlias = dict[int, dict[EntityRef, Any]]
NO_HISTORY: dict[WindowKey, Any] = {}
NOTHING_SPENT: frozenset[str] = frozenset()


def decide(
    program: PolicyProgram,
    request: Request,
    snapshot: Snapshot,
    moment: int,
    kept: KeptAttributes | None = None,
    stamp: Stamp = "",
) -> tuple[Decision, Effects]:
    """Return the decision of a program for a request, and the effects of committing it. `moment` is the time in
    nanoseconds since 1970. `kept` caches attributes of the snapshot's entities; None if the entities belong to this
    request alone.
    """
    rules = program.rules_at(request.endpoint)
    st = start(program, rules, request, snapshot.entities, snapshot.history, moment, kept, snapshot.behavior)
    return finish(st, snapshot.spent, stamp)


class StartedDecision:
    """A decision that depends on the history: `resume` finishes it when the history windows have been fetched."""

    __slots__ = ("state", "windows")

    def __init__(self, state: State, windows: frozenset[WindowKey]) -> None:
        self.state = state
        self.windows = windows


def plan(
    program: PolicyProgram,
    rules: EndpointRules,
    request: Request,
    entities: Entities,
    moment: int,
    kept: KeptAttributes | None,
    stamp: Stamp,
    behavior: LearnedFacts | None = None,
) -> tuple[Decision, Effects] | StartedDecision:
    """Return the decision as `decide` does, or a started one if it depends on the history. `behavior` are the learned
    facts of the caller, as in a snapshot.
    """
    st = start(program, rules, request, entities, NO_HISTORY, moment, kept, behavior)
    if program.reads_history and type(request.endpoint) is not MalformedEndpoint:
        windows = needed_windows(st)
        if windows:
            return StartedDecision(st, windows)
    return finish(st, NOTHING_SPENT, stamp)


def resume(started: StartedDecision, history: Any, stamp: Stamp) -> tuple[Decision, Effects]:
    """Return the decision with the fetched history, and its effects. The facts read so far do not depend on
    the history.
    """
    st = started.state
    st.history = history
    st.doubts.clear()
    return finish(st, NOTHING_SPENT, stamp)


def find_windows(
    program: PolicyProgram,
    request: Request,
    entities: Entities,
    moment: int,
    behavior: LearnedFacts | None = None,
) -> frozenset[WindowKey]:
    """Return the windows of the history that the rules of the endpoint read."""
    if isinstance(request.endpoint, MalformedEndpoint):
        return NO_WINDOWS
    rules = program.rules_at(request.endpoint)
    return needed_windows(start(program, rules, request, entities, NO_HISTORY, moment, None, behavior))


def start(
    program: PolicyProgram,
    rules: EndpointRules,
    request: Request,
    entities: Entities,
    history: Any,
    moment: int,
    kept: KeptAttributes | None,
    behavior: LearnedFacts | None = None,
) -> State:
    """Return the state of a request with its presenter, its chain and the claims of its credential."""
    endpoint = request.endpoint
    if request.entities:
        entities, kept = entities.with_rows(request.entities), None
    st = State(program, rules, request, moment, entities, history, kept)
    if behavior is not None:
        st.behavior = behavior
    if type(endpoint) is HttpEndpoint:
        st.segments = endpoint.segments
    elif type(endpoint) is ToolEndpoint:
        st.tool = endpoint.qualified
    read_presenter(st)
    if "chain" in st.facts:
        read_hops(st)
    if request.pending or (st.trust is not None and st.trust.claims):
        read_claims(st)
    return st


def finish(st: State, spent: frozenset[str], stamp: Stamp) -> tuple[Decision, Effects]:
    """Return the decision of a started state; `spent` are the approvals of the request that were already used."""
    program, request, rules = st.program, st.request, st.rules
    if type(request.endpoint) is MalformedEndpoint:
        return deny_malformed(st, request.endpoint, stamp), NO_EFFECTS
    exact, approved = st if rules.exact_bindings is None else exact_state(st), st
    approvals: dict[int, ConfirmApproval] = {}
    if request.approvals:
        confirms = [effect for effect in rules.effects if effect.kind == CONFIRM]
        approvals = {effect.bit: find_approval(st, effect, spent) for effect in confirms}
        approved = st.branch()
        approved.approval = approval_facts(list(approvals.values()), st)
    passage = walk(st, exact, approved)
    if passage.is_open and not passage.acting and rules.is_stateless:
        return Decision(program.allow, principal_of(st, passage.refused), stamp), NO_EFFECTS
    for acting in passage.acting:
        effect = acting.effect
        if effect.kind == CONFIRM and effect.bit not in approvals:
            approvals[effect.bit] = find_approval(st, effect, spent)
    return Verdict(approved, exact, st, passage, approvals).conclude(stamp)


def deny_halted(st: State, message: str, stamp: Stamp) -> Decision:
    """Return the denial of a started request that a halt covers."""
    kernel = st.program.kernel
    reason = Reason(Gate.HALTED, message)
    answer = Answer(Outcome.DENY, Gate.HALTED, (reason,), package=kernel.package, revision=kernel.revision)
    return Decision(answer, principal_of(st, None), stamp)


def acting_effects(st: State) -> tuple[ActingEffect, ...]:
    """Return the lines of guards that apply to a started request, independent of its grants and approvals."""
    passage = Passage()
    pass_guards(st, st.rules, passage)
    return passage.acting


def exact_state(st: State) -> State:
    """Return the state in which grants read bindings: only exact bindings, because a path in another letter case must
    not grant access.
    """
    exact = st.branch()
    exact.bindings = st.rules.exact_bindings
    return exact


def deny_malformed(st: State, endpoint: MalformedEndpoint, stamp: Stamp) -> Decision:
    kernel = st.program.kernel
    reason = Reason(Gate.MALFORMED_PATH, endpoint.why)
    answer = Answer(Outcome.DENY, Gate.MALFORMED_PATH, (reason,), package=kernel.package, revision=kernel.revision)
    return Decision(answer, principal_of(st, None), stamp)
