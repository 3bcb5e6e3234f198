"""Decides a test case with the evaluator, as production does, and traces the decision with the specification."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from policyengine import kernel as k
from policyengine.behavior.plain_events import PlainEventError
from policyengine.clock import epoch_nanoseconds
from policyengine.compiler.evaluator import Evaluator
from policyengine.entities.store import EntityStore
from policyengine.explain.agreement import check_agreement
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.entities import EntityData
from policyengine.runtime.history import HistoryList
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Approval, Request
from policyengine.runtime.snapshot import Entities, Snapshot
from policyengine.spec.evaluate import build_facts
from policyengine.spec.facts import Facts
from policyengine.spec.reference import trace_request
from policyengine.spec.required_history import history_windows
from policyengine.spec.trace import DecisionTrace
from policyengine.testcases import Case
from policyengine.testing.case_sequence import CaseSequence
from policyengine.typesystem import EntityRef, RefType


class CaseSetupError(Exception):
    """The error for a case with an inconsistent setup, such as user attributes without a user."""


@dataclass(frozen=True, slots=True)
class CaseDecision:
    """A decision of the evaluator about a case, before its effects are committed. `request` has the given approvals,
    `snapshot` the state that the evaluator asked for."""

    case: Case
    request: Request
    snapshot: Snapshot
    decision: Decision
    effects: Effects


def decide_case(
    case: Case, request: Request, entities: Entities, evaluator: Evaluator, sequence: CaseSequence
) -> CaseDecision:
    """Decide a case in the state of its sequence, without changing that state. Raises RequestError and
    CaseSetupError."""
    try:
        behavior = sequence.read_behavior(case, request, evaluator)
    except PlainEventError as error:
        raise CaseSetupError(str(error)) from None
    snapshot = Snapshot(entities, sequence.spent, behavior=behavior)
    if case.approvals:
        given = given_approvals(case, request, snapshot, evaluator, sequence)
        request = replace(request, approvals=tuple(given))
    snapshot = with_history(snapshot, request, case, evaluator, sequence)
    decision, effects = evaluator.resume(Needs(request), snapshot, epoch_nanoseconds(case.now))
    return CaseDecision(case, request, snapshot, decision, effects)


def with_history(
    snapshot: Snapshot, request: Request, case: Case, evaluator: Evaluator, sequence: CaseSequence
) -> Snapshot:
    """Return the snapshot with the history that the evaluator needs for the request."""
    if not evaluator.kernel.watches:
        return snapshot
    windows = evaluator.windows(request, snapshot.entities, epoch_nanoseconds(case.now), snapshot.behavior)
    return replace(snapshot, history=sequence.fetched(windows, case.now))


def given_approvals(
    case: Case, request: Request, snapshot: Snapshot, evaluator: Evaluator, sequence: CaseSequence
) -> Iterator[Approval]:
    """Yield the given approvals, each bound to the values that its rule requires for this request, or for the earlier
    request that it names. Raises RequestError.
    """
    moment = epoch_nanoseconds(case.now)
    for given in case.approvals:
        about = request if given.question is None else Request.from_mapping(given.question)
        state = with_history(snapshot, about, case, evaluator, sequence)
        required = evaluator.required_approvals(about, state, moment)
        bindings = [binding for rule, binding in required if rule == given.rule]
        for number, binding in enumerate(bindings):
            yield Approval(f"{given.id}/{number}", given.by, case.now - given.age, binding, given.rule, given.issuer)


def trace_case(asked: CaseDecision, kernel: k.Kernel, history: Snapshot) -> tuple[Facts, DecisionTrace]:
    """Return the facts and the trace of a decided case; `history` must have all windows that any rule may read. Raises
    EngineDisagreementError.
    """
    facts = build_facts(kernel, asked.request, history, asked.case.now)
    seen = trace_request(facts, history)
    check_agreement(facts, seen, asked.decision, asked.effects)
    return facts, seen


def traced_snapshot(
    snapshot: Snapshot,
    request: Request,
    case: Case,
    kernel: k.Kernel,
    conditions: Iterable[k.HistoryCondition | k.Aggregate],
    sequence: CaseSequence,
) -> Snapshot:
    """Return the snapshot with the history that any of the conditions may read, because a trace evaluates every rule.
    The history is copied, because a store returns views, and the decision may be committed before it is traced.
    """
    if not kernel.watches:
        return snapshot
    windows = history_windows(conditions, build_facts(kernel, request, snapshot, case.now))
    found = sequence.fetched(windows, case.now)
    copies = {key: HistoryList(tuple(one.events), one.complete_after, one.now) for key, one in found.items()}
    return replace(snapshot, history=copies)


# ── Entity stores ─────────────────────────────────────────────────────────────────────────────


def case_entities(case: Case, request: Request, plain: Entities, kernel: k.Kernel) -> Entities:
    """Return the entities with the attributes that the case sets on the user, agent, tool or resource of this request.
    Raises CaseSetupError."""
    if not case.attributes:
        return plain
    facts = build_facts(kernel, request, Snapshot(plain), case.now)
    rows = dict(case.rows)
    for (root, name), value in case.attributes.items():
        ref = root_entity(root, name, facts)
        row = rows.get(ref, EntityData(ref, {}))
        rows[ref] = replace(row, attributes={**row.attributes, name: value})
    return EntityStore(rows.values())


def root_entity(root: str, name: str, facts: Facts) -> EntityRef:
    """Return the entity of `user`, `agent`, `tool` or `resource` in this request. Raises CaseSetupError."""
    every = frozenset(facts.kernel.entities)
    found = facts.read((root,), RefType(every if root == "resource" else frozenset({root})))
    if not isinstance(found, EntityRef):
        why = "nothing binds `resource` at this endpoint" if root == "resource" else f"there is no {root}"
        raise CaseSetupError(f"`{root}.{name}` is given, but {why}")
    return found
