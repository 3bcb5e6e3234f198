"""Halts: operators' orders to deny requests until a time, and which requests they cover.

A halt covers a request if the request may match all members of the halt. A fact of another type, which may be anything,
matches; names match without regard to letter case, because a halt that covers too much is safer than one that covers
too little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeAlias
from unicodedata import normalize

from msgspec import Struct

from policyengine.runtime.endpoints import Endpoint, MalformedEndpoint, ToolEndpoint
from policyengine.runtime.globs import Glob
from policyengine.runtime.request import Request
from policyengine.runtime.values import ABSENT
from policyengine.time_formats import format_epoch_seconds

Names: TypeAlias = tuple[str | None, ...]  # a folded name, or None for one that is not a text
NAME_MEMBERS: Final = ("agent", "issuer", "user", "chain_root", "task", "tool")
SCOPE_MEMBERS: Final = (*NAME_MEMBERS, "place", "package")
UNREAD_ID: Final = "unread"
UNREAD_MESSAGE: Final = "halted: whether a halt applies is unknown, because the halts could not be read yet"
DEFAULT_PORT: Final = re.compile(r"\A(https://[^/]*):443(?=/|\Z)|\A(http://[^/]*):80(?=/|\Z)")


class HaltMembers(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """The members that halts in stores and in files have in common: `by` names the operator; the others say which
    requests the halt covers: `everything`, or those that match each member that is not None.
    """

    by: str = ""
    everything: bool = False
    agent: str | None = None
    issuer: str | None = None
    user: str | None = None
    chain_root: str | None = None
    task: str | None = None
    tool: str | None = None
    place: str | None = None
    package: str | None = None


class Halt(HaltMembers, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An order to deny requests, with the reason that callers see.

    `since` and `until` are in seconds since 1970; a halt is in effect from the moment it is known, whatever its
    `since`.
    """

    id: str
    reason: str
    since: int
    until: int

    @property
    def scope(self) -> dict[str, str]:
        """The members that restrict the halt; empty for a halt of everything."""
        return {name: text for name in SCOPE_MEMBERS if (text := getattr(self, name)) is not None}

    @property
    def message(self) -> str:
        """The message to the callers of requests that the halt covers."""
        if self.id == UNREAD_ID:
            return UNREAD_MESSAGE
        return f"halted until {format_epoch_seconds(self.until)}: {self.reason}"

    def to_dict(self) -> dict[str, object]:
        """Return the halt as plain data, with its times as RFC 3339."""
        covers: dict[str, object] = {**self.scope} if self.scope else {"everything": True}
        by = {"by": self.by} if self.by else {}
        times = {"since": format_epoch_seconds(self.since), "until": format_epoch_seconds(self.until)}
        return {"id": self.id, **covers, "reason": self.reason, **times, **by}

    @property
    def logged(self) -> dict[str, object]:
        """The member of the log lines of requests that the halt covers, from which a replay restores the decision."""
        return {"id": self.id, "reason": self.reason, "until": format_epoch_seconds(self.until)}


UNREAD_HALT: Final = Halt(UNREAD_ID, UNREAD_MESSAGE, 0, 253_339_228_800, everything=True)  # before the year 9999


@dataclass(frozen=True, slots=True)
class ArmedHalt:
    """A halt that is ready to be compared with requests. `covers` says whether its place covers an endpoint; None
    without a place. `patterns` are the names that it requires, in their folded form, by member."""

    halt: Halt
    covers: Callable[[Endpoint], bool] | None = None
    patterns: tuple[tuple[str, str], ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        named = ((name, getattr(self.halt, name)) for name in NAME_MEMBERS)
        patterns = tuple((name, fold_name(text)) for name, text in named if text is not None)
        object.__setattr__(self, "patterns", patterns)


class HaltSet(tuple[ArmedHalt, ...]):
    """The halts that a process knows. A change replaces the whole set, so that each decision sees one set."""

    __slots__ = ()

    def in_effect(self, now: int) -> HaltSet | None:
        """Return the halts that have not ended at a time in nanoseconds since 1970; None if all have ended."""
        seconds = now / 1_000_000_000
        known = [armed for armed in self if armed.halt.until > seconds]
        return (self if len(known) == len(self) else HaltSet(known)) if known else None


class RequestNames:
    """The names in a request that halts compare, each a text in its folded form, or None if it is not a text. Each kind
    is read when a halt first needs it. The names of all agents in the chain count, and those of their issuers.
    """

    def __init__(self, request: Request) -> None:
        self._request = request

    @cached_property
    def hops(self) -> tuple[tuple[object, object], ...]:
        """The agent and the issuer of each hop of the chain."""
        return tuple(read_hops(self._request))

    @cached_property
    def agent(self) -> Names:
        return known_names([self._request.fact("agent", "id"), *(agent for agent, _ in self.hops)])

    @cached_property
    def issuer(self) -> Names:
        fact = self._request.fact
        own = fact("agent", "issuer"), fact("credential", "issuer"), fact("user", "issuer")
        return known_names([*own, *(issuer for _, issuer in self.hops)])

    @cached_property
    def user(self) -> Names:
        return known_names([self._request.fact("user", "id"), self._request.fact("credential", "subject")])

    @cached_property
    def chain_root(self) -> Names:
        presenter = self._request.fact("agent", "id")
        own = self._request.fact("user", "id") if presenter is ABSENT else presenter
        return known_names([self.hops[0][0] if self.hops else own])

    @cached_property
    def task(self) -> Names:
        return known_names([self._request.fact("task", "id")])

    @cached_property
    def tool(self) -> Names:
        """The tool with its server, and its name alone, so that a halt that names no server covers all servers."""
        endpoint = self._request.endpoint
        return known_names([endpoint.qualified, endpoint.name]) if isinstance(endpoint, ToolEndpoint) else ()


def find_halt(
    halts: Iterable[ArmedHalt], request: Request, urls: Mapping[str, str | None], opening: Callable[[], Collection[str]]
) -> Halt | None:
    """Return the halt that covers a request and ends last, or None. `urls` are the URLs of the issuers of the policies
    by name; `opening` returns the packages with a grant for the endpoint. A request with a malformed path is not
    halted, because it is denied before that.
    """
    if isinstance(request.endpoint, MalformedEndpoint):
        return None
    names = RequestNames(request)
    covering = (armed.halt for armed in halts if covers_request(armed, request, names, urls, opening))
    return min(covering, key=lambda halt: (-halt.until, halt.id), default=None)


def covers_request(
    armed: ArmedHalt,
    request: Request,
    names: RequestNames,
    urls: Mapping[str, str | None],
    opening: Callable[[], Collection[str]],
) -> bool:
    halt = armed.halt
    if halt.everything:
        return True
    if armed.covers is not None and not armed.covers(request.endpoint):
        return False
    for member, pattern in armed.patterns:
        if not names_match(member, pattern, getattr(names, member), urls):
            return False
    return halt.package is None or fold_name(halt.package) in map(fold_name, opening())


def covers_person(halt: Halt, names: Collection[str], issuer: str | None, urls: Mapping[str, str | None]) -> bool:
    """Return whether a halt covers what a user does without an agent, such as the answer to an approval: a halt of
    everything, or one that names the user, by any of the `names`, or the issuer, but no agent, task or tool."""
    if halt.everything:
        return True
    given: Mapping[str, Collection[object]] = {"user": names, "issuer": (issuer or ABSENT,), "chain_root": names}
    named = [(member, fold_name(text)) for member in NAME_MEMBERS if (text := getattr(halt, member)) is not None]
    return bool(named) and all(
        names_match(member, pattern, known_names(given.get(member, ())), urls) for member, pattern in named
    )


def names_match(member: str, pattern: str, found: Names, urls: Mapping[str, str | None]) -> bool:
    """Return whether a folded pattern matches one of the names, or one of them is unknown."""
    if member == "issuer":
        spellings = issuer_spellings(pattern, urls)
        return any(name is None or fold_issuer(name) in spellings for name in found)
    if "*" not in pattern:
        return pattern in found or None in found
    glob = Glob(pattern)
    return any(name is None or glob.matches(name) for name in found)


# ── Names in a request ────────────────────────────────────────────────────────────────────────


def read_hops(request: Request) -> Iterator[tuple[object, object]]:
    """Yield the agent and the issuer of each hop; None if they are unknown."""
    hops = request.fact("chain", "hops")
    if hops is ABSENT:
        return
    if not isinstance(hops, Sequence) or isinstance(hops, str):
        yield None, None
        return
    for hop in hops:
        if isinstance(hop, Mapping):
            yield hop.get("agent", ABSENT), hop.get("issuer", ABSENT)
        else:
            yield None, None


def known_names(raw: Iterable[object]) -> Names:
    """Return names in their folded form; None for a name that is not a text. Absent and empty names are left out."""
    return tuple(
        fold_name(name) if isinstance(name, str) else None for name in raw if name is not ABSENT and name != ""
    )


# ── Spellings ─────────────────────────────────────────────────────────────────────────────────


def fold_name(name: str) -> str:
    """Return a name without its letter case, the variants of its characters, and the spaces around it."""
    if name.isascii():
        return name.lower().strip()
    return normalize("NFKC", normalize("NFKC", name).casefold()).strip()


def fold_issuer(name: str) -> str:
    """Return the folded form of an issuer; URLs that differ in a default port or in a slash at the end are equal."""
    folded = DEFAULT_PORT.sub(lambda found: found[1] or found[2], fold_name(name))
    return folded.rstrip("/") if "://" in folded else folded


def issuer_spellings(wanted: str, urls: Mapping[str, str | None]) -> frozenset[str]:
    """Return the folded names and URLs of the issuers that a text may mean, and the text itself."""
    folded = fold_issuer(wanted)
    found = {folded}
    for name, url in urls.items():
        spellings = {fold_issuer(name), *([] if url is None else [fold_issuer(url)])}
        if folded in spellings:
            found |= spellings
    return frozenset(found)
