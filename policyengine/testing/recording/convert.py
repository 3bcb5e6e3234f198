"""A decision log to tests: what was decided becomes what must be decided, as far as the language of tests can say it.

Every request is asked as the test would ask it before it is written down: what the words of tests cannot say, and what
would therefore come out otherwise, is left out and told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from policyengine import kernel as k
from policyengine.audit import DecisionRecord, ReplayError, ReplayResult, replay_decision
from policyengine.check import CheckResult
from policyengine.checker.names.symbols import MAIN_PACKAGE
from policyengine.entities.store import EntityStore
from policyengine.runtime.decision import Decision, Outcome
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.source import Source
from policyengine.spec.evaluate import build_facts
from policyengine.spec.match_endpoint import match_pattern
from policyengine.spec.reference import conclude, trace_request
from policyengine.spec.required_history import history_windows
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.testcases import Case
from policyengine.testing.case_sequence import CaseSequence as Begun
from policyengine.testing.case_sequence import settle_alone
from policyengine.testing.properties.render_test import quote_string
from policyengine.testing.recording.case_writer import CaseWriter, InexpressibleError, RecordedCase
from policyengine.testing.runner import given_approvals
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import GROUPED_ROOTS, ROOTS

HEADER = "# Written by `policyengine record`: what was decided, as tests. Writing it again replaces it."
FIXTURE_NAME = "recorded"
ROOTS_GIVEN_TOGETHER = (*GROUPED_ROOTS, *(root for root, members in ROOTS.items() if members is None))

Pair: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class SkippedDecision:
    """A decision that no case was made of, and why."""

    id: str
    why: str

    def to_dict(self) -> dict[str, str]:
        return {"id": self.id, "why": self.why}


@dataclass(frozen=True, slots=True)
class RecordingResult:
    """A file of tests, empty where there are none.

    `merged` decisions were the same as others; `changed` come to something else by the policies; `over` cases were
    beyond the limit; `unsaid` are facts that no test can say, and that made no difference.
    """

    text: str
    tests: int
    cases: int
    decisions: int
    merged: int
    over: int
    changed: tuple[str, ...]
    left_out: tuple[SkippedDecision, ...]
    unsaid: tuple[str, ...]

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Why decisions were left out, and which."""
        found: dict[str, list[str]] = defaultdict(list)
        for decision in self.left_out:
            found[decision.why].append(decision.id)
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "tests": self.tests,
            "cases": self.cases,
            "decisions": self.decisions,
            "merged": self.merged,
            "over": self.over,
            "changed": list(self.changed),
            "left_out": [one.to_dict() for one in self.left_out],
            "unsaid": list(self.unsaid),
        }


@dataclass(frozen=True, slots=True)
class DecisionCase:
    """A decision in words, who asked it and where."""

    record: DecisionRecord
    said: RecordedCase
    who: str
    where: str
    world: tuple[int, tuple[str, ...]]  # the directory, and rows that came along


def convert_log(
    records: Iterable[DecisionRecord], checked: CheckResult, *, only: Collection[Outcome] = (), limit: int | None = None
) -> RecordingResult:
    """The tests of a policy without errors that the records come to, in an order that depends on nothing else.

    `only` keeps decisions with these outcomes; `limit` is how many cases there are at most.
    """
    return DecisionLogConverter(checked, limit).of(one for one in records if not only or one.outcome in only)


@dataclass(slots=True)
class DecisionLogConverter:
    checked: CheckResult
    limit: int | None = None
    kept: dict[object, DecisionCase] = field(default_factory=dict)
    left_out: list[SkippedDecision] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unsaid: set[str] = field(default_factory=set)
    decisions: int = 0
    merged: int = 0
    over: int = 0

    @property
    def kernel(self) -> k.Kernel:
        assert self.checked.kernel is not None
        return self.checked.kernel

    def of(self, records: Iterable[DecisionRecord]) -> RecordingResult:
        sayer = CaseWriter.of(self.checked)
        for record in records:
            self.decisions += 1
            try:
                again = replay_decision(record, self.kernel)
                self.keep(again, faithful_case(again, sayer))
            except (ReplayError, InexpressibleError) as problem:
                self.left_out.append(SkippedDecision(record.id, str(problem)))
        tests = self.tests()
        return RecordingResult(
            self.file(tests),
            sum(one.startswith("test ") for one in tests),
            len(self.kept),
            self.decisions,
            self.merged,
            self.over,
            tuple(self.changed),
            tuple(self.left_out),
            tuple(sorted(self.unsaid)),
        )

    def keep(self, again: ReplayResult, said: RecordedCase) -> None:
        record = again.record
        who, where = caller_text(again), endpoint_text(again, self.kernel)
        inline = tuple(sorted(str(one.ref) for one in record.question.entities))
        rows = tuple(row for ref, row in said.rows if str(ref) in inline)
        same = (who, said.request, frozenset(said.facts), said.expected, said.rows)
        if same in self.kept:
            self.merged += 1
            return
        if self.limit is not None and len(self.kept) >= self.limit:
            self.over += 1
            return
        self.kept[same] = DecisionCase(record, said, who, where, (id(record.directory), rows))
        self.unsaid.update(said.unsaid)
        if not again.same:
            self.changed.append(record.id)

    # ── The file ──────────────────────────────────────────────────────────────────────────────

    def tests(self) -> list[str]:
        """Fixtures, and one test for each caller and endpoint, its requests in the order of time. Where something is
        counted or remembered each has a test of its own: not all that was decided then is there to be counted."""
        groups: dict[tuple[str, str, tuple[int, tuple[str, ...]], int], list[DecisionCase]] = defaultdict(list)
        for number, one in enumerate(self.kept.values()):
            apart = number if self.kernel.limits or self.kernel.watches else 0
            groups[one.who, one.where, one.world, apart].append(one)
        names = RecordedTestNames(self.taken("fixture"), self.taken("test"))
        fixtures = {world: names.fixture() if rows else None for world, rows in self.worlds().items()}
        texts = [fixture_text(name, self.worlds()[world]) for world, name in fixtures.items() if name]
        for (who, where, world, _), several in sorted(groups.items(), key=lambda group: group[0][:2]):
            ordered = sorted(several, key=lambda one: (one.said.at, one.record.id))
            name = names.test(f"recorded: {who}, {where}")
            texts.append(test_text(name, fixtures[world], ordered, self.issuers))
        return texts

    def worlds(self) -> dict[tuple[int, tuple[str, ...]], dict[EntityRef, str]]:
        """The rows of each directory that a decision looked up."""
        found: dict[tuple[int, tuple[str, ...]], dict[EntityRef, str]] = defaultdict(dict)
        for case in self.kept.values():
            found[case.world].update(case.said.rows)
        return found

    @property
    def issuers(self) -> frozenset[str]:
        """The issuers that tests of the package can name."""
        package = self.checked.program.packages.get(self.kernel.package)
        return frozenset(package.names("issuer")) if package else frozenset()

    def taken(self, kind: str) -> set[str]:
        """Names that the package has already."""
        package = self.checked.program.packages.get(self.kernel.package)
        if package is None:
            return set()
        if kind == "fixture":
            return set(package.names("fixture"))
        every = (one for module in package.modules for one in module.declarations)
        return {one.name.value for one in every if isinstance(one, ast.TestDecl)}

    def file(self, tests: Sequence[str]) -> str:
        """Empty where there is no test."""
        package = "" if self.kernel.package == MAIN_PACKAGE else f"package {self.kernel.package}\n"
        whole = "\n\n".join([f"{HEADER}\nlanguage 1\n{package}".rstrip(), *tests]) + "\n"
        return format_module(Source("recorded_test.policy", whole)) if tests else ""


@dataclass(slots=True)
class RecordedTestNames:
    fixtures: set[str]
    tests: set[str]

    def fixture(self) -> str:
        return self._fresh(FIXTURE_NAME, "_", self.fixtures)

    def test(self, name: str) -> str:
        return self._fresh(name, " ", self.tests)

    @staticmethod
    def _fresh(name: str, between: str, taken: set[str]) -> str:
        found, number = name, 1
        while found in taken:
            number += 1
            found = f"{name}{between}{number}"
        taken.add(found)
        return found


# ── Who and where ─────────────────────────────────────────────────────────────────────────────


def caller_text(again: ReplayResult) -> str:
    principal = again.record.decision.get("principal") or {}
    if principal.get("agent"):
        return str(principal["agent"])
    return f"user {principal['user']}" if principal.get("user") else "nobody"


def endpoint_text(again: ReplayResult, kernel: k.Kernel) -> str:
    """The endpoint as the policy opens it, or as it was asked for where nothing does."""
    endpoint = again.record.question.endpoint
    grants = (
        grant for blocks in (kernel.agents, kernel.users, kernel.anyones) for one in blocks for grant in one.grants
    )
    patterns = {one.pattern for grant in grants for one in grant.openings}
    fitting = [one for one in patterns if match_pattern(one, endpoint) is not None]
    method = getattr(endpoint, "method", "")
    if not fitting:
        return again.explanation.endpoint
    return min(
        (pattern_text(one, method) for one in fitting), key=lambda name: (name.count("{"), name.count("*"), name)
    )


def pattern_text(pattern: k.Pattern, method: str) -> str:
    match pattern:
        case k.HttpPattern(_, segments, rest):
            parts = [
                f"{one.prefix}{{{one.capture or '*'}}}{one.suffix}" if one.wild else one.prefix for one in segments
            ]
            return f"{method} /{'/'.join([*parts, *(['**'] if rest else [])])}"
        case k.ToolPattern(glob):
            return f"TOOL {glob}"
        case k.ActionPattern(verb, type_):
            return f"ACTION {verb} {type_}"


# ── Texts ─────────────────────────────────────────────────────────────────────────────────────


def fixture_text(name: str, rows: Mapping[EntityRef, str]) -> str:
    lines = [f"    {row}" for _, row in sorted(rows.items(), key=lambda one: str(one[0]))]
    return "\n".join([f"fixture {name} {{", "  given entities {", *lines, "  }", "}"])


def test_text(name: str, used: str | None, several: Sequence[DecisionCase], issuers: frozenset[str]) -> str:
    """What all of its requests bring along is given before them."""
    every = [frozenset(one.said.facts) for one in several]
    shared = frozenset.intersection(*every) - {pair for pair in several[0].said.facts if "[" in pair[0]}
    shared -= {pair for pair in shared if pair[0] == "approval"}
    lines = [f"use {used}"] if used else []
    lines += given_lines([pair for pair in several[0].said.facts if pair in shared], issuers)
    lines += [one.said.shot(shared) for one in several]
    return "\n".join([f"test {quote_string(name)} {{", *(f"  {line}" for line in lines), "}"])


test_text.__test__ = False  # type: ignore[attr-defined]  # pytest: this is none of ours


def given_lines(shared: Sequence[Pair], issuers: frozenset[str]) -> Iterator[str]:
    facts = dict(shared)
    agent, issuer, user = facts.get("agent.id"), facts.get("agent.issuer"), facts.get("user.id")
    if agent is not None and agent.startswith('"') and issuer is not None and issuer[1:-1] in issuers:
        served = f" for user {user}" if user is not None and user.startswith('"') else ""
        yield f"given agent {agent} from {issuer[1:-1]}{served}"
        facts = {name: value for name, value in facts.items() if name not in ("agent.id", "agent.issuer")}
        facts = {name: value for name, value in facts.items() if not served or name != "user.id"}
    for root in ROOTS_GIVEN_TOGETHER:
        inside = [f"{name[len(root) + 1 :]}: {value}" for name, value in facts.items() if name.startswith(f"{root}.")]
        if inside:
            yield f"given {root} {{ {', '.join(inside)} }}"
    together = tuple(f"{root}." for root in ROOTS_GIVEN_TOGETHER)
    yield from (f"given {name} {value}" for name, value in facts.items() if not name.startswith(together))


# ── Whether the words are true ────────────────────────────────────────────────────────────────


def faithful_case(again: ReplayResult, sayer: CaseWriter) -> RecordedCase:
    """The record in words by which the same comes of it. Raises InexpressibleError."""
    if not again.same and again.record.revision == sayer.kernel.revision:
        raise InexpressibleError(replay_difference(again))
    unsaid: dict[str, None] = {}
    for said in sayer.says(again):
        case, mistake = parse_case(said, sayer)
        comes_to = None if case is None else decide_case(case, sayer)
        if comes_to is not None and comparable_outcome(comes_to) == comparable_outcome(again.decision):
            return said
        unsaid |= dict.fromkeys([mistake] if mistake else [f"`{one}`" for one in said.unsaid])
    happened = any(past.events for past in again.record.history.values())
    if again.decision.outcome is Outcome.THROTTLE or happened:
        raise InexpressibleError("it rests on requests that were made before it")
    if unsaid:
        raise InexpressibleError(f"no test can say {', '.join(unsaid)}")
    raise InexpressibleError("asked by a test it comes to something else")


def replay_difference(again: ReplayResult) -> str:
    if again.record.redacted:
        return "a secret that is not in the log mattered"
    if again.record.decision.get("gate") == "failure":
        return "the engine failed then"
    return "made again by the same policies it comes to something else"


def parse_case(said: RecordedCase, sayer: CaseWriter) -> tuple[Case | None, str | None]:
    """The request as a test asks it, or why it asks nothing."""
    rows = f"given entities {{ {' '.join(row for _, row in said.rows)} }}" if said.rows else ""
    cases, mistakes = sayer.scratch.cases(Source("record", f'test "record" {{ {rows}\n{said.shot()} }}'))
    if mistakes or len(cases) != 1:
        return None, f"it so: {mistakes[0].message}" if mistakes else None
    return cases[0], None


def decide_case(case: Case, sayer: CaseWriter) -> Decision | None:
    """What comes of a request without attributes, before which nothing happened; None where it is none."""
    try:
        request = Request.from_mapping(case.question)
    except RequestError:
        return None
    snapshot = Snapshot(EntityStore(case.rows.values()))
    facts = build_facts(sayer.kernel, request, snapshot, case.now)
    if sayer.asked:
        snapshot = replace(snapshot, history=Begun().fetched(history_windows(sayer.asked, facts), case.now))
        facts = replace(facts, history=snapshot.history)
    seen = trace_request(facts, snapshot)
    if given := tuple(given_approvals(case, seen, facts, snapshot)):
        facts = build_facts(sayer.kernel, replace(request, approvals=given), snapshot, case.now)
        seen = trace_request(facts, snapshot)
    return settle_alone(*conclude(facts, seen), case)


def comparable_outcome(decision: Decision) -> tuple[object, ...]:
    """What tests speak of."""
    return decision.outcome, frozenset((one.gate, one.rule, one.outcome) for one in decision.reasons)
