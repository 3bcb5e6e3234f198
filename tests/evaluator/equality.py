"""Compares the production engine with the specification, question by question, and counts the cases that occurred.

A question is decided by `Engine.decide`, by `Evaluator.plan` and `resume`, and by the specification. Decisions, effects
and digests must be equal. `sources.py` has the questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from msgspec import structs

from policyengine import kernel as k
from policyengine.clock import epoch_nanoseconds
from policyengine.engine import Engine
from policyengine.engine.question import normalize_facts, parse_request, plain_question
from policyengine.entities.store import EntityStore
from policyengine.runtime import decode
from policyengine.runtime.decision import Decision, Effects, Gate, Outcome
from policyengine.runtime.endpoints import HttpEndpoint
from policyengine.runtime.history import OutcomeReport
from policyengine.runtime.limits import ChargeResult
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request, RequestError, decode_request
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import Unknown
from policyengine.spec import evaluate as spec_evaluate
from policyengine.spec import history as spec_history
from policyengine.spec import reference
from policyengine.spec.match_endpoint import match_pattern
from policyengine.stores.memory.store import MemoryStore
from tests.generate.asking import Asking, Setting
from tests.generate.cases import Case, shrunk
from tests.generate.requests import directory
from tests.generate.specified import ANY_TIME, Said, Specified, micros, said
from tests.trusting import TRUSTING


class Refusal(NamedTuple):
    """Where and why a question is refused."""

    member: str
    message: str
    hint: str | None


Answer: TypeAlias = Said | Refusal
OTHERS_EVERY = 16  # questions: between them, the engine answers one with other entities


# ── The engine under test: the names of its parts are here and nowhere else ───────────────────


class RecordingStore(MemoryStore):
    """Keeps the effects that the engine committed, without what it learned of callers."""

    def __init__(self) -> None:
        super().__init__(history_complete=True, max_skew=ANY_TIME)
        self.committed: list[Effects] = []

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:  # type: ignore[override]
        if not peek:
            kept = structs.replace(effects, relied=(), behavior=None)
            self.committed += [kept] if kept else []
        return super().commit(effects, decision, now, peek=peek)


class UnderTest:
    """An engine with a settable clock, and its evaluator."""

    def __init__(self, asked: Setting, now: datetime) -> None:
        self.now = now
        self.store = RecordingStore()
        self.engine = Engine(
            asked.kernel, directory=asked.directory, clock=lambda: self.now, store=self.store, approvals=TRUSTING
        )
        self.evaluator = self.engine.decider.compiled.evaluator
        self.last = ""  # the ID of the last decision

    def decide(self, question: Any) -> Said:
        decision = self.engine.decide(question)
        self.last = decision.id
        return said(decision)

    def evaluate(self, question: Any) -> Said:
        return said(self.engine.evaluate(question))

    def evaluate_with_others(self, question: Any) -> None:
        """Evaluate a question with no entities, then replace them by the former ones."""
        directory = self.engine.directory
        self.engine.replace_directory(EntityStore())
        with suppress(RequestError):
            self.engine.evaluate(question)
        self.engine.replace_directory(directory)
        self.evaluator = self.engine.decider.compiled.evaluator

    def conclude(self, request: Request, snapshot: Snapshot) -> tuple[Said, Effects]:
        """Return the decision and the effects of `plan`, or of `resume` if it needs the snapshot."""
        moment = self._moment(request)
        planned = self.evaluator.plan(request, moment, behavior=snapshot.behavior)
        if isinstance(planned, Needs):
            assert planned.windows <= snapshot.history.keys(), "it reads histories that no rule names"
            planned = self.evaluator.resume(planned, snapshot, moment)
        return told(planned)

    def _moment(self, request: Request) -> int:
        return epoch_nanoseconds(request.options.at or self.now)


def told(concluded: tuple[Decision, Effects]) -> tuple[Said, Effects]:
    return said(concluded[0]), concluded[1]


# ── Answers that can be compared ──────────────────────────────────────────────────────────────


def answer(ask: Callable[..., Said], *arguments: Any) -> Answer:
    """Return the answer, or where and why the question is refused."""
    try:
        return ask(*arguments)
    except RequestError as error:
        return Refusal(error.member, error.message, error.hint)


def read_member_by_member(question: Any) -> Request:
    """Return the request as `read_request` reads it, which production does only with unusual questions. Raises
    RequestError."""
    plain = plain_question(question)
    if isinstance(plain, Request):
        return plain
    return decode_request(decode.from_json if isinstance(plain, str | bytes) else decode.from_python, plain)  # type: ignore[arg-type]


# ── What occurred ─────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Tally:
    """How often each case occurred, by name."""

    decisions: int = 0
    reached: Counter[str] = field(default_factory=Counter)

    def count(self, found: Answer, effects: Effects, names: Iterator[str]) -> None:
        self.decisions += 1
        self.reached.update(["refused"] if isinstance(found, Refusal) else constructs(found, effects))
        self.reached.update(names)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.decisions + other.decisions, self.reached + other.reached)

    def to_dict(self) -> dict[str, int]:
        """Return plain data, for reports."""
        return {"questions": self.decisions, **self.reached}

    def lacking(self, least: dict[str, int]) -> dict[str, int]:
        """Return the cases that occurred less often than they should, with their counts."""
        return {name: self.reached[name] for name, count in least.items() if self.reached[name] < count}

    def __str__(self) -> str:
        rows = "\n".join(f"  {count:>9,} {name}" for name, count in sorted(self.reached.items()))
        return f"{self.decisions:,} questions\n{rows}"


def constructs(found: Said, effects: Effects) -> Iterator[str]:
    yield f"outcome {found.outcome}"
    yield f"gate {found.gate}"
    yield from {f"reason {one.gate} {one.outcome}" for one in found.reasons}
    yield from {f"remedy {one.kind}" for one in found.remedies}
    yield from {f"obligation {one.kind}" for one in found.obligations}
    yield from {f"unknown {family(one.why)}" for one in found.unknown}
    if effects.spends:
        yield "effect spends"
    if effects.opens:
        yield "effect opens"
    if effects.confirms:
        yield "effect charges a confirm"
    yield from {f"effect {type(one.charge).__name__.lower()}s" for one in effects.limits}
    if effects.records:
        yield "effect records"
    if effects.denied:
        yield "effect counts a denial"


FAMILIES = (
    "absent",
    "pending",
    "expected",
    "not a valid",
    "not in Unicode NFC",
    "not a finite number",
    "beyond",
    "no value of",
)


def family(why: str) -> str:
    """Return the kind of reason why a fact is unknown."""
    return next((one for one in FAMILIES if one in why), "otherwise")


def features(kernel: k.Kernel, request: Request, found: Said) -> Iterator[str]:
    """Yield the unusual parts of a question that the decision depends on."""
    hops = request.fact("chain", "hops")
    if isinstance(hops, tuple) and len(hops) > 1:
        if found.outcome is not Outcome.DENY:
            yield "chain of two hops or more that passes"
        elif found.gate is Gate.CHAIN:
            yield "chain of two hops or more that does not pass"
    if request.pending:
        yield f"pending {found.outcome}"
    if request.entities:
        yield f"rows in the request {found.outcome}"
    endpoint = request.endpoint
    if isinstance(endpoint, HttpEndpoint):
        guarded = (pattern for guard in kernel.guards for pattern in guard.place.patterns or ())
        bound = (binder.pattern for binder in kernel.binders)
        yield from {"path in another case, guarded" for one in guarded if matches_in_another_case(one, endpoint)}
        yield from {"path in another case, bound" for one in bound if binds_in_another_case(one, endpoint)}


def matches_in_another_case(pattern: k.Pattern, endpoint: HttpEndpoint) -> bool:
    return match_pattern(pattern, endpoint) is not None and match_pattern(pattern, endpoint, "none") is None


def binds_in_another_case(pattern: k.Pattern, endpoint: HttpEndpoint) -> bool:
    return match_pattern(pattern, endpoint, "full") is not None and match_pattern(pattern, endpoint) is None


@contextmanager
def counted_evaluations(met: Counter[str]) -> Iterator[None]:
    """Count the quantifiers over some elements, and the conditions on history, that the specification evaluates."""
    quantifier = spec_evaluate.evaluate_quantifier
    condition, aggregate = spec_history.evaluate_history_condition, spec_history.evaluate_aggregate
    not_reported = spec_history.not_reported

    def count_quantifier(node: k.Quantifier, items: Any, facts: Any) -> Any:
        met[f"quantifier {node.word}" if items else "quantifier over no element"] += 1
        return quantifier(node, items, facts)

    def count_condition(node: k.HistoryCondition, facts: Any, evaluate: Any) -> Any:
        found = condition(node, facts, evaluate)
        met[f"condition on history {'unknown' if isinstance(found, Unknown) else found}"] += 1
        return found

    def count_aggregate(node: k.Aggregate, facts: Any, evaluate: Any) -> Any:
        found = aggregate(node, facts, evaluate)
        met[f"aggregate {'unknown' if isinstance(found, Unknown) else 'of events' if found else 'of nothing'}"] += 1
        return found

    def count_not_reported(name: str) -> Unknown:
        met["outcome not reported"] += 1
        return not_reported(name)

    spec_evaluate.evaluate_quantifier, spec_history.not_reported = count_quantifier, count_not_reported
    spec_history.evaluate_history_condition, spec_history.evaluate_aggregate = count_condition, count_aggregate
    try:
        yield
    finally:
        spec_evaluate.evaluate_quantifier, spec_history.not_reported = quantifier, not_reported
        spec_history.evaluate_history_condition, spec_history.evaluate_aggregate = condition, aggregate


# ── Holding equal ─────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Pair:
    """The specification and the engine under test, with the same spent state."""

    asked: Setting
    specified: Specified
    tested: UnderTest
    tally: Tally

    @classmethod
    def of(cls, asked: Setting, now: datetime) -> Pair:
        return cls(asked, Specified(asked.kernel, asked.directory), UnderTest(asked, now), Tally())

    def compare(self, asking: Asking, peeks: bool = False) -> Answer:
        """Ask both. Raises AssertionError with both answers if they differ; otherwise returns the answer of the
        specification. Before some questions, the engine answers the same one with other entities."""
        now, question, engine = asking.now, asking.question, self.tested.engine
        self.tested.now = now
        if self.tally.decisions % OTHERS_EVERY == 0:
            self.tested.evaluate_with_others(question)
        asks = "evaluate" if peeks else "decide"
        before, failures = self.specified.snapshot, engine.failures
        self.tested.store.committed.clear()
        with counted_evaluations(self.tally.reached):
            expected = answer(lambda: getattr(self.specified, asks)(read_member_by_member(question), now))
        found = answer(getattr(self.tested, asks), question)
        self._same(asking, asks, expected, found)
        if isinstance(expected, Refusal):
            self.tally.count(expected, Effects(), iter(()))
            return expected
        effects, request = self.specified.effects, parse_request(question)
        fails = expected.gate is Gate.FAILURE
        self._same(asking, "failures", fails, engine.failures > failures)
        spends = not peeks and request.options.consume
        self._same(asking, "commits", [effects] if spends and effects else [], self.tested.store.committed)
        snapshot = replace(before, history=self.specified.past)
        self._same(asking, "plan", (self.specified.unsettled, effects), self.tested.conclude(request, snapshot))
        self.tally.count(expected, effects, features(self.asked.kernel, request, expected))
        if asking.behavior is not None:
            self._compare_learned(asking, request)
        return expected

    def _compare_learned(self, asking: Asking, request: Request) -> None:
        """Compare the decisions with learned facts, without spending anything."""
        at, behavior = request.options.at or asking.now, asking.behavior
        history = self.specified.remembered(request, at, asking.now, behavior)
        snapshot = replace(self.specified.snapshot, history=history, behavior=behavior)
        expected = told(reference.decide(self.asked.kernel, request, snapshot, at))
        self._same(asking, "learned", expected, self.tested.conclude(request, snapshot))
        self.tally.reached.update(f"learned {one}" for one in constructs(*expected))

    def report(self, status: int | None, output: dict[str, object]) -> None:
        """Report the outcome of the last request to both."""
        at = micros(self.tested.now)
        first = self.specified.store.report(self.specified.number, OutcomeReport(status, normalize_facts(output)), at)
        finished = self.specified.store.finish(self.specified.number, at)
        assert self.tested.engine.report(self.tested.last, status=status, output=output) == (
            "first" in (first, finished)
        )

    def _same(self, asking: Asking, how: str, expected: object, found: object) -> None:
        assert found == expected, f"{how}\nspecified: {expected}\n    found: {found}\n{asking}\n\n{self.asked}"


# ── Small cases ───────────────────────────────────────────────────────────────────────────────


def shrink_difference(asked: Setting, asking: Asking) -> str | None:
    """Return a smaller case with the same difference, if it needs no history and the question is a plain object."""
    case = Case(asked.policy, asked.rows, asking.question, asking.now)  # type: ignore[arg-type]
    if type(asking.question) is not dict or difference(case) is None:
        return None
    return difference(shrunk(case, lambda one: difference(one) is not None))


def difference(case: Case) -> str | None:
    pair = Pair.of(Setting(case.policy, case.rows, case.kernel, directory(case.rows)), case.now)
    try:
        pair.compare(Asking(case.question, case.now))
    except AssertionError as error:
        return str(error)
    return None
