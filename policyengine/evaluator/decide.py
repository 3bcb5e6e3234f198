"""Decide a question with a program: the decision without an id, and the effects of committing it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

from policyengine.evaluator.approvals import ConfirmApproval, approval_facts, find_approval
from policyengine.evaluator.fact_reader import read_claims, read_hops, read_presenter
from policyengine.evaluator.program import CONFIRM, PolicyProgram
from policyengine.evaluator.records import needed_windows
from policyengine.evaluator.state import State
from policyengine.evaluator.verdicts import NO_EFFECTS, Verdict, principal_of
from policyengine.evaluator.walker import walk
from policyengine.runtime.decision import Answer, Decision, Effects, Gate, Outcome, Reason
from policyengine.runtime.endpoints import HttpEndpoint, MalformedEndpoint, ToolEndpoint
from policyengine.runtime.history import WindowKey
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Entities, Snapshot
from policyengine.typesystem import EntityRef

KeptAttributes: TypeAlias = dict[int, dict[EntityRef, Any]]


def decide(
    program: PolicyProgram, request: Request, snapshot: Snapshot, now: datetime, kept: KeptAttributes | None = None
) -> tuple[Decision, Effects]:
    """Return the decision of a program for a request, and the effects of committing it.

    `kept` caches attributes of the snapshot's entities; None if the entities belong only to this request.
    """
    st = start(program, request, snapshot, now, kept)
    if isinstance(request.endpoint, MalformedEndpoint):
        return malformed(st, request.endpoint), NO_EFFECTS
    exact, approved = exact_state(st), st
    approvals: dict[int, ConfirmApproval] = {}
    if request.approvals:
        confirms = [effect for effect in st.rules.effects if effect.kind == CONFIRM]
        approvals = {effect.bit: find_approval(st, effect, snapshot.spent) for effect in confirms}
        approved = st.branch()
        approved.approval = approval_facts(list(approvals.values()), st)
    passage = walk(st, exact, approved)
    for acting in passage.acting:
        effect = acting.effect
        if effect.kind == CONFIRM and effect.bit not in approvals:
            approvals[effect.bit] = find_approval(st, effect, snapshot.spent)
    return Verdict(approved, exact, st, passage, approvals).conclude()


def find_windows(program: PolicyProgram, request: Request, entities: Entities, now: datetime) -> frozenset[WindowKey]:
    """Return the windows of the history that the rules of the endpoint read."""
    if isinstance(request.endpoint, MalformedEndpoint):
        return frozenset()
    return needed_windows(start(program, request, Snapshot(entities), now, None))


def start(
    program: PolicyProgram, request: Request, snapshot: Snapshot, now: datetime, kept: KeptAttributes | None
) -> State:
    """Return the state of a request with its presenter, its chain and the claims of its credential."""
    endpoint, entities = request.endpoint, snapshot.entities
    if request.entities:
        entities, kept = entities.with_rows(request.entities), None
    st = State(program, program.rules_at(endpoint), request, now, entities, snapshot.history, kept)
    if isinstance(endpoint, HttpEndpoint):
        st.segments = endpoint.segments
    elif isinstance(endpoint, ToolEndpoint):
        st.tool = endpoint.qualified
    read_presenter(st)
    read_hops(st)
    if request.pending or (st.trust is not None and st.trust.claims):
        read_claims(st)
    return st


def exact_state(st: State) -> State:
    """Return the state in which grants read bindings: only exact bindings, because a path in another letter case must
    not grant access.
    """
    if st.rules.exact_bindings is None:
        return st
    exact = st.branch()
    exact.bindings = st.rules.exact_bindings
    return exact


def malformed(st: State, endpoint: MalformedEndpoint) -> Decision:
    kernel = st.program.kernel
    reason = Reason(Gate.MALFORMED_PATH, endpoint.why)
    answer = Answer(Outcome.DENY, Gate.MALFORMED_PATH, (reason,), package=kernel.package, revision=kernel.revision)
    return Decision(answer, principal_of(st, None))
