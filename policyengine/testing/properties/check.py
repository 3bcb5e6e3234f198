"""Decides whether a generated request breaks a claim.

The evaluator decides the request, as in any test. The claim's `where` is not a rule, so no program contains it: the
specification evaluates it, with the rules that can apply to the endpoint and the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.analysis.slices import Slices
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.sizes import AnySizes
from policyengine.compiler.tree import Tree
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Entities, Snapshot
from policyengine.spec.approvals import approval_facts
from policyengine.spec.evaluate import build_facts, evaluate
from policyengine.spec.facts import Facts
from policyengine.spec.trace import ApprovalTrace, DecisionTrace
from policyengine.testcases import Case, Property
from policyengine.testcases.scenario import learned_facts_in
from policyengine.testing.case_sequence import CaseSequence, settle_alone
from policyengine.testing.decide_case import (
    CaseDecision,
    CaseSetupError,
    case_entities,
    decide_case,
    trace_case,
    traced_snapshot,
)
from policyengine.testing.expectations import meets_expectation
from policyengine.testing.properties.draft_request import DraftRequest
from policyengine.testing.properties.render_test import request_text


@dataclass(frozen=True, slots=True)
class ClaimChecker:
    """Decides generated requests for one claim."""

    prop: Property
    slices: Slices
    evaluator: Evaluator

    @classmethod
    def of(cls, prop: Property, kernel: k.Kernel, tree: Tree) -> ClaimChecker:
        evaluator = Evaluator(kernel, EntityStore(), tree=tree, sizes=AnySizes())
        return cls(prop, Slices(evaluator), evaluator)

    def decided(self, sketch: DraftRequest) -> Decision | None:
        """Return the decision; None if the claim does not apply to the request, or the request is invalid. Raises
        EngineDisagreementError."""
        case, sequence = draft_case(sketch, self.prop), CaseSequence()
        try:
            request = Request.from_mapping(case.question)
            kernel = self.slices.of(request)
            entities = case_entities(case, request, EntityStore(case.rows.values()), kernel)
        except (RequestError, CaseSetupError):
            return None
        if not case.approvals and not self.concerns(self._facts(case, kernel, request, entities)):
            return None
        asked = decide_case(case, request, entities, self.evaluator, sequence)
        if case.approvals and not self.concerns(self._approved_facts(asked, kernel)):
            return None
        return settle_alone(asked.decision, asked.effects, case)

    def _facts(self, case: Case, kernel: k.Kernel, request: Request, entities: Entities) -> Facts:
        snapshot = self._snapshot(case, kernel, request, Snapshot(entities, behavior=case.behavior))
        return build_facts(kernel, request, snapshot, case.now)

    def _approved_facts(self, asked: CaseDecision, kernel: k.Kernel) -> Facts:
        """Return the facts with the facts `approval.*` of the accepted approvals, which only a trace computes."""
        snapshot = self._snapshot(asked.case, kernel, asked.request, asked.snapshot)
        facts, seen = trace_case(asked, kernel, snapshot)
        return facts.bind(approval_facts(approval_traces(seen), asked.case.now))

    def _snapshot(self, case: Case, kernel: k.Kernel, request: Request, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with the history that the rules and the claim may read; the history is empty."""
        conditions = self.slices.histories_in(kernel)
        return traced_snapshot(snapshot, request, case, kernel, conditions, CaseSequence()) if conditions else snapshot

    def concerns(self, facts: Facts) -> bool:
        """Return whether the claim applies to the request."""
        return self.prop.where is None or evaluate(self.prop.where, facts.looked_at_anew) is True

    def breaks(self, sketch: DraftRequest, like: Decision | None = None) -> bool:
        """Return whether the request breaks the claim; if `like` is given, also whether its outcome and gate are those
        of `like`.
        """
        found = self.decided(sketch)
        if found is None or not self.is_broken_by(found):
            return False
        return like is None or (found.outcome, found.gate) == (like.outcome, like.gate)

    def is_broken_by(self, decision: Decision) -> bool:
        return not meets_expectation(self.prop.expected, decision)


def approval_traces(seen: DecisionTrace) -> Iterator[ApprovalTrace]:
    for guard in seen.guards:
        yield from (effect.approval for effect in guard.effects if effect.approval is not None)


def draft_case(sketch: DraftRequest, prop: Property) -> Case:
    """Return the generated request as a request of a test, as if parsed from its text."""
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
        behavior={"sequence": True, **learned_facts_in(sketch.facts)},  # earlier calls of the run are left open
    )
