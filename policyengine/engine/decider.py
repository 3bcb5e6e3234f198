"""The decider: it decides one question and commits the decision in one step of the store, on the fast path if
possible."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from policyengine.clock import EPOCH, Clock, epoch_microseconds, epoch_nanoseconds, nanosecond_clock
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.tree import Tree
from policyengine.engine.charges import StoreCharger, apply_charges
from policyengine.engine.compiled import CompiledPolicies
from policyengine.engine.question import new_id
from policyengine.engine.recorder import DecisionRecorder
from policyengine.entities.lookup import LookupEntityStore
from policyengine.entities.store import EntityStore
from policyengine.explain.explanation import Explanation, explain
from policyengine.identity.verified import PROVABLE_ROOTS
from policyengine.kernel import Kernel
from policyengine.runtime.current_caller import outcome_key
from policyengine.runtime.decision import Decision, Effects, Obligation
from policyengine.runtime.history import History, WindowKey
from policyengine.runtime.idempotency import (
    IdempotencyClaim,
    IdempotencyRecord,
    KeyInProgressError,
    KeyReuseError,
)
from policyengine.runtime.idempotent_decision import decode_draft, encode_draft, encode_facts, restore_decision
from policyengine.runtime.ids import Stamp, serials
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.evaluate import build_facts
from policyengine.spec.reference import conclude, trace_request
from policyengine.stores.base import Store
from policyengine.stores.memory.store import MemoryStore

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

MAX_COMMIT_TRIES = 100  # maximum attempts at a decision while others change the state that it depends on


class WouldBlockError(Exception):
    """The decision may take too long for an event loop; nothing was decided."""


class DecisionBasis(NamedTuple):
    """A decision and the state that it depends on, for the log."""

    decision: Decision
    moment: datetime
    spent: frozenset[str]  # approvals in the request that were already used
    spends: tuple[str, ...] = ()
    history: bytes = b""  # further members for its log line
    entities_mark: bytes = b""


class Decider:
    """Decides with a kernel and an entity store, and commits what a decision spends. It is thread-safe.

    Exceptions inside a decision are raised; `Engine` turns them into denials.
    """

    def __init__(
        self,
        kernel: Kernel,
        tree: Tree,
        entities: EntityStore,
        store: Store,
        recorder: DecisionRecorder,
        *,
        clock: Clock,
        ids: Callable[[datetime], str],
        keeps_proofs: bool = False,
    ) -> None:
        self.kernel, self._tree, self.store = kernel, tree, store
        self.clock, self.ids, self.nanoseconds = clock, ids, nanosecond_clock(clock)
        self.keeps_proofs = keeps_proofs  # whether drafts of idempotent decisions contain proved facts
        self._recorder, self._charger = recorder, StoreCharger(store, clock, ids)
        self.compiled = self._compile(entities)

    @property
    def _log(self) -> DecisionLog | None:
        return self._recorder.log

    def _compile(self, entities: EntityStore) -> CompiledPolicies:
        own = self.store if isinstance(self.store, MemoryStore) else None
        # The log must record the histories of each decision: with a log, these decisions take the slow path.
        recalls = own is not None and bool(self.kernel.watches) and self._log is None
        evaluator = Evaluator(
            self.kernel,
            entities,
            tree=self._tree,
            now=self.nanoseconds,
            taking=None if own is None else own.taking,
            recall=own.recall if own is not None and recalls else None,
        )
        mark = self._log.directory(entities) if self._log is not None and entities.loaded else b""
        charger = self._charger
        return CompiledPolicies(
            entities,
            evaluator,
            evaluator.charging(charger.charge, charger.note).__call__,  # bound once, because each lookup takes time
            evaluator.quick.__call__,
            evaluator.charging(charger.charge, charger.note, at_once=True).__call__,
            mark,
        )

    def replace_entities(self, entities: EntityStore) -> None:
        """Decide with other entities from now on. Raises DecisionLogError if they cannot be logged; then the previous
        ones stay."""
        self.compiled = self._compile(entities)

    def now(self) -> int:
        """Return the current time in microseconds since 1970, as stores use it."""
        return epoch_microseconds(self.clock())

    def seconds(self) -> int:
        """Return the current time in seconds since 1970."""
        return self.nanoseconds() // 1_000_000_000

    # ── One decision ──────────────────────────────────────────────────────────────────────────

    def decide(self, request: Request, claim: IdempotencyClaim | None = None) -> DecisionBasis:
        """Decide and commit what the decision spends. With a claim, return the decision that another request with the
        same key has made in the meantime, if there is one. Raises StoreError, KeyReuseError and KeyInProgressError."""
        for _ in range(MAX_COMMIT_TRIES):
            now = self.clock()
            spent = self._spent_approvals(request)
            compiled = self.compiled
            decision, effects, history = self._resolve(compiled, request, now, spent)
            if claim is not None:
                proved = self._encode_proved(request)
                draft = encode_draft(decision, effects, spent, history, epoch_nanoseconds(now), proved)
                effects = dataclasses.replace(effects, claim=claim._replace(draft=draft))
            basis = DecisionBasis(decision, now, spent, (), history, compiled.entities_mark)
            if not effects:
                return basis
            result = self.store.commit(effects, outcome_key(decision.id), epoch_microseconds(now))
            if result is not None:
                return basis._replace(decision=apply_charges(decision, effects, result), spends=effects.spends)
            if claim is not None and (record := self.store.claim(claim, epoch_microseconds(now))) is not None:
                return self.restore(claim, record)  # another request with this key was decided first
        raise RuntimeError(f"the state of the decision changed {MAX_COMMIT_TRIES} times while it was made")

    def evaluate(self, request: Request) -> DecisionBasis:
        """Decide without spending anything. Raises StoreError."""
        now = self._moment(request)
        spent = self._spent_approvals(request)
        compiled = self.compiled
        decision, effects, history = self._resolve(compiled, request, now, spent)
        decision = self._peek_limits(decision, effects, now)
        return DecisionBasis(decision, now, spent, (), history, compiled.entities_mark)

    def explain(self, request: Request) -> Explanation:
        """Return the decision of `evaluate` with its full trace. Raises StoreError."""
        spent = self._spent_approvals(request)
        now = self._moment(request)
        compiled = self.compiled
        lookup = compiled.entities.looking()
        needs_state = self.kernel.watches or lookup is not None
        planned = self._plan(compiled, request, now, lookup) if needs_state else None
        history = self._fetch_history(planned) if isinstance(planned, Needs) else {}
        snapshot = Snapshot(compiled.entities if lookup is None else lookup, spent, history)
        facts = build_facts(self.kernel, request, snapshot, now)
        trace = trace_request(facts, snapshot)
        while lookup is not None and lookup.lacking:  # a trace visits every rule, and needs more rows than a decision
            lookup.fetch()
            facts = build_facts(self.kernel, request, snapshot, now)
            trace = trace_request(facts, snapshot)
        decision, effects = conclude(facts, trace)
        return explain(self._peek_limits(decision.with_id(self.ids(now)), effects, now), facts, trace)

    def restore(self, claim: IdempotencyClaim, record: IdempotencyRecord) -> DecisionBasis:
        """Return the decision that was made with the same key. Raises KeyReuseError and KeyInProgressError."""
        if record.digest != claim.digest:
            raise KeyReuseError("the key was used for another question")
        if record.draft is None or record.settled is None:
            raise KeyInProgressError("the same question is being decided")
        draft = decode_draft(record.draft)
        moment = EPOCH + timedelta(microseconds=draft.moment // 1_000)
        decision = restore_decision(draft, record.settled)
        mark = self.compiled.entities_mark
        return DecisionBasis(decision, moment, frozenset(draft.spent), draft.spends, draft.past, mark)

    # ── Steps ─────────────────────────────────────────────────────────────────────────────────

    def _resolve(
        self, compiled: CompiledPolicies, request: Request, now: datetime, spent: frozenset[str]
    ) -> tuple[Decision, Effects, bytes]:
        """Return the decision, its effects, and the log members of the history and the rows that it depends on."""
        lookup, evaluator = compiled.entities.looking(), compiled.evaluator
        planned, members = self._plan(compiled, request, now, lookup), b""
        if isinstance(planned, Needs):
            history = self._fetch_history(planned)
            snapshot = Snapshot(compiled.entities if lookup is None else lookup, spent, history)
            decision, effects = evaluator.resume(planned, snapshot, now)
            while lookup is not None and lookup.lacking:
                lookup.fetch()
                decision, effects = evaluator.resume(planned, snapshot, now)
            members = self._encode_history(evaluator, request, snapshot, now) if history else b""
            relied = tuple((key, window.version) for key, window in history.items())
            planned = decision, dataclasses.replace(effects, relied=relied) if effects and relied else effects
        decision, effects = planned
        if lookup is not None and lookup.found and self._log is not None:
            members += self._log.looked_up(lookup.found, lookup.types)
        decision = decision.with_id(self._stamp(now))
        if effects.excess:
            self._recorder.count_excess(decision, effects.excess)
        return decision, effects, members

    def _stamp(self, now: datetime) -> Stamp:
        """Return the id that the engine is given, or the values from which the id of a decision is made when it is
        first read."""
        return (epoch_nanoseconds(now), next(serials)) if self.ids is new_id else self.ids(now)

    def _plan(
        self, compiled: CompiledPolicies, request: Request, now: datetime, lookup: LookupEntityStore | None
    ) -> tuple[Decision, Effects] | Needs:
        """Plan the decision, and fetch the rows that it needs until it needs no more."""
        planned = compiled.evaluator.plan(request, now, lookup)
        while lookup is not None and isinstance(planned, Needs) and planned.rows:
            lookup.fetch()
            planned = compiled.evaluator.plan(request, now, lookup)
        return planned

    def _encode_history(self, evaluator: Evaluator, request: Request, snapshot: Snapshot, now: datetime) -> bytes:
        """Encode the history before anything is spent, because the decision did not know later reports."""
        if self._log is None:
            return b""
        part = evaluator.slices.of(request)
        return self._log.past(evaluator.slices.histories_in(part), build_facts(part, request, snapshot, now))

    def _encode_proved(self, request: Request) -> bytes:
        if not self.keeps_proofs:
            return b""
        return encode_facts({root: facts for root, facts in request.facts.items() if root in PROVABLE_ROOTS})

    def _fetch_history(self, needs: Needs) -> Mapping[WindowKey, History]:
        """Fetch the current history, even for a question about another time."""
        return self.store.fetch(needs.windows, self.now()) if needs.windows else {}

    def _spent_approvals(self, request: Request) -> frozenset[str]:
        return self.store.spent_among(approval.id for approval in request.approvals)

    def _moment(self, request: Request) -> datetime:
        return request.options.at or self.clock()

    def _peek_limits(self, decision: Decision, effects: Effects, now: datetime) -> Decision:
        if effects.limits:
            result = self.store.commit(effects, decision.id, epoch_microseconds(now), peek=True)
            decision = decision if result is None else apply_charges(decision, effects, result)
        return with_consume_obligation(decision, effects)


def with_consume_obligation(decision: Decision, effects: Effects) -> Decision:
    """Add the obligation to call `decide` before acting, to an allow that would have spent something."""
    if not decision.allowed or not effects:
        return decision
    rule = "approval" if effects.spends else effects.limits[0].name if effects.limits else "history"
    consume = Obligation("consume", (), rule, at="")
    answer = replace(decision.answer, obligations=(*decision.obligations, consume), written={})
    return replace(decision, answer=answer)
