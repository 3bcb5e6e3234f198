"""The decider: it decides one question and commits the decision in one step of the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct, structs
from msgspec.json import encode

from policyengine.approvals.settings import DEFAULT_APPROVAL_SETTINGS, ApprovalSettings
from policyengine.clock import Clock, epoch_nanoseconds, from_epoch_nanoseconds, nanosecond_clock
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.tree import Tree
from policyengine.engine.charges import apply_charges
from policyengine.engine.compiled import CompiledPolicies
from policyengine.engine.question import new_id
from policyengine.engine.recorder import DecisionRecorder
from policyengine.entities.lookup import LookupEntityStore
from policyengine.entities.store import EntityStore
from policyengine.evaluator.decide import NOTHING_SPENT
from policyengine.evaluator.verdicts import NO_EFFECTS
from policyengine.explain.explanation import Explanation, explain
from policyengine.halts.control import HaltControl
from policyengine.identity.verified import PROVABLE_ROOTS
from policyengine.kernel import Deny, Fact, Kernel, Rate, walk
from policyengine.runtime.current_caller import outcome_key
from policyengine.runtime.decision import Decision, Effects, Gate, Obligation, OpenedApproval, Outcome
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
from policyengine.runtime.snapshot import UNREADABLE_FACTS, LearnedFacts, Snapshot
from policyengine.spec.evaluate import build_facts
from policyengine.spec.reference import conclude, trace_request
from policyengine.stores.base import Store, StoreError
from policyengine.stores.floors import choose_parts, has_parts
from policyengine.vocabulary import CLUSTER_SIZE, learned_name

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog
    from policyengine.behavior.reader import BehaviorReader
    from policyengine.behavior.state import CallerSnapshot
    from policyengine.engine.approval_desk import ApprovalDesk
    from policyengine.runtime.behavior import CallerCharge

GROUP_SIZE = learned_name(CLUSTER_SIZE)
ALLOW: Final = Outcome.ALLOW  # each decision compares with it, and members of enumerations are found slowly
MAX_COMMIT_TRIES = 100  # maximum attempts at a decision while other decisions change the state on which it depends


class WouldBlockError(Exception):
    """The error for a decision that may take too long for an event loop; nothing was decided."""


class DecisionState(NamedTuple):
    """The state on which a decision depends: the approvals that were already used, the log members of the history and
    the rows, the history, and the store that looked up rows; None if no rows are looked up."""

    spent: frozenset[str] = NOTHING_SPENT
    members: bytes = b""
    history: Mapping[WindowKey, History] = MappingProxyType({})
    lookup: LookupEntityStore | None = None


NO_STATE = DecisionState()


class DecisionBasis(Struct, frozen=True, gc=False):
    """A decision and the state on which it depends, for the log."""

    decision: Decision
    moment: int  # nanoseconds since 1970
    spent: frozenset[str]  # the approvals in the request that were already used, encoded for the log
    spends: tuple[str, ...] = ()  # the approvals that the decision uses up
    history: bytes = b""  # further members of the log line
    entities_mark: bytes = b""
    asked: Request | None = None  # the request with the approvals that people gave; None if there are none
    opens: tuple[OpenedApproval, ...] = ()  # the approvals that a confirm needs


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
        halting: HaltControl,
        *,
        clock: Clock,
        ids: Callable[[datetime], str],
        keeps_proofs: bool = False,
        approvals: ApprovalSettings = DEFAULT_APPROVAL_SETTINGS,
    ) -> None:
        self.kernel, self.tree, self.store, self.halting = kernel, tree, store, halting
        self.clock, self.ids, self.nanoseconds = clock, ids, nanosecond_clock(clock)
        self.keeps_proofs = keeps_proofs  # whether drafts of idempotent decisions contain proved facts
        self._makes_ids = ids is new_id  # computed from the time and a serial number when first read
        self._recorder = recorder
        self.behavior: BehaviorReader | None = None  # used if the policies read learned facts
        # Whether there is anything to do after the commit of a decision that read learned facts.
        self.finishes_learning = False
        self._has_floors = False
        self._approval_settings = approvals
        self.compiled = self._compile(entities, Evaluator(kernel, entities, tree=tree))

    def use_behavior(self, behavior: BehaviorReader) -> None:
        """Read and learn the behavior of callers from now on."""
        self.behavior, self.finishes_learning = behavior, self.finishes_learning or behavior.needs_finish
        self._has_floors = any(isinstance(limit, Rate) and limit.floor is not None for limit in self.kernel.limits)

    @cached_property
    def desk(self) -> ApprovalDesk:
        """The desk that opens and finds approvals. Most processes never need it."""
        from policyengine.engine.approval_desk import ApprovalDesk

        return ApprovalDesk(self, self._recorder, self._approval_settings)

    @cached_property
    def reads_approvals(self) -> bool:
        """Whether a guard denies by facts about approvals. The first access decodes all guards of a bundle."""
        return reads_approvals(self.kernel)

    @property
    def _log(self) -> DecisionLog | None:
        return self._recorder.log

    def _compile(self, entities: EntityStore, evaluator: Evaluator) -> CompiledPolicies:
        mark = self._log.directory(entities) if self._log is not None and entities.loaded else b""
        return CompiledPolicies(entities, evaluator, mark)

    def replace_entities(self, entities: EntityStore) -> None:
        """Decide with other entities from now on. Raises DecisionLogError if the entities cannot be logged; then the
        previous entities stay."""
        evaluator = self.compiled.evaluator.with_entities(entities)
        evaluator.prepare(self.compiled.evaluator)  # prepared now, because the event loop would otherwise wait for it
        self.compiled = self._compile(entities, evaluator)

    def now(self) -> int:
        """Return the current time in microseconds since 1970, as stores use it."""
        return self.nanoseconds() // 1_000

    def seconds(self) -> int:
        """Return the current time in seconds since 1970."""
        return self.nanoseconds() // 1_000_000_000

    # ── One decision ──────────────────────────────────────────────────────────────────────────

    def decide(self, request: Request, claim: IdempotencyClaim | None = None) -> DecisionBasis:
        """Decide, commit the effects of the decision, and open the approvals that a confirm needs if the options
        of the request say so. With a claim, return the decision that another request with the same key has made in the
        meantime, if there is one. Raises StoreError, KeyReuseError and KeyInProgressError.
        """
        basis = self._decide(request, claim)
        if not basis.opens or not request.options.request_approval:
            return basis
        if basis.decision.outcome is not Outcome.CONFIRM:  # a limit has no room
            return basis
        observer = self._recorder.observer
        if observer is not None and observer.lets_pass(basis.decision, request):
            return basis
        decision = self.desk.open(basis.asked or request, basis.decision, basis.opens, basis.moment)
        return structs.replace(basis, decision=decision)

    def _decide(self, request: Request, claim: IdempotencyClaim | None) -> DecisionBasis:
        behavior, is_readable = self.behavior, True
        for _ in range(MAX_COMMIT_TRIES):
            moment, compiled, halts = self.nanoseconds(), self.compiled, self.halting.current
            if halts is not None:
                if (denied := self.deny_halted(compiled, request, moment)) is not None:
                    return denied
                if self.halting.current is not halts:
                    continue  # the halts were read for the first time, or changed
            read, facts = None, None if is_readable else UNREADABLE_FACTS
            if behavior is not None and is_readable:
                try:
                    found = behavior.read(request.endpoint, request.facts, moment)
                    if found is not None:
                        read, facts = found
                except StoreError:
                    facts = UNREADABLE_FACTS
            decision, effects, state, asked = self._resolve_granted(compiled, request, moment, facts)
            if self.halting.current is not halts:
                continue  # the halts changed while the decision was made
            if facts is not None and self._has_floors and GROUP_SIZE in facts and has_parts(effects):
                effects = choose_parts(self.store, effects, outcome_key(decision.id), moment // 1_000)
            if behavior is not None and read is not None:
                answer = decision.answer  # its members are found much faster here than by compiled code
                effects = behavior.add_charge(read, answer.gate, answer.outcome, effects)
            spent, history = state.spent, state.members
            if claim is not None:
                past = history if behavior is None or facts is None else history + behavior.encode(read)
                proved, granted = self._encode_proved(request), () if asked is None else asked.approvals
                draft = encode_draft(decision, effects, spent, past, moment, proved, granted)
                effects = structs.replace(effects, claim=claim._replace(draft=draft))
            charge = effects.behavior
            if effects is NO_EFFECTS or not effects:
                if facts is not None and self.finishes_learning:
                    subject = asked or request
                    history += self._finish_learning(compiled, subject, decision, state, read, charge, moment)
                mark, opens = compiled.entities_mark, effects.opens
                return DecisionBasis(decision, moment, spent, (), history, mark, asked, opens)
            key = outcome_key(decision.id)
            result = self.store.commit(effects, key, moment // 1_000)
            if result is not None:
                decision = apply_charges(decision, effects, result)
                if facts is not None and self.finishes_learning:
                    subject = asked or request
                    history += self._finish_learning(compiled, subject, decision, state, read, charge, moment, key)
                mark, opens = compiled.entities_mark, effects.opens
                return DecisionBasis(decision, moment, spent, effects.spends, history, mark, asked, opens)
            if behavior is not None and read is not None and charge is not None:
                is_readable = behavior.note(read, charge)
            if claim is not None and is_readable and (record := self.store.claim(claim, moment // 1_000)) is not None:
                return self.restore_unless_halted(request, claim, record)  # another request with this key was first
        raise RuntimeError(f"the state of the decision changed {MAX_COMMIT_TRIES} times while it was made")

    def evaluate(self, request: Request) -> DecisionBasis:
        """Decide without spending anything. The halts in effect now apply, even if the question states another time.
        Raises StoreError.
        """
        moment, compiled = self._moment(request), self.compiled
        read, behavior = self._peek_behavior(request, moment)
        for _ in range(MAX_COMMIT_TRIES):
            halts = self.halting.current
            if halts is not None and (denied := self.deny_halted(compiled, request, moment)) is not None:
                return denied
            decision, effects, state, asked = self._resolve_granted(compiled, request, moment, behavior)
            if self.halting.current is halts:
                break
        if effects is not NO_EFFECTS:
            decision = self._peek_limits(decision, effects, moment)
        members = state.members
        if self.behavior is not None and behavior is not None:
            members += self.behavior.encode(read)
        return DecisionBasis(decision, moment, state.spent, (), members, compiled.entities_mark, asked)

    def explain(self, request: Request) -> Explanation:
        """Return the decision of `evaluate` with its full trace. Raises StoreError."""
        moment, compiled = self._moment(request), self.compiled
        behavior = self._peek_behavior(request, moment)[1]
        request = self._resolve_granted(compiled, request, moment, behavior)[3] or request
        spent = self._spent_approvals(request)
        now = from_epoch_nanoseconds(moment)
        lookup = compiled.entities.looking()
        needs_state = self.kernel.watches or lookup is not None
        behavior = self._peek_behavior(request, moment)[1]
        planned = self._plan(compiled, request, moment, lookup, "", behavior) if needs_state else None
        history = self._fetch_history(planned) if isinstance(planned, Needs) else {}
        halts = None if self.halting.current is None else self.halting.enter(self.nanoseconds())
        snapshot = Snapshot(compiled.entities if lookup is None else lookup, spent, history, behavior, halts)
        facts = build_facts(self.kernel, request, snapshot, now)
        trace = trace_request(facts, snapshot)
        while lookup is not None and lookup.lacking:  # a trace visits every rule, and needs more rows than a decision
            lookup.fetch()
            facts = build_facts(self.kernel, request, snapshot, now)
            trace = trace_request(facts, snapshot)
        decision, effects = conclude(facts, trace)
        return explain(self._peek_limits(decision.with_id(self.ids(now)), effects, moment), facts, trace)

    def restore(self, request: Request, claim: IdempotencyClaim, record: IdempotencyRecord) -> DecisionBasis:
        """Return the earlier decision that was made with the same key. Raises KeyReuseError and KeyInProgressError."""
        if record.digest != claim.digest:
            raise KeyReuseError("the key was used for another question")
        if record.draft is None or record.settled is None:
            raise KeyInProgressError("the same question is being decided")
        draft = decode_draft(record.draft)
        decision = restore_decision(draft, record.settled)
        if decision.outcome is Outcome.CONFIRM:
            decision = self.desk.attach(decision)
        mark = self.compiled.entities_mark
        granted = draft.approvals
        asked = replace(request, approvals=granted) if granted else None
        return DecisionBasis(decision, draft.moment, frozenset(draft.spent), draft.spends, draft.past, mark, asked)

    def deny_halted(self, compiled: CompiledPolicies, request: Request, moment: int) -> DecisionBasis | None:
        """Return the denial of a request that a halt covers now, or None. A halted request spends nothing, and nothing
        is learned from it."""
        halts = self.halting.enter(self.nanoseconds())
        halt = None if halts is None else compiled.evaluator.find_halt(request, halts)
        if halt is None:
            return None
        decision = compiled.evaluator.deny_halted(request, halt, moment, self.new_id(moment))
        member = b'"halted":%b,' % encode(halt.logged)
        return DecisionBasis(decision, moment, NOTHING_SPENT, (), member, compiled.entities_mark)

    def restore_unless_halted(
        self, request: Request, claim: IdempotencyClaim, record: IdempotencyRecord
    ) -> DecisionBasis:
        """Return the earlier decision with the same key, or a denial if a halt covers the request now. Raises
        KeyReuseError and KeyInProgressError."""
        restored = self.restore(request, claim, record)
        if self.halting.current is None:
            return restored
        return self.deny_halted(self.compiled, request, self.nanoseconds()) or restored

    # ── Steps ─────────────────────────────────────────────────────────────────────────────────

    def _resolve_granted(
        self, compiled: CompiledPolicies, request: Request, moment: int, behavior: LearnedFacts | None
    ) -> tuple[Decision, Effects, DecisionState, Request | None]:
        """Return the same as `_resolve`, with the approvals that people gave for the confirms of the request, and the
        request with these approvals; None if there are none.
        """
        decision, effects, state = self._resolve(compiled, request, moment, behavior)
        if decision.answer.outcome is ALLOW:
            return decision, effects, state, None
        bindings = [one.binding for one in effects.opens] or self._hidden_bindings(compiled, request, decision, moment)
        asked = self.desk.grant(request, bindings, moment) if bindings else request
        if asked is request:
            return decision, effects, state, None
        return *self._resolve(compiled, asked, moment, behavior), asked

    def _hidden_bindings(
        self, compiled: CompiledPolicies, request: Request, decision: Decision, moment: int
    ) -> list[str]:
        """Return the bindings of the confirms of a denied request, if an approval may lift the denial too, because a
        rule reads `approval.granted`."""
        if decision.gate is not Gate.GUARD or not self.reads_approvals:
            return []
        lookup = compiled.entities.looking()
        snapshot = Snapshot(compiled.entities if lookup is None else lookup)
        required = compiled.evaluator.required_approvals(request, snapshot, moment)
        while lookup is not None and lookup.lacking:
            lookup.fetch()
            required = compiled.evaluator.required_approvals(request, snapshot, moment)
        return [binding for _, binding in required]

    def _resolve(
        self, compiled: CompiledPolicies, request: Request, moment: int, behavior: LearnedFacts | None = None
    ) -> tuple[Decision, Effects, DecisionState]:
        """Return the decision, its effects, and the state on which it depends."""
        stamp: Stamp = (moment, next(serials)) if self._makes_ids else ""
        lookup: LookupEntityStore | None = None
        if compiled.entities.lookups is None:
            planned = compiled.evaluator.plan(request, moment, None, stamp, behavior)
        else:
            lookup = compiled.entities.looking()
            planned = self._plan(compiled, request, moment, lookup, stamp, behavior)
        state = NO_STATE
        if type(planned) is Needs:
            spent = self._spent_approvals(request)
            planned, members, history = self._resume(compiled, planned, moment, spent, lookup, stamp, behavior)
            state = DecisionState(spent, members, history, lookup)
        decision, effects = planned  # type: ignore[misc]  # no Needs
        if lookup is not None and lookup.found and self._log is not None:
            members = state.members + self._log.looked_up(lookup.found, lookup.types)
            state = state._replace(members=members, lookup=lookup)
        if not self._makes_ids:
            decision = decision.with_id(self.new_id(moment))
        if effects.excess:
            self._recorder.count_excess(decision, effects.excess)
        return decision, effects, state

    def new_id(self, moment: int) -> Stamp:
        """Return the id of a decision at this time."""
        return (moment, next(serials)) if self._makes_ids else self.ids(from_epoch_nanoseconds(moment))

    def _resume(
        self, compiled: CompiledPolicies, needs: Needs, moment: int, spent: frozenset[str],
        lookup: LookupEntityStore | None, stamp: Stamp, behavior: LearnedFacts | None,
    ) -> tuple[tuple[Decision, Effects], bytes, Mapping[WindowKey, History]]:  # fmt: skip
        """Fetch the state that the decision needs; return the decision, its effects, the log members of its history,
        and the history."""
        history = self._fetch_history(needs)
        snapshot = Snapshot(compiled.entities if lookup is None else lookup, spent, history, behavior)
        decision, effects = compiled.evaluator.resume(needs, snapshot, moment, stamp)
        while lookup is not None and lookup.lacking:
            lookup.fetch()
            decision, effects = compiled.evaluator.resume(needs, snapshot, moment, stamp)
        members = self._encode_history(compiled.evaluator, needs.request, snapshot, moment) if history else b""
        if effects and history:
            relied = tuple([(key, window.version) for key, window in history.items()])
            effects = structs.replace(effects, relied=relied)
        return (decision, effects), members, history

    def _plan(
        self,
        compiled: CompiledPolicies,
        request: Request,
        moment: int,
        lookup: LookupEntityStore | None,
        stamp: Stamp,
        behavior: LearnedFacts | None,
    ) -> tuple[Decision, Effects] | Needs:
        """Plan the decision, and fetch the rows that it needs until no row is missing."""
        planned = compiled.evaluator.plan(request, moment, lookup, stamp, behavior)
        while lookup is not None and isinstance(planned, Needs) and planned.rows:
            lookup.fetch()
            planned = compiled.evaluator.plan(request, moment, lookup, stamp, behavior)
        return planned

    def _encode_history(self, evaluator: Evaluator, request: Request, snapshot: Snapshot, moment: int) -> bytes:
        """Encode the history before the decision is committed, because outcomes reported later did not affect it."""
        if self._log is None:
            return b""
        kernel = replace(self.kernel, binders=evaluator.binders_at(request))
        facts = build_facts(kernel, request, snapshot, from_epoch_nanoseconds(moment))
        return self._log.past(evaluator.histories_read(request), facts)

    def _encode_proved(self, request: Request) -> bytes:
        if not self.keeps_proofs:
            return b""
        return encode_facts({root: facts for root, facts in request.facts.items() if root in PROVABLE_ROOTS})

    def _fetch_history(self, needs: Needs) -> Mapping[WindowKey, History]:
        """Fetch the current history, even for a question about another time."""
        return self.store.fetch(needs.windows, self.now()) if needs.windows else {}

    def _spent_approvals(self, request: Request) -> frozenset[str]:
        return self.store.spent_among(approval.id for approval in request.approvals)

    def _peek_behavior(self, request: Request, moment: int) -> tuple[CallerSnapshot | None, LearnedFacts | None]:
        """Return the behavior of the caller of a request that spends nothing, and its learned facts; None without a
        caller. If the store does not answer, all learned facts are unknown."""
        try:
            read = None if self.behavior is None else self.behavior.peek(request.endpoint, request.facts, moment)
        except StoreError:
            return None, UNREADABLE_FACTS
        return read, None if read is None else read.to_facts()

    def _finish_learning(
        self, compiled: CompiledPolicies, request: Request, decision: Decision, state: DecisionState,
        read: CallerSnapshot | None, charge: CallerCharge | None, moment: int, key: str | None = None,
    ) -> bytes:  # fmt: skip
        """Finish learning from a committed decision, and return the member of its log line. In observe mode, if
        behavior was learned from the request, count the conditions on learned facts that are true for it."""
        behavior, observer = self.behavior, self._recorder.observer
        watch = None if observer is None else observer.watch
        member = b"" if behavior is None else behavior.finish(read, charge, decision, key)
        if watch is not None and read is not None and charge is not None:
            entities = compiled.entities if state.lookup is None else state.lookup
            snapshot = Snapshot(entities, state.spent, state.history, read.to_facts())
            watch.note(decision, request, read.caller, snapshot, moment)
        return member

    def _moment(self, request: Request) -> int:
        at = request.options.at
        return self.nanoseconds() if at is None else epoch_nanoseconds(at)

    def _peek_limits(self, decision: Decision, effects: Effects, moment: int) -> Decision:
        if effects.limits:
            if self.behavior is not None:
                effects = choose_parts(self.store, effects, decision.id, moment // 1_000)
            result = self.store.commit(effects, decision.id, moment // 1_000, peek=True)
            decision = decision if result is None else apply_charges(decision, effects, result)
        return with_consume_obligation(decision, effects)


def reads_approvals(kernel: Kernel) -> bool:
    """Return whether a guard denies by facts about approvals."""
    denials = (effect for guard in kernel.guards for effect in guard.effects if isinstance(effect, Deny))
    nodes = (node for effect in denials if effect.condition is not None for node in walk(effect.condition))
    return any(isinstance(node, Fact) and node.path[0] == "approval" for node in nodes)


def with_consume_obligation(decision: Decision, effects: Effects) -> Decision:
    """Add the obligation to call `decide` before acting, to an allow that would have spent something."""
    if not decision.allowed or not effects:
        return decision
    rule = "approval" if effects.spends else effects.limits[0].name if effects.limits else "history"
    consume = Obligation("consume", (), rule, at="")
    answer = structs.replace(decision.answer, obligations=(*decision.obligations, consume), written={})
    return structs.replace(decision, answer=answer)
