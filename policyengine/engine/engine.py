"""The engine: a facade over authenticator, decider and recorder, with functions that create and describe an engine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Self, Unpack

from policyengine.approvals.settings import DEFAULT_APPROVAL_SETTINGS
from policyengine.check import compile_sources
from policyengine.clock import Clock, utc_now
from policyengine.compiler.bundle.file import Keys, read_bundle
from policyengine.compiler.endpoint_patterns import EndpointPatterns
from policyengine.compiler.tree import Tree, tree_of
from policyengine.diagnostics.model import Diagnostic, PolicyError
from policyengine.engine.authenticate import Authenticator, reject_raw_credentials
from policyengine.engine.batch import BatchDecider
from policyengine.engine.decider import Decider, WouldBlockError
from policyengine.engine.guarded_decider import GuardedDecider
from policyengine.engine.idempotency import IdempotentDecider
from policyengine.engine.observe_mode import Observe, Observer
from policyengine.engine.options import EngineOptions, reject_unknown_options
from policyengine.engine.outcomes import OutcomeReporter
from policyengine.engine.question import (
    Question,
    QuestionLike,
    new_id,
    normalize_facts,
    reject_chosen_time,
)
from policyengine.engine.record_group import RecordGroup
from policyengine.engine.record_subject import SubjectReader
from policyengine.engine.recorder import DecisionRecorder
from policyengine.engine.state_use import StateUse
from policyengine.engine.wait_forecast import UNKNOWN_SIZE, WaitForecast
from policyengine.entities.sources import EntitySources, SourcesArgument
from policyengine.entities.store import EntityStore
from policyengine.executor import run_in_thread
from policyengine.explain.endpoint_words import endpoint_words
from policyengine.explain.explanation import Explanation
from policyengine.halts.control import HaltControl
from policyengine.halts.document import HaltLift
from policyengine.halts.requests import HaltScope, check_known_names, check_lift_reason, make_halt
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.factory import IdentitySource, create_authenticator
from policyengine.kernel import Kernel
from policyengine.policy_files import load_sources
from policyengine.runtime.decision import Decision
from policyengine.runtime.halts import Halt
from policyengine.runtime.history import OutcomeReport, ReportStatus
from policyengine.runtime.idempotency import IdempotencyKey, IdempotencyKeyError
from policyengine.runtime.idempotent_decision import IdempotentDecision
from policyengine.runtime.request import NO_OPTIONS, Request, RequestError, read_ordinary_request
from policyengine.source import Source
from policyengine.stores.base import Store, StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog
    from policyengine.behavior.shared import SharedTracker
    from policyengine.behavior.tracker import BehaviorTracker
    from policyengine.compiler.description.model import ProgramDescription
    from policyengine.engine.approval_desk import ApprovalDesk
    from policyengine.engine.condition_watch import ConditionWatch


class Engine:
    """Decides with one set of policies. Threads may share it.

    A method waits only for the store, for an issuer of credentials, and for entities that are looked up. Malformed
    questions raise RequestError; every other error inside a decision is a deny at gate `failure`, counted in `failures`
    and logged. A question is a Request, a mapping of the same shape, or JSON as str or bytes (`docs/http-api.md` lists
    the members). `explain` spends and records nothing. Options: `EngineOptions`.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        sources: Sequence[Source] = (),
        directory: EntityStore | None = None,
        tree: Tree | None = None,
        identity: CredentialAuthenticator | None = None,
        starts_history: bool = True,
        halting: HaltControl | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        reject_unknown_options(Engine.__init__, options)
        clock, ids = options.get("clock", utc_now), options.get("ids", new_id)
        store: Store = options.get("store") or MemoryStore()
        if isinstance(store, str):
            raise TypeError(
                "`store` must be a store, not a URL: `open_store(URL)` of `policyengine.stores.url` opens it"
            )
        self.kernel, self._sources = kernel, sources
        self.recorder = DecisionRecorder(kernel, options.get("log"))
        entities = EntityStore(loaded=False) if directory is None else directory
        self.halting = halting or create_halting(store, options.get("halt_file"), clock)
        tree = tree or tree_of(kernel)
        self.approval_settings = options.get("approvals") or DEFAULT_APPROVAL_SETTINGS
        self.decider = Decider(
            kernel, tree, entities, store, self.recorder, self.halting, clock=clock, ids=ids,
            approvals=self.approval_settings,
        )  # fmt: skip
        if isinstance(store, ResilientStore):
            store.follow(lambda: self.decider.nanoseconds() // 1_000)
        self._guarded = GuardedDecider(self.decider, self.recorder)
        self._outcomes = OutcomeReporter(kernel, store, self.log, self.decider.now)
        self._watch_failures(store, entities)
        if self.log is not None:
            self.halting.log = self.log.system.write
            program, patterns = self.decider.compiled.evaluator.program, self._patterns
            self.recorder.subjects = SubjectReader(program, patterns, lambda: self.decider.compiled.entities, self.log)
        self.use_behavior(options.get("behavior"))
        self._idempotent = IdempotentDecider(self.decider, self._guarded.decide, self._authenticated_request)
        self._batch = BatchDecider(self, self._guarded)
        self.directory_lock = RLock()
        # For a successor, the entity store of its predecessor, until the successor takes over.
        self.preceding_directory: EntityStore | None = None
        self.use_identity(identity)
        if starts_history:
            self.state.start_history(self.decider.now)

    # ── Constructors ──────────────────────────────────────────────────────────────────────────

    @classmethod
    def load(
        cls,
        *paths: Path | str,
        entities: SourcesArgument | None = None,
        identity: IdentitySource | None = None,
        **options: Unpack[EngineOptions],
    ) -> Self:
        """Load files and folders of `.policy` files, without the tests in `*_test.policy`.

        `entities` are JSON, JSON Lines, CSV, a folder of CSV tables, a database, or a list of these
        (`docs/entities.md`). `identity` is an `identity.toml`, by which raw credentials are verified
        (`docs/identity.md`). Raises PolicyError with all errors, EntitiesError if the entities cannot be used,
        IdentityConfigError if `identity` cannot be used, and TypeError for an unknown option.
        """
        reject_unknown_options(cls.load, options)
        sources, problems = load_sources(paths, tests=False)
        kernel = compile_or_raise(sources, problems)
        directory = None if entities is None else EntitySources.of(entities).read(kernel.entities)
        return cls(kernel, sources=sources, directory=directory, **options).verify_credentials(identity)

    @classmethod
    def from_text(
        cls,
        text: str,
        name: str = "policy.policy",
        *,
        directory: EntityStore | None = None,
        **options: Unpack[EngineOptions],
    ) -> Self:
        """Load the text of one policy; `name` appears in messages and reasons. Raises PolicyError with all errors, and
        TypeError for an unknown option.
        """
        reject_unknown_options(cls.from_text, options)
        sources = [Source(name, text)]
        return cls(compile_or_raise(sources, ()), sources=sources, directory=directory, **options)

    @classmethod
    def from_bundle(
        cls,
        path: Path | str,
        *,
        keys: Keys | None = None,
        entities: SourcesArgument | None = None,
        identity: IdentitySource | None = None,
        **options: Unpack[EngineOptions],
    ) -> Self:
        """Load a file that `policyengine compile` wrote. The engine decides like an engine of the same policies,
        without parsing and checking them again.

        With `keys` (files of public Ed25519 keys, or their bytes), one of the keys must have signed the bundle. A rule
        is decoded when a decision first needs it; a damaged rule then causes a deny at gate `failure`. Raises
        PolicyError if the bundle cannot be used, and EntitiesError, IdentityConfigError and TypeError as `load` does.
        """
        reject_unknown_options(cls.from_bundle, options)
        bundle = read_bundle(path, keys)
        directory = None if entities is None else EntitySources.of(entities).read(bundle.kernel.entities)
        return cls(bundle.kernel, directory=directory, tree=bundle.tree, **options).verify_credentials(identity)

    def successor(
        self,
        kernel: Kernel,
        *,
        directory: EntityStore | None = None,
        tree: Tree | None = None,
        sources: Sequence[Source] = (),
    ) -> Self:
        """Return an engine for other policies or entities with the same store, clock and log.

        The new engine has the same observe mode, until the same end. It records history only after `start_history`,
        which you call when the new engine takes over. Raises DecisionLogError if the entities cannot be logged,
        ObserveError if an observed package is missing, and IdentityConfigError if the issuers of the new policies
        cannot be used.
        """
        current = self.directory
        successor = type(self)(
            kernel, sources=sources, directory=current if directory is None else directory, tree=tree,
            identity=None if self.identity is None else self.identity.successor(kernel), starts_history=False,
            halting=self.halting, clock=self.decider.clock, ids=self.decider.ids, log=self.log, store=self.store,
            behavior=self._behavior, approvals=self.approval_settings,
        )  # fmt: skip
        observer = self.recorder.observer
        if observer is not None and observer.observing:
            successor._use_observer(observer.successor(kernel))
        successor.preceding_directory = current
        if self.approvals is not None:
            successor.decider.desk.adopt(self.approvals)
        return successor

    def prepare(self, previous: Engine) -> None:
        """Build the rules that a previous engine used last, so that the first decisions after a reload are not slow."""
        self.decider.compiled.evaluator.prepare(previous.decider.compiled.evaluator)

    def verify_credentials(self, identity: IdentitySource | None) -> Self:
        """Verify raw credentials from now on; return this engine. Raises IdentityConfigError."""
        if identity is not None:
            clock = self.decider.clock
            self.use_identity(create_authenticator(identity, self.kernel, self.store, lambda: clock().timestamp()))
        return self

    def use_identity(self, identity: CredentialAuthenticator | None) -> None:
        """Verify raw credentials with `identity` from now on; with None, reject questions that contain credentials."""
        decider = self.decider
        decider.keeps_proofs = identity is not None
        self._authenticator = None
        if identity is not None:
            self._authenticator = Authenticator(identity, decider.nanoseconds, self.recorder.failures)
        self.state = StateUse(self.kernel, decider.store, verifies_credentials=identity is not None)
        self.forecast = WaitForecast(decider, self.state, self._authenticator)

    # ── Decisions ─────────────────────────────────────────────────────────────────────────────

    def decide(
        self,
        question: QuestionLike,
        *,
        without_waiting: bool = False,
        size: int = UNKNOWN_SIZE,
        records: RecordGroup | None = None,
    ) -> Decision:
        """Decide and spend: an allow uses up the approvals that it needed. `options.consume: false` spends nothing.

        With `options.request_approval`, a confirm opens an approval (`Engine.approvals`), and its remedies name it.
        `size` is the number of bytes of the encoded question; a small question need not be measured. With `records`,
        the decision may be used only after this group is written, which may replace the decision. Raises RequestError
        for a malformed question, and for a question that sets `options.at` and would spend. Raises WouldBlockError if
        `without_waiting` is set and the decision may take a long time, or wait for a store or an issuer; then nothing
        was decided.
        """
        try:
            request = self._read(question)
            if without_waiting and self.forecast.takes_long_to_decide(request, size):
                raise WouldBlockError("the decision may take a long time, or wait for a store or an issuer")
        except (RequestError, WouldBlockError):
            raise
        except Exception as error:
            return self._guarded.record_failure(None, error, b"decide", records)
        if request.options is not NO_OPTIONS:
            if not request.options.consume:
                return self._guarded.decide(request, self.decider.evaluate, b"evaluate", records)
            reject_chosen_time(request)
        return self._guarded.decide(request, self.decider.decide, b"decide", records)

    def evaluate(
        self,
        question: QuestionLike,
        *,
        without_waiting: bool = False,
        size: int = UNKNOWN_SIZE,
        records: RecordGroup | None = None,
        is_listing: bool = False,
    ) -> Decision:
        """Decide without spending, so that repeating the question changes no state. Raises RequestError, and
        WouldBlockError as `decide` does.

        An allow that would spend has the obligation `consume`: call `decide` before acting on it. `is_listing` marks
        the record of a question about an item of a list, whose arguments are pending.
        """
        call = b"list" if is_listing else b"evaluate"
        try:
            request = self._read(question)
            if without_waiting and self.forecast.takes_long_to_decide(request, size):
                raise WouldBlockError("the decision may take a long time, or wait for a store or an issuer")
        except (RequestError, WouldBlockError):
            raise
        except Exception as error:
            return self._guarded.record_failure(None, error, call, records)
        return self._guarded.decide(request, self.decider.evaluate, call, records)

    def decide_once(self, question: QuestionLike, key: IdempotencyKey) -> IdempotentDecision:
        """Decide as `decide` does, but spend only once for each key: a repeated key returns the same decision, marked
        `again`.

        A decision at gate `failure` is not stored. If the store does not report whether the key was used, the question
        is decided without the key; if the question spends nothing, the key has no effect. Raises RequestError,
        KeyInProgressError and KeyReuseError; then nothing was decided.
        """
        asked = Question.of(question)
        try:
            request = self._without_claimed_approvals(asked.request)
            if request is not asked.request:
                asked = Question(request, is_authenticated=asked.is_authenticated)
            if not request.options.consume:
                return IdempotentDecision(self.evaluate(asked), False)
            reject_chosen_time(request)
            if self._authenticator is None:
                reject_raw_credentials(request)
            return self._idempotent.decide(asked, key.claim(self.revision, secrets.token_hex(8)))
        except (RequestError, IdempotencyKeyError):
            raise
        except Exception as error:
            return IdempotentDecision(self._guarded.record_failure(None, error, b"decide"), False)

    def decide_many(self, questions: Sequence[QuestionLike]) -> list[Decision | RequestError]:
        """Decide each question as `decide` does, in order, with one request to a remote store for many questions. The
        answer to a malformed question is its RequestError."""
        return self._batch.decide(questions)

    def explain(self, question: QuestionLike) -> Explanation:
        """Return the decision of `evaluate` with its trace: every rule considered, and why it applied or not. Raises
        RequestError."""
        words = ""
        try:
            request = self._authenticated_request(Question.of(question))
            words = endpoint_words(request.endpoint)
            return self.decider.explain(request)
        except RequestError:
            raise
        except StoreError as error:
            return Explanation(self.recorder.deny_unavailable(error), words, ())
        except Exception:
            return Explanation(self.recorder.deny_failure(), words, ())

    def report(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Mapping[str, object] | None = None,
        refund: bool = False,
        size: int | None = None,
        usage: Mapping[str, object] | None = None,
    ) -> bool:
        """Report the outcome of the request that a decision (`decision` is its id) allowed. Only the caller that
        requested the decision may report it, and only once.

        Afterwards `past.status` and `past.output.*` are known, held concurrency places are free, and `refund` returns
        budget entries. With a log, the outcome is recorded, with the `size` of the response in bytes and the `usage`:
        numbers such as `{"input_tokens": 12}`. The server counts `latency_ms` in its metrics; an in-process engine has
        no metrics. Returns False if the id is unknown, if the outcome was reported before or, without a log, if no
        history, limit or learned behavior awaits the outcome. Raises RequestError if `output` is malformed, StoreError,
        and OutcomeNotRecordedError if the outcome cannot be logged and the log's `on_failure` is to deny; then nothing
        changed.
        """
        report = OutcomeReport(status, normalize_facts(output), latency_ms, size, usage)
        return self.report_outcome(decision, report, refund=refund) in ("first", "unrecorded")

    def report_outcome(self, decision: str, report: OutcomeReport, *, refund: bool = False) -> ReportStatus | None:
        """Report as `report` does. Returns `first` if the outcome was recorded, `again` if it was reported before,
        `unrecorded` if it took effect but could not be logged, and None if the id is unknown or belongs to a decision
        of another caller. Raises StoreError and OutcomeNotRecordedError.
        """
        return self._outcomes.report(decision, report, refund=refund)

    async def decide_async(self, question: QuestionLike) -> Decision:
        """`decide` for callers with an event loop."""
        return await self.forecast.run(self.decide, question)

    async def evaluate_async(self, question: QuestionLike) -> Decision:
        """`evaluate` for callers with an event loop."""
        return await self.forecast.run(self.evaluate, question)

    async def evaluate_listed_async(self, question: QuestionLike) -> Decision:
        """`evaluate` of an item of a list, for callers with an event loop."""
        return await self.forecast.run(partial(self.evaluate, is_listing=True), question)

    async def explain_async(self, question: QuestionLike) -> Explanation:
        """`explain` for callers with an event loop."""
        return await self.forecast.run(self.explain, question)

    @property
    def reports_at_once(self) -> bool:
        """Whether reports never wait for the store."""
        return not self.state.is_shared

    async def report_async(
        self,
        decision: str,
        *,
        status: int | None = None,
        latency_ms: float | None = None,
        output: Mapping[str, object] | None = None,
        refund: bool = False,
        size: int | None = None,
        usage: Mapping[str, object] | None = None,
    ) -> bool:
        """`report` for callers with an event loop."""
        run = partial(
            self.report, decision, status=status, latency_ms=latency_ms, output=output, refund=refund, size=size,
            usage=usage,
        )  # fmt: skip
        return await run_in_thread(run) if self.state.is_shared else run()

    # ── Credentials ───────────────────────────────────────────────────────────────────────────

    @property
    def identity(self) -> CredentialAuthenticator | None:
        """The verifier of raw credentials, or None."""
        return None if self._authenticator is None else self._authenticator.identity

    def authenticate(self, question: QuestionLike) -> Question:
        """Return the question with proved facts in place of its credentials. Call this method once for a request,
        because a proof of possession is accepted only once. It may wait for an issuer. Raises RequestError."""
        asked = Question.of(question)
        return asked if self._authenticator is None else self._authenticator.authenticate(asked)

    def authenticate_cached(self, members: dict[str, object]) -> Question | None:
        """Return the question with cached facts of its credentials, or None if they must be verified, which may wait
        for an issuer."""
        known = None if self._authenticator is None else self._authenticator.authenticate_cached(members)
        return None if known is None else Question(known, is_authenticated=True)

    def prove(self, facts: Mapping[str, object]) -> Mapping[str, object]:
        """Return the facts of a request with proved facts in place of raw credentials, for several questions about that
        request in this process. Raises RequestError."""
        return facts if self._authenticator is None else self._authenticator.prove(facts)

    async def prove_async(self, facts: Mapping[str, object]) -> Mapping[str, object]:
        """`prove` for callers with an event loop."""
        return await run_in_thread(self.prove, facts) if self.forecast.may_wait_for(facts) else self.prove(facts)

    # ── State and entities ────────────────────────────────────────────────────────────────────

    @property
    def store(self) -> Store:
        """The store of counts, spent approvals, history and used credentials."""
        return self.state.store

    @property
    def directory(self) -> EntityStore:
        """The entity store of this engine, without entities that come with a request."""
        return self.decider.compiled.entities

    def replace_directory(self, directory: EntityStore) -> None:
        """Decide with other entities from now on. Each decision uses a single entity store from beginning to end.
        Raises DecisionLogError if the entities cannot be logged; then the previous entities stay. Hold `directory_lock`
        to read `directory` and replace it in one step.
        """
        with self.directory_lock:
            self.decider.replace_entities(directory)
        self._watch_failures(self.store, directory)

    def find_directory_failure(self) -> str | None:
        """Probe the sources of looked-up entities, and return the error, or None."""
        lookups = self.directory.lookups
        return None if lookups is None else lookups.failure()

    # ── Policies ──────────────────────────────────────────────────────────────────────────────

    @property
    def sources(self) -> Sequence[Source]:
        """The policy texts; empty for an engine from a bundle."""
        return self._sources

    @cached_property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """The warnings of the checker, computed at first use, which takes as long as loading. Unused declarations are
        not among them: test files, which an engine does not load, may use them."""
        from policyengine.lint.unused import UNUSED_DECLARATION

        found: tuple[Diagnostic, ...] = compile_sources(self._sources, advice=True)[1]
        return tuple(one for one in found if one.code != UNUSED_DECLARATION)

    @property
    def package(self) -> str:
        """The package of the first policy."""
        return self.kernel.package

    @property
    def packages(self) -> tuple[str, ...]:
        """All loaded packages; the rules of each of them apply."""
        return self.kernel.packages

    @property
    def revision(self) -> str:
        """The revision, `sha256:…`, which is equal for policies with the same meaning, in any order of files and
        declarations."""
        return self.kernel.revision

    def describe_program(self) -> ProgramDescription:
        """Describe the rules that decide at each endpoint, with their source places. This takes as long as deciding
        once at every endpoint.
        """
        from policyengine.compiler.description.program import describe_program

        return describe_program(self.kernel, self.decider.tree)

    # ── Halts ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def halts(self) -> tuple[Halt, ...]:
        """The halts in effect, in the store and in the halt file."""
        return self.halting.status.halts

    def halt(
        self,
        *,
        reason: str,
        end: timedelta | datetime,
        everything: bool = False,
        by: str = "",
        **scope: Unpack[HaltScope],
    ) -> Halt:
        """Deny from now on, until `end`, every request that matches all of `scope`, or `everything`; return the halt.

        Decisions of this process that begin after the call are denied; other processes that share the store follow
        within a second. `end` is a time (timezone-aware) or a duration. Callers see the `reason`. Raises HaltError, and
        StoreError if it is unknown whether the store has the halt.
        """
        halt = make_halt(scope, everything=everything, reason=reason, end=end, by=by, now=self.decider.seconds())
        check_known_names(halt, self.kernel)
        return self.halting.halt(halt)

    def lift(self, id: str, *, reason: str, by: str = "") -> HaltLift:
        """Lift a halt before its end. Raises HaltError and StoreError."""
        check_lift_reason(reason)
        return self.halting.lift(id, reason.strip(), by)

    # ── Recording ─────────────────────────────────────────────────────────────────────────────

    @property
    def log(self) -> DecisionLog | None:
        """The decision log, or None."""
        return self.recorder.log

    @property
    def is_recording(self) -> bool:
        """Whether decisions are logged."""
        return self.recorder.log is not None

    @property
    def failures(self) -> int:
        """The number of decisions denied because the engine or its store failed or the decision took too many steps,
        and of credentials refused because of an internal error.
        """
        return self.recorder.failures.count

    def observe(self, wanted: Observe) -> None:
        """Until `wanted.until`, report requests that these policies would stop, and let them pass; `docs/observe.md`
        lists the exceptions. Call this method before the first question. Raises ObserveError.
        """
        self._use_observer(Observer(wanted, self.kernel, self.decider.clock))
        if self.observing is not None:
            self.recorder.write_system("observe", state="on", **wanted.to_dict())

    def _use_observer(self, observer: Observer) -> None:
        self.recorder.observer = observer
        self.decider.finishes_learning = True
        observer.ended = self.recorder.write_observe_end

    def _watch_failures(self, store: Store, entities: EntityStore) -> None:
        """Write to the log when the store and the sources of looked-up rows fail, and when they work again."""
        if self.log is not None and isinstance(store, ResilientStore):
            store.listen(self.recorder.write_store_state)
        if self.log is not None and entities.lookups is not None:
            entities.lookups.listen(self.recorder.write_directory_state)

    @property
    def behavior(self) -> BehaviorTracker | SharedTracker | None:
        """The tracker of learned behavior; None if none was opened, because the policies read no learned facts."""
        return None if isinstance(self._behavior, Path) else self._behavior

    @cached_property
    def _patterns(self) -> EndpointPatterns:
        return EndpointPatterns(self.decider.tree)

    def use_behavior(self, given: BehaviorTracker | SharedTracker | Path | None) -> None:
        """Learn and read the behavior of callers if the policies read learned facts. A store outside this process keeps
        the learned behavior itself. Raises BehaviorFolderError."""
        self._behavior = given
        if not self.kernel.reads_behavior:
            return
        from policyengine.behavior.open import open_tracker
        from policyengine.behavior.reader import BehaviorReader

        tracker = self._behavior = open_tracker(given, self.decider.store)
        program = self.decider.compiled.evaluator.program
        logs = self.log is not None
        reader = BehaviorReader(self.kernel, self._patterns, program, tracker, logs=logs)
        self.decider.use_behavior(reader)
        self._outcomes.behavior = reader

    @property
    def observing(self) -> Observe | None:
        """The scope and end of observe mode; None if everything is enforced."""
        observer = self.recorder.observer
        return observer.wanted if observer is not None and observer.observing else None

    @property
    def observed(self) -> Mapping[str, int]:
        """The number of answers that passed in observe mode, by the outcome that they would have had."""
        return {} if self.recorder.observer is None else dict(self.recorder.observer.counts)

    @property
    def conditions(self) -> ConditionWatch | None:
        """The counts of the requests for which conditions that read learned facts were true; None without observe mode,
        or if no rule reads a learned fact."""
        return None if self.recorder.observer is None else self.recorder.observer.conditions

    def _read(self, question: QuestionLike) -> Request:
        """Return the authenticated request. Raises RequestError."""
        if type(question) is dict and self._authenticator is None:
            request = read_ordinary_request(question) or Request.from_mapping(question)
            if request.credentials is not None:
                reject_raw_credentials(request)
            return self._without_claimed_approvals(request) if request.approvals else request
        return self._without_claimed_approvals(reject_raw_credentials(self.authenticate(question).request))

    def _without_claimed_approvals(self, request: Request) -> Request:
        """Return the request without the approvals that its caller claims, unless callers are trusted with them."""
        if not request.approvals or self.approval_settings.trust_callers:
            return request
        return replace(request, approvals=())

    @property
    def approvals(self) -> ApprovalDesk | None:
        """The approvals that confirms request; None if no guard requests approvals."""
        return self.decider.desk if self.state.has_confirms else None

    def _authenticated_request(self, question: Question) -> Request:
        """Return the authenticated request. Raises RequestError."""
        return self._read(question)


def create_halting(store: Store, file: Path | str | None, clock: Clock) -> HaltControl:
    return HaltControl(store.halts, file=file, clock=lambda: int(clock().timestamp()))


def compile_or_raise(sources: Sequence[Source], problems: Sequence[Diagnostic]) -> Kernel:
    """Compile the sources. Raises PolicyError with all errors."""
    kernel, diagnostics = compile_sources(sources, problems)
    if kernel is None:
        raise PolicyError(diagnostics)
    return kernel
