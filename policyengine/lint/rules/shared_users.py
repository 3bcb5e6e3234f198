"""Two issuers whose agents act for the same users.

A user is identified by name, whichever issuer asserts the name, so each issuer can name the users of the other. Pairs
are reported only if no rule distinguishes the users of the two issuers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.patterns.glob_index import GlobIndex
from policyengine.checker.patterns.overlap import globs_meet
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.lint.served_users import IssuerSensitiveGuards, LendingIndex, LendingPath, acts_for

Speaking: TypeAlias = Mapping[str, Sequence[k.AgentBlock]]  # issuer name → its agents that act for users
Ways: TypeAlias = Mapping[LendingPath, Sequence[k.AgentBlock]]
Who: TypeAlias = k.ExactName | k.NamePattern | k.InGroup | k.PrincipalCondition

MAX_BLOCKS_LISTED = 3
OF_AGENTS_ALONE = frozenset({"mtls", "spiffe", "signature", "api_key"})  # kinds of credentials that name no user


def shared_users(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield at most one W462 per issuer, at its declaration: for the later issuer of a pair, and once for each pair of
    organizations.
    """
    speaking = speaking_issuers(kernel)
    organizations = issuer_organizations(speaking, kernel)
    if len({id(organization) for organization in organizations.values()}) < 2:
        return
    lending, guards = LendingIndex.of(kernel), IssuerSensitiveGuards(kernel, speaking)
    ways = {name: lending.ways(kernel.issuers[name], blocks) for name, blocks in speaking.items()}
    told = set[frozenset[int]]()

    def organizations_of_both(name: str, other: str) -> frozenset[int]:
        return frozenset({id(organizations[name]), id(organizations[other])})

    def clash(name: str, other: str) -> bool:
        both = organizations_of_both(name, other)
        if not share_users(kernel.issuers[name], kernel.issuers[other]):
            return False
        if len(both) < 2 or both in told or ways[name].keys().isdisjoint(ways[other]):
            return False
        return not guards.tell_apart(other, name)

    earlier = EarlierIssuers(kernel.issuers, ways)
    for name in speaking:
        other = next((one for one in earlier.near(name) if clash(name, one)), None)
        earlier.add(name)
        if other is not None:
            told.add(organizations_of_both(name, other))
            yield shared_user_finding(kernel.issuers[name], ways[name], other, ways[other])


def shared_user_finding(issuer: k.Issuer, own: Ways, other: str, others: Ways) -> Diagnostic:
    common = [way for way in own if way in others]
    mine, theirs = (distinct_blocks(block for way in common for block in ways[way]) for ways in (own, others))
    act = "acts" if len(mine) == 1 else "act"
    message = (
        f"a token of `{issuer.name}` can name a user of `{other}`: "
        f"{list_blocks(mine)} {act} for the same users as {list_blocks(theirs)} of `{other}`"
    )
    hint = (
        f'limit its users with `users like "*@{issuer.name}.example"` in `{issuer.name}`; or limit the agents, '
        f'`acts for users where user.org == "{issuer.name}"`, if your entity store has `org`; or deny other issuers, '
        f'`deny unless credential.issuer == "{other}"`, in a guard'
    )
    own_acts, other_acts = (acts_for(blocks[0])[0].span for blocks in (mine, theirs))
    related = (RelatedLocation("for whom it acts", own_acts), RelatedLocation("the same users", other_acts))
    return Diagnostic("W462", message, issuer.span, hint, related)


def list_blocks(blocks: Sequence[k.AgentBlock]) -> str:
    labels = [f"`{label}`" for label in dict.fromkeys(block.label for block in blocks)]
    more = len(labels) - MAX_BLOCKS_LISTED
    shown = [*labels[:MAX_BLOCKS_LISTED], *([f"{more} more"] if more > 0 else [])]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def distinct_blocks(blocks: Iterable[k.AgentBlock]) -> tuple[k.AgentBlock, ...]:
    return tuple({id(block): block for block in blocks}.values())


@dataclass(slots=True)
class EarlierIssuers:
    """The issuers handled so far, indexed by the lending paths of their agents and by their users."""

    issuers: Mapping[str, k.Issuer]
    ways: Mapping[str, Ways]
    names: list[str] = field(default_factory=list)
    of_everybody: dict[LendingPath, list[int]] = field(default_factory=dict)
    of_some: dict[LendingPath, GlobIndex[int]] = field(default_factory=dict)

    def add(self, name: str) -> None:
        globs, number = self.issuers[name].users_like, len(self.names)
        for way in self.ways[name]:
            for glob in globs:
                self.of_some.setdefault(way, GlobIndex()).add(glob, number)
            if not globs:
                self.of_everybody.setdefault(way, []).append(number)
        self.names.append(name)

    def near(self, name: str) -> Iterator[str]:
        """Yield the earlier issuers that may share users with this issuer, in the order in which they were added."""
        globs, own = self.issuers[name].users_like, self.ways[name]
        indexes = [self.of_some[way] for way in own if way in self.of_some]
        some = sorted({number for index in indexes for glob in globs for _, number in index.near(glob)})
        whole = [self.of_everybody.get(way, []) for way in own] if not globs else []
        yield from (self.names[number] for number in merge(some, *whole))


def share_users(one: k.Issuer, other: k.Issuer) -> bool:
    """Return whether both issuers may name the same user. An issuer without `users like` belongs to the organization
    itself, so it shares no users with an issuer that has it.
    """
    if not one.users_like or not other.users_like:
        return not one.users_like and not other.users_like
    return any(globs_meet(mine, theirs) for mine in one.users_like for theirs in other.users_like)


# ── Issuers that name users ───────────────────────────────────────────────────────────────────


def speaking_issuers(kernel: k.Kernel) -> Speaking:
    """Return the issuers whose agents act for users, in source order. Workload issuers (SPIFFE) name no user."""
    found: dict[str, list[k.AgentBlock]] = {}
    for block in kernel.agents:
        for name in issuers_of(block) if speaks_for_users(block) else ():
            found.setdefault(name, []).append(block)
    declared = sorted(kernel.issuers.values(), key=lambda one: (one.span.source.name, one.span.start))
    return {
        one.name: found[one.name]
        for one in declared
        if one.name in found and not (one.url or "").startswith("spiffe://")
    }


def speaks_for_users(block: k.AgentBlock) -> bool:
    return bool(acts_for(block)) and not names_no_user(block)


def names_no_user(block: k.AgentBlock) -> bool:
    kinds = [one.kinds for one in block.requirements if isinstance(one, k.CredentialKinds)]
    return any(OF_AGENTS_ALONE.issuperset(some) for some in kinds)


def issuers_of(block: k.AgentBlock) -> tuple[str, ...]:
    return tuple(name for one in block.requirements if isinstance(one, k.IssuedBy) for name in one.issuers)


# ── Issuers that name the same people because the policy says so ──────────────────────────


def issuer_organizations(speaking: Speaking, kernel: k.Kernel) -> dict[str, set[str]]:
    """Return the organization of each issuer: the issuers that trust each other's users.

    Two issuers belong to one organization if they issue the same agent, or if agents of one issuer delegate to agents
    of the other, which then names the users of the first.
    """
    organizations = {name: {name} for name in speaking}
    blocks = distinct_blocks(block for own in speaking.values() for block in own)
    for group in (*map(issuers_of, blocks), *delegated_issuers(blocks, kernel)):
        together = set[str]().union(*(organizations[name] for name in group if name in organizations))
        organizations.update(dict.fromkeys(together, together))
    return organizations


def delegated_issuers(blocks: Sequence[k.AgentBlock], kernel: k.Kernel) -> Iterator[tuple[str, ...]]:
    """Yield groups of issuers that delegation connects: the issuers of the delegating agent and those of its delegate.
    Only an issuer that records chains can issue the delegate's token.
    """
    called: dict[k.ExactName, set[str]] = {}
    others: list[tuple[Who, set[str]]] = []
    for block in blocks:
        recording = {name for name in issuers_of(block) if kernel.issuers[name].records_chains}
        if isinstance(block.who, k.ExactName):
            called.setdefault(block.who, set()).update(recording)
        else:
            others.append((block.who, recording))
    for giver, to in dict.fromkeys((issuers_of(block), one.to) for block in blocks for one in block.delegates):
        if isinstance(to, k.ExactName):
            yield (*giver, *called.get(to, ()))
        taking: list[tuple[Who, set[str]]] = others if isinstance(to, k.ExactName) else [*called.items(), *others]
        yield from ((*giver, *recording) for who, recording in taking if may_be_same_agent(to, who))


def may_be_same_agent(to: k.ExactName | k.NamePattern | k.InGroup, who: Who) -> bool:
    """Return whether both may match the same agent. A group or a condition may match any agent."""
    match to, who:
        case (k.ExactName() | k.NamePattern()) as one, (k.ExactName() | k.NamePattern()) as other:
            return globs_meet(glob_of(one), glob_of(other))
        case _:
            return True


def glob_of(who: k.ExactName | k.NamePattern) -> str:
    return who.name if isinstance(who, k.ExactName) else who.glob
