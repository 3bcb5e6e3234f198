"""Reads from the newest lines of a log what the requester of an approval did before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from policyengine.audit.query.extract import RowExtractor
from policyengine.audit.query.log_tail import COLUMNS, DECISION, TrafficDecision, read_decision, read_log_tail

MAX_LATEST = 10
APPROVAL_EVENT, APPROVED = "approval", "approved"
SEPARATOR = ", "  # between the names of people


@dataclass(frozen=True, slots=True)
class PriorApproval:
    """An earlier approval: its last state in the log, the time of that state, and the people who answered, if any: all
    who approved, in order, or the person who denied."""

    id: str
    state: str
    rule: str
    endpoint: str
    time: str
    by: str


@dataclass(frozen=True, slots=True)
class RequesterActivity:
    """The numbers of decisions by outcome and of approvals by state since a time, and the latest of both, newest
    first."""

    since: str
    decisions: dict[str, int] = field(default_factory=dict)
    latest: tuple[TrafficDecision, ...] = ()
    approvals: dict[str, int] = field(default_factory=dict)
    latest_approvals: tuple[PriorApproval, ...] = ()


@dataclass(frozen=True, slots=True)
class RequesterSearch:
    """A search for what an agent of an issuer, or a user without an agent, did since a time. The approval `besides` is
    left out."""

    log: Path
    agent: str | None
    issuer: str | None
    user: str | None
    since: str
    besides: str = ""

    def answer(self) -> RequesterActivity:
        """Return the history that is in the last lines of the log. Raises OSError."""
        extractor = RowExtractor(frozenset(COLUMNS))
        tail, since = read_log_tail(self.log), self.since
        outcomes: Counter[str] = Counter()
        latest: list[TrafficDecision] = []
        approvals: dict[str, PriorApproval] = {}
        for tree, kind in tail.trees(self._mentions()):
            if (time := str(tree.get("time", ""))) < self.since:  # lines are not in the order of their times
                continue
            if kind == DECISION and self._is_decision(tree):
                decision = read_decision(extractor, tree)
                outcomes[decision.outcome] += 1
                if len(latest) < MAX_LATEST:
                    latest.append(decision)
            elif kind == "system" and (past := self._read_approval(tree["system"], time)) is not None:
                approvals[past.id] = merge_approvals(past, approvals.get(past.id))
        if not tail.complete:
            since = max(self.since, next(self._times(tail.lines), self.since))
        states = Counter(past.state for past in approvals.values())
        return RequesterActivity(
            since, dict(outcomes), tuple(latest), dict(states), tuple(approvals.values())[:MAX_LATEST]
        )

    def _mentions(self) -> Callable[[bytes], bool]:
        """Return a function that returns whether a line may be about the requester. It accepts every line if JSON can
        write the name of the requester in several ways."""
        name = self.agent or self.user or ""
        written = msgspec.json.encode(name) if name.isascii() else b""
        return lambda line: written in line

    def _is_decision(self, tree: dict[str, Any]) -> bool:
        principal = tree["decision"].get("principal") or {}
        return self._is_requester(principal.get("agent"), principal.get("issuer"), principal.get("user"))

    def _is_requester(self, agent: object, issuer: object, user: object) -> bool:
        if self.agent is None:
            return agent is None and user == self.user
        return (agent, issuer) == (self.agent, self.issuer)

    def _read_approval(self, details: dict[str, Any], time: str) -> PriorApproval | None:
        if details.get("event") != APPROVAL_EVENT or details.get("approval") == self.besides:
            return None
        if not self._is_requester(details.get("agent"), details.get("agent_issuer"), details.get("user")):
            return None
        id, state, rule, endpoint, by = (
            str(details.get(name, "")) for name in ("approval", "state", "rule", "endpoint", "by")
        )
        return PriorApproval(id, state, rule, endpoint, time, by)

    def _times(self, lines: tuple[bytes, ...]) -> Iterator[str]:
        """Yield the times of the records, oldest first."""
        for line in lines:
            try:
                found = msgspec.json.decode(line).get("time")
            except (msgspec.DecodeError, AttributeError):
                continue
            if isinstance(found, str):
                yield found


def merge_approvals(before: PriorApproval, known: PriorApproval | None) -> PriorApproval:
    """Return an approval with the facts of an earlier log line about it. Its state is that of the newest line."""
    if known is None:
        return before
    if (before.state, known.state) != (APPROVED, APPROVED) or before.by in known.by.split(SEPARATOR):
        return known
    return replace(known, by=SEPARATOR.join((before.by, known.by)))
