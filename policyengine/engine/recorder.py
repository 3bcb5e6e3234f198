"""What an engine holds, and what becomes of its answers: on record, observed, or a deny where that failed."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from threading import Lock, local
from time import time_ns
from typing import TYPE_CHECKING, Any

from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.show import place_of
from policyengine.compiler.sizes import loops
from policyengine.compiler.tree import Tree, tree_of
from policyengine.engine.authenticate import (
    authenticate,
    needs_issuer,
    prove_credentials,
    with_cached_facts,
    with_refusal,
)
from policyengine.engine.observe_mode import Observer
from policyengine.engine.request_input import (
    AuthenticatedQuestion,
    Clock,
    QuestionLike,
    microseconds,
    nanosecond_clock,
    new_id,
    parse_request,
    stamp_microseconds,
    utc_now,
)
from policyengine.entities.store import EntityStore
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.log_throttle import LogThrottle
from policyengine.kernel import Confirm, Kernel
from policyengine.runtime.apply_limits import apply_limits, deny_unanswered
from policyengine.runtime.caller import outcome_key
from policyengine.runtime.credential_errors import RefusalCode
from policyengine.runtime.decision import Answer, Decision, Effects, Gate, Outcome, PrincipalTuple, Reason
from policyengine.runtime.history import HistoryRecord
from policyengine.runtime.ids import Stamp
from policyengine.runtime.limits import ChargeResult, RateCharge, to_limit_charge
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.value_size import is_large, measure_extent
from policyengine.source import Source
from policyengine.stores.base import Store, StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog


_LOG = logging.getLogger("policyengine")
UNRECORDED = "the decision could not be recorded; the operator's log says why"
MAX_SMALL_EXTENT = 8  # elements, so few that no loops over them take long
SIMPLE_CHARGE_TYPES = {tuple}  # a meter and a key: a charge in full is no bare tuple


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """A directory and all that decides by it. A decision reads it once, so that it sees one directory only."""

    directory: EntityStore
    evaluator: Evaluator
    quick: Callable[[dict[str, object]], Decision | None]
    peeking: Callable[[dict[str, object]], Decision | None]
    at_once: Callable[[dict[str, object]], Decision | None]
    mark: bytes  # what the log calls the directory


class Keeping:
    """One kernel, a directory, a store, a log. Threads may share it."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        sources: Sequence[Source] = (),
        directory: EntityStore | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
        tree: Tree | None = None,
        log: DecisionLog | None = None,
        store: Store | None = None,
        identity: CredentialAuthenticator | None = None,
        begins: bool = True,
    ) -> None:
        self.kernel, self.identity = kernel, identity
        self._sources = sources
        self.failures = 0
        self._clock, self._ids, self._nanoseconds = clock, ids, nanosecond_clock(clock)
        self._store: Store = MemoryStore() if store is None else store
        if isinstance(self._store, ResilientStore):
            self._store.follow(lambda: self._nanoseconds() // 1_000)
        own = self._store if isinstance(self._store, MemoryStore) else None
        self._taking, self._plainly = (None if own is None else own.taking), (None if own is None else own.plainly)
        if begins:
            self.begin()
        # A log has to say on which histories a decision rests: then all of these are made with care.
        self._recall = own.recall if own is not None and kernel.watches and log is None else None
        self._gathered = local()
        self._counting, self._telling = Lock(), LogThrottle()
        self.log = log
        self._tree = tree or tree_of(kernel)
        self._world = self._with(EntityStore(loaded=False) if directory is None else directory)
        self._as_it_is = ids is new_id and log is None  # what the quick way answers needs no more
        self._observer: Observer | None = None

    @property
    def sources(self) -> Sequence[Source]:
        """The texts that it was made of; none where it was made of a bundle."""
        return self._sources

    def seconds(self) -> int:
        """Since 1970, by its clock."""
        return self._nanoseconds() // 1_000_000_000

    @cached_property
    def watches(self) -> frozenset[str]:
        """What its rules want to have been recorded, by name."""
        return frozenset(one.event.watch for one in self.kernel.watches)

    def begin(self) -> None:
        """From now on what its rules ask the past for is recorded. Raises StoreError."""
        if self.watches:
            self._store.begin(self.watches, microseconds(self._clock()))

    def end(self, watches: frozenset[str]) -> None:
        """This is recorded no more: who asks for it again knows nothing of before. Raises StoreError."""
        if watches:
            self._store.end(watches)

    def _with(self, directory: EntityStore) -> World:
        evaluator = Evaluator(
            self.kernel,
            directory,
            tree=self._tree,
            now=self._nanoseconds,
            taking=self._taking,
            recall=self._recall,
        )
        mark = self.log.directory(directory) if self.log is not None and directory.loaded else b""
        # Bound once. An evaluation takes nothing of limits, and looks at how they stand with care.
        quick = evaluator.charging(self._charged, self._noted).__call__
        at_once = evaluator.charging(self._charged, self._noted, at_once=True).__call__
        return World(directory, evaluator, quick, evaluator.quick.__call__, at_once, mark)

    def replace_directory(self, directory: EntityStore) -> None:
        """Decide by other entities from now on: at once, also while threads decide; each decision sees one directory.

        Raises LogError where there is a log that it cannot be written to; then the old one stays.
        """
        self._world = self._with(directory)

    @property
    def directory(self) -> EntityStore:
        """The entities that the policies ask about; those that come with a request are not among them."""
        return self._world.directory

    @property
    def revision(self) -> str:
        """`sha256:…`: the same for the same meaning, whatever the order of files and declarations."""
        return self.kernel.revision

    @cached_property
    def shares(self) -> bool:
        """Whether there is state to keep, and a store beside this process keeps it: a caller may wait for it."""
        return self.keeps and self.remote

    @property
    def store(self) -> Store:
        """What keeps what decisions spend."""
        return self._store

    @property
    def waits(self) -> bool:
        """Whether a decision may wait for somebody else: for a store, or for a row of the directory."""
        return self.shares or self._world.directory.lookups is not None

    def waits_for(self, question: QuestionLike | None = None) -> bool:
        """Whether a decision about it may wait: then for an issuer, too, whose credentials it brings."""
        return self.waits or (question is not None and self.awaits_issuer(question))

    def awaits_issuer(self, question: QuestionLike) -> bool:
        """Whether an issuer may be asked what its credentials prove, which takes as long as that issuer takes."""
        return self.identity is not None and needs_issuer(self.identity, question, self.seconds())

    def takes_long(self, question: QuestionLike) -> bool:
        """Whether a decision about it may calculate so long that an event loop should not wait for it. Who waits for an
        issuer does so beside others, and not in the one thread that calculates."""
        if self.awaits_issuer(question):
            return False
        if self.identity is not None:
            try:
                question = with_cached_facts(self.identity, question, self.seconds())
            except RequestError:  # which is told at once
                return False
        if isinstance(question, AuthenticatedQuestion):
            question = question.question
        if not isinstance(question, Request):
            if is_large(question):
                return True
            if measure_extent(question) <= MAX_SMALL_EXTENT and not (
                isinstance(question, Mapping) and "chain" in question
            ):
                return False
            try:
                question = parse_request(question)
            except RequestError:  # which is told at once
                return False
        return self._world.evaluator.takes_long(question)

    @cached_property
    def loops(self) -> bool:
        """Whether there are rules that take long for large questions."""
        return loops(self.kernel)

    @cached_property
    def remote(self) -> bool:
        """Whether the store is beside this process, be it for nothing but keys."""
        return not isinstance(self._store, MemoryStore)

    @property
    def forgets(self) -> bool:
        """Whether what was counted, spent or revoked is gone with this process, and unknown to any other."""
        return self.uses_store and not self.remote

    @property
    def uses_store(self) -> bool:
        """Whether decisions keep state, or rest on which credentials were used and revoked."""
        return self.keeps or self.identity is not None

    @property
    def needs_store(self) -> bool:
        """Whether decisions are denied where the store fails: not where all that is kept are limits which say what else
        holds then, `local` or `allow`."""
        return self.identity is not None or self.rests_on_store

    @cached_property
    def rests_on_store(self) -> bool:
        denies = any(limit.failing == "deny" for limit in self.kernel.limits)
        return self.confirms or bool(self.kernel.watches) or denies

    @cached_property
    def confirms(self) -> bool:
        return any(isinstance(one, Confirm) for guard in self.kernel.guards for one in guard.effects)

    @cached_property
    def keeps(self) -> bool:
        """Whether decisions depend on what came before: on limits, on approvals, or on history."""
        return self.confirms or bool(self.kernel.limits) or bool(self.kernel.watches)

    def identified(self, question: QuestionLike) -> QuestionLike:
        """The question with what its credentials prove, for who asks about it more than once: a proof counts once.
        Raises RequestError."""
        if self.identity is None or isinstance(question, AuthenticatedQuestion):
            return question
        found = self._identified(self.identity, question)
        return found if isinstance(found, AuthenticatedQuestion) else AuthenticatedQuestion(found)

    def at_once(self, question: dict[str, object]) -> AuthenticatedQuestion | None:
        """The question with what its credentials proved before; None where that takes a longer look, for which one may
        have to wait."""
        known = None if self.identity is None else self.identity.at_once(question, self.seconds())
        return None if known is None else AuthenticatedQuestion(known)

    def proved(self, facts: Mapping[str, object]) -> Mapping[str, object]:
        """Facts about a request with their raw credentials looked at once: for several questions about that request,
        in this process. Raises RequestError."""
        if self.identity is None or facts.get("credentials") is None:
            return facts
        found = prove_credentials(self.identity, facts, self.seconds())
        return {**facts, "credentials": found}

    def _identified(self, identity: CredentialAuthenticator, question: QuestionLike) -> QuestionLike:
        """Fails closed: whatever goes wrong is a refusal. Raises RequestError."""
        try:
            if type(question) is dict:
                known = identity.at_once(question, self._nanoseconds() // 1_000_000_000)
                if known is not None:
                    return known
            elif type(question) is AuthenticatedQuestion:
                return question.question
            return authenticate(identity, question, self.seconds())
        except RequestError:
            raise
        except Exception:
            with self._counting:
                self.failures += 1
            identity.count(RefusalCode.FAILURE.value)
            _LOG.exception("a credential could not be looked at, and was refused")
            return with_refusal(parse_request(question), RefusalCode.FAILURE)

    def _charged(
        self, answer: Answer, asker: PrincipalTuple, stamp: Stamp, charges: tuple[Any, ...]
    ) -> Decision | None:
        """An allow on the quick way, once the store has said how its limits stand."""
        decision = Decision(answer, asker, stamp)
        if not charges:
            return decision
        if self._plainly is not None and set(map(type, charges)) == SIMPLE_CHARGE_TYPES:
            standings = self._plainly(charges, stamp_microseconds(stamp) * 1_000)
            return apply_limits(decision, [meter.limited for meter, _ in charges], standings)
        limits = tuple(map(to_limit_charge, charges))
        plain = all(isinstance(one.charge, RateCharge) for one in limits)
        name = "" if plain else self._name(decision)  # of what may be given back
        effects = Effects(limits=limits)
        settling = self._store.commit(effects, name, stamp_microseconds(stamp))
        return None if settling is None else apply_settlement(decision, effects, settling)

    def _noted(
        self,
        answer: Answer,
        asker: PrincipalTuple,
        stamp: Stamp,
        charges: tuple[Any, ...],
        records: tuple[HistoryRecord, ...],
        changes: int,
    ) -> Decision | None:
        """An allow on the quick way that is remembered, or rests on what is; None where that has changed."""
        assert isinstance(self._store, MemoryStore)
        decision = Decision(answer, asker, stamp)
        if not charges:
            name = self._name(decision) if any(one.awaits for one in records) else ""
            noted = self._store.note(records, name, stamp_microseconds(stamp), changes)
            return decision if noted else None
        effects = Effects(limits=tuple(map(to_limit_charge, charges)), records=records)
        settling = self._store.commit(effects, self._name(decision), stamp_microseconds(stamp), changes=changes)
        return None if settling is None else apply_settlement(decision, effects, settling)

    def _name(self, decision: Decision) -> str:
        """What the store knows a decision on the quick way by: the id that it is to have, of this caller."""
        if self._ids is new_id:
            return outcome_key(decision.id)
        name = self._ids(self._clock())
        self._gathered.named = decision.stamp, name
        return outcome_key(name)

    def _kept(
        self,
        question: dict[str, object] | Request,
        decision: Decision,
        call: bytes,
        state: bytes,
        moment: int | None = None,
    ) -> Decision:
        """The decision, once it is on record; a deny where it could not be, unless the operator lets it pass. While
        somebody observes it is what that makes of it: every answer of an engine that observes comes through here.

        `state` is what the log says of all that it rests on. Without a `moment` it failed, and this is when.
        """
        log, observer = self.log, self._observer
        given = decision if observer is None else observer.given(decision, question)
        if log is not None:
            state = (b'"observed":true,' if given.observed else b"") + state
            if not log.keep(decision, moment or time_ns(), call, state, question):
                return self._denied(UNRECORDED)
        return given

    def _failed(self) -> Decision:
        """A deny for an exception, counted and logged; it has an id even where the clock is what failed."""
        with self._counting:
            self.failures += 1
        place = place_of(sys.exc_info()[2])
        denied = self._denied("the engine failed while deciding; the operator's log says why")
        told = {"event": "decision_failed", "decision": denied.id}
        _LOG.exception("a decision failed and was denied%s", f", at {place}" if place else "", extra=told)
        return denied

    def _exceeded(self, decision: Decision, excess: str) -> None:
        """Counts and logs a deny for too many steps."""
        with self._counting:
            self.failures += 1
        text = f"a decision was denied: {excess}"
        self._telling.tell(logging.WARNING, "exceeded", text, event="decision_exceeded", decision=decision.id)

    def _unanswered(self, error: StoreError) -> Decision:
        """A deny for a store that says nothing of what came before. Whoever guards the store tells the operator."""
        with self._counting:
            self.failures += 1
        _LOG.debug("a decision was denied: %s", error)
        return self._denied(f"what was spent and what happened is not known: {error.reason}")

    def _denied(self, why: str) -> Decision:
        package, revision = self.kernel.package, self.kernel.revision
        named = new_id(datetime.now(UTC))
        return Decision.of(
            Outcome.DENY, Gate.FAILURE, (Reason(Gate.FAILURE, why),), package=package, revision=revision, id=named
        )


def apply_settlement(decision: Decision, effects: Effects, told: ChargeResult) -> Decision:
    """The decision by what the store said, or did not say."""
    if told.failed is None:
        return apply_limits(decision, effects.limits, told.standings)
    remembered = bool(effects.records or effects.relied)
    approved = bool(effects.spends)
    return deny_unanswered(decision, effects.limits, approved=approved, remembered=remembered, why=told.reason)
