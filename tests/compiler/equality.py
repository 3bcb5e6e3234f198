"""Compares an engine with the specification, question by question, and counts the cases that occurred."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from typing import Any, NamedTuple, TypeAlias

from policyengine.compiler.evaluator import Evaluator
from policyengine.engine import Engine
from policyengine.engine.question import parse_request
from policyengine.runtime.decision import Decision, Effects, Outcome
from policyengine.runtime.decode import MAX_DEPTH
from policyengine.runtime.history import OutcomeReport
from policyengine.runtime.needs import Needs
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import text_hazard
from policyengine.stores.memory.store import MemoryStore
from policyengine.typesystem import EntityRef
from tests.generate.asking import Asking, Setting, askings, setting
from tests.generate.cases import Case, shrunk
from tests.generate.properties import near_misses
from tests.generate.requests import NOW, approved, directory
from tests.generate.specified import ANY_TIME, Said, Specified, micros, said

PEEKED = 0.3  # of the questions are only evaluated
CAREFUL = 0.5  # share of the questions without effects that `plan` and `resume` decide too
FOLLOWED = 0.6  # share of confirms that are asked again, with approvals


class Refusal(NamedTuple):
    """Where and why a question is refused."""

    member: str
    message: str
    hint: str | None


Answer: TypeAlias = Said | Refusal


# ── The engine under test: the names of its parts are here and nowhere else ───────────────────


class UnderTest:
    """An engine with a settable clock, and its two paths: the fast one for mappings, and the slow one."""

    def __init__(self, asked: Setting, now: datetime) -> None:
        self.now = now
        store = MemoryStore(history_complete=True, max_skew=ANY_TIME)
        self.engine = Engine(asked.kernel, directory=asked.directory, clock=lambda: self.now, store=store)
        self.evaluator: Evaluator = self.engine.decider.compiled.evaluator
        self.last = ""  # the ID of the last decision

    def decide(self, question: Any) -> Said:
        decision = self.engine.decide(question)
        self.last = decision.id
        return said(decision)

    def evaluate(self, question: Any) -> Said:
        return said(self.engine.evaluate(question))

    def quick(self, question: Any) -> Decision | None:
        """Return the answer of the fast path, or None if it gives up."""
        try:
            return self.evaluator.quick(question) if type(question) is dict else None
        except Exception as error:
            raise AssertionError(f"the quick way fails: {error!r}") from error

    def careful(self, request: Request, snapshot: Snapshot) -> tuple[Decision, Effects]:
        """Return the answer of `plan`, or of `resume` if it needs a snapshot."""
        now = request.options.at or self.now
        planned = self.evaluator.plan(request, now)
        return self.evaluator.resume(planned, snapshot, now) if isinstance(planned, Needs) else planned


# ── Answers that can be compared ──────────────────────────────────────────────────────────────


def answer(ask: Callable[..., Said], *arguments: Any) -> Answer:
    """Return the answer, or where and why the question is refused."""
    try:
        return ask(*arguments)
    except RequestError as error:
        return Refusal(error.member, error.message, error.hint)


@dataclass(slots=True)
class Tally:
    """How often each case occurred: `quick` by outcome, the others by name."""

    decisions: int = 0
    refused: int = 0
    quick: Counter[Outcome] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)

    def count(self, found: Answer, quick: Decision | None, effects: Effects) -> None:
        self.decisions += 1
        if quick is not None:
            self.quick[quick.outcome] += 1
        if isinstance(found, Refusal):
            self.refused += 1
            return
        self.reached.update(constructs(found, effects))

    @property
    def quickly(self) -> float:
        """The share of the questions that the fast path answered."""
        return sum(self.quick.values()) / max(self.decisions, 1)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.decisions + other.decisions, self.refused + other.refused, self.quick + other.quick,
            self.reached + other.reached,
        )  # fmt: skip

    def told(self) -> dict[str, int]:
        """Return plain data, for reports."""
        quick = {f"quickly {outcome}": count for outcome, count in self.quick.items()}
        return {"questions": self.decisions, "refused": self.refused, **quick, **self.reached}

    def __str__(self) -> str:
        quick = ", ".join(f"{count:,} {outcome}" for outcome, count in self.quick.most_common())
        rows = "\n".join(f"  {count:>9,} {name}" for name, count in sorted(self.reached.items()))
        return f"{self.decisions:,} questions, {self.refused:,} refused, quickly {self.quickly:.0%}: {quick}\n{rows}"


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


# A question is refused if a fact nests too deep or has a member whose name is not a text. The fast path does not
# read facts that no rule reads, so it may answer; then it must equal the specification without them.
UNSEEN = ("nested more than", "a member name that is")


def readable(tree: Any, depth: int = 0) -> Any:
    """Return the question without members that have no name, and without values that nest too deep."""
    if not isinstance(tree, Mapping | list | tuple) or isinstance(tree, EntityRef):
        return tree
    if depth >= MAX_DEPTH:
        return None
    if isinstance(tree, Mapping):
        return {name: readable(value, depth + 1) for name, value in tree.items() if is_name(name)}
    return [readable(item, depth + 1) for item in tree]


def is_name(name: object) -> bool:
    return isinstance(name, str) and text_hazard(name) is None


# ── Holding equal ─────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Pair:
    """The specification and the engine under test, with the same spent state."""

    asked: Setting
    random: Random
    specified: Specified
    tested: UnderTest
    tally: Tally

    @classmethod
    def of(cls, asked: Setting, now: datetime, seed: object = 0) -> Pair:
        specified = Specified(asked.kernel, asked.directory)
        return cls(asked, Random(f"{seed}"), specified, UnderTest(asked, now), Tally())

    def holds(self, asking: Asking, peeks: bool = False) -> Answer:
        """Ask both. Raises AssertionError with both answers if they differ; otherwise returns the answer of the
        specification."""
        now, question = asking.now, asking.question
        self.tested.now = now
        before, quick = self.specified.snapshot, self.tested.quick(question)
        asks = "evaluate" if peeks else "decide"
        expected = answer(getattr(self.specified, asks), question, now)
        found = answer(getattr(self.tested, asks), question)
        effects = Effects() if isinstance(expected, Refusal) else self.specified.effects
        lenient = self._lenient(expected, question, now) if isinstance(expected, Refusal) else expected
        answered = isinstance(found, Said) and isinstance(lenient, Said) and not peeks
        # The engine took from the limits also for what it did not detect, and so must the specification.
        unseen = answer(self.specified.decide, readable(question), now) if answered and found != expected else lenient
        self._same(asking, asks, expected, expected if found == unseen else found)
        if quick is not None:
            self._same(asking, "quick", (lenient, Effects()), (said(quick), effects))
        if isinstance(expected, Said) and (effects != Effects() or self.random.random() < CAREFUL):
            decision, done = self.tested.careful(parse_request(question), replace(before, history=self.specified.past))
            self._same(asking, "careful", (self.specified.unsettled, effects), (said(decision), done))
        self.tally.count(expected, quick, effects)
        return expected

    def reports(self, status: int) -> None:
        """Report the outcome of the last request to both."""
        at = micros(self.tested.now)
        told = self.specified.store.report(self.specified.number, OutcomeReport(status, {}), at)
        finished = self.specified.store.finish(self.specified.number, at)
        assert self.tested.engine.report(self.tested.last, status=status) == ("first" in (told, finished))

    def _lenient(self, refused: Refusal, question: Any, now: datetime) -> Answer:
        """Return the answer without what an engine need not detect if no rule reads it."""
        if type(question) is not dict or not refused.message.startswith(UNSEEN):
            return refused
        return answer(self.specified.evaluate, readable(question), now)

    def _same(self, asking: Asking, how: str, expected: object, found: object) -> None:
        assert found == expected, f"{how}\nspecified: {expected}\n    found: {found}\n{asking}\n\n{self.asked}"


def hold(seeds: Iterable[int], questions: int) -> Tally:
    """Ask this many questions of the policy of each seed, and the questions that follow from their answers."""
    total = Tally()
    for seed in seeds:
        total += held(seed, questions)
    return total


def held(seed: int, questions: int) -> Tally:
    asked = setting(seed)
    waiting = askings(seed, questions)
    pair = Pair.of(asked, now=NOW, seed=seed)  # each asking sets the clock
    later: deque[Asking] = deque()
    for _ in range(questions):
        asking = later.popleft() if later and pair.random.random() < 0.5 else next(waiting)
        try:
            found = pair.holds(asking, peeks=pair.random.random() < PEEKED)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {made_small(asked, asking) or error}") from None
        later.extend(followed(pair.random, asking, found))
    return pair.tally


def followed(random: Random, asking: Asking, found: Answer) -> Iterator[Asking]:
    """Ask a confirm again, with approvals, more often than they last; also ask a question that is almost the same."""
    confirms = isinstance(found, Said) and found.outcome is Outcome.CONFIRM
    plain = type(asking.question) is dict and "approvals" not in asking.question
    if confirms and plain and random.random() < FOLLOWED:
        again = Asking(approved(random, asking.question, found, asking.now), asking.now)
        yield from (
            Asking({**other, "approvals": again.question["approvals"]}, asking.now)
            for other in near_misses(random, asking.question, most=1)
        )
        yield from [again] * random.choice([1, 2, 3])


# ── Small cases ───────────────────────────────────────────────────────────────────────────────


def made_small(asked: Setting, asking: Asking) -> str | None:
    """Return a smaller case with the same difference, if it needs no history and the question is a plain object."""
    case = Case(asked.policy, asked.rows, asking.question, asking.now)  # type: ignore[arg-type]
    if type(asking.question) is not dict or difference(case) is None:
        return None
    return difference(shrunk(case, lambda one: difference(one) is not None))


def difference(case: Case) -> str | None:
    pair = Pair.of(Setting(case.policy, case.rows, case.kernel, directory(case.rows)), case.now)
    try:
        pair.holds(Asking(case.question, case.now))
    except AssertionError as error:
        return str(error)
    return None
