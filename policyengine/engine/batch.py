"""Batches: decides many questions in order, with one commit to a remote store for many of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from policyengine.engine.authenticate import reject_raw_credentials
from policyengine.engine.charges import apply_charges
from policyengine.engine.compiled import CompiledPolicies
from policyengine.engine.decider import with_consume_obligation
from policyengine.engine.question import Question, QuestionLike, parse_request
from policyengine.engine.record_group import RecordGroup, write_records
from policyengine.runtime.current_caller import outcome_key
from policyengine.runtime.decision import Decision, Gate
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request, RequestError
from policyengine.stores.base import CommitRequest, CommitResult

if TYPE_CHECKING:
    from policyengine.engine.engine import Engine
    from policyengine.engine.guarded_decider import GuardedDecider

MAX_PENDING_DECISIONS = 1_024  # maximum number of decisions per commit


class PendingDecision(NamedTuple):
    """A decision that is complete except for the store's answer."""

    position: int  # index of its question in the batch
    question: Request
    commit: CommitRequest
    decision: Decision
    moment: int  # nanoseconds since 1970
    call: bytes
    compiled: CompiledPolicies

    @property
    def asks_store(self) -> bool:
        return bool(self.commit.effects.limits or (self.commit.effects and not self.commit.peek))


class BatchDecider:
    """Decides many questions with one engine."""

    def __init__(self, engine: Engine, guarded: GuardedDecider) -> None:
        self._engine, self._guarded = engine, guarded

    def decide(self, questions: Sequence[QuestionLike]) -> list[Decision | RequestError]:
        """Decide each question as `Engine.decide` does, in order, even if they share limits."""
        answers: list[Decision | RequestError] = []
        if self._engine.halting.current is not None:
            self._engine.halting.start()
        records = RecordGroup()
        try:
            self._decide(list(questions), answers, records)
        finally:
            write_records(records, answers)
        return answers

    def _decide(
        self, questions: Sequence[QuestionLike], answers: list[Decision | RequestError], records: RecordGroup
    ) -> None:
        engine = self._engine
        pending: list[PendingDecision] = []
        for position, question in enumerate(questions):
            try:
                authenticated = self._authenticate(question)
                prepared = self._prepare(position, authenticated) if engine.state.is_shared else None
                if prepared is None:  # the decision may depend on earlier questions
                    self._settle(pending, answers, records)
                    answers.append(engine.decide(authenticated, records=records))
                else:
                    pending.append(prepared)
                    answers.append(prepared.decision)
            except RequestError as error:
                answers.append(error)
            if len(pending) == MAX_PENDING_DECISIONS:
                self._settle(pending, answers, records)
            if len(records.pending) >= MAX_PENDING_DECISIONS:
                write_records(records, answers)
        self._settle(pending, answers, records)

    def _authenticate(self, question: QuestionLike) -> QuestionLike:
        """Return the authenticated question. Raises RequestError."""
        try:
            return self._engine.authenticate(question)
        except RequestError:
            raise
        except Exception:
            return question  # `Engine.decide` fails again, and records it

    def _prepare(self, position: int, question: QuestionLike) -> PendingDecision | None:
        """Return the pending decision, or None if `Engine.decide` must make it, because it needs state, approvals,
        looked-up rows or learned facts, or failed. Raises RequestError.
        """
        compiled = self._engine.decider.compiled
        try:
            request = reject_raw_credentials(parse_request(question))
            if request.approvals:
                return None  # `Engine.decide` knows whether they count
            return self._prepare_request(position, request, compiled)
        except RequestError:
            raise
        except Exception:
            return None  # `Engine.decide` fails again, and records it

    def _prepare_request(self, position: int, request: Request, compiled: CompiledPolicies) -> PendingDecision | None:
        decider = self._engine.decider
        spends, moment = request.options.consume, decider.nanoseconds()
        if compiled.entities.lookups is not None or decider.behavior is not None or decider.halting.current is not None:
            return None
        planned = compiled.evaluator.plan(request, moment)
        if isinstance(planned, Needs) or request.options.at is not None:
            return None
        decision, effects = planned
        if effects.opens or (decision.gate is Gate.GUARD and decider.reads_approvals):
            return None
        decision = decision.with_id(decider.new_id(moment))
        if effects.excess:
            self._engine.recorder.count_excess(decision, effects.excess)
        commit = CommitRequest(effects, outcome_key(decision.id), not spends)
        call = b"decide" if spends else b"evaluate"
        return PendingDecision(position, request, commit, decision, moment, call, compiled)

    def _settle(
        self, pending: list[PendingDecision], answers: list[Decision | RequestError], records: RecordGroup
    ) -> None:
        """Commit all pending decisions, and insert their answers at the indexes of their questions. If a halt has begun
        in the meantime, they are made again."""
        if pending and self._engine.decider.halting.current is not None:
            for item in pending:
                question = Question(item.question, is_authenticated=True)
                answers[item.position] = self._engine.decide(question, records=records)
            pending.clear()
            return
        asking = [item for item in pending if item.asks_store]
        results = self._commit([item.commit for item in asking]) if asking else []
        settled = {item.position: result for item, result in zip(asking, results, strict=True)}
        for item in pending:
            try:
                if item.position in settled:
                    answers[item.position] = self._answer(item, settled[item.position], records)
                else:
                    answers[item.position] = self._record(item, item.decision, records)
            except Exception as error:
                answers[item.position] = self._guarded.record_failure(item.question, error, item.call, records)
        pending.clear()

    def _commit(self, requests: list[CommitRequest]) -> Sequence[CommitResult | Exception]:
        """Return the store's answer to each request; if it fails, the exception for each of them."""
        decider = self._engine.decider
        try:
            results: Sequence[CommitResult | Exception] = decider.store.commit_many(requests, decider.now())
            if len(results) != len(requests):
                raise RuntimeError(f"the store answered {len(results)} of {len(requests)} requests")
        except Exception as error:
            results = [error] * len(requests)
        return results

    def _answer(self, pending: PendingDecision, result: CommitResult | Exception, records: RecordGroup) -> Decision:
        if result is None:  # another decision has changed the state on which this decision depends
            return self._engine.decide(Question(pending.question, is_authenticated=True), records=records)
        if isinstance(result, Exception):
            raise result
        return self._record(pending, apply_charges(pending.decision, pending.commit.effects, result), records)

    def _record(self, pending: PendingDecision, decision: Decision, records: RecordGroup) -> Decision:
        engine = self._engine
        if pending.commit.peek:
            decision = with_consume_obligation(decision, pending.commit.effects)
        mark = pending.compiled.entities_mark
        return engine.recorder.record(pending.question, decision, pending.call, mark, pending.moment, records)
