"""Doors that recorded traffic needs, as a policy of their own, and the proof: the log decided again with them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from policyengine import kernel as k
from policyengine.analysis.diff.model import Flip
from policyengine.analysis.replay import flipped
from policyengine.analysis.suggest.needs import (
    HELPED,
    Need,
    NotByDoor,
    Target,
    Targets,
    need_of,
    patterns_of,
    spellable,
    spelled,
    text,
)
from policyengine.analysis.suggest.text import Door, lines_of
from policyengine.audit import CannotRepeat, Record, decided_again, read_records
from policyengine.check import Checked, check
from policyengine.checker.names.symbols import MAIN
from policyengine.importers.sanitize import comment
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.endpoints import Endpoint, HttpEndpoint
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse

MOST_PEOPLE = 50
FILE = "suggested.policy"
ENDED = "1970-01-01"


@dataclass(frozen=True, slots=True)
class Left:
    """Recorded requests that stay denied, and why no door is suggested."""

    why: str
    agent: str | None
    endpoint: str
    decisions: int

    def to_dict(self) -> dict[str, Any]:
        return {"why": self.why, "agent": self.agent, "endpoint": self.endpoint, "decisions": self.decisions}


@dataclass(frozen=True, slots=True)
class Suggested:
    """`text` is empty where no door is needed. So many decisions were `meant` to flip; `flips` did, and `others`."""

    text: str
    doors: tuple[Door, ...]
    left: tuple[Left, ...]
    records: int
    unusable: int
    allowed: int
    meant: int
    flips: tuple[Flip, ...]
    others: tuple[Flip, ...]

    @property
    def holds(self) -> bool:
        """Whether exactly what was meant flips."""
        return len(self.flips) == self.meant and not self.others

    def to_dict(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "unusable": self.unusable,
            "allowed": self.allowed,
            "doors": [one.to_dict() for one in self.doors],
            "not_by_a_door": [one.to_dict() for one in self.left],
            "proof": {
                "meant": self.meant,
                "flips": len(self.flips),
                "others": [{"id": one.id, "line": one.line, "old": one.old, "new": one.new} for one in self.others],
            },
            "policy": self.text,
        }


@dataclass(slots=True)
class Suggesting:
    """One log and the policies it is about. `tell` hears about lines that hold no decision."""

    modules: Sequence[ast.Module]
    checked: Checked
    log: Path
    tell: Callable[[str], None]
    needs: dict[int, Need] = field(default_factory=dict)
    lefts: dict[int, tuple[str, str | None, str, Endpoint]] = field(default_factory=dict)
    records: int = 0
    unusable: int = 0
    allowed: int = 0

    @property
    def kernel(self) -> k.Kernel:
        assert self.checked.kernel is not None
        return self.checked.kernel

    def suggested(self) -> Suggested:
        """Raises OSError."""
        for record in read_records(self.log, self.tell):
            self.look_at(record)
        agents = self.doors_of_agents()
        doors = self.useful([*agents, *self.doors_of_people(agents)])
        return self.proved(doors, self.written(doors))

    def look_at(self, record: Record) -> None:
        self.records += 1
        try:
            again = decided_again(record, self.kernel)
        except CannotRepeat:
            again = None
        if again is None or again.unsure:
            self.unusable += 1
            return
        if again.decision.allowed:
            self.allowed += 1
            return
        try:
            self.needs[record.line] = need_of(again, self.kernel)
        except NotByDoor as problem:
            agent, endpoint = again.decision.principal.agent, again.facts.request.endpoint
            self.lefts[record.line] = str(problem), agent, again.explanation.endpoint, endpoint

    # ── Doors ─────────────────────────────────────────────────────────────────────────────────

    def doors_of_agents(self) -> list[Door]:
        """For the needs that are one of an agent's door; what is one of its user's alone comes later."""
        groups: dict[tuple[str, str, int], list[Need]] = defaultdict(list)
        for need in self.needs.values():
            if need.block is not None and need.block.package != self.kernel.package:
                self.left_of(need, f"its block is of the package {need.block.package}")
            elif need.agents:
                groups[need.agent, need.issuer, id(need.block)].append(need)
        targets = Targets(self.checked, self.kernel.package)
        return [door for needs in groups.values() for door in self.doors_for(needs, targets)]

    def doors_for(self, needs: Sequence[Need], targets: Targets) -> Iterator[Door]:
        found: dict[Target, list[Need]] = defaultdict(list)
        for need, target in targets.of(needs):
            if isinstance(target, NotByDoor):
                self.left_of(need, str(target))
            else:
                found[target].append(need)
        for target, some in found.items():
            kinds, lifetimes = {one.kind for one in some}, {one.lifetime for one in some}
            yield Door(
                some[0].agent,
                some[0].issuer,
                target,
                some[0].block,
                frozenset(one.line for one in some),
                users=tuple(sorted({one.user for one in some if one.user is not None})),
                kinds=() if None in kinds else tuple(sorted(kind for kind in kinds if kind)),
                bound=all(one.bound for one in some),
                lifetime=None if None in lifetimes else max((one for one in lifetimes if one), default=None),
                asks=must_ask(target, some, targets),
            )

    def left_of(self, need: Need, why: str) -> None:
        self.needs.pop(need.line, None)
        self.lefts[need.line] = why, need.agent, words_of(need), need.endpoint

    def doors_of_people(self, doors: Sequence[Door]) -> list[Door]:
        """What is still denied for the want of a user's door, once agents have theirs."""
        kernel = self.compiled(doors, for_people=True)
        lacking: dict[int, Need] = {}
        for record in self.recorded(self.needs):
            reasons = decided_again(record, kernel).decision.reasons
            first = reasons[0].gate if reasons else None
            if first is Gate.USER and all(one.gate is Gate.USER or one.outcome is Outcome.CONFIRM for one in reasons):
                lacking[record.line] = self.needs[record.line]
        targets = {line: door.target for door in doors for line in door.lines}
        found = Targets(self.checked, self.kernel.package)
        for need, target in found.of([one for line, one in lacking.items() if line not in targets]):
            if isinstance(target, NotByDoor):
                self.left_of(need, str(target))
            else:
                targets[need.line] = target
        groups: dict[Target, list[Need]] = defaultdict(list)
        for line, need in lacking.items():
            if line in targets and need.user is not None:
                try:
                    spellable(need.user)
                    groups[targets[line]].append(need)
                except NotByDoor as problem:
                    self.left_of(need, str(problem))
        return [one for target, needs in groups.items() for one in self.people(target, needs, found)]

    def people(self, target: Target, needs: Sequence[Need], targets: Targets) -> Iterator[Door]:
        users = tuple(sorted({one.user for one in needs if one.user is not None}))
        if len(users) > MOST_PEOPLE:
            for need in needs:
                self.left_of(need, f"more than {MOST_PEOPLE} people need it: say by a role or a team who they are")
            return
        asks = must_ask(target, needs, targets)
        yield Door(None, "", target, None, frozenset(one.line for one in needs), users=users, asks=asks)

    def useful(self, doors: Sequence[Door]) -> tuple[Door, ...]:
        """Doors behind which something still stops every request are not worth opening."""
        kernel = self.compiled(doors, for_people=True)
        opened: set[int] = set()
        for record in self.recorded(self.needs):
            decision = decided_again(record, kernel).decision
            if decision.outcome is Outcome.DENY:
                first = next((one for one in decision.reasons if one.gate not in HELPED), decision.reasons[0])
                rule = f" {text(first.rule)}" if first.rule else ""
                self.left_of(self.needs[record.line], f"behind the door the {first.gate}{rule} stops it")
            else:
                opened.add(record.line)
        kept = [replace(one, lines=one.lines & opened) for one in doors if one.lines & opened]
        return tuple(sorted(kept, key=lambda one: one.rank))

    def recorded(self, lines: Iterable[int]) -> Iterator[Record]:
        """Those that were looked at before, once more."""
        wanted = set(lines)
        return (one for one in read_records(self.log) if one.line in wanted) if wanted else iter(())

    # ── The policy ────────────────────────────────────────────────────────────────────────────

    def written(self, doors: Sequence[Door]) -> str:
        """In canonical form; empty where there is nothing to say."""
        if not doors:
            return ""
        package = "" if self.kernel.package == MAIN else f"package {self.kernel.package}\n"
        head = [
            "language 1",
            package,
            f"# Written by `policyengine suggest`, from {self.records:,} recorded decisions: {comment(self.log.name)}.",
            "# That something was asked for is no reason to allow it: delete what nobody should have.",
            "",
        ]
        return format_module(Source(FILE, "\n".join([*head, *lines_of(doors, self.guard_names())]) + "\n"))

    def guard_names(self) -> set[str]:
        return {guard.name for guard in self.kernel.guards}

    def compiled(self, doors: Sequence[Door], *, for_people: bool = False) -> k.Kernel:
        """`for_people`: agents may act for users of whom no block speaks yet; then they open nothing to them."""
        written = self.written(doors)
        if not written:
            return self.kernel
        for_users = next((one.target.may for one in doors if one.agent is not None and one.users), None)
        if for_people and not self.kernel.users and for_users is not None:  # the checker wants a block of users
            written += f"user any {{ may {for_users}   valid until {ENDED} }}\n"
        module, problems = parse(Source(FILE, written))
        found = check([*self.modules, *([module] if module else [])], problems)
        if found.kernel is None:
            first = next(one for one in found.diagnostics if one.is_error)
            raise ValueError(f"what is suggested is no policy: {first.render()}")
        return found.kernel

    # ── The proof ─────────────────────────────────────────────────────────────────────────────

    def left(self) -> Iterator[Left]:
        """What was asked for with many ids is one, where the policy has a pattern for all of them."""
        patterns = tuple(dict.fromkeys(patterns_of(self.kernel)))
        places = {words: endpoint for _, _, words, endpoint in self.lefts.values()}
        spelling = {words: as_pattern(endpoint, patterns, self.kernel) or words for words, endpoint in places.items()}
        groups: dict[tuple[str, str | None, str], Counter[str]] = defaultdict(Counter)
        for why, agent, words, _ in self.lefts.values():
            groups[why, agent, spelling[words]][words] += 1
        for (why, agent, pattern), asked in groups.items():
            yield Left(why, agent, pattern if len(asked) > 1 else next(iter(asked)), asked.total())

    def proved(self, doors: tuple[Door, ...], written: str) -> Suggested:
        kernel = self.compiled(doors)
        meant = {line for door in doors for line in door.lines}
        flips: list[Flip] = []
        for record in read_records(self.log) if doors else ():
            try:
                flip = flipped(record, self.kernel, kernel)
            except CannotRepeat:
                continue
            flips += [flip] if flip is not None else []
        left = sorted(self.left(), key=lambda one: (-one.decisions, one.why, str(one.agent), one.endpoint))
        others = tuple(one for one in flips if one.line not in meant)
        return Suggested(
            written, doors, tuple(left), self.records, self.unusable, self.allowed, len(meant),
            tuple(one for one in flips if one.line in meant), others,
        )  # fmt: skip


def as_pattern(endpoint: Endpoint, patterns: Sequence[k.Pattern], kernel: k.Kernel) -> str | None:
    """The pattern of the policy that it fits, in words, or itself; None where neither can be written."""
    segments = endpoint.segments if isinstance(endpoint, HttpEndpoint) else ()
    try:
        return spelled(endpoint, [False] * len(segments), patterns, kernel)
    except NotByDoor:
        return None


def must_ask(target: Target, needs: Sequence[Need], targets: Targets) -> bool:
    return target.destroys and not all(targets.asked_before(one.endpoint) for one in needs)


def words_of(need: Need) -> str:
    endpoint = need.endpoint
    method, path = getattr(endpoint, "method", None), getattr(endpoint, "path", None)
    return f"{method} {path}" if method else getattr(endpoint, "qualified", None) or str(endpoint)
