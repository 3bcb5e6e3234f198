"""The engine: a facade over authenticator, decider and recorder, with everything that makes and describes one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from msgspec.json import encode

from policyengine.check import compile_sources
from policyengine.clock import MICROSECOND, epoch_nanoseconds, utc_now
from policyengine.compiler.bundle.file import Keys, read_bundle
from policyengine.compiler.show import show
from policyengine.compiler.sizes import loops
from policyengine.compiler.tree import Tree, tree_of
from policyengine.diagnostics.model import Diagnostic, PolicyError
from policyengine.engine.authenticate import Authenticator, reject_raw_credentials
from policyengine.engine.batch import BatchDecider
from policyengine.engine.compiled import CompiledPolicies
from policyengine.engine.decider import Decider, DecisionBasis, WouldBlockError
from policyengine.engine.idempotency import IdempotentDecider
from policyengine.engine.observe_mode import Observe, Observer
from policyengine.engine.options import EngineOptions
from policyengine.engine.question import (
    Question,
    QuestionLike,
    new_id,
    normalize_facts,
    reject_chosen_time,
)
from policyengine.engine.recorder import DecisionRecorder
from policyengine.engine.state_use import StateUse
from policyengine.entities.sources import EntitySources, SourcesArgument
from policyengine.entities.store import EntityStore
from policyengine.executor import run_in_thread, run_in_turn
from policyengine.explain.explanation import Explanation, endpoint_words
from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.factory import IdentitySource, create_authenticator
from policyengine.kernel import Kernel
from policyengine.policy_files import load_sources
from policyengine.runtime.caller import SEPARATOR, outcome_key
from policyengine.runtime.decision import Decision
from policyengine.runtime.history import OutcomeReport, ReportStatus, merge_reports
from policyengine.runtime.idempotency_key import IdempotencyKey, IdempotencyKeyError
from policyengine.runtime.idempotent_decision import IdempotentDecision
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.value_size import is_large, measure_extent
from policyengine.source import Source
from policyengine.stores.base import Store, StoreError
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore

if TYPE_CHECKING:
    from policyengine.audit.log import DecisionLog

T = TypeVar("T")
MAX_SMALL_EXTENT = 8  # elements, so few that no loops over them take long


class Engine:
    """Decides by one set of policies. Threads may share it. A method waits for nothing but a `store`, an issuer of
    credentials, or rows that are looked up.

    A question is a Request, a mapping of its shape, or JSON as str or bytes (`docs/http-api.md` names the members).
    Ill-formed questions raise RequestError; whatever else goes wrong inside a decision is a deny at gate `failure`,
    counted in `failures` and logged. `explain` decides nothing and is not recorded. Options: `EngineOptions`.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        sources: Sequence[Source] = (),
        directory: EntityStore | None = None,
        tree: Tree | None = None,
        identity: CredentialAuthenticator | None = None,
        begins: bool = True,
        **options: Unpack[EngineOptions],
    ) -> None:
        clock, ids = options.get("clock", utc_now), options.get("ids", new_id)
        store: Store = options.get("store") or MemoryStore()
        self.kernel, self.state = kernel, StateUse(kernel, store)
        self._sources = sources
        self.recorder = DecisionRecorder(kernel, options.get("log"))
        entities = EntityStore(loaded=False) if directory is None else directory
        self.decider = Decider(kernel, tree or tree_of(kernel), entities, store, self.recorder, clock=clock, ids=ids)
        if isinstance(store, ResilientStore):
            store.follow(lambda: self.decider.nanoseconds() // 1_000)
        self._authenticator: Authenticator | None = None
        self.identity = identity
        self._batch = BatchDecider(self)
        self._idempotent = IdempotentDecider(self.decider, self._decide_guarded, self._authenticated_request)
        self._is_plain = ids is new_id and self.recorder.is_idle  # the fast path's decision is returned as it is
        if begins:
            self.begin()

    # ── Ways to make one ──────────────────────────────────────────────────────────────────────

    @classmethod
    def load(
        cls,
        *paths: Path | str,
        entities: SourcesArgument | None = None,
        identity: IdentitySource | None = None,
        **options: Unpack[EngineOptions],
    ) -> Self:
        """From files and folders of `.policy` files (tests in `*_test.policy` are left out).

        `entities` say who is who: JSON, JSON Lines, CSV, a folder of these tables, a database, or a list of such
        (`docs/entities.md`). With `identity`, which is an `identity.toml`, raw credentials are verified
        (`docs/identity.md`). Raises PolicyError with every mistake found, EntitiesError when entities cannot be used,
        IdentityError where `identity` cannot.
        """
        sources, problems = load_sources(paths, tests=False)
        kernel = compile_or_raise(sources, problems)
        directory = None if entities is None else EntitySources.of(entities).read(kernel.entities)
        return cls(kernel, sources=sources, directory=directory, **options).verifying(identity)

    @classmethod
    def from_text(
        cls,
        text: str,
        name: str = "policy.policy",
        *,
        directory: EntityStore | None = None,
        **options: Unpack[EngineOptions],
    ) -> Self:
        """From the text of one policy; `name` is what messages and reasons call it.

        Raises PolicyError with every mistake found.
        """
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
        """From a file that `policyengine compile` wrote: the same answers, without parsing and checking.

        With `keys`, which are files of public Ed25519 keys or the bytes of such, one of them must have signed it. Rules
        are read when a decision first needs them; one that is not sound denies then, at gate `failure`.
        Raises PolicyError when the bundle cannot be used, EntitiesError and IdentityError as `load` does.
        """
        bundle = read_bundle(path, keys)
        directory = None if entities is None else EntitySources.of(entities).read(bundle.kernel.entities)
        return cls(bundle.kernel, directory=directory, tree=bundle.tree, **options).verifying(identity)

    def successor(
        self,
        kernel: Kernel,
        *,
        directory: EntityStore | None = None,
        tree: Tree | None = None,
        sources: Sequence[Source] = (),
    ) -> Self:
        """Other policies, and other entities, on the same store, clock and log. It records history only after `begin`,
        which is called when it takes over. It observes as this one does, until the same end.

        Raises LogError where its entities cannot be logged, ObserveError where it has no such package as is observed,
        IdentityError where its issuers cannot be used.
        """
        found = type(self)(
            kernel, sources=sources, directory=self.directory if directory is None else directory, tree=tree,
            identity=None if self.identity is None else self.identity.successor(kernel), begins=False,
            clock=self.decider.clock, ids=self.decider.ids, log=self.log, store=self.store,
        )  # fmt: skip
        observer = self.recorder.observer
        if observer is not None and observer.observing:
            found._use_observer(observer.successor(kernel))
        return found

    def verifying(self, identity: IdentitySource | None) -> Self:
        """From now on it verifies raw credentials. Raises IdentityError."""
        if identity is not None:
            clock = self.decider.clock
            self.identity = create_authenticator(identity, self.kernel, self.store, lambda: clock().timestamp())
        return self

    # ── Decisions ─────────────────────────────────────────────────────────────────────────────

    def decide(self, question: QuestionLike, *, at_once: bool = False) -> Decision:
        """Decide and spend: an allow uses up the approvals it needed. `options.consume: false` only peeks.

        Raises RequestError for an ill-formed question, and for one that sets `options.at` and would spend;
        WouldBlockError where it is wanted `at_once` and may take long.
        """
        if type(question) is dict and self._authenticator is None:  # most questions: each call here counts
            members: dict[str, object] | None = question
            asked: Question | None = None
        else:
            asked = self.authenticate(question)
            members = asked.members
        if members is not None:
            compiled = self.decider.compiled
            try:
                decision = (compiled.decide_without_waiting if at_once else compiled.decide)(members)
            except Exception as error:  # it is not known whether something was spent: it is not decided again
                return self._record_failure(members, error, b"decide")
            if decision is not None:
                return decision if self._is_plain else self.finish_fast(members, decision, b"decide", compiled)
        request = reject_raw_credentials((asked or Question.of(question)).request)
        if at_once and self._takes_long(request):
            raise WouldBlockError("it may take long")
        if not request.options.consume:
            return self._decide_guarded(request, self.decider.evaluate, b"evaluate")
        reject_chosen_time(request)
        return self._decide_guarded(request, self.decider.decide)

    def evaluate(self, question: QuestionLike) -> Decision:
        """Decide without spending anything: asked again, the answer is the same. Raises RequestError.

        An allow that would spend bears the obligation `consume`: ask again by `decide` before acting on it.
        """
        asked = self.authenticate(question)
        members = asked.members
        if members is not None:
            compiled = self.decider.compiled
            try:
                decision = compiled.evaluate(members)
            except StoreError:  # nothing is spent: the slow path tells what is missing
                decision = None
            except Exception as error:
                return self._record_failure(members, error, b"evaluate")
            if decision is not None:
                return decision if self._is_plain else self.finish_fast(members, decision, b"evaluate", compiled)
        request = reject_raw_credentials(asked.request)
        return self._decide_guarded(request, self.decider.evaluate, b"evaluate")

    def decide_once(self, question: QuestionLike, once: IdempotencyKey) -> IdempotentDecision:
        """As `decide`, but accounted once, however often it is asked by this key: `again` gives the same decision.

        A failure is not kept. Where the store cannot say whether it was asked before, it is decided as without a key;
        where nothing is to be spent the key means nothing. Raises RequestError; KeyInProgressError and KeyReuseError:
        nothing is decided.
        """
        asked = Question.of(question)
        request = asked.request
        if not request.options.consume:
            return IdempotentDecision(self.evaluate(asked), False)
        reject_chosen_time(request)
        if self._authenticator is None:
            reject_raw_credentials(request)
        return self._idempotent.decide(asked, once.claim(self.revision, secrets.token_hex(8)))

    def decide_many(self, questions: Sequence[QuestionLike]) -> list[Decision | RequestError]:
        """Each as `decide` says, in their order, also where they count together: a shared store is asked for many at
        once. What is no question is answered by its error."""
        return self._batch.decide(list(map(question_or_error, questions)))

    def explain(self, question: QuestionLike) -> Explanation:
        """The decision that `evaluate` gives, with the whole walk: every rule considered and why.

        Raises RequestError.
        """
        request = self._authenticated_request(Question.of(question))
        try:
            return self.decider.explain(request)
        except StoreError as error:
            return Explanation(self.recorder.deny_unavailable(error), endpoint_words(request.endpoint), ())
        except Exception:
            return Explanation(self.recorder.deny_failure(), endpoint_words(request.endpoint), ())

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
        key, now = outcome_key(decision), self.decider.now()
        history = self.store.report(key, report, now)
        # Also where history knew before: a report of which only the first half arrived is made again.
        return merge_reports(history, self.store.finish(key, now, refund=refund))

    async def decide_async(self, question: QuestionLike) -> Decision:
        """`decide` for callers with an event loop."""
        return await self._run_off_loop(self.decide, question)

    async def evaluate_async(self, question: QuestionLike) -> Decision:
        """`evaluate` for callers with an event loop."""
        return await self._run_off_loop(self.evaluate, question)

    async def explain_async(self, question: QuestionLike) -> Explanation:
        """`explain` for callers with an event loop."""
        return await self._run_off_loop(self.explain, question)

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
        run = partial(self.report, decision, status=status, latency_ms=latency_ms, output=output, refund=refund)
        return await run_in_thread(run) if self.shares_state else run()

    async def _run_off_loop(self, ask: Callable[[QuestionLike], T], question: QuestionLike) -> T:
        """In a thread where a store or an issuer is asked or it takes long, so that an event loop does not wait."""
        asked = Question.of(question)
        if self.takes_long(asked):
            return await run_in_turn(ask, asked)
        return await run_in_thread(ask, asked) if self.waits_for(asked) else ask(asked)

    # ── Credentials ───────────────────────────────────────────────────────────────────────────

    @property
    def identity(self) -> CredentialAuthenticator | None:
        """What verifies raw credentials, if something does."""
        return None if self._authenticator is None else self._authenticator.identity

    @identity.setter
    def identity(self, identity: CredentialAuthenticator | None) -> None:
        self.decider.keeps_proofs = identity is not None
        nanoseconds, failures = self.decider.nanoseconds, self.recorder.failures
        self._authenticator = None if identity is None else Authenticator(identity, nanoseconds, failures)

    def authenticate(self, question: QuestionLike) -> Question:
        """The question with what its credentials prove: once for all that is asked about it, as a proof counts once.
        It may wait for an issuer. Raises RequestError."""
        asked = Question.of(question)
        return asked if self._authenticator is None else self._authenticator.authenticate(asked)

    def authenticate_cached(self, members: dict[str, object]) -> Question | None:
        """The question with what its credentials proved before; None where that takes a longer look, for which one may
        have to wait."""
        known = None if self._authenticator is None else self._authenticator.authenticate_cached(members)
        return None if known is None else Question(known, is_authenticated=True)

    def prove(self, facts: Mapping[str, object]) -> Mapping[str, object]:
        """Facts about a request with what their raw credentials prove in their place: for several questions about that
        request, in this process. Raises RequestError."""
        return facts if self._authenticator is None else self._authenticator.prove(facts)

    async def prove_async(self, facts: Mapping[str, object]) -> Mapping[str, object]:
        """`prove` for callers with an event loop."""
        return await run_in_thread(self.prove, facts) if self.waits_for(facts) else self.prove(facts)

    # ── What an event loop should not wait for ────────────────────────────────────────────────

    @property
    def waits(self) -> bool:
        """Whether a decision may wait for a store, or for a row that is looked up."""
        return self.shares_state or self.directory.lookups is not None

    def waits_for(self, question: QuestionLike | None = None) -> bool:
        """Whether a decision about it may wait: for an issuer, too, whose credentials it brings."""
        return self.waits or (question is not None and self.awaits_issuer(question))

    def awaits_issuer(self, question: QuestionLike) -> bool:
        """Whether an issuer may be asked what its credentials prove, which takes as long as that issuer takes."""
        if self._authenticator is None:
            return False
        try:
            return self._authenticator.needs_issuer(Question.of(question))
        except RequestError:  # which is raised at once
            return False

    def takes_long(self, question: QuestionLike) -> bool:
        """Whether a decision about it may calculate so long that an event loop should not wait for it. A question that
        waits for an issuer does so beside others, and not in the one thread that calculates."""
        if self.awaits_issuer(question):
            return False
        try:
            asked = Question.of(question)
        except RequestError:  # which is raised at once
            return False
        unproved = None if asked.is_authenticated else self._authenticator
        members = asked.members
        if members is not None and unproved is None:
            if is_large(members):
                return True
            if measure_extent(members) <= MAX_SMALL_EXTENT and "chain" not in members:
                return False
        try:
            return self._takes_long(asked.request if unproved is None else unproved.with_cached_facts(asked))
        except RequestError:  # which the fast path does not raise where it does not read the member: then it decides
            return self.loops

    def _takes_long(self, request: Request) -> bool:
        return self.decider.compiled.evaluator.takes_long(request)

    @cached_property
    def loops(self) -> bool:
        """Whether there are rules that take long for large questions."""
        return loops(self.kernel)

    # ── State ─────────────────────────────────────────────────────────────────────────────────

    @property
    def store(self) -> Store:
        """What keeps what decisions spend."""
        return self.state.store

    @property
    def keeps_state(self) -> bool:
        """Whether decisions depend on earlier ones: on limits, on approvals, or on history."""
        return self.state.keeps_state

    @property
    def shares_state(self) -> bool:
        """Whether decisions keep state in a store outside of this process: a caller may wait for it."""
        return self.state.shares_state

    @property
    def remote(self) -> bool:
        """Whether the store is outside of this process, be it for nothing but idempotency keys."""
        return self.state.is_remote

    @property
    def uses_store(self) -> bool:
        """Whether decisions keep state, or rest on which credentials were used and revoked."""
        return self.state.keeps_state or self._authenticator is not None

    @property
    def needs_store(self) -> bool:
        """Whether decisions are denied where the store fails."""
        return self._authenticator is not None or self.state.denies_without_store

    @property
    def forgets(self) -> bool:
        """Whether what was counted, spent or revoked ends with this process, and is unknown to any other."""
        return self.uses_store and not self.state.is_remote

    @property
    def watches(self) -> frozenset[str]:
        """What its rules want to have been recorded, by name."""
        return self.state.watches

    def begin(self) -> None:
        """From now on what its rules ask the past for is recorded. Raises StoreError."""
        if self.watches:
            self.store.begin(self.watches, self.decider.now())

    def end(self, watches: frozenset[str]) -> None:
        """This is recorded no more: a rule that asks for it later knows nothing of before. Raises StoreError."""
        if watches:
            self.store.end(watches)

    def store_failure(self) -> str | None:
        """Reads the store and writes to it; what is wrong with it, in words for callers, if something is."""
        try:
            self.store.check(self.decider.now())
        except StoreError as error:
            return error.reason
        return None

    @property
    def clock_skew(self) -> timedelta | None:
        """How far the clock of the store is ahead of this one, as it told when it last answered; None where it has none
        of its own, or told nothing yet."""
        offset = self.store.skew.offset if isinstance(self.store, ResilientStore) else None
        return None if offset is None else offset * MICROSECOND

    def seconds(self) -> int:
        """Since 1970, by its clock."""
        return self.decider.nanoseconds() // 1_000_000_000

    # ── Entities ──────────────────────────────────────────────────────────────────────────────

    @property
    def directory(self) -> EntityStore:
        """The entities that the policies ask about; those that come with a request are not among them."""
        return self.decider.compiled.entities

    def replace_directory(self, directory: EntityStore) -> None:
        """Decide by other entities from now on: at once, also while threads decide; each decision sees one store only.

        Raises LogError where there is a log that it cannot be written to; then the old one stays.
        """
        self.decider.replace_entities(directory)

    def directory_failure(self) -> str | None:
        """Asks where rows are looked up; what is wrong there, if something is."""
        lookups = self.directory.lookups
        return None if lookups is None else lookups.failure()

    # ── Policies ──────────────────────────────────────────────────────────────────────────────

    @property
    def sources(self) -> Sequence[Source]:
        """The texts that it was made of; none where it was made of a bundle."""
        return self._sources

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

    @property
    def revision(self) -> str:
        """`sha256:…`: the same for the same meaning, whatever the order of files and declarations."""
        return self.kernel.revision

    def generated_code(self) -> str:
        """The code that decides, as it was generated from the policies: each line beside the policy line it is for."""
        return show(self.decider.compiled.evaluator)

    # ── Recording ─────────────────────────────────────────────────────────────────────────────

    @property
    def log(self) -> DecisionLog | None:
        """The decision log, if there is one."""
        return self.recorder.log

    @property
    def failures(self) -> int:
        """How many decisions were denied because something failed."""
        return self.recorder.failures.count

    def observe(self, wanted: Observe) -> None:
        """From now on report what these policies would do and let through what they would stop, until `wanted.until`:
        `docs/observe.md` says what never is. Before anybody asks. Raises ObserveError."""
        self._use_observer(Observer(wanted, self.kernel, self.decider.clock))

    def _use_observer(self, observer: Observer) -> None:
        self.recorder.observer, self._is_plain = observer, False

    @property
    def observing(self) -> Observe | None:
        """What is observed rather than enforced, and until when; None where everything is enforced."""
        observer = self.recorder.observer
        return observer.wanted if observer is not None and observer.observing else None

    @property
    def observed(self) -> Mapping[str, int]:
        """How many answers passed while it observed, by the outcome that they would have had."""
        return {} if self.recorder.observer is None else dict(self.recorder.observer.counts)

    def finish_fast(
        self, members: dict[str, object], decision: Decision, call: bytes, compiled: CompiledPolicies
    ) -> Decision:
        """A decision of the fast path under the id that it is to have, and recorded."""
        stamp = decision.stamp
        moment = None if isinstance(stamp, str) else stamp[0]
        if self.decider.ids is not new_id and (moment is None or isinstance(stamp[1], int)):
            try:
                named = self.decider.ids(self.decider.clock())
            except Exception as error:
                return self._record_failure(members, error, call)
            decision = decision.with_id(named if moment is None else (moment, named))
        return self.recorder.record(members, decision, call, compiled.entities_mark, moment)

    # ── Steps ─────────────────────────────────────────────────────────────────────────────────

    def _authenticated_request(self, question: Question) -> Request:
        """Raises RequestError."""
        return reject_raw_credentials(self.authenticate(question).request)

    def _decide_guarded(
        self, request: Request, decide: Callable[[Request], DecisionBasis], call: bytes = b"decide"
    ) -> Decision:
        """Fails closed: an exception inside is a deny that says so, and never more than that. What was decided is
        recorded outside of that: nothing that was spent is decided again."""
        try:
            basis = decide(request)
        except IdempotencyKeyError:
            raise
        except Exception as error:
            return self._record_failure(request, error, call)
        if self.recorder.is_idle:
            return basis.decision
        spent = b""
        if basis.spent or basis.spends:
            spent = b'"spent":%b,"spends":%b,' % (encode(sorted(basis.spent)), encode(basis.spends))
        state, moment = basis.entities_mark + spent + basis.history, epoch_nanoseconds(basis.moment)
        return self.recorder.record(request, basis.decision, call, state, moment)

    def _record_failure(self, question: dict[str, object] | Request, error: Exception, call: bytes) -> Decision:
        """A deny for what was raised, recorded. Called while the exception is handled."""
        if isinstance(error, StoreError):
            denied = self.recorder.deny_unavailable(error)
        else:
            denied = self.recorder.deny_failure()
        return self.recorder.record(question, denied, call, self.decider.compiled.entities_mark)


def question_or_error(question: QuestionLike) -> Question | RequestError:
    try:
        return Question.of(question)
    except RequestError as error:
        return error


def compile_or_raise(sources: Sequence[Source], problems: Sequence[Diagnostic]) -> Kernel:
    """Raises PolicyError with every mistake found."""
    kernel, diagnostics = compile_sources(sources, problems)
    if kernel is None:
        raise PolicyError(diagnostics)
    return kernel
