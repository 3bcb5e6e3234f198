"""Two policies to what changes for requests: regions proved the same, differences with a witness, doubts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from random import Random
from typing import Any, TypeAlias

from policyengine.analysis.asking import Asked, as_json, rule
from policyengine.analysis.callers import Caller, callers, conditions_of
from policyengine.analysis.changes import (
    Answer,
    Diff,
    Difference,
    Direction,
    Doubt,
    Region,
    Rule,
    Verdict,
    Witness,
    answer_of,
    coming_to,
    direction_of,
    unique,
    whole_answer_of,
)
from policyengine.analysis.diagrams import Path, TooLarge
from policyengine.analysis.endpoints import Class, TooMany, classes, patterns_of
from policyengine.analysis.filling import Filling
from policyengine.analysis.handing import hops_for, names
from policyengine.analysis.limits import limit_changes
from policyengine.analysis.maps import map_changes
from policyengine.analysis.regions import DENY, Comparison
from policyengine.analysis.saying import Changed, condition_of
from policyengine.analysis.sides import Said, Side, Unit
from policyengine.semantics import kernel as k
from policyengine.source import Span

MOST_PATHS = 60  # of one pair of answers that are tried until a request is found
MOST_REGIONS = 4_000  # that are looked at one by one
FEW_PATHS = 3
SAMPLES = 200  # requests to a region where sameness is not proved …
ALL_SAMPLES = 1_500  # … and to all of them; each has FEWEST at least
FEWEST = 20
WHOLE = "every endpoint"

Asking: TypeAlias = tuple[dict[str, Any], datetime]
Piece: TypeAlias = tuple[tuple[str, ...], str, Span]


def compare(old: k.Kernel, new: k.Kernel, *, reasons: bool = False, seed: int = 0, samples: int = ALL_SAMPLES) -> Diff:
    """What the new policy answers differently, region by region.

    `reasons`: where the answer is the same, its reasons, words and remedies are compared as well. `samples` bounds the
    requests that are tried where sameness is not proved; the same seed tries the same ones.
    """
    return Comparing(old, new, Random(seed), reasons, samples).run()


@dataclass(frozen=True, slots=True)
class Found:
    """One region that differs: a witness, both verdicts, and the rules that changed there."""

    witness: Witness
    answers: tuple[Answer, Answer]
    verdicts: tuple[Verdict, Verdict]
    removed: tuple[Rule, ...]
    added: tuple[Rule, ...]


@dataclass(eq=False)
class Comparing:
    old: k.Kernel
    new: k.Kernel
    random: Random
    reasons: bool
    samples: int
    found: list[Found] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    same: int = 0
    looked_at: int = 0

    def __post_init__(self) -> None:
        tasks = bool(self.old.advisory or self.new.advisory)
        self.sides = (Side(self.old, "old", tasks), Side(self.new, "new", tasks))
        of = whole_answer_of if self.reasons else answer_of
        self.asked = (Asked(self.old, of), Asked(self.new, of))
        self.issuers = frozenset(self.old.issuers) | frozenset(self.new.issuers)
        of_old, of_new = ({(*path[:1], path[-1], name, claim) for name, one in kernel.issuers.items()
                           for claim, path in one.claims} for kernel in (self.old, self.new))  # fmt: skip
        self.claimed = frozenset((root, attribute) for root, attribute, *_ in of_old ^ of_new)

    def run(self) -> Diff:
        self.walk()
        return self.result()

    def walk(self) -> None:
        """Every class of endpoints in turn. Whoever stops it half-way has the result of what was looked at by then."""
        if self.old.revision != self.new.revision or not self.old.revision:
            try:
                for at in classes(patterns_of(self.old, self.new)):
                    self.look_at(at)
            except TooMany:
                why = "the patterns of the two policies cross in too many ways"
                self.doubts.append(Doubt(WHOLE, "everybody", why, 0))

    def result(self) -> Diff:
        return Diff(
            self.old.revision, self.new.revision, tuple(gathered(self.found)), tuple(self.doubts), self.same,
            len({(one.witness.region.endpoint, one.witness.region.caller) for one in self.found}),
            limits=limit_changes(self.old, self.new, reasons=self.reasons), maps=map_changes(self.old, self.new),
        )  # fmt: skip

    def says(self, units: Sequence[Unit]) -> object:
        """What rules come to; with their names and words, and in their order, where reasons count."""
        return [unit.told for unit in units] if self.reasons else {unit.text for unit in units}

    # ── One class of endpoints ────────────────────────────────────────────────────────────────

    def look_at(self, at: Class) -> None:
        """Where the same rules stand on both sides nothing can differ; else each kind of caller is looked at."""
        old, new = (side.units(at) for side in self.sides)
        settled = self.sides[0].setting(at) == self.sides[1].setting(at) and not self.claimed
        if settled and self.says(old) == self.says(new):
            self.same += 1
            return
        kinds_of_callers, exact = callers(old, new)
        for caller in kinds_of_callers:
            handing = Handing.of(caller, old, new, settled)
            alike = settled and self.says(caller.old) == self.says(caller.new)
            if (alike and (handing.none or handing.same)) or not caller.doors:
                self.same += 1
            elif self.looked_at >= MOST_REGIONS:
                self.doubts.append(Doubt(at.words, caller.words, "too many regions to look at each", 0))
                return
            else:
                self.looked_at += 1
                OneRegion(self, at, caller, old, new).look(handing)
        if not (exact and at.exact):
            why = "rules ask for names in a way that no list of names stands for"
            self.doubts.append(Doubt(at.words, "everybody", why, 0))


@dataclass(frozen=True, slots=True)
class Handing:
    """Who hands work on to a caller there: nobody (`none`), and whether both policies say the same of all who might."""

    none: bool
    same: bool

    @classmethod
    def of(cls, caller: Caller, old: Sequence[Unit], new: Sequence[Unit], settled: bool) -> Handing:
        none = not any(unit.kind == "delegate" and names(unit, caller.settled.agent) for unit in (*old, *new))
        return cls(none, settled and sorted(links(old)) == sorted(links(new)))


def links(units: Sequence[Unit]) -> Iterator[str]:
    """What chains rest on: who may hand it on, and the doors of those."""
    handing = {id(unit.block) for unit in units if unit.kind == "delegate"}
    yield from (unit.text for unit in units if id(unit.block) in handing)


# ── One region ────────────────────────────────────────────────────────────────────────────────


@dataclass(eq=False)
class OneRegion:
    """One kind of caller at one class of endpoints."""

    comparing: Comparing
    at: Class
    caller: Caller
    old: tuple[Unit, ...]  # all that stands there, whoever it is about
    new: tuple[Unit, ...]
    seen: set[tuple[object, object]] = field(default_factory=set)
    open: list[str] = field(default_factory=list)  # why sameness is not proved

    def look(self, handing: Handing) -> None:
        before = len(self.comparing.found)
        alone = self.compare(self.caller, sound=None)
        by_agent = isinstance(self.caller.settled.agent, str)
        if by_agent:
            handed = replace(self.caller, settled=replace(self.caller.settled, hops=None))
            self.compare_handed(handed, handing)
        if any(asks_for_approvals(unit) for units in self.changed_units() for unit in units):
            self.open.append("requests that come with approvals were not compared")
        if self.comparing.reasons and alone is not None:
            self.seek_reasons(alone)
        if self.open:
            self.doubt(alone)
        elif len(self.comparing.found) == before:
            self.comparing.same += 1

    def compare(self, caller: Caller, *, sound: bool | None) -> Comparison | None:
        """Both answers as diagrams: where they are one nothing differs, else requests are sought that show it."""
        try:
            comparison = Comparison(caller.settled, *self.said(caller), self.comparing.issuers, sound=sound)
        except TooLarge:
            self.open.append("the conditions are too many to try all that they can be")
            return None
        made = comparison.diagrams
        for ends in made.differences(comparison.old, comparison.new):
            if ends not in self.seen and not self.witnessed(comparison, caller, ends):
                self.open.append("the answers may differ, but no request was found that shows it")
        return comparison

    def seek_reasons(self, comparison: Comparison) -> None:
        """Where the answer is the same its reasons may not be: a few requests for each answer are tried."""
        made = comparison.diagrams
        for ends in made.differences(made.end(None), comparison.new):
            for path in islice(made.paths(made.end(None), comparison.new, ends), FEW_PATHS * FEW_PATHS):
                for question, now in self.questions(comparison, self.caller, path):
                    self.tell(comparison, self.caller, path, question, now)
        self.open.append("reasons were compared by sampled requests")

    def compare_handed(self, handed: Caller, handing: Handing) -> None:
        """Chains: sound in both policies or in neither, unless what they rest on changed."""
        if handing.none:
            self.compare(handed, sound=False)
        elif handing.same:
            self.compare(handed, sound=None)
        else:
            comparison = self.compare(handed, sound=None)
            if comparison is not None:
                self.seek_chains(comparison, handed)
            self.open.append("who may hand work on changed: chains of agents were sampled")

    def seek_chains(self, comparison: Comparison, handed: Caller) -> None:
        """The caller comes through by itself: then only what is before it in the chain can make the difference."""
        made = comparison.diagrams
        closed = made.end(DENY)
        for answers in (comparison.old, comparison.new):
            for ends in made.differences(closed, answers):
                for path in islice(made.paths(closed, answers, ends), FEW_PATHS):
                    for question, now in self.questions(comparison, handed, path):
                        self.tell(comparison, handed, path, question, now)

    def said(self, caller: Caller) -> tuple[Said, Said]:
        old, new = self.comparing.sides
        claimed = self.comparing.claimed
        return old.said(self.at, caller.settled, caller.old, claimed), new.said(
            self.at, caller.settled, caller.new, claimed
        )

    # ── Witnesses ─────────────────────────────────────────────────────────────────────────────

    def witnessed(self, comparison: Comparison, caller: Caller, ends: tuple[object, object]) -> bool:
        """Seeks a request for a difference; whatever difference is seen on the way is told as well."""
        for path in islice(comparison.diagrams.paths(comparison.old, comparison.new, ends), MOST_PATHS):
            for question, now in self.questions(comparison, caller, path):
                self.tell(comparison, caller, path, question, now)
                if ends in self.seen:
                    return True
        return False

    def questions(self, comparison: Comparison, caller: Caller, path: Path) -> Iterator[Asking]:
        states = {one: comparison.state(number, path) for number, one in enumerate(comparison.space.subjects)}
        wanted = {one: state for one, state in states.items() if state is not None}
        space = comparison.space
        filling = Filling(
            self.at,
            caller.settled,
            absence=frozenset(space.subjects[number] for number in space.absence),
            constants={one: tuple(space.constants[number]) for number, one in enumerate(space.subjects)},
        )
        filling.fill(wanted)
        for operand, value in comparison.values(path):
            filling.give(operand, value)
        now = filling.moment()
        if caller.settled.hops == 0:
            yield filling.asked(), now
            return
        for hops in hops_for(self.at, caller.settled, (*self.old, *self.new), now):
            asked = filling.asked()
            asked["chain"] = {"hops": hops}
            yield asked, now

    def tell(
        self, comparison: Comparison | None, caller: Caller, path: Path, question: dict[str, Any], now: datetime
    ) -> bool:
        """Notes a difference that both engines show; False where there is none, or it is known."""
        question = as_json(question)  # what is told is what was asked
        before, after = (one.answer(question, now) for one in self.comparing.asked)
        if before is None or after is None or before == after or self.known(before, after):
            return False
        old, new = self.comparing.asked
        verdicts = old.verdict(question, now, before), new.verdict(question, now, after)
        self.seen.add((coming_to(before), coming_to(after)))
        removed, added = self.changed()
        condition = "" if comparison is None else condition_of(comparison, path, self.changed_by(caller))
        region = Region(self.at.words, caller.words, condition)
        witness = Witness(region, question, now)
        self.comparing.found.append(Found(witness, (before, after), verdicts, removed, added))
        return True

    def known(self, before: Answer, after: Answer) -> bool:
        return (coming_to(before), coming_to(after)) in self.seen

    def changed_units(self) -> tuple[list[Unit], list[Unit]]:
        """The rules about this caller that only one of the two policies has."""
        old, new = ({unit.text for unit in units} for units in (self.caller.old, self.caller.new))
        return [u for u in self.caller.old if u.text not in new], [u for u in self.caller.new if u.text not in old]

    def changed_by(self, caller: Caller) -> Changed:
        old, new = self.comparing.sides
        by = [side.rewriter(self.at, caller.settled, self.comparing.claimed) for side in (old, new)]
        removed, added = self.changed_units()
        return (removed, by[0], old), (added, by[1], new)

    def changed(self) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
        """What was removed, and what was added: of a block only what it requires, where that alone changed."""
        units = self.changed_units()
        sides = [[[*side.pieces(u, self.at)] for u in us] for side, us in zip(self.comparing.sides, units, strict=True)]
        texts = [{text for pieces in several for text, _, _ in pieces} for several in sides]
        return only(sides[0], texts[1]), only(sides[1], texts[0])

    # ── Where nothing was proved ──────────────────────────────────────────────────────────────

    def doubt(self, comparison: Comparison | None) -> None:
        sampled = 0 if comparison is None else self.sample(comparison)
        whys = "; ".join(dict.fromkeys(self.open))
        self.comparing.doubts.append(Doubt(self.at.words, self.caller.words, whys, sampled))

    def sample(self, comparison: Comparison) -> int:
        """Requests with every fact in a state by chance, handed on or not."""
        random, count = self.comparing.random, 0
        handed = replace(self.caller, settled=replace(self.caller.settled, hops=None))
        while count < min(SAMPLES, max(self.comparing.samples, FEWEST)):
            path = {n: random.randrange(len(comparison.states(n))) for n in range(len(comparison.space.subjects))}
            caller = handed if isinstance(self.caller.settled.agent, str) and random.random() < 0.5 else self.caller
            for question, now in self.questions(comparison, caller, path):
                count += 1
                self.tell(comparison, caller, path, question, now)
        self.comparing.samples -= count
        return count


def asks_for_approvals(unit: Unit) -> bool:
    nodes = (node for condition in conditions_of(unit) for node in k.walk(condition))
    return any(isinstance(node, k.Fact) and node.path[0] == "approval" for node in nodes)


def only(
    several: Iterable[Sequence[tuple[tuple[str, ...], str, Span]]], other: set[tuple[str, ...]]
) -> tuple[Rule, ...]:
    """Of each rule what the other side does not have: the rule itself, or else what its block requires."""
    found: list[Rule] = []
    for pieces in several:
        apart = [rule(name, span) for text, name, span in pieces if text not in other]
        found += apart[:1] if pieces and pieces[0][0] not in other else apart
    return unique(found)


# ── Differences that are one ──────────────────────────────────────────────────────────────────


def gathered(found: Iterable[Found]) -> Iterator[Difference]:
    """Regions where the same rules changed and the answers did alike, together; what opens a door first."""
    together: dict[object, list[Found]] = {}
    for one in found:
        key = (*map(coming_to, one.answers), one.removed, one.added)
        together.setdefault(key, []).append(one)
    differences = [
        Difference(
            direction_of(*several[0].answers), *several[0].verdicts, several[0].removed, several[0].added,
            tuple(one.witness for one in several),
        )
        for several in together.values()
    ]  # fmt: skip
    yield from sorted(differences, key=lambda one: ([*Direction].index(one.direction), -len(one.witnesses)))
