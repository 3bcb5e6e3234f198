"""Decide whether a generated request breaks a claim. The claim's `where` needs the facts of the specification, so the
specification decides, with the rules that can apply to the endpoint and caller. A request that breaks a claim is then
decided by the full evaluator, like any test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from policyengine import kernel as k
from policyengine.analysis.slices import Slices
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.tree import Tree
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.approvals import approval_facts
from policyengine.spec.evaluate import build_facts, evaluate
from policyengine.spec.facts import Facts
from policyengine.spec.reference import conclude, trace_request
from policyengine.spec.required_history import history_windows
from policyengine.spec.trace import ApprovalTrace, DecisionTrace
from policyengine.testcases import Case, Property
from policyengine.testing.case_sequence import CaseSequence, settle_alone
from policyengine.testing.expectations import meets_expectation
from policyengine.testing.properties.draft_request import DraftRequest
from policyengine.testing.properties.render_test import request_text
from policyengine.testing.runner import CaseSetupError, given_approvals, root_entity


@dataclass(frozen=True, slots=True)
class ClaimChecker:
    """Decides generated requests for one claim."""

    prop: Property
    slices: Slices

    @classmethod
    def of(cls, prop: Property, kernel: k.Kernel, tree: Tree) -> ClaimChecker:
        return cls(prop, Slices(Evaluator(kernel, EntityStore(), tree=tree)))

    def decided(self, sketch: DraftRequest) -> Decision | None:
        """Return the decision; None if the claim does not apply to the request, or the request is invalid."""
        case = draft_case(sketch, self.prop)
        try:
            request = Request.from_mapping(case.question)
            kernel = self.slices.of(request)
            snapshot = Snapshot(case_directory(case, kernel, request))
        except (RequestError, CaseSetupError):
            return None
        facts = build_facts(kernel, request, snapshot, case.now)
        if asked := self.slices.histories_in(kernel):  # the history is empty
            snapshot = replace(snapshot, history=CaseSequence().fetched(history_windows(asked, facts), case.now))
            facts = replace(facts, history=snapshot.history)
        if not case.approvals and not self.concerns(facts):
            return None
        seen = trace_request(facts, snapshot)
        if approvals := tuple(given_approvals(case, seen, facts, snapshot)):
            facts = build_facts(kernel, replace(request, approvals=approvals), snapshot, case.now)
            seen = trace_request(facts, snapshot)
        if case.approvals and not self.concerns(facts.bind(approval_facts(approval_traces(seen), case.now))):
            return None
        return settle_alone(*conclude(facts, seen), case)

    def concerns(self, facts: Facts) -> bool:
        """Return whether the claim applies to the request."""
        return self.prop.where is None or evaluate(self.prop.where, facts.looked_at_anew) is True

    def breaks(self, sketch: DraftRequest, like: Decision | None = None) -> bool:
        """Return whether the request breaks the claim, at the gate of the decision `like` if given."""
        found = self.decided(sketch)
        if found is None or not self.is_broken_by(found):
            return False
        return like is None or (found.outcome, found.gate) == (like.outcome, like.gate)

    def is_broken_by(self, decision: Decision) -> bool:
        return not meets_expectation(self.prop.expected, decision)


def approval_traces(seen: DecisionTrace) -> Iterator[ApprovalTrace]:
    for guard in seen.guards:
        yield from (effect.approval for effect in guard.effects if effect.approval is not None)


def case_directory(case: Case, kernel: k.Kernel, request: Request) -> EntityStore:
    """Return the entity rows, with the attributes that the case sets on the user or resource of this request."""
    plain = EntityStore(case.rows.values())
    if not case.attributes:
        return plain
    facts, rows = build_facts(kernel, request, Snapshot(plain), case.now), dict(case.rows)
    for (root, name), raw in case.attributes.items():
        ref = root_entity(root, name, facts)
        row = rows.get(ref, EntityData(ref, {}))
        rows[ref] = replace(row, attributes={**row.attributes, name: raw})
    return EntityStore(rows.values())


def draft_case(sketch: DraftRequest, prop: Property) -> Case:
    """Return the generated request as one request of a test, as if parsed from its text."""
    question: Mapping[str, object] = sketch.question()
    return Case(
        test=prop.test,
        package=prop.package,
        number=prop.number,
        sequence=0,
        request=request_text(sketch),
        question=question,
        rows=sketch.data(),
        attributes=dict(sketch.attributes),
        approvals=tuple(sketch.approvals),
        now=sketch.now,
        expected=prop.expected,
        skip=None,
        span=prop.span,
    )
