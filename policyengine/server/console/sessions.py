"""The sessions of people in the console, in the memory of one process. A session ends when it is idle or old, when the
person signs out, or with the process.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from hmac import compare_digest
from time import monotonic

from policyengine.identity.login.open_id_client import Person

SESSION_ID_BYTES = 32
MAX_SESSIONS = 1_000
MAX_SESSIONS_PER_PERSON = 10


@dataclass(slots=True)
class ConsoleSession:
    """A session. `csrf` is the token that each form of its pages contains. Times are monotonic seconds."""

    person: Person
    csrf: str = field(repr=False)
    key: bytes = field(repr=False)
    began: float
    used: float

    def accepts(self, token: str) -> bool:
        """Return whether a form was made for this session."""
        return compare_digest(self.csrf.encode(), token.encode("utf-8", "surrogatepass"))


class ConsoleSessions:
    """The open sessions, by the digest of their id. If a person, or all people together, have too many sessions, the
    least recently used session ends. `ended` is called with each session that ends and the reason.
    """

    def __init__(
        self,
        idle: timedelta,
        longest: timedelta,
        ended: Callable[[ConsoleSession, str], object] = lambda session, why: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._idle, self._longest, self._clock = idle.total_seconds(), longest.total_seconds(), clock
        self._ended = ended
        self._sessions: OrderedDict[bytes, ConsoleSession] = OrderedDict()  # the last used session last

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, person: Person) -> tuple[str, ConsoleSession]:
        """Open a session, and return its id, which only the browser keeps."""
        self.sweep()
        own = [one for one in self._sessions.values() if is_same_person(one.person, person)]
        for session in own[: max(0, len(own) - MAX_SESSIONS_PER_PERSON + 1)]:
            self.end(session, "displaced")
        while len(self._sessions) >= MAX_SESSIONS:
            self.end(next(iter(self._sessions.values())), "displaced")
        name, now = secrets.token_urlsafe(SESSION_ID_BYTES), self._clock()
        session = ConsoleSession(person, secrets.token_urlsafe(SESSION_ID_BYTES), session_key(name), now, now)
        self._sessions[session.key] = session
        return name, session

    def find(self, name: str | None, *, touch: bool = True) -> ConsoleSession | None:
        """Return the open session with this id. With `touch`, it counts as used now."""
        session = None if not name else self._sessions.get(session_key(name))
        if session is None:
            return None
        if (why := self._reason(session)) is not None:
            self.end(session, why)
            return None
        if touch:
            session.used = self._clock()
            self._sessions.move_to_end(session.key)
        return session

    def end(self, session: ConsoleSession, why: str) -> None:
        if self._sessions.pop(session.key, None) is not None:
            self._ended(session, why)

    def sweep(self) -> None:
        """End all sessions whose time is over."""
        for session in list(self._sessions.values()):
            if (why := self._reason(session)) is not None:
                self.end(session, why)

    def of(self, person: Person) -> Iterator[ConsoleSession]:
        """Yield the sessions of a person."""
        return (one for one in list(self._sessions.values()) if is_same_person(one.person, person))

    def _reason(self, session: ConsoleSession) -> str | None:
        now = self._clock()
        if now - session.began >= self._longest:
            return "expired"
        return "idle" if now - session.used >= self._idle else None


def is_same_person(one: Person, other: Person) -> bool:
    return (one.issuer, one.user) == (other.issuer, other.user)


def session_key(name: str) -> bytes:
    return sha256(name.encode("utf-8", "surrogatepass")).digest()
