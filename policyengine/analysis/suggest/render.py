"""Renders suggested grants as policy text: blocks for each agent and for users, and guards for destructive requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from policyengine import kernel as k
from policyengine.analysis.suggest.needs import SuggestedTarget
from policyengine.runtime.format_values import quote_string
from policyengine.time_formats import format_duration

CREDENTIAL_REQUIREMENTS = (k.CredentialKinds, k.CredentialLifetime, k.CredentialAge, k.ProofOfPossession)


@dataclass(frozen=True, slots=True)
class SuggestedGrant:
    """One `may` for an agent, or for users if `agent` is None. `lines` are the log lines of its decisions."""

    agent: str | None
    issuer: str
    target: SuggestedTarget
    block: k.AgentBlock | None
    lines: frozenset[int]
    users: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    bound: bool = False
    lifetime: timedelta | None = None
    asks: bool = False  # with a guard that requires approval

    @property
    def who(self) -> str:
        if self.agent is not None:
            return f"agent {quote_string(self.agent)}"
        return f"user {quote_string(self.users[0])}" if len(self.users) == 1 else f"{len(self.users)} users"

    @property
    def rank(self) -> tuple[object, ...]:
        """The sort key: the least harmful grants come first."""
        reads = self.target.place.startswith(("GET ", "OPTIONS "))
        return self.target.destroys, not reads, self.target.wilds, -len(self.lines), self.who, self.target.may

    def to_dict(self) -> dict[str, Any]:
        who = {"agent": self.agent, "issuer": self.issuer} if self.agent is not None else {"users": list(self.users)}
        return {**who, "may": self.target.may, "decisions": len(self.lines), "confirm": self.asks}


def policy_lines(doors: Sequence[SuggestedGrant], guards: set[str]) -> Iterator[str]:
    yield from scope_lines(doors)
    blocks: dict[tuple[object, ...], list[SuggestedGrant]] = defaultdict(list)
    for door in doors:
        key = (
            door.agent,
            door.issuer,
            id(door.block),
            *(() if door.block else (door.kinds, door.lifetime, door.bound, bool(door.users))),
        )
        blocks[key if door.agent is not None else (None, door.users)].append(door)
    for some in blocks.values():
        yield ""
        yield from block_lines(some)
    yield from guard_lines(doors, guards)


def guard_lines(doors: Sequence[SuggestedGrant], taken: set[str]) -> Iterator[str]:
    """Yield guards that require approval for destructive requests of the new grants, but not of existing ones."""
    places: dict[str, dict[str, None]] = defaultdict(dict)
    for door in (one for one in doors if one.asks):
        places[door.target.place][caller_condition(door)] = None
    number = 1
    for place, conditions in places.items():
        while f"suggested {number}" in taken:
            number += 1
        taken.add(f"suggested {number}")
        yield ""
        yield "# Destructive: name the approvers. Until then, the served user must approve each request."
        yield f'guard "suggested {number}" on {place} {{'
        yield f"  confirm by user within 15m when {' or '.join(conditions)}"
        yield f'    message "this may destroy data: {confirmation_subject(place)}"'
        yield "}"


def confirmation_subject(place: str) -> str:
    """Return the text that the approval message shows; the author of the policy adds tool arguments."""
    word = place.partition(" ")[0]
    return {"TOOL": "{tool.name}", "ACTION": "{resource.id}"}.get(word, "{request.path}")


def caller_condition(door: SuggestedGrant) -> str:
    """Return the condition on the caller; `else ""` keeps it false for callers without a name."""
    if door.agent is not None:
        return f'agent.id else "" == {quote_string(door.agent)}'
    return user_condition('user.id else ""', door.users)


def user_condition(fact: str, users: Sequence[str]) -> str:
    if len(users) == 1:
        return f"{fact} == {quote_string(users[0])}"
    return f"{fact} in [{', '.join(map(quote_string, users))}]"


def scope_lines(doors: Sequence[SuggestedGrant]) -> Iterator[str]:
    """Yield declarations of scopes, by their names in credentials."""
    found: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for door in doors:
        if door.target.scope is not None:
            found[door.target.may, door.target.scope][door.target.place] = None
    for (name, alias), places in found.items():
        yield f"scope {name} as {quote_string(alias)} {{"
        yield from (f"  {place}" for place in places)
        yield "}"


def block_lines(doors: Sequence[SuggestedGrant]) -> Iterator[str]:
    first = doors[0]
    if first.agent is None:
        one = (
            quote_string(first.users[0]) if len(first.users) == 1 else f"where {user_condition('user.id', first.users)}"
        )
        yield f"user {one} {{"
    else:
        yield f"agent {quote_string(first.agent)} {{"
        yield from requirement_lines(first)
    seen: dict[str, int] = defaultdict(int)
    for door in doors:
        seen[door.target.may] += len(door.lines)
    yield from (f"  may {may} # {count:,} recorded decision{'' if count == 1 else 's'}" for may, count in seen.items())
    yield "}"


def requirement_lines(door: SuggestedGrant) -> Iterator[str]:
    """Yield the requirements of the block that accepts the agent today; for a new agent, those that its recorded
    credentials met."""
    if door.block is not None:
        of_credentials = [one for one in door.block.requirements if isinstance(one, CREDENTIAL_REQUIREMENTS)]
        yield from (one.span.text for one in door.block.requirements if not isinstance(one, CREDENTIAL_REQUIREMENTS))
        if of_credentials:
            words = [one.span.text for one in of_credentials]
            apart = "\n" if any("#" in one for one in words) else "   "  # a comment ends at the end of its line
            yield f"credential {{{apart}{apart.join(words)}{apart}}}"
        return
    yield f"  issued by {door.issuer}"
    yield "  acts for any user" if door.users else "  acts alone"
    shown = [f"kind in [{', '.join(door.kinds)}]"] * bool(door.kinds)
    shown += [f"lifetime <= {format_duration(door.lifetime)}"] if door.lifetime else []
    shown += ["bound"] * door.bound
    if shown:
        yield f"  credential {{ {'   '.join(shown)} }}"
