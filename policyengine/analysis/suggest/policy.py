"""Writes suggested grants as a policy, and verifies them by replaying the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from policyengine import kernel as k
from policyengine.analysis.diff.model import DecisionFlip
from policyengine.analysis.replay import flip_between
from policyengine.analysis.suggest.needs import (
    GRANTABLE_GATES,
    GrantNeed,
    NotGrantableError,
    SuggestedTarget,
    TargetFinder,
    check_writable_name,
    find_need,
    patterns_of,
    target_text,
)
from policyengine.analysis.suggest.render import SuggestedGrant, policy_lines
from policyengine.audit import DecisionRecord, ReplayError, read_records, replay_decision
from policyengine.check import CheckResult, check
from policyengine.checker.names.symbols import MAIN_PACKAGE
from policyengine.importers.sanitize import quoted_comment
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.endpoints import Endpoint, HttpEndpoint
from policyengine.runtime.format_values import quote_string
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse

MAX_USERS_NAMED = 50
SUGGESTED_FILE = "suggested.policy"
ENDED = "1970-01-01"


@dataclass(frozen=True, slots=True)
class RemainingDenial:
    """Recorded requests that stay denied, and why no grant is suggested."""

    why: str
    agent: str | None
    endpoint: str
    decisions: int

    def to_dict(self) -> dict[str, Any]:
        return {"why": self.why, "agent": self.agent, "endpoint": self.endpoint, "decisions": self.decisions}


@dataclass(frozen=True, slots=True)
class PolicySuggestion:
    """A suggested policy; `text` is empty if no grant is needed. `meant` is the number of decisions that should flip;
    `flips` holds those that did, and `others` those that flipped unexpectedly.
    """

    text: str
    doors: tuple[SuggestedGrant, ...]
    left: tuple[RemainingDenial, ...]
    records: int
    unusable: int
    allowed: int
    meant: int
    flips: tuple[DecisionFlip, ...]
    others: tuple[DecisionFlip, ...]

    @property
    def holds(self) -> bool:
        """Whether exactly the intended decisions flip."""
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
class PolicySuggester:
    """Suggests grants for one log and its policies. `tell` is called for lines without a decision."""

    modules: Sequence[ast.Module]
    checked: CheckResult
    log: Path
    tell: Callable[[str], None]
    needs: dict[int, GrantNeed] = field(default_factory=dict)
    lefts: dict[int, tuple[str, str | None, str, Endpoint]] = field(default_factory=dict)
    records: int = 0
    unusable: int = 0
    allowed: int = 0

    @property
    def kernel(self) -> k.Kernel:
        assert self.checked.kernel is not None
        return self.checked.kernel

    def suggested(self) -> PolicySuggestion:
        """Return the suggestion. Raises OSError if the log cannot be read, and ReplayError."""
        for record in read_requests(self.log, self.tell):
            self.look_at(record)
        agents = self.doors_of_agents()
        doors = self.useful([*agents, *self.doors_of_people(agents)])
        return self.proved(doors, self.written(doors))

    def look_at(self, record: DecisionRecord) -> None:
        self.records += 1
        try:
            again = replay_decision(record, self.kernel)
        except ReplayError:
            again = None
        if again is None or again.unsure:
            self.unusable += 1
            return
        if again.decision.allowed:
            self.allowed += 1
            return
        try:
            self.needs[record.line] = find_need(again, self.kernel)
        except NotGrantableError as problem:
            agent, endpoint = again.decision.principal.agent, again.facts.request.endpoint
            self.lefts[record.line] = str(problem), agent, again.explanation.endpoint, endpoint

    # ── Doors ─────────────────────────────────────────────────────────────────────────────────

    def doors_of_agents(self) -> list[SuggestedGrant]:
        """Return grants for agents. Grants that only users lack are added later."""
        groups: dict[tuple[str, str, int], list[GrantNeed]] = defaultdict(list)
        for need in self.needs.values():
            if need.block is not None and need.block.package != self.kernel.package:
                self.left_of(need, f"the agent's block is in the package {need.block.package}")
            elif need.agents:
                groups[need.agent, need.issuer, id(need.block)].append(need)
        targets = TargetFinder(self.checked, self.kernel.package)
        return [door for needs in groups.values() for door in self.doors_for(needs, targets)]

    def doors_for(self, needs: Sequence[GrantNeed], targets: TargetFinder) -> Iterator[SuggestedGrant]:
        found: dict[SuggestedTarget, list[GrantNeed]] = defaultdict(list)
        for need, target in targets.of(needs):
            if isinstance(target, NotGrantableError):
                self.left_of(need, str(target))
            else:
                found[target].append(need)
        for target, some in found.items():
            kinds, lifetimes = {one.kind for one in some}, {one.lifetime for one in some}
            yield SuggestedGrant(
                some[0].agent,
                some[0].issuer,
                target,
                some[0].block,
                frozenset(one.line for one in some),
                users=tuple(sorted({one.user for one in some if one.user is not None})),
                kinds=() if None in kinds else tuple(sorted(kind for kind in kinds if kind)),
                bound=all(one.bound for one in some),
                lifetime=None if None in lifetimes else max((one for one in lifetimes if one), default=None),
                asks=needs_confirmation(target, some, targets),
            )

    def left_of(self, need: GrantNeed, why: str) -> None:
        self.needs.pop(need.line, None)
        self.lefts[need.line] = why, need.agent, describe_request(need), need.endpoint

    def doors_of_people(self, doors: Sequence[SuggestedGrant]) -> list[SuggestedGrant]:
        """Return grants for users whose requests would still be denied if the agents had their grants. Raises
        ReplayError.
        """
        kernel = self.compiled(doors, for_people=True)
        lacking: dict[int, GrantNeed] = {}
        for record in self.recorded(self.needs):
            reasons = replay_decision(record, kernel).decision.reasons
            first = reasons[0].gate if reasons else None
            if first is Gate.USER and all(one.gate is Gate.USER or one.outcome is Outcome.CONFIRM for one in reasons):
                lacking[record.line] = self.needs[record.line]
        targets = {line: door.target for door in doors for line in door.lines}
        found = TargetFinder(self.checked, self.kernel.package)
        for need, target in found.of([one for line, one in lacking.items() if line not in targets]):
            if isinstance(target, NotGrantableError):
                self.left_of(need, str(target))
            else:
                targets[need.line] = target
        groups: dict[SuggestedTarget, list[GrantNeed]] = defaultdict(list)
        for line, need in lacking.items():
            if line in targets and need.user is not None:
                try:
                    check_writable_name(need.user)
                    groups[targets[line]].append(need)
                except NotGrantableError as problem:
                    self.left_of(need, str(problem))
        return [one for target, needs in groups.items() for one in self.people(target, needs, found)]

    def people(
        self, target: SuggestedTarget, needs: Sequence[GrantNeed], targets: TargetFinder
    ) -> Iterator[SuggestedGrant]:
        users = tuple(sorted({one.user for one in needs if one.user is not None}))
        if len(users) > MAX_USERS_NAMED:
            for need in needs:
                self.left_of(need, f"more than {MAX_USERS_NAMED} users need the grant: grant it to a role or a team")
            return
        asks = needs_confirmation(target, needs, targets)
        yield SuggestedGrant(None, "", target, None, frozenset(one.line for one in needs), users=users, asks=asks)

    def useful(self, doors: Sequence[SuggestedGrant]) -> tuple[SuggestedGrant, ...]:
        """Return the grants with which at least one request would not be denied. A grant is dropped if, for example,
        guards deny all of its requests. Raises ReplayError.
        """
        kernel = self.compiled(doors, for_people=True)
        opened: set[int] = set()
        for record in self.recorded(self.needs):
            decision = replay_decision(record, kernel).decision
            if decision.outcome is Outcome.DENY:
                first = next((one for one in decision.reasons if one.gate not in GRANTABLE_GATES), decision.reasons[0])
                rule = f" {quote_string(first.rule)}" if first.rule else ""
                self.left_of(
                    self.needs[record.line], f"a grant would not help, because the {first.gate}{rule} stops the request"
                )
            else:
                opened.add(record.line)
        kept = [replace(one, lines=one.lines & opened) for one in doors if one.lines & opened]
        return tuple(sorted(kept, key=lambda one: one.rank))

    def recorded(self, lines: Iterable[int]) -> Iterator[DecisionRecord]:
        """Read these records of the log again."""
        wanted = set(lines)
        return (one for one in read_records(self.log) if one.line in wanted) if wanted else iter(())

    # ── The policy ────────────────────────────────────────────────────────────────────────────

    def written(self, doors: Sequence[SuggestedGrant]) -> str:
        """Return the policy in canonical form; empty without grants."""
        if not doors:
            return ""
        package = "" if self.kernel.package == MAIN_PACKAGE else f"package {self.kernel.package}\n"
        head = [
            "language 1",
            package,
            f"# Written by `policyengine suggest`, from {self.records:,} recorded decisions: "
            f"{quoted_comment(self.log.name)}.",
            "# That a request was recorded is no reason to allow it: delete every grant that is not intended.",
            "",
        ]
        return format_module(
            Source(SUGGESTED_FILE, "\n".join([*head, *policy_lines(doors, self.guard_names())]) + "\n")
        )

    def guard_names(self) -> set[str]:
        return {guard.name for guard in self.kernel.guards}

    def compiled(self, doors: Sequence[SuggestedGrant], *, for_people: bool = False) -> k.Kernel:
        """Compile the policies with the suggestion. With `for_people`, agents may act for users without a block,
        although no block grants these users anything. Raises ValueError if the result is not a valid policy.
        """
        written = self.written(doors)
        if not written:
            return self.kernel
        for_users = next((one.target.may for one in doors if one.agent is not None and one.users), None)
        if for_people and not self.kernel.users and for_users is not None:  # the checker requires a user block
            written += f"user any {{ may {for_users}   valid until {ENDED} }}\n"
        module, problems = parse(Source(SUGGESTED_FILE, written))
        found = check([*self.modules, *([module] if module else [])], problems)
        if found.kernel is None:
            first = next(one for one in found.diagnostics if one.is_error)
            raise ValueError(f"the suggestion is not a valid policy: {first.render()}")
        return found.kernel

    # ── The proof ─────────────────────────────────────────────────────────────────────────────

    def left(self) -> Iterator[RemainingDenial]:
        """Yield the requests that stay denied. Requests with different ids are merged if the policy has a pattern for
        them.
        """
        patterns = tuple(dict.fromkeys(patterns_of(self.kernel)))
        places = {words: endpoint for _, _, words, endpoint in self.lefts.values()}
        spelling = {words: pattern_text(endpoint, patterns, self.kernel) or words for words, endpoint in places.items()}
        groups: dict[tuple[str, str | None, str], Counter[str]] = defaultdict(Counter)
        for why, agent, words, _ in self.lefts.values():
            groups[why, agent, spelling[words]][words] += 1
        for (why, agent, pattern), asked in groups.items():
            yield RemainingDenial(why, agent, pattern if len(asked) > 1 else next(iter(asked)), asked.total())

    def proved(self, doors: tuple[SuggestedGrant, ...], written: str) -> PolicySuggestion:
        kernel = self.compiled(doors)
        meant = {line for door in doors for line in door.lines}
        flips: list[DecisionFlip] = []
        for record in read_requests(self.log) if doors else ():
            try:
                flip = flip_between(record, self.kernel, kernel)
            except ReplayError:
                continue
            flips += [flip] if flip is not None else []
        left = sorted(self.left(), key=lambda one: (-one.decisions, one.why, str(one.agent), one.endpoint))
        others = tuple(one for one in flips if one.line not in meant)
        return PolicySuggestion(
            written, doors, tuple(left), self.records, self.unusable, self.allowed, len(meant),
            tuple(one for one in flips if one.line in meant), others,
        )  # fmt: skip


def read_requests(log: Path | str, tell: Callable[[str], None] = lambda message: None) -> Iterator[DecisionRecord]:
    """Yield the decisions about requests. Decisions about the items of a list are left out, because no client requested
    these items. Raises OSError."""
    return (record for record in read_records(log, tell) if not record.is_listing)


def pattern_text(endpoint: Endpoint, patterns: Sequence[k.Pattern], kernel: k.Kernel) -> str | None:
    """Return the pattern of the policy that matches, or the endpoint; None if neither can be written."""
    segments = endpoint.segments if isinstance(endpoint, HttpEndpoint) else ()
    try:
        return target_text(endpoint, [False] * len(segments), patterns, kernel)
    except NotGrantableError:
        return None


def needs_confirmation(target: SuggestedTarget, needs: Sequence[GrantNeed], targets: TargetFinder) -> bool:
    return target.destroys and not all(targets.asked_before(one.endpoint) for one in needs)


def describe_request(need: GrantNeed) -> str:
    endpoint = need.endpoint
    method, path = getattr(endpoint, "method", None), getattr(endpoint, "path", None)
    return f"{method} {path}" if method else getattr(endpoint, "qualified", None) or str(endpoint)
