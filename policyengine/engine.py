"""The engine: loads policies, decides, keeps what a decision spends. Its drivers fetch, decide and commit."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import sys
from asyncio import to_thread
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from threading import Lock, local
from time import time_ns
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from msgspec.json import encode
from msgspec.structs import replace

from policyengine.compiler.bundle import Keys, read_bundle
from policyengine.compiler.evaluator import Evaluator
from policyengine.compiler.reads import nanoseconds
from policyengine.compiler.show import place_of, show
from policyengine.compiler.tree import Tree
from policyengine.diagnostics import Diagnostic, PolicyError
from policyengine.directory.entities import Directory
from policyengine.directory.files import read_directory
from policyengine.loading import load_sources
from policyengine.runtime import wire
from policyengine.runtime.claims import Claim, Found, KeyProblem, KeyUnderWay, KeyUsed, Once
from policyengine.runtime.decision import (
    Answer,
    Asker,
    Decision,
    Effects,
    Gate,
    Obligation,
    Outcome,
    Reason,
    Stamp,
    serials,
    ulid,
)
from policyengine.runtime.history import History, Record, Report, Reported, WindowKey
from policyengine.runtime.limits import Settled, Take, limited
from policyengine.runtime.once import Accounted, drafted, read, told
from policyengine.runtime.plan import Needs
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.settling import UNANSWERED, settled, unanswered
from policyengine.runtime.snapshot import Snapshot
from policyengine.semantics.check import compiled
from policyengine.semantics.explain import Explanation, endpoint_words, explain
from policyengine.semantics.kernel import Confirm, Kernel
from policyengine.semantics.meaning import facts_of
from policyengine.semantics.reference import conclude, walk
from policyengine.source import Source
from policyengine.stores.memory import MemoryStore
from policyengine.stores.store import Asked, Committed, Store, StoreError

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

Question: TypeAlias = Request | Mapping[str, object] | str | bytes
Clock: TypeAlias = Callable[[], datetime]

_LOG = logging.getLogger("policyengine")
UNRECORDED = "the decision could not be recorded; the operator's log says why"


def utc_now() -> datetime:
    return datetime.now(UTC)


def new_id(now: datetime) -> str:
    """A ULID of that time."""
    return ulid(int(now.timestamp() * 1e9), next(serials))


MOST_TRIES = 100  # to decide again where another decision was quicker
ONLY_PLAIN = {tuple}  # a meter and a key: a charge in full is no bare tuple
MOST_WAITING = 1_024  # decisions that a store is asked for at once
NOT_ASKED = Settled((), 0)
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    """Since 1970, as stores count."""
    return (moment - EPOCH) // MICROSECOND


def microsecond(stamp: Stamp) -> int:
    """When a decision was made on the quick way."""
    assert not isinstance(stamp, str)
    return stamp[0] // 1_000


def counting(clock: Clock) -> Callable[[], int]:
    """The clock in nanoseconds since 1970. One that counts so itself, by `nanoseconds`, is spared a datetime."""
    if clock is utc_now:
        return time_ns
    own: Callable[[], int] | None = getattr(clock, "nanoseconds", None)
    return own or (lambda: nanoseconds(clock()))


class Made(NamedTuple):
    """A decision and what it depended on: the clock, and which of its approvals were spent before."""

    decision: Decision
    now: datetime
    spent: frozenset[str]
    spends: tuple[str, ...] = ()
    past: bytes = b""  # as the log has it


class Waiting(NamedTuple):
    """A decision that is made but for what its store will say: the place of its question among others, and when."""

    place: int
    question: dict[str, object] | Request
    asked: Asked
    decision: Decision
    moment: int | None
    call: bytes


class Engine:
    """Decides by one set of policies. Threads may share it; every method is quick, and none waits but for a `store`.

    A question is a Request, a mapping of its shape, or JSON as str or bytes (`docs/http-api.md` names the members).
    `clock` gives the current time (aware); `ids` makes a decision's id from it. Ill-formed questions raise
    RequestError; whatever else goes wrong inside a decision is a deny at gate `failure`, counted in `failures`, logged.
    With a `log` each decision is written there before it is given; `explain` decides nothing and is not. `store` keeps
    what decisions spend: the memory of this process, unless another is given (`docs/stores.md`).
    """

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
    ) -> None:
        self.kernel = kernel
        self._sources = sources
        self.failures = 0
        self._directory = Directory() if directory is None else directory
        self._clock, self._ids = clock, ids
        self._store: Store = MemoryStore() if store is None else store
        own = self._store if isinstance(self._store, MemoryStore) else None
        taking, self._plainly = (None if own is None else own.taking), (None if own is None else own.plainly)
        if kernel.watches:
            self._store.begin([one.event.watch for one in kernel.watches], microseconds(clock()))
        now = counting(clock)
        # A log has to say on which histories a decision rests: then all of these are made with care.
        recall = own.recall if own is not None and kernel.watches and log is None else None
        self._evaluator = Evaluator(kernel, self._directory, tree=tree, now=now, taking=taking, recall=recall)
        # Bound once. An evaluation takes nothing of limits, and looks at how they stand with care.
        self._quick = self._evaluator.charging(self._charged, self._noted).__call__
        self._peeking = self._evaluator.quick.__call__
        self._gathering, self._gathered = self._evaluator.charging(self._gather).__call__, local()
        self._counting = Lock()
        self.log = log
        self._world = log.directory(self._directory) if log is not None and len(self._directory) else b""
        self._as_it_is = ids is new_id and log is None  # what the quick way answers needs no more

    @classmethod
    def load(
        cls,
        *paths: Path | str,
        entities: Path | str | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
        log: DecisionLog | None = None,
        store: Store | None = None,
    ) -> Engine:
        """From files and folders of `.policy` files (tests in `*_test.policy` are left out).

        Raises PolicyError with every mistake found, EntitiesError when the file of entities cannot be used.
        """
        sources, problems = load_sources(paths, tests=False)
        directory = None if entities is None else read_directory(entities)
        return cls._checked(sources, problems, directory, clock, ids, log, store)

    @classmethod
    def from_text(
        cls,
        text: str,
        name: str = "policy.policy",
        *,
        directory: Directory | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
        log: DecisionLog | None = None,
        store: Store | None = None,
    ) -> Engine:
        """From the text of one policy; `name` is what messages and reasons call it.

        Raises PolicyError with every mistake found.
        """
        return cls._checked([Source(name, text)], (), directory, clock, ids, log, store)

    @classmethod
    def from_bundle(
        cls,
        path: Path | str,
        *,
        keys: Keys | None = None,
        entities: Path | str | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
        log: DecisionLog | None = None,
        store: Store | None = None,
    ) -> Engine:
        """From a file that `policyengine compile` wrote: the same answers, without parsing and checking.

        With `keys`, which are files of public Ed25519 keys or the bytes of such, one of them must have signed it. Rules
        are read when a decision first needs them; one that is not sound denies then, at gate `failure`.
        Raises PolicyError when the bundle cannot be used, EntitiesError when the file of entities cannot be used.
        """
        bundle = read_bundle(path, keys)
        directory = None if entities is None else read_directory(entities)
        return cls(bundle.kernel, directory=directory, clock=clock, ids=ids, tree=bundle.tree, log=log, store=store)

    @classmethod
    def _checked(
        cls,
        sources: Sequence[Source],
        problems: Sequence[Diagnostic],
        directory: Directory | None,
        clock: Clock,
        ids: Callable[[datetime], str],
        log: DecisionLog | None,
        store: Store | None,
    ) -> Engine:
        kernel, found = compiled(sources, problems)
        if kernel is None:
            raise PolicyError(found)
        return cls(kernel, sources=sources, directory=directory, clock=clock, ids=ids, log=log, store=store)

    @cached_property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """What the checker advises the author. Found when first asked for, which takes as long as loading did."""
        return compiled(self._sources, advice=True)[1]

    @property
    def revision(self) -> str:
        """`sha256:…`: the same for the same meaning, whatever the order of files and declarations."""
        return self.kernel.revision

    @property
    def package(self) -> str:
        """The package of the first policy that was asked for."""
        return self.kernel.package

    @property
    def packages(self) -> tuple[str, ...]:
        """Every package that is loaded: the rules of each of them apply."""
        return self.kernel.packages

    def generated_code(self) -> str:
        """The code that decides, as it was generated from the policies: each line beside the policy line it is for."""
        return show(self._evaluator)

    @cached_property
    def shares(self) -> bool:
        """Whether there is state to keep, and a store beside this process keeps it: a caller may wait for it."""
        return self.keeps and self.remote

    @cached_property
    def remote(self) -> bool:
        """Whether the store is beside this process, be it for nothing but keys."""
        return not isinstance(self._store, MemoryStore)

    @cached_property
    def keeps(self) -> bool:
        """Whether decisions depend on what came before: on limits, on approvals, or on history."""
        confirms = any(isinstance(one, Confirm) for guard in self.kernel.guards for one in guard.effects)
        return confirms or bool(self.kernel.limits) or bool(self.kernel.watches)

    def store_failure(self) -> str | None:
        """Asks the store; what is wrong with it, if something is."""
        try:
            self._store.spent_among(("",))
        except StoreError as error:
            return str(error)
        return None

    @property
    def directory(self) -> Directory:
        """The entities that the policies ask about; those that come with a request are not among them."""
        return self._directory

    def decide(self, question: Question) -> Decision:
        """Decide and spend: an allow uses up the approvals it needed. `options.consume: false` only peeks.

        Raises RequestError for an ill-formed question, and for one that sets `options.at` and would spend.
        """
        if type(question) is dict:  # the way that most questions go: each call on it counts
            try:
                quick = self._quick(question)
            except StoreError:  # it is asked again with care, which tells what is missing
                quick = None
            except Exception:
                return self._kept(question, self._failed(), b"decide")
            if quick is not None:
                return quick if self._as_it_is else self._finished(question, quick, b"decide")
        request = _read(question)
        if not request.options.consume:
            return self._evaluate(request)
        _made_now(request)
        return self._guarded(request, b"decide", self._spent)

    def decide_once(self, question: Question, once: Once) -> Accounted:
        """As `decide`, but accounted once, however often it is asked by this key: `again` gives the same decision.

        A failure is not kept. Where the store cannot say whether it was asked before, it is decided as without a key;
        where nothing is to be spent the key means nothing. Raises RequestError; KeyUnderWay, KeyUsed: nothing is
        decided.
        """
        request = _read(question)
        if not request.options.consume:
            return Accounted(self._evaluate(request), False)
        _made_now(request)
        claim = once.claim(self.revision, secrets.token_hex(8))
        try:
            found = self._store.claim(claim, microseconds(self._clock()))
        except StoreError:  # whoever guards the store tells the operator
            return Accounted(self._guarded(request, b"decide", self._spent), False)
        except Exception:
            return Accounted(self._kept(request, self._failed(), b"decide"), False)
        if found is not None:
            return Accounted(self._guarded(request, b"decide", partial(self._again, claim, found)), True)
        decision = self._guarded(request, b"decide", partial(self._spent, claim=claim))
        if decision.gate is Gate.FAILURE:
            with suppress(StoreError):
                self._store.release(claim, microseconds(self._clock()))
        return Accounted(decision, False)

    def decide_many(self, questions: Sequence[Question]) -> list[Decision | RequestError]:
        """Each as `decide` says, in their order, also where they count together: a shared store is asked for many at
        once. What is no question is answered by its error."""
        answers: list[Decision | RequestError] = []
        waiting: list[Waiting] = []
        for place, question in enumerate(questions):
            try:
                found = self._prepared(place, question) if self.shares else None
                if found is None:  # what came before may matter
                    self._settle(waiting, answers)
                    answers.append(self.decide(question))
                elif isinstance(found, Waiting):
                    waiting.append(found)
                    answers.append(found.decision)
                else:
                    answers.append(found)
            except RequestError as error:
                answers.append(error)
            if len(waiting) == MOST_WAITING:
                self._settle(waiting, answers)
        self._settle(waiting, answers)
        return answers

    def evaluate(self, question: Question) -> Decision:
        """Decide without spending anything: asked again, the answer is the same. Raises RequestError.

        An allow that would spend bears the obligation `consume`: ask again by `decide` before acting on it.
        """
        if type(question) is dict:
            try:
                quick = self._peeking(question)
            except Exception:
                return self._kept(question, self._failed(), b"evaluate")
            if quick is not None:
                return quick if self._as_it_is else self._finished(question, quick, b"evaluate")
        return self._evaluate(_read(question))

    def explain(self, question: Question) -> Explanation:
        """The decision that `evaluate` gives, with the whole walk: every rule considered and why.

        Raises RequestError.
        """
        request = _read(question)
        try:
            return self._explained(request)
        except Exception:
            return Explanation(self._failed(), endpoint_words(request.endpoint), ())

    def report(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Mapping[str, object] | None = None,
        refund: bool = False,
    ) -> bool:
        """How the request of a decision (its id) came out: once, by whoever asked for the decision.

        `past.status` and `past.output.*` of it are known from now on, places that it held are free, and with `refund`
        what it added to budgets is given back. False where nothing waits for it: not known, or reported before.
        """
        return self.reported(decision, Report(status, cleaned(output)), refund=refund) == "first"

    def reported(self, decision: str, report: Report, *, refund: bool = False) -> Reported | None:
        """As `report`, and tells whether it was reported before or waits for nothing (None). Raises StoreError."""
        now = microseconds(self._clock())
        told = self._store.report(decision, report, now)
        if told == "again":
            return told
        finished = self._store.finish(decision, now, refund=refund)
        return "first" if finished else told

    async def decide_async(self, question: Question) -> Decision:
        """`decide` for callers with an event loop."""
        return await to_thread(self.decide, question) if self.shares else self.decide(question)

    async def evaluate_async(self, question: Question) -> Decision:
        """`evaluate` for callers with an event loop."""
        return await to_thread(self.evaluate, question) if self.shares else self.evaluate(question)

    async def explain_async(self, question: Question) -> Explanation:
        """`explain` for callers with an event loop."""
        return await to_thread(self.explain, question) if self.shares else self.explain(question)

    async def report_async(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Mapping[str, object] | None = None,
        refund: bool = False,
    ) -> bool:
        """`report` for callers with an event loop."""
        told = partial(self.report, decision, status=status, latency_ms=latency_ms, output=output, refund=refund)
        return await to_thread(told) if self.shares else told()

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
        return None if settling is None else _told(decision, effects, settling)

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
        return None if settling is None else _told(decision, effects, settling)

    def _name(self, decision: Decision) -> str:
        """The id that a decision on the quick way is to have: its store knows it by that."""
        if self._ids is new_id:
            return decision.id
        name = self._ids(self._clock())
        self._gathered.named = decision.stamp, name
        return name

    def _gather(self, answer: Answer, asker: Asker, stamp: Stamp, charges: tuple[Any, ...]) -> Decision:
        """An allow on the quick way, before anybody asked the store."""
        self._gathered.charges = charges
        return Decision(answer, asker, stamp)

    def _prepared(self, place: int, question: Question) -> Waiting | Decision | None:
        """The decision, or what it waits for; None where it rests on what the store knows. Raises RequestError."""
        try:
            if type(question) is dict and self._ids is new_id:
                self._gathered.charges = ()
                quick = self._gathering(question)
                if quick is not None:
                    limits, name = tuple(map(limited, self._gathered.charges)), ""
                    for one in limits:
                        if type(one.charge) is not Take:
                            name = quick.id
                    return Waiting(place, question, Asked(Effects(limits=limits), name), quick, None, b"decide")
            request = _read(question)
            spends, now = request.options.consume, self._clock()
            planned = self._evaluator.plan(request, now)
            if isinstance(planned, Needs) or request.options.at is not None:
                return None
            decision = planned[0].with_id(self._ids(now))
            asked = Asked(planned[1], decision.id, not spends)
            return Waiting(place, request, asked, decision, nanoseconds(now), b"decide" if spends else b"evaluate")
        except RequestError:
            raise
        except Exception:
            return None  # to fail once more, where it is told

    def _settle(self, waiting: list[Waiting], answers: list[Decision | RequestError]) -> None:
        """The answers to those that wait, by what the store says of all of them."""
        asking = [one for one in waiting if one.asked.effects.limits or (one.asked.effects and not one.asked.peek)]
        told: list[Committed] = []
        try:
            told += (
                self._store.commit_many([one.asked for one in asking], microseconds(self._clock())) if asking else ()
            )
        except StoreError as error:
            told += [error] * len(asking)
        settling = {one.place: answer for one, answer in zip(asking, told, strict=True)}
        for one in waiting:
            answers[one.place] = self._settled(one, settling.get(one.place, NOT_ASKED))
        waiting.clear()

    def _settled(self, one: Waiting, answer: Committed) -> Decision:
        question, (effects, _, peek), decision, call = one.question, one.asked, one.decision, one.call
        if answer is None:  # another was quicker
            return self.decide(question)
        if isinstance(answer, StoreError):
            return self._kept(question, self._unanswered(answer), call)
        decision = decision if answer is NOT_ASKED else _told(decision, effects, answer)
        if isinstance(question, dict):
            return decision if self._as_it_is else self._finished(question, decision, call)
        return self._kept(question, _to_consume(decision, effects) if peek else decision, call, one.moment)

    def _finished(self, question: dict[str, object], quick: Decision, call: bytes) -> Decision:
        """What the quick way answered, under the id that it is to have, and on record."""
        stamp = quick.stamp
        if self._ids is not new_id:
            try:
                named, name = getattr(self._gathered, "named", (None, ""))
                quick = quick.with_id(name if named is stamp else self._ids(self._clock()))
            except Exception:
                return self._kept(question, self._failed(), call)
        return self._kept(question, quick, call, None if isinstance(stamp, str) else stamp[0])

    def _evaluate(self, request: Request) -> Decision:
        return self._guarded(request, b"evaluate", self._unspent)

    def _unspent(self, request: Request) -> Made:
        now = self._now(request)
        spent = self._store.spent_among(approval.id for approval in request.approvals)
        decision, effects, past = self._answer(request, now, spent)
        return Made(self._peeked(decision, effects, now), now, spent, past=past)

    def _spent(self, request: Request, claim: Claim | None = None) -> Made:
        for _ in range(MOST_TRIES):
            now = self._clock()
            spent = self._store.spent_among(approval.id for approval in request.approvals)
            decision, effects, past = self._answer(request, now, spent)
            if claim is not None:
                draft = drafted(decision, effects, spent, past, nanoseconds(now))
                effects = dataclasses.replace(effects, claim=claim._replace(draft=draft))
            if not effects:
                return Made(decision, now, spent, past=past)
            if (answer := self._store.commit(effects, decision.id, microseconds(now))) is not None:
                return Made(_told(decision, effects, answer), now, spent, effects.spends, past)
            if claim is not None and (found := self._store.claim(claim, microseconds(now))) is not None:
                return self._again(claim, found, request)  # somebody else was quicker
        raise RuntimeError(f"what it rests on was changed {MOST_TRIES} times while it was decided")

    def _again(self, claim: Claim, found: Found, request: Request) -> Made:
        """What was decided by the same key. Raises KeyUsed, KeyUnderWay."""
        if found.digest != claim.digest:
            raise KeyUsed("the key came with another question before")
        if found.draft is None or found.settled is None:
            raise KeyUnderWay("the same question is being decided")
        draft = read(found.draft)
        made = EPOCH + timedelta(microseconds=draft.moment // 1_000)
        return Made(told(draft, found.settled), made, frozenset(draft.spent), draft.spends, draft.past)

    def _explained(self, request: Request) -> Explanation:
        spent = self._store.spent_among(approval.id for approval in request.approvals)
        now = self._now(request)
        planned = self._evaluator.plan(request, now) if self.kernel.watches else None
        snapshot = Snapshot(self._directory, spent, self._fetched(planned) if isinstance(planned, Needs) else {})
        facts = facts_of(self.kernel, request, snapshot, now)
        seen = walk(facts, snapshot)
        decision, effects = conclude(facts, seen)
        return explain(self._peeked(decision.with_id(self._ids(now)), effects, now), facts, seen)

    def _answer(self, request: Request, now: datetime, spent: frozenset[str]) -> tuple[Decision, Effects, bytes]:
        """The decision, its effects, and what the log says of the past that it rests on."""
        planned, past = self._evaluator.plan(request, now), b""
        if isinstance(planned, Needs):
            history = self._fetched(planned)
            snapshot = Snapshot(self._directory, spent, history)
            past = self._past(request, snapshot, now) if history and self.log is not None else b""
            decision, effects = self._evaluator.resume(planned, snapshot, now)
            relied = tuple((key, one.version) for key, one in history.items())
            planned = decision, dataclasses.replace(effects, relied=relied) if effects and relied else effects
        decision, effects = planned
        return decision.with_id(self._ids(now)), effects, past

    def _past(self, request: Request, snapshot: Snapshot, now: datetime) -> bytes:
        """Before anything is spent: what is reported later was not known."""
        assert self.log is not None
        part = self._evaluator.slices.of(request)
        return self.log.past(self._evaluator.slices.histories_in(part), facts_of(part, request, snapshot, now))

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
            return self._kept(request, self._unanswered(error), call)
        except Exception:
            return self._kept(request, self._failed(), call)
        if self.log is None:
            return made.decision
        state = (
            b'"spent":%b,"spends":%b,' % (encode(sorted(made.spent)), encode(made.spends))
            if made.spent or made.spends
            else b""
        )
        return self._kept(request, made.decision, call, nanoseconds(made.now), state + made.past)

    def _kept(
        self,
        question: dict[str, object] | Request,
        decision: Decision,
        call: bytes,
        moment: int | None = None,
        state: bytes = b"",
    ) -> Decision:
        """The decision, once it is on record; a deny where it could not be, unless the operator lets it pass.

        Without a `moment` it failed, and this is when.
        """
        log = self.log
        if log is None or log.keep(decision, moment or time_ns(), call, self._world + state, question):
            return decision
        return self._denied(UNRECORDED)

    def _failed(self) -> Decision:
        """A deny for an exception, counted and logged; it has an id even where the clock is what failed."""
        with self._counting:
            self.failures += 1
        place = place_of(sys.exc_info()[2])
        _LOG.exception("a decision failed and was denied%s", f", at {place}" if place else "")
        return self._denied("the engine failed while deciding; the operator's log says why")

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
            decision = decision if told is None else _told(decision, effects, told)
        return _to_consume(decision, effects)


def _to_consume(decision: Decision, effects: Effects) -> Decision:
    """The decision of a look: what would be spent is to be asked for by `decide`."""
    if not decision.allowed or not effects:
        return decision
    rule = "approval" if effects.spends else effects.limits[0].name if effects.limits else "history"
    consume = Obligation("consume", (), rule, at="")
    answer = replace(decision.answer, obligations=(*decision.obligations, consume))
    return replace(decision, answer=answer)


def _told(decision: Decision, effects: Effects, told: Settled) -> Decision:
    """The decision by what the store said, or did not say."""
    if told.failed is None:
        return settled(decision, effects.limits, told.standings)
    remembered = bool(effects.records or effects.relied)
    return unanswered(decision, effects.limits, approved=bool(effects.spends), remembered=remembered)


def _made_now(request: Request) -> None:
    if request.options.at is not None:
        raise RequestError("options.at", "a decision that spends is made now", "set `options.consume` to false")


def cleaned(output: Mapping[str, object] | None) -> Mapping[str, object]:
    """An output as facts are read: exact numbers, and nothing hazardous."""
    found = wire.from_python(output or {})
    if not isinstance(found, dict):
        raise RequestError("output", "an output is an object")
    return found


def _read(question: Question) -> Request:
    match question:
        case Request():
            return question
        case str() | bytes():
            return Request.from_json(question)
        case Mapping():
            return Request.from_mapping(question)
        case _:
            raise RequestError("", f"a question is a mapping or JSON, not {type(question).__name__}")
