"""Open sessions of the MCP gateway by owner: an owner with many sessions makes room for other owners. `initialize` is
not decided, so any client can begin a session, and each session has its own upstream.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, TypeAlias

from policyengine.integrations.mcp.elicitation import caller_identity, proved_facts
from policyengine.plurals import pluralize

MAX_SESSIONS = 100
LINE_SECONDS = 10.0  # seconds between two log lines
Owner: TypeAlias = tuple[str, ...]
NOBODY: Owner = ("nobody",)
_LOG = logging.getLogger("policyengine")


@dataclass(slots=True, eq=False)
class McpSession:
    """A session, whose `client` gets the messages of the relay. `requests` counts requests in progress, including the
    stream to which a client listens; `used` is the time when the last request began or ended.
    """

    client: Any
    owner: Owner
    used: float
    requests: int = 0


class SessionTable:
    """The open sessions, at most `most`. To make room for a new session, the owner with the most sessions loses a
    session.
    """

    def __init__(self, most: int = MAX_SESSIONS, clock: Callable[[], float] = monotonic) -> None:
        self._most, self._clock = most, clock
        self._open: dict[str, McpSession] = {}  # oldest first
        self._ended: Counter[Owner] = Counter()
        self._told: float | None = None

    def __len__(self) -> int:
        return len(self._open)

    @property
    def clients(self) -> list[Any]:
        return [session.client for session in self._open.values()]

    @property
    def names(self) -> list[str]:
        return list(self._open)

    def begin(self, name: str, client: Any, owner: Owner) -> McpSession:
        session = self._open[name] = McpSession(client, owner, self._clock())
        return session

    def get(self, name: str) -> McpSession | None:
        return self._open.get(name)

    def enter(self, session: McpSession) -> None:
        session.requests, session.used = session.requests + 1, self._clock()

    def leave(self, session: McpSession) -> None:
        session.requests, session.used = session.requests - 1, self._clock()

    def end(self, name: str) -> McpSession | None:
        return self._open.pop(name, None)

    def idle(self, seconds: float) -> list[str]:
        """Return the sessions that have had no request in progress for this time."""
        before = self._clock() - seconds
        return [name for name, session in self._open.items() if not session.requests and session.used < before]

    def replaceable(self) -> str | None:
        """Return the session to end so that another may begin; None if there is room. It belongs to the owner with the
        most sessions: the longest idle session or, if none is idle, the least recently used.
        """
        if len(self._open) < self._most:
            return None
        owner, many = Counter(one.owner for one in self._open.values()).most_common(1)[0]
        of_owner = [(name, one) for name, one in self._open.items() if one.owner == owner]
        name, _ = min(of_owner, key=lambda pair: (pair[1].requests > 0, pair[1].used))
        self._tell(owner, many)
        return name

    def _tell(self, owner: Owner, many: int) -> None:
        """Log the ended sessions, at most one line per interval."""
        self._ended[owner] += 1
        now = self._clock()
        if self._told is None or now - self._told >= LINE_SECONDS:
            _LOG.warning(
                "%s ended to make room for others: %d are open, %d of them owned by %s",
                pluralize(self._ended.total(), "session"), len(self._open), many, " ".join(owner),
            )  # fmt: skip
            self._ended.clear()
            self._told = now


# By label, so that agent `x` of issuer `y` differs from agent `x` of user `y`.
OWNER_LABELS: Final[Mapping[str, Mapping[str, str]]] = {
    "agent": {"id": "agent", "issuer": "issuer"},
    "user": {"id": "user", "issuer": "user issuer"},
}


def session_owner(facts: Mapping[str, object] | None) -> Owner:
    """Return the owner by the facts about the caller; credentials that prove nothing belong to no owner."""
    facts = proved_facts(facts or {})
    if not facts or "credentials" in facts:
        return NOBODY
    names = []
    for fact, labels in OWNER_LABELS.items():
        one = facts.get(fact)
        if isinstance(one, Mapping):
            names += [f"{label}={one[key]}" for key, label in labels.items() if key in one]
    return tuple(names) or NOBODY


def isolated_owner(facts: Mapping[str, object] | None) -> Owner:
    """Return the owner of things that no other caller may use. Callers that differ in their agent, their user or an
    issuer are different owners. Credentials that prove nothing belong to no owner."""
    facts = proved_facts(facts or {})
    if not facts or "credentials" in facts:
        return NOBODY
    found = caller_identity(facts)
    if found.agent is None and found.user is None:
        return NOBODY
    return tuple("" if value is None else f"={value}" for value in found)
