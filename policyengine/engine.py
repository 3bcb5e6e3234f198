"""The engine: loads policies, decides, keeps what a decision spends. Its drivers fetch, decide and commit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from time import time_ns
from typing import TypeAlias, TypeVar

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
from policyengine.runtime.decision import Decision, Effects, Gate, Obligation, Outcome, Reason, serials, ulid
from policyengine.runtime.plan import Needs
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.semantics.check import compiled
from policyengine.semantics.explain import Explanation, endpoint_words, explain
from policyengine.semantics.kernel import Kernel
from policyengine.semantics.meaning import facts_of
from policyengine.semantics.reference import conclude, walk
from policyengine.source import Source
from policyengine.stores.memory import MemoryStore

Question: TypeAlias = Request | Mapping[str, object] | str | bytes
Clock: TypeAlias = Callable[[], datetime]
Answered = TypeVar("Answered", Decision, Decision | None)

_LOG = logging.getLogger("policyengine")


def utc_now() -> datetime:
    return datetime.now(UTC)


def new_id(now: datetime) -> str:
    """A ULID of that time."""
    return ulid(int(now.timestamp() * 1e9), next(serials))


class Engine:
    """Decides by one set of policies. Threads may share it; every method is quick and none blocks.

    A question is a Request, a mapping of its shape, or JSON as str or bytes (`docs/http-api.md` names the members).
    `clock` gives the current time (aware); `ids` makes a decision's id from it. Ill-formed questions raise
    RequestError; whatever else goes wrong inside a decision is a deny at gate `failure`, counted in `failures`, logged.
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
    ) -> None:
        self.kernel = kernel
        self._sources = sources
        self.failures = 0
        self._directory = Directory() if directory is None else directory
        self._clock, self._ids = clock, ids
        self._store = MemoryStore()
        now = time_ns if clock is utc_now else lambda: nanoseconds(self._clock())
        self._evaluator = Evaluator(kernel, self._directory, tree=tree, now=now)
        self._quick = self._evaluator.quick.__call__  # bound once
        self._counting = Lock()

    @classmethod
    def load(
        cls,
        *paths: Path | str,
        entities: Path | str | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
    ) -> Engine:
        """From files and folders of `.policy` files (tests in `*_test.policy` are left out).

        Raises PolicyError with every mistake found, EntitiesError when the file of entities cannot be used.
        """
        sources, problems = load_sources(paths, tests=False)
        directory = None if entities is None else read_directory(entities)
        return cls._checked(sources, problems, directory, clock, ids)

    @classmethod
    def from_text(
        cls,
        text: str,
        name: str = "policy.policy",
        *,
        directory: Directory | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
    ) -> Engine:
        """From the text of one policy; `name` is what messages and reasons call it.

        Raises PolicyError with every mistake found.
        """
        return cls._checked([Source(name, text)], (), directory, clock, ids)

    @classmethod
    def from_bundle(
        cls,
        path: Path | str,
        *,
        keys: Keys | None = None,
        entities: Path | str | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
    ) -> Engine:
        """From a file that `policyengine compile` wrote: the same answers, without parsing and checking.

        With `keys`, which are files of public Ed25519 keys or the bytes of such, one of them must have signed it. Rules
        are read when a decision first needs them; one that is not sound denies then, at gate `failure`.
        Raises PolicyError when the bundle cannot be used, EntitiesError when the file of entities cannot be used.
        """
        bundle = read_bundle(path, keys)
        directory = None if entities is None else read_directory(entities)
        return cls(bundle.kernel, directory=directory, clock=clock, ids=ids, tree=bundle.tree)

    @classmethod
    def _checked(
        cls,
        sources: Sequence[Source],
        problems: Sequence[Diagnostic],
        directory: Directory | None,
        clock: Clock,
        ids: Callable[[datetime], str],
    ) -> Engine:
        kernel, found = compiled(sources, problems)
        if kernel is None:
            raise PolicyError(found)
        return cls(kernel, sources=sources, directory=directory, clock=clock, ids=ids)

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
            except Exception:
                return self._failed()
            if quick is not None:
                return quick if self._ids is new_id else self._named(quick)
        request = _read(question)
        if not request.options.consume:
            return self._evaluate(request)
        if request.options.at is not None:
            raise RequestError("options.at", "a decision that spends is made now", "set `options.consume` to false")
        return self._guarded(lambda: self._spent(request))

    def evaluate(self, question: Question) -> Decision:
        """Decide without spending anything: asked again, the answer is the same. Raises RequestError.

        An allow that would spend bears the obligation `consume`: ask again by `decide` before acting on it.
        """
        if type(question) is dict and (quick := self._guarded(lambda: self._quick(question))) is not None:
            return quick if self._ids is new_id else self._named(quick)
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

    async def decide_async(self, question: Question) -> Decision:
        """`decide` for callers with an event loop."""
        return self.decide(question)

    async def evaluate_async(self, question: Question) -> Decision:
        """`evaluate` for callers with an event loop."""
        return self.evaluate(question)

    async def explain_async(self, question: Question) -> Explanation:
        """`explain` for callers with an event loop."""
        return self.explain(question)

    def _named(self, decision: Decision) -> Decision:
        return self._guarded(lambda: decision.with_id(self._ids(self._clock())))

    def _evaluate(self, request: Request) -> Decision:
        return self._guarded(lambda: self._peeked(*self._answer(request, self._now(request))))

    def _spent(self, request: Request) -> Decision:
        while True:
            decision, effects = self._answer(request, self._clock())
            if self._store.commit(effects):
                return decision

    def _explained(self, request: Request) -> Explanation:
        now, snapshot = self._now(request), self._snapshot(approval.id for approval in request.approvals)
        facts = facts_of(self.kernel, request, snapshot, now)
        seen = walk(facts, snapshot)
        decision, effects = conclude(facts, seen)
        return explain(self._peeked(decision.with_id(self._ids(now)), effects), facts, seen)

    def _answer(self, request: Request, now: datetime) -> tuple[Decision, Effects]:
        planned = self._evaluator.plan(request, now)
        if isinstance(planned, Needs):
            planned = self._evaluator.resume(planned, self._snapshot(planned.approvals), now)
        decision, effects = planned
        return decision.with_id(self._ids(now)), effects

    def _now(self, request: Request) -> datetime:
        return request.options.at or self._clock()

    def _guarded(self, answer: Callable[[], Answered]) -> Answered | Decision:
        """Fails closed: an exception inside is a deny that says so, and never more than that."""
        try:
            return answer()
        except Exception:
            return self._failed()

    def _failed(self) -> Decision:
        """A deny for an exception, counted and logged; it has an id even where the clock is what failed."""
        with self._counting:
            self.failures += 1
        place = place_of(sys.exc_info()[2])
        _LOG.exception("a decision failed and was denied%s", f", at {place}" if place else "")
        reason = Reason(Gate.FAILURE, "the engine failed while deciding; the operator's log says why")
        package, revision = self.kernel.package, self.kernel.revision
        named = new_id(datetime.now(UTC))
        return Decision.of(Outcome.DENY, Gate.FAILURE, (reason,), package=package, revision=revision, id=named)

    def _snapshot(self, approvals: Iterable[str]) -> Snapshot:
        return Snapshot(self._directory, self._store.spent_among(approvals))

    @staticmethod
    def _peeked(decision: Decision, effects: Effects) -> Decision:
        """An allow that would have spent something must be asked for again, by `decide`, before it is acted on."""
        if not effects.spends:
            return decision
        consume = Obligation("consume", (), rule="approval", at="")
        answer = replace(decision.answer, obligations=(*decision.obligations, consume))
        return replace(decision, answer=answer)


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
