"""The engine: loads policies, decides, keeps what a decision spends, and explains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from policyengine.check import compile_sources
from policyengine.compiler.bundle.file import Keys, read_bundle
from policyengine.compiler.show import show
from policyengine.compiler.tree import Tree
from policyengine.diagnostics.model import Diagnostic, PolicyError
from policyengine.engine.authenticate import reject_raw_credentials
from policyengine.engine.batch import Batching
from policyengine.engine.observe_mode import Observe, Observer
from policyengine.engine.request_input import (
    MICROSECOND,
    Clock,
    QuestionLike,
    microseconds,
    new_id,
    normalize_facts,
    parse_request,
    plain_question,
    utc_now,
)
from policyengine.entities.sources import EntitySources, SourcesArgument
from policyengine.entities.store import EntityStore
from policyengine.executor import run_in_thread, run_in_turn
from policyengine.explain.explanation import Explanation, endpoint_words, explain
from policyengine.identity.factory import IdentitySource, create_authenticator
from policyengine.kernel import Kernel
from policyengine.policy_files import load_sources
from policyengine.runtime.caller import SEPARATOR, outcome_key
from policyengine.runtime.decision import Decision
from policyengine.runtime.history import OutcomeReport, ReportStatus, merge_reports
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.source import Source
from policyengine.spec.evaluate import build_facts
from policyengine.spec.reference import conclude, trace_request
from policyengine.stores.base import Store, StoreError
from policyengine.stores.resilient_store import ResilientStore

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

T = TypeVar("T")


class Engine(Batching):
    """Decides by one set of policies. Threads may share it; every method is quick, and none waits but for a `store`,
    or for rows of the directory that are looked up.

    A question is a Request, a mapping of its shape, or JSON as str or bytes (`docs/http-api.md` names the members).
    `clock` gives the current time (aware); `ids` makes a decision's id from it. Ill-formed questions raise
    RequestError; whatever else goes wrong inside a decision is a deny at gate `failure`, counted in `failures`, logged.
    With a `log` each decision is written there before it is given; `explain` decides nothing and is not. `store` keeps
    what decisions spend: the memory of this process, unless another is given (`docs/stores.md`).
    """

    @classmethod
    def load(
        cls,
        *paths: Path | str,
        entities: SourcesArgument | None = None,
        identity: IdentitySource | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
        log: DecisionLog | None = None,
        store: Store | None = None,
    ) -> Engine:
        """From files and folders of `.policy` files (tests in `*_test.policy` are left out).

        `entities` say who is who: JSON, JSON Lines, CSV, a folder of these tables, a database, or a list of such
        (`docs/entities.md`). With `identity`, which is an `identity.toml`, raw credentials are verified
        (`docs/identity.md`). Raises PolicyError with every mistake found, EntitiesError when entities cannot be used,
        IdentityError where `identity` cannot.
        """
        sources, problems = load_sources(paths, tests=False)
        return cls._checked(sources, problems, entities, identity, clock, ids, log, store)

    @classmethod
    def from_text(
        cls,
        text: str,
        name: str = "policy.policy",
        *,
        directory: EntityStore | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
        log: DecisionLog | None = None,
        store: Store | None = None,
    ) -> Engine:
        """From the text of one policy; `name` is what messages and reasons call it.

        Raises PolicyError with every mistake found.
        """
        kernel = cls._compiled([Source(name, text)], ())
        return cls(
            kernel, sources=[Source(name, text)], directory=directory, clock=clock, ids=ids, log=log, store=store
        )

    @classmethod
    def from_bundle(
        cls,
        path: Path | str,
        *,
        keys: Keys | None = None,
        entities: SourcesArgument | None = None,
        identity: IdentitySource | None = None,
        clock: Clock = utc_now,
        ids: Callable[[datetime], str] = new_id,
        log: DecisionLog | None = None,
        store: Store | None = None,
    ) -> Engine:
        """From a file that `policyengine compile` wrote: the same answers, without parsing and checking.

        With `keys`, which are files of public Ed25519 keys or the bytes of such, one of them must have signed it. Rules
        are read when a decision first needs them; one that is not sound denies then, at gate `failure`.
        Raises PolicyError when the bundle cannot be used, EntitiesError and IdentityError as `load` does.
        """
        bundle = read_bundle(path, keys)
        directory = None if entities is None else EntitySources.of(entities).read(bundle.kernel.entities)
        found = cls(bundle.kernel, directory=directory, clock=clock, ids=ids, tree=bundle.tree, log=log, store=store)
        return found.verifying(identity)

    def successor(
        self,
        kernel: Kernel,
        *,
        directory: EntityStore | None = None,
        tree: Tree | None = None,
        sources: Sequence[Source] = (),
    ) -> Engine:
        """Other policies, and other rows, on the same store, clock and log. It records no history before it is told to
        `begin`: that is for when it decides, and this one does not. It observes as this one does, until the same end.
        Raises LogError where its rows cannot be logged, ObserveError where it has no such package as is observed,
        IdentityError where its issuers cannot be used.
        """
        found = type(self)(
            kernel, sources=sources, directory=self.directory if directory is None else directory, tree=tree,
            clock=self._clock, ids=self._ids, log=self.log, store=self._store, begins=False,
        )  # fmt: skip
        if self._observer is not None and self._observer.observing:
            found._observer, found._as_it_is = self._observer.successor(kernel), False
        found.identity = None if self.identity is None else self.identity.successor(kernel)
        return found

    @classmethod
    def _checked(
        cls,
        sources: Sequence[Source],
        problems: Sequence[Diagnostic],
        entities: SourcesArgument | None,
        identity: IdentitySource | None,
        clock: Clock,
        ids: Callable[[datetime], str],
        log: DecisionLog | None,
        store: Store | None,
    ) -> Engine:
        kernel = cls._compiled(sources, problems)
        directory = None if entities is None else EntitySources.of(entities).read(kernel.entities)
        found = cls(kernel, sources=sources, directory=directory, clock=clock, ids=ids, log=log, store=store)
        return found.verifying(identity)

    def verifying(self, identity: IdentitySource | None) -> Self:
        """From now on it verifies raw credentials. Raises IdentityError."""
        if identity is not None:
            self.identity = create_authenticator(identity, self.kernel, self._store, lambda: self._clock().timestamp())
        return self

    @staticmethod
    def _compiled(sources: Sequence[Source], problems: Sequence[Diagnostic]) -> Kernel:
        kernel, found = compile_sources(sources, problems)
        if kernel is None:
            raise PolicyError(found)
        return kernel

    @cached_property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """What the checker advises the author. Found when first asked for, which takes as long as loading did."""
        return compile_sources(self._sources, advice=True)[1]

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
        return show(self._world.evaluator)

    def observe(self, wanted: Observe) -> None:
        """From now on report what these policies would do and let through what they would stop, until `wanted.until`:
        `docs/observe.md` says what never is. Before anybody asks. Raises ObserveError."""
        self._observer, self._as_it_is = Observer(wanted, self.kernel, self._clock), False

    @property
    def observing(self) -> Observe | None:
        """What is observed rather than enforced, and until when; None where everything is enforced."""
        return self._observer.wanted if self._observer is not None and self._observer.observing else None

    @property
    def observed(self) -> Mapping[str, int]:
        """How many answers passed while it observed, by the outcome that they would have had."""
        return {} if self._observer is None else dict(self._observer.counts)

    def store_failure(self) -> str | None:
        """Reads the store and writes to it; what is wrong with it, in words for callers, if something is."""
        try:
            self._store.check(microseconds(self._clock()))
        except StoreError as error:
            return error.reason
        return None

    @property
    def clock_skew(self) -> timedelta | None:
        """How far the clock of the store is ahead of this one, as it told when it last answered; None where it has none
        of its own, or told nothing yet."""
        offset = self._store.skew.offset if isinstance(self._store, ResilientStore) else None
        return None if offset is None else offset * MICROSECOND

    def directory_failure(self) -> str | None:
        """Asks where rows are looked up; what is wrong there, if something is."""
        lookups = self.directory.lookups
        return None if lookups is None else lookups.failure()

    def explain(self, question: QuestionLike) -> Explanation:
        """The decision that `evaluate` gives, with the whole walk: every rule considered and why.

        Raises RequestError.
        """
        question = plain_question(question)
        if self.identity is not None:
            question = self._identified(self.identity, question)
        request = reject_raw_credentials(parse_request(question))
        try:
            return self._explained(request)
        except StoreError as error:
            return Explanation(self._unanswered(error), endpoint_words(request.endpoint), ())
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
        """How the request of a decision (its id) came out: once, by the caller that asked for the decision.

        `past.status` and `past.output.*` of it are known from now on, places that it held are free, and with `refund`
        what it added to budgets is given back. False where nothing waits for it: not known, or reported before.
        """
        return self.reported(decision, OutcomeReport(status, normalize_facts(output)), refund=refund) == "first"

    def reported(self, decision: str, report: OutcomeReport, *, refund: bool = False) -> ReportStatus | None:
        """As `report`, and tells whether it was reported before or waits for nothing (None): the decision of another
        caller waits for nothing. Raises StoreError."""
        if SEPARATOR in decision:  # it would name the decision of another caller
            return None
        key, now = outcome_key(decision), microseconds(self._clock())
        told = self._store.report(key, report, now)
        # Also where history knew before: a report of which only the first half arrived is made again.
        return merge_reports(told, self._store.finish(key, now, refund=refund))

    async def proved_async(self, facts: Mapping[str, object]) -> Mapping[str, object]:
        """`proved` for callers with an event loop."""
        return await run_in_thread(self.proved, facts) if self.waits_for(facts) else self.proved(facts)

    async def decide_async(self, question: QuestionLike) -> Decision:
        """`decide` for callers with an event loop."""
        return await self._apart(self.decide, question)

    async def evaluate_async(self, question: QuestionLike) -> Decision:
        """`evaluate` for callers with an event loop."""
        return await self._apart(self.evaluate, question)

    async def explain_async(self, question: QuestionLike) -> Explanation:
        """`explain` for callers with an event loop."""
        return await self._apart(self.explain, question)

    async def _apart(self, ask: Callable[[QuestionLike], T], question: QuestionLike) -> T:
        """In a thread where somebody else is asked or it takes long, so that an event loop does not wait for it."""
        question = plain_question(question)
        if self.takes_long(question):
            return await run_in_turn(ask, question)
        return await run_in_thread(ask, question) if self.waits_for(question) else ask(question)

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
        return await run_in_thread(told) if self.shares else told()

    def _explained(self, request: Request) -> Explanation:
        spent = self._store.spent_among(approval.id for approval in request.approvals)
        now = self._now(request)
        world = self._world
        looking = world.directory.looking()
        needs = self.kernel.watches or looking is not None
        planned = self._planned(world, request, now, looking) if needs else None
        history = self._fetched(planned) if isinstance(planned, Needs) else {}
        snapshot = Snapshot(world.directory if looking is None else looking, spent, history)
        facts = build_facts(self.kernel, request, snapshot, now)
        seen = trace_request(facts, snapshot)
        while looking is not None and looking.lacking:  # it visits every rule, and needs more than a decision does
            looking.fetch()
            facts = build_facts(self.kernel, request, snapshot, now)
            seen = trace_request(facts, snapshot)
        decision, effects = conclude(facts, seen)
        return explain(self._peeked(decision.with_id(self._ids(now)), effects, now), facts, seen)
