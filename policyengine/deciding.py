"""One decision: the quick way where it is plain, with care where it is not; what it spends, on record."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from threading import Lock, local
from time import time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.json import encode
from msgspec.structs import replace

from policyengine.asking import (
    EPOCH,
    Clock,
    Identified,
    Question,
    counting,
    made_now,
    microsecond,
    microseconds,
    new_id,
    read,
    utc_now,
)
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.reads import nanoseconds
from policyengine.compiler.show import place_of
from policyengine.compiler.tree import Tree, tree_of
from policyengine.directory.entities import Directory
from policyengine.directory.looking import Looking
from policyengine.identifying import awaited, identified, no_identity, refused
from policyengine.identity.identity import Identity
from policyengine.observing import Observer
from policyengine.runtime.claims import Claim, Found, KeyProblem, KeyUnderWay, KeyUsed, Once
from policyengine.runtime.decision import Answer, Asker, Decision, Effects, Gate, Obligation, Outcome, Reason
from policyengine.runtime.history import History, Record, WindowKey
from policyengine.runtime.ids import Stamp
from policyengine.runtime.limits import Settled, Take, limited
from policyengine.runtime.once import Accounted, draft_of, drafted, told
from policyengine.runtime.plan import Needs
from policyengine.runtime.refusals import Refusal
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.settling import UNANSWERED, settled, unanswered
from policyengine.runtime.snapshot import Snapshot
from policyengine.semantics.kernel import Confirm, Kernel
from policyengine.semantics.meaning import facts_of
from policyengine.source import Source
from policyengine.stores.memory import MemoryStore
from policyengine.stores.store import Store, StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog


_LOG = logging.getLogger("policyengine")
UNRECORDED = "the decision could not be recorded; the operator's log says why"
MOST_TRIES = 100  # to decide again where another decision was quicker
ONLY_PLAIN = {tuple}  # a meter and a key: a charge in full is no bare tuple


class Made(NamedTuple):
    """A decision and what it depended on: the clock, and which of its approvals were spent before."""

    decision: Decision
    now: datetime
    spent: frozenset[str]
    spends: tuple[str, ...] = ()
    past: bytes = b""  # as the log has it
    mark: bytes = b""  # of the directory


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """A directory and all that decides by it. A decision reads it once, so that it sees one directory only."""

    directory: Directory
    evaluator: Evaluator
    quick: Callable[[dict[str, object]], Decision | None]
    peeking: Callable[[dict[str, object]], Decision | None]
    mark: bytes  # what the log calls the directory


class Deciding:
    """Decides one question by a kernel. Threads may share it."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        sources: Sequence[Source] = (),
        directory: Directory | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
        tree: Tree | None = None,
        log: DecisionLog | None = None,
        store: Store | None = None,
        identity: Identity | None = None,
        begins: bool = True,
    ) -> None:
        self.kernel, self.identity = kernel, identity
        self._sources = sources
        self.failures = 0
        self._clock, self._ids = clock, ids
        self._store: Store = MemoryStore() if store is None else store
        own = self._store if isinstance(self._store, MemoryStore) else None
        self._taking, self._plainly = (None if own is None else own.taking), (None if own is None else own.plainly)
        if begins:
            self.begin()
        # A log has to say on which histories a decision rests: then all of these are made with care.
        self._recall = own.recall if own is not None and kernel.watches and log is None else None
        self._gathered = local()
        self._counting = Lock()
        self.log = log
        self._tree = tree or tree_of(kernel)
        self._world = self._with(Directory() if directory is None else directory)
        self._as_it_is = ids is new_id and log is None  # what the quick way answers needs no more
        self._observer: Observer | None = None

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

    def _with(self, directory: Directory) -> World:
        evaluator = Evaluator(
            self.kernel,
            directory,
            tree=self._tree,
            now=counting(self._clock),
            taking=self._taking,
            recall=self._recall,
        )
        mark = self.log.directory(directory) if self.log is not None and len(directory) else b""
        # Bound once. An evaluation takes nothing of limits, and looks at how they stand with care.
        quick = evaluator.charging(self._charged, self._noted).__call__
        return World(directory, evaluator, quick, evaluator.quick.__call__, mark)

    def replace_directory(self, directory: Directory) -> None:
        """Decide by other entities from now on: at once, also while threads decide; each decision sees one directory.

        Raises LogError where there is a log that it cannot be written to; then the old one stays.
        """
        self._world = self._with(directory)

    @property
    def directory(self) -> Directory:
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

    def waits_for(self, question: Question | None = None) -> bool:
        """Whether a decision about it may wait: then for an issuer, too, whose credentials it brings."""
        if self.waits or self.identity is None or question is None:
            return self.waits
        return awaited(self.identity, question, int(self._clock().timestamp()))

    @cached_property
    def remote(self) -> bool:
        """Whether the store is beside this process, be it for nothing but keys."""
        return not isinstance(self._store, MemoryStore)

    @cached_property
    def keeps(self) -> bool:
        """Whether decisions depend on what came before: on limits, on approvals, or on history."""
        confirms = any(isinstance(one, Confirm) for guard in self.kernel.guards for one in guard.effects)
        return confirms or bool(self.kernel.limits) or bool(self.kernel.watches)

    def decide(self, question: Question) -> Decision:
        """Decide and spend: an allow uses up the approvals it needed. `options.consume: false` only peeks.

        Raises RequestError for an ill-formed question, and for one that sets `options.at` and would spend.
        """
        if self.identity is not None:
            question = self._identified(self.identity, question)
        if type(question) is dict:  # the way that most questions go: each call on it counts
            world = self._world
            try:
                quick = world.quick(question)
            except StoreError:  # it is asked again with care, which tells what is missing
                quick = None
            except Exception:
                return self._kept(question, self._failed(), b"decide", world.mark)
            if quick is not None:
                return quick if self._as_it_is else self._finished(question, quick, b"decide", world)
        request = no_identity(read(question))
        if not request.options.consume:
            return self._evaluate(request)
        made_now(request)
        return self._guarded(request, b"decide", self._spent)

    def decide_once(self, question: Question, once: Once) -> Accounted:
        """As `decide`, but accounted once, however often it is asked by this key: `again` gives the same decision.

        A failure is not kept. Where the store cannot say whether it was asked before, it is decided as without a key;
        where nothing is to be spent the key means nothing. Raises RequestError; KeyUnderWay, KeyUsed: nothing is
        decided.
        """
        if self.identity is not None:
            question = self._identified(self.identity, question)
        request = no_identity(read(question))
        if not request.options.consume:
            return Accounted(self._evaluate(request), False)
        made_now(request)
        claim = once.claim(self.revision, secrets.token_hex(8))
        try:
            found = self._store.claim(claim, microseconds(self._clock()))
        except StoreError:  # whoever guards the store tells the operator
            return Accounted(self._guarded(request, b"decide", self._spent), False)
        except Exception:
            return Accounted(self._kept(request, self._failed(), b"decide", self._world.mark), False)
        if found is not None:
            return Accounted(self._guarded(request, b"decide", partial(self._again, claim, found)), True)
        decision = self._guarded(request, b"decide", partial(self._spent, claim=claim))
        if decision.gate is Gate.FAILURE:
            with suppress(StoreError):
                self._store.release(claim, microseconds(self._clock()))
        return Accounted(decision, False)

    def evaluate(self, question: Question) -> Decision:
        """Decide without spending anything: asked again, the answer is the same. Raises RequestError.

        An allow that would spend bears the obligation `consume`: ask again by `decide` before acting on it.
        """
        if self.identity is not None:
            question = self._identified(self.identity, question)
        if type(question) is dict:
            world = self._world
            try:
                quick = world.peeking(question)
            except Exception:
                return self._kept(question, self._failed(), b"evaluate", world.mark)
            if quick is not None:
                return quick if self._as_it_is else self._finished(question, quick, b"evaluate", world)
        return self._evaluate(no_identity(read(question)))

    def identified(self, question: Question) -> Question:
        """The question with what its credentials prove, for who asks about it more than once: a proof counts once.
        Raises RequestError."""
        if self.identity is None or isinstance(question, Identified):
            return question
        found = self._identified(self.identity, question)
        return found if isinstance(found, Identified) else Identified(found)

    def _identified(self, identity: Identity, question: Question) -> Question:
        """Fails closed: whatever goes wrong is a refusal. Raises RequestError."""
        if isinstance(question, Identified):
            return question.question
        try:
            return identified(identity, question, int(self._clock().timestamp()))
        except RequestError:
            raise
        except Exception:
            with self._counting:
                self.failures += 1
            _LOG.exception("a credential could not be looked at, and was refused")
            return refused(read(question), Refusal.FAILURE)

    def _charged(self, answer: Answer, asker: Asker, stamp: Stamp, charges: tuple[Any, ...]) -> Decision | None:
        """An allow on the quick way, once the store has said how its limits stand."""
        decision = Decision(answer, asker, stamp)
        if not charges:
            return decision
        if self._plainly is not None and set(map(type, charges)) == ONLY_PLAIN:
            standings = self._plainly(charges, microsecond(stamp) * 1_000)
            return settled(decision, [meter.limited for meter, _ in charges], standings)
        limits = tuple(map(limited, charges))
        plain = all(isinstance(one.charge, Take) for one in limits)
        name = "" if plain else self._name(decision)  # of what may be given back
        effects = Effects(limits=limits)
        settling = self._store.commit(effects, name, microsecond(stamp))
        return None if settling is None else told_by(decision, effects, settling)

    def _noted(
        self,
        answer: Answer,
        asker: Asker,
        stamp: Stamp,
        charges: tuple[Any, ...],
        records: tuple[Record, ...],
        changes: int,
    ) -> Decision | None:
        """An allow on the quick way that is remembered, or rests on what is; None where that has changed."""
        assert isinstance(self._store, MemoryStore)
        decision = Decision(answer, asker, stamp)
        if not charges:
            name = self._name(decision) if any(one.awaits for one in records) else ""
            noted = self._store.note(records, name, microsecond(stamp), changes)
            return decision if noted else None
        effects = Effects(limits=tuple(map(limited, charges)), records=records)
        settling = self._store.commit(effects, self._name(decision), microsecond(stamp), changes=changes)
        return None if settling is None else told_by(decision, effects, settling)

    def _name(self, decision: Decision) -> str:
        """The id that a decision on the quick way is to have: its store knows it by that."""
        if self._ids is new_id:
            return decision.id
        name = self._ids(self._clock())
        self._gathered.named = decision.stamp, name
        return name

    def _finished(self, question: dict[str, object], quick: Decision, call: bytes, world: World) -> Decision:
        """What the quick way answered, under the id that it is to have, and on record."""
        stamp = quick.stamp
        if self._ids is not new_id:
            try:
                named, name = getattr(self._gathered, "named", (None, ""))
                quick = quick.with_id(name if named is stamp else self._ids(self._clock()))
            except Exception:
                return self._kept(question, self._failed(), call, world.mark)
        return self._kept(question, quick, call, world.mark, None if isinstance(stamp, str) else stamp[0])

    def _evaluate(self, request: Request) -> Decision:
        return self._guarded(request, b"evaluate", self._unspent)

    def _unspent(self, request: Request) -> Made:
        now = self._now(request)
        spent = self._store.spent_among(approval.id for approval in request.approvals)
        world = self._world
        decision, effects, past = self._answer(world, request, now, spent)
        return Made(self._peeked(decision, effects, now), now, spent, past=past, mark=world.mark)

    def _spent(self, request: Request, claim: Claim | None = None) -> Made:
        for _ in range(MOST_TRIES):
            now = self._clock()
            spent = self._store.spent_among(approval.id for approval in request.approvals)
            world = self._world
            decision, effects, past = self._answer(world, request, now, spent)
            if claim is not None:
                draft = drafted(decision, effects, spent, past, nanoseconds(now))
                effects = dataclasses.replace(effects, claim=claim._replace(draft=draft))
            if not effects:
                return Made(decision, now, spent, past=past, mark=world.mark)
            if (answer := self._store.commit(effects, decision.id, microseconds(now))) is not None:
                return Made(told_by(decision, effects, answer), now, spent, effects.spends, past, world.mark)
            if claim is not None and (found := self._store.claim(claim, microseconds(now))) is not None:
                return self._again(claim, found, request)  # somebody else was quicker
        raise RuntimeError(f"what it rests on was changed {MOST_TRIES} times while it was decided")

    def _again(self, claim: Claim, found: Found, request: Request) -> Made:
        """What was decided by the same key. Raises KeyUsed, KeyUnderWay."""
        if found.digest != claim.digest:
            raise KeyUsed("the key came with another question before")
        if found.draft is None or found.settled is None:
            raise KeyUnderWay("the same question is being decided")
        draft = draft_of(found.draft)
        made = EPOCH + timedelta(microseconds=draft.moment // 1_000)
        return Made(
            told(draft, found.settled), made, frozenset(draft.spent), draft.spends, draft.past, self._world.mark
        )

    def _answer(
        self, world: World, request: Request, now: datetime, spent: frozenset[str]
    ) -> tuple[Decision, Effects, bytes]:
        """The decision, its effects, and what the log says of the past and of the rows that it rests on."""
        looking, evaluator = world.directory.looking(), world.evaluator
        planned, told = self._planned(world, request, now, looking), b""
        if isinstance(planned, Needs):
            history = self._fetched(planned)
            snapshot = Snapshot(world.directory if looking is None else looking, spent, history)
            decision, effects = evaluator.resume(planned, snapshot, now)
            while looking is not None and looking.lacking:
                looking.fetch()
                decision, effects = evaluator.resume(planned, snapshot, now)
            told = self._past(evaluator, request, snapshot, now) if history and self.log is not None else b""
            relied = tuple((key, one.version) for key, one in history.items())
            planned = decision, dataclasses.replace(effects, relied=relied) if effects and relied else effects
        decision, effects = planned
        if looking is not None and looking.found and self.log is not None:
            told += self.log.looked_up(looking.found, looking.types)
        return decision.with_id(self._ids(now)), effects, told

    def _planned(
        self, world: World, request: Request, now: datetime, looking: Looking | None
    ) -> tuple[Decision, Effects] | Needs:
        """What the evaluator plans, once it knows the rows that it asks for: what these name may be asked for next."""
        planned = world.evaluator.plan(request, now, looking)
        while looking is not None and isinstance(planned, Needs) and planned.rows:
            looking.fetch()
            planned = world.evaluator.plan(request, now, looking)
        return planned

    def _past(self, evaluator: Evaluator, request: Request, snapshot: Snapshot, now: datetime) -> bytes:
        """Before anything is spent: what is reported later was not known."""
        assert self.log is not None
        part = evaluator.slices.of(request)
        return self.log.past(evaluator.slices.histories_in(part), facts_of(part, request, snapshot, now))

    def _fetched(self, needs: Needs) -> Mapping[WindowKey, History]:
        return self._store.fetch(needs.windows) if needs.windows else {}

    def _now(self, request: Request) -> datetime:
        return request.options.at or self._clock()

    def _guarded(self, request: Request, call: bytes, answer: Callable[[Request], Made]) -> Decision:
        """Fails closed: an exception inside is a deny that says so, and never more than that."""
        try:
            made = answer(request)
        except KeyProblem:
            raise
        except StoreError as error:
            return self._kept(request, self._unanswered(error), call, self._world.mark)
        except Exception:
            return self._kept(request, self._failed(), call, self._world.mark)
        if self.log is None and self._observer is None:
            return made.decision
        state = (
            b'"spent":%b,"spends":%b,' % (encode(sorted(made.spent)), encode(made.spends))
            if made.spent or made.spends
            else b""
        )
        return self._kept(request, made.decision, call, made.mark + state + made.past, nanoseconds(made.now))

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

    def _unanswered(self, error: StoreError) -> Decision:
        """A deny for a store that says nothing of what came before. Whoever guards the store tells the operator."""
        with self._counting:
            self.failures += 1
        _LOG.debug("a decision was denied: %s", error)
        return self._denied(f"what was spent and what happened is not known: {UNANSWERED}")

    def _denied(self, why: str) -> Decision:
        package, revision = self.kernel.package, self.kernel.revision
        named = new_id(datetime.now(UTC))
        return Decision.of(
            Outcome.DENY, Gate.FAILURE, (Reason(Gate.FAILURE, why),), package=package, revision=revision, id=named
        )

    def _peeked(self, decision: Decision, effects: Effects, now: datetime) -> Decision:
        """An allow that would have spent something must be asked for again, by `decide`, before it is acted on."""
        if effects.limits:
            told = self._store.commit(effects, decision.id, microseconds(now), peek=True)
            decision = decision if told is None else told_by(decision, effects, told)
        return to_consume(decision, effects)


def to_consume(decision: Decision, effects: Effects) -> Decision:
    """The decision of a look: what would be spent is to be asked for by `decide`."""
    if not decision.allowed or not effects:
        return decision
    rule = "approval" if effects.spends else effects.limits[0].name if effects.limits else "history"
    consume = Obligation("consume", (), rule, at="")
    answer = replace(decision.answer, obligations=(*decision.obligations, consume))
    return replace(decision, answer=answer)


def told_by(decision: Decision, effects: Effects, told: Settled) -> Decision:
    """The decision by what the store said, or did not say."""
    if told.failed is None:
        return settled(decision, effects.limits, told.standings)
    remembered = bool(effects.records or effects.relied)
    return unanswered(decision, effects.limits, approved=bool(effects.spends), remembered=remembered)
