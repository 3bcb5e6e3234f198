"""From recorded requests to the doors that they need: which of them a door would help, and how narrow it can be.

Nothing of a request becomes policy but names and paths that are spelled as such. A door is never wider than what was
asked for: no `**`, no name with a `*`, and nothing that destroys without a person who says yes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from policyengine import kernel as k
from policyengine.audit import Again
from policyengine.check import Checked
from policyengine.checker.names.symbols import Symbol
from policyengine.checker.patterns.places import Places, alias_of
from policyengine.importers.path_patterns import LITERAL
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, MalformedEndpoint, ToolEndpoint
from policyengine.runtime.format_values import shown
from policyengine.spec.facts import presenter_of
from policyengine.spec.match import match_pattern, place_covers
from policyengine.typesystem import Scalar

PLAIN_TOOL = re.compile(r"[A-Za-z0-9_](?:[-.\/:]*[A-Za-z0-9_])*")
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LIKE_AN_ID = re.compile(r"[0-9]+|[0-9a-fA-F-]*[0-9][0-9a-fA-F-]{7,}|(?=[^0-9]*[0-9])[A-Za-z0-9_-]{8,}")
DESTROYING = re.compile(r"(?i)delet|remov|destroy|drop|purge|erase|wipe|truncat|revok|cancel|terminat")
LONGEST_NAME = 200
HELPED = frozenset({Gate.IDENTITY, Gate.DEFAULT, Gate.USER})
OTHER_GATES = {
    Gate.MALFORMED_PATH: "its path is one that two servers may read differently",
    Gate.CHAIN: "the chain that handed it on is not sound",
    Gate.TASK: "its task does not hold it",
    Gate.RATE: "a rate stops it",
    Gate.BUDGET: "a budget stops it",
    Gate.FAILURE: "deciding failed",
}


class NotByDoor(Exception):
    """No door would help a request, or none that may be suggested: why."""


@dataclass(frozen=True, slots=True)
class Need:
    """A recorded request that a door may help. `block` is the one that accepts the agent; None where none names it."""

    line: int
    agent: str
    issuer: str
    user: str | None
    endpoint: Endpoint
    held: tuple[str, ...]
    kind: str | None
    bound: bool
    lifetime: timedelta | None
    block: k.AgentBlock | None
    agents: bool  # whether it is a door of the agent that is missing, and not one of its user alone


def need_of(again: Again, kernel: k.Kernel) -> Need:
    """Raises NotByDoor."""
    decision = again.decision
    if decision.outcome is Outcome.CONFIRM:
        raise NotByDoor("a person is asked")
    for reason in decision.reasons:
        if reason.gate not in HELPED:
            raise NotByDoor(OTHER_GATES.get(reason.gate) or f"the guard {shown(reason.rule)} stops it")
    principal = decision.principal
    if principal.agent is None or principal.issuer is None:
        raise NotByDoor(
            "no agent says who it is" if principal.agent is None else "nobody says who issued its credential"
        )
    block = accepting(again, kernel, principal.issuer)
    credential = again.record.question.facts.get("credential")
    credential = credential if isinstance(credential, Mapping) else {}
    kind, scopes = credential.get("kind"), presenter_of(again.facts).scopes
    lifetime = again.facts.read(("credential", "lifetime"), Scalar.DURATION)
    return Need(
        again.record.line,
        spellable(principal.agent),
        principal.issuer,
        principal.user,
        again.record.question.endpoint,
        tuple(one for one in scopes if isinstance(one, str)) if isinstance(scopes, tuple) else (),
        kind if isinstance(kind, str) and WORD.fullmatch(kind) else None,
        credential.get("bound") is True,
        lifetime if isinstance(lifetime, timedelta) and lifetime else None,
        block,
        any(reason.gate is not Gate.USER for reason in decision.reasons),
    )


def accepting(again: Again, kernel: k.Kernel, issuer: str) -> k.AgentBlock | None:
    """The block that accepts the agent, if any names it. Raises NotByDoor where one does and something is missing."""
    applying = [one for one in again.seen.presenter if one.applies is not False]
    standing = [one for one in applying if one.stands]
    if applying and not standing:
        missing = [
            one.requirement.span.text for block in applying for one in block.requirements if one.holds is not True
        ]
        words = ", ".join(f"`{' '.join(one.split())}`" for one in dict.fromkeys(missing))
        raise NotByDoor(f"its block asks for {words}" if words else "who asks is not known")
    if not standing and issuer not in kernel.issuers:
        raise NotByDoor("its issuer is not declared")
    if any(reason.gate is Gate.DEFAULT for reason in again.decision.reasons):
        check_doors(again)
    blocks = [one.block for one in standing if isinstance(one.block, k.AgentBlock)]
    return blocks[0] if blocks else None


def check_doors(again: Again) -> None:
    """Raises NotByDoor where there is a door and something keeps it shut."""
    kinds = {one.kind for one in again.decision.remedies}
    if "scope" in kinds:
        raise NotByDoor("its credential lacks the scope of a door that it has")
    if kinds & {"credential", "attestation"}:
        raise NotByDoor("a better credential or an attestation opens a door that it has")
    grants = (grant for block in again.seen.presenter if block.stands for grant in block.grants)
    if any(grant.covers and grant.condition is not True for grant in grants):
        raise NotByDoor("the condition of a door that it has does not hold")


def spellable(name: str) -> str:
    """A name that stands in quotes for itself alone. Raises NotByDoor."""
    if "*" in name or len(name) > LONGEST_NAME or not name.isprintable():
        raise NotByDoor("a name in it cannot be written into a policy")
    return name


# ── How narrow ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Target:
    """What a `may` names. `place` is what a guard names for the same; `wilds` is how many segments may be anything."""

    may: str
    place: str
    destroys: bool
    wilds: int = 0
    scope: str | None = None  # a scope to declare: its text


@dataclass
class Targets:
    """Finds the narrowest target for each need."""

    checked: Checked
    package: str
    made: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.checked.kernel is not None
        self.kernel = self.checked.kernel
        self.places = Places(self.checked.program)
        own = [one for one in self.places.scopes() if one.package == self.package]
        self.scopes = [(one, [pattern for _, pattern in self.places.of_scope(one, True)]) for one in own]
        self.names = {one.name for one in own}
        self.aliases = {alias_of(one) for one in own}
        self.patterns = tuple(dict.fromkeys(patterns_of(self.kernel)))

    def of(self, needs: Sequence[Need]) -> Iterator[tuple[Need, Target | NotByDoor]]:
        """Needs of one agent, together: what was asked for with many ids is one target."""
        spelled: dict[int, str | NotByDoor] = {}
        for group in alike(needs):
            spelled |= zip((one.line for one in group), spellings(group, self.patterns, self.kernel), strict=True)
        for need in needs:
            words = spelled[need.line]
            try:
                if isinstance(words, NotByDoor):
                    raise words
                yield need, self.target(need, words)
            except NotByDoor as problem:
                yield need, problem

    def target(self, need: Need, words: str) -> Target:
        """Raises NotByDoor."""
        destroys, wilds = destroying(need.endpoint), words.count("*")
        if destroys and need.user is None:
            raise NotByDoor("it destroys something, and there is no person to ask")
        issuer = self.kernel.issuers[need.issuer]
        if self.checked.program.lookup(self.package, "issuer", need.issuer) is None:
            raise NotByDoor("its issuer is of another package")
        if issuer.scopes_none:
            return Target(words, words, destroys, wilds)
        held = set(need.held)
        fitting = [one for one in self.scopes if self._fits(one, need.endpoint, held, destroys)]
        if fitting:
            scope, patterns = min(fitting, key=lambda one: (len(one[1]), one[0].name))
            return Target(scope.name, scope.name, destroys, len(patterns))
        free = sorted(alias for alias in held - self.aliases if alias.isprintable() and alias and " " not in alias)
        if not free:
            raise NotByDoor("its credential carries no scope that a door could go by")
        name = self.made.setdefault((free[0], ""), self._fresh())
        return Target(name, words, destroys, wilds, free[0])

    def _fits(self, one: tuple[Symbol, list[k.Pattern]], endpoint: Endpoint, held: set[str], destroys: bool) -> bool:
        """Whether the scope opens the endpoint to what the credential carries, and nothing that is far from it."""
        scope, patterns = one
        owners = [owner for owner, p in self.places.of_scope(scope, True) if match_pattern(p, endpoint) is not None]
        carried = any(held.intersection(self.places.carriers(owner)) for owner in owners)
        wide = any(isinstance(p, k.HttpPattern) and p.rest for p in patterns)
        return carried and not wide and (destroys or not any(map(pattern_destroys, patterns)))

    def _fresh(self) -> str:
        number = 1
        while f"suggested_{number}" in self.names:
            number += 1
        self.names.add(f"suggested_{number}")
        return f"suggested_{number}"

    def asked_before(self, endpoint: Endpoint) -> bool:
        """Whether a guard asks a person there already, whatever else."""
        return any(
            isinstance(one, k.Confirm) and one.condition is None and place_covers(guard.place, endpoint)
            for guard in self.kernel.guards
            for one in guard.effects
        )


def patterns_of(kernel: k.Kernel) -> Iterator[k.Pattern]:
    """Those that the policy writes itself: how it sees its endpoints."""
    yield from (binder.pattern for binder in kernel.binders)
    blocks: tuple[k.AgentBlock | k.UserBlock | k.AnyoneBlock, ...] = (*kernel.agents, *kernel.users, *kernel.anyones)
    yield from (opening.pattern for block in blocks for grant in block.grants for opening in grant.openings)
    yield from (pattern for guard in kernel.guards for pattern in guard.place.patterns or ())


def destroying(endpoint: Endpoint) -> bool:
    match endpoint:
        case HttpEndpoint(method):
            return method == "DELETE"
        case ToolEndpoint(_, name):
            return DESTROYING.search(name) is not None
        case ActionEndpoint(verb):
            return DESTROYING.search(verb) is not None
        case MalformedEndpoint():
            return True


def pattern_destroys(pattern: k.Pattern) -> bool:
    match pattern:
        case k.HttpPattern(methods):
            return methods is None or "DELETE" in methods
        case k.ToolPattern(name) | k.ActionPattern(name):
            return "*" in name or DESTROYING.search(name) is not None


# ── Endpoints in words ────────────────────────────────────────────────────────────────────────


def alike(needs: Iterable[Need]) -> list[list[Need]]:
    """Paths of one method and length whose segments are the same but for what looks like an id; others alone."""
    groups: dict[tuple[object, ...], list[Need]] = defaultdict(list)
    for need in needs:
        endpoint = need.endpoint
        key: tuple[object, ...] = (endpoint,)
        if isinstance(endpoint, HttpEndpoint):
            key = endpoint.method, *("*" if LIKE_AN_ID.fullmatch(one) else f"={one}" for one in endpoint.segments)
        groups[key].append(need)
    return list(groups.values())


def spellings(group: Sequence[Need], patterns: Sequence[k.Pattern], kernel: k.Kernel) -> Iterator[str | NotByDoor]:
    """A segment is open where the policy has it so, or where several ids were asked for."""
    paths = [one.endpoint.segments for one in group if isinstance(one.endpoint, HttpEndpoint)]
    varied = [len(set(column)) > 1 for column in zip(*paths, strict=True)]
    for need in group:
        try:
            yield spelled(need.endpoint, varied, patterns, kernel)
        except NotByDoor as problem:
            yield problem


def spelled(endpoint: Endpoint, varied: Sequence[bool], patterns: Sequence[k.Pattern], kernel: k.Kernel) -> str:
    """Raises NotByDoor."""
    match endpoint:
        case HttpEndpoint(method, _, segments):
            fitting = [one for one in patterns if isinstance(one, k.HttpPattern) and fits(one, endpoint)]
            if fitting:
                best = min(fitting, key=lambda one: (sum(part.wild for part in one.segments), http_words(method, one)))
                return http_words(method, best)
            return http_path(method, segments, varied)
        case ToolEndpoint() if "*" not in endpoint.qualified and endpoint.qualified.isprintable():
            name = endpoint.qualified
            return f"TOOL {name if PLAIN_TOOL.fullmatch(name) else text(name)}"
        case ActionEndpoint(verb, type_) if WORD.fullmatch(verb) and type_ in kernel.entities:
            return f"ACTION {verb} {type_}"
        case _:
            raise NotByDoor("its endpoint cannot be written into a policy")


def fits(pattern: k.HttpPattern, endpoint: HttpEndpoint) -> bool:
    """One that ends in no `**`, and whose segments are open as a whole or not at all."""
    whole = all(not one.wild or not (one.prefix or one.suffix) for one in pattern.segments)
    return whole and not pattern.rest and match_pattern(pattern, endpoint) is not None


def http_words(method: str, pattern: k.HttpPattern) -> str:
    return http_path(method, [one.prefix for one in pattern.segments], [one.wild for one in pattern.segments])


def http_path(method: str, segments: Sequence[str], wild: Sequence[bool]) -> str:
    """Raises NotByDoor."""
    parts = list(zip(segments, wild, strict=True))
    if not all(is_open or LITERAL.fullmatch(one) for one, is_open in parts):
        raise NotByDoor("its path cannot be written into a policy")
    return f"{method} /{'/'.join('*' if is_open else one for one, is_open in parts)}"


def text(value: str) -> str:
    """A string of a policy, whatever it holds."""
    return json.dumps(value, ensure_ascii=not value.isprintable())
