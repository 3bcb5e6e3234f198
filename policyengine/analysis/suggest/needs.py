"""Derives needed grants from recorded requests: which requests a grant would allow, and how narrow it can be.

Only valid names and paths of a request are used. A grant is never wider than the requests: it contains no `**` and no
name with a `*`, and allows nothing destructive without a person who approves it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from policyengine import kernel as k
from policyengine.audit import ReplayResult
from policyengine.check import CheckResult
from policyengine.checker.names.symbols import Symbol
from policyengine.checker.patterns.places import PlaceResolver, scope_alias
from policyengine.importers.path_patterns import LITERAL
from policyengine.runtime.decision import Gate, Outcome
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, MalformedEndpoint, ToolEndpoint
from policyengine.runtime.format_values import format_value, quote_string
from policyengine.spec.facts import presenter_of
from policyengine.spec.match_endpoint import match_pattern, place_covers
from policyengine.typesystem import Scalar

BARE_TOOL_NAME = re.compile(r"[A-Za-z0-9_](?:[-.\/:]*[A-Za-z0-9_])*")
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ID_LIKE = re.compile(r"[0-9]+|[0-9a-fA-F-]*[0-9][0-9a-fA-F-]{7,}|(?=[^0-9]*[0-9])[A-Za-z0-9_-]{8,}")
DESTRUCTIVE_NAME = re.compile(r"(?i)delet|remov|destroy|drop|purge|erase|wipe|truncat|revok|cancel|terminat")
MAX_NAME_LENGTH = 200
GRANTABLE_GATES = frozenset({Gate.IDENTITY, Gate.DEFAULT, Gate.USER})
OTHER_GATE_REASONS = {
    Gate.MALFORMED_PATH: "servers may interpret the path differently",
    Gate.HALTED: "an operator halted such requests",
    Gate.CHAIN: "the delegation chain is not valid",
    Gate.TASK: "the task does not include the request",
    Gate.RATE: "a rate throttles the request",
    Gate.BUDGET: "a budget denies the request",
    Gate.FAILURE: "deciding failed",
}


class NotGrantableError(Exception):
    """The reason why a grant would not allow a request, or may not be suggested for it."""


@dataclass(frozen=True, slots=True)
class GrantNeed:
    """A recorded request that a grant may allow. `block` is the block that accepts the agent; None if no block names
    the agent.
    """

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
    agents: bool  # whether the agent itself lacks a grant, not only its user


def find_need(again: ReplayResult, kernel: k.Kernel) -> GrantNeed:
    """Return the need of a recorded request. Raises NotGrantableError."""
    decision = again.decision
    if decision.outcome is Outcome.CONFIRM:
        raise NotGrantableError("the request needs the approval of a person")
    for reason in decision.reasons:
        if reason.gate not in GRANTABLE_GATES:
            raise NotGrantableError(
                OTHER_GATE_REASONS.get(reason.gate) or f"the guard {format_value(reason.rule)} stops the request"
            )
    principal = decision.principal
    if principal.agent is None or principal.issuer is None:
        raise NotGrantableError(
            "the agent is not identified" if principal.agent is None else "the issuer of the credential is unknown"
        )
    block = accepting_block(again, kernel, principal.issuer)
    credential = again.record.question.facts.get("credential")
    credential = credential if isinstance(credential, Mapping) else {}
    kind, scopes = credential.get("kind"), presenter_of(again.facts).scopes
    lifetime = again.facts.read(("credential", "lifetime"), Scalar.DURATION)
    return GrantNeed(
        again.record.line,
        check_writable_name(principal.agent),
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


def accepting_block(again: ReplayResult, kernel: k.Kernel, issuer: str) -> k.AgentBlock | None:
    """Return the block that accepts the agent; None if no block names the agent. Raises NotGrantableError if the
    requirements of the agent's blocks fail, the issuer is not declared, or an existing grant covers the request.
    """
    applying = [one for one in again.seen.presenter if one.applies is not False]
    standing = [one for one in applying if one.stands]
    if applying and not standing:
        missing = [
            one.requirement.span.text for block in applying for one in block.requirements if one.holds is not True
        ]
        words = ", ".join(f"`{' '.join(one.split())}`" for one in dict.fromkeys(missing))
        raise NotGrantableError(f"the agent's block requires {words}" if words else "the caller is not identified")
    if not standing and issuer not in kernel.issuers:
        raise NotGrantableError("the issuer is not declared")
    if any(reason.gate is Gate.DEFAULT for reason in again.decision.reasons):
        check_existing_grants(again)
    blocks = [one.block for one in standing if isinstance(one.block, k.AgentBlock)]
    return blocks[0] if blocks else None


def check_existing_grants(again: ReplayResult) -> None:
    """Check that no existing grant covers the request. Raises NotGrantableError."""
    kinds = {one.kind for one in again.decision.remedies}
    if "scope" in kinds:
        raise NotGrantableError("the credential lacks the scope of an existing grant")
    if kinds & {"credential", "attestation"}:
        raise NotGrantableError(
            "an existing grant requires properties that the credential does not have, or an attestation"
        )
    grants = (grant for block in again.seen.presenter if block.stands for grant in block.grants)
    if any(grant.covers and grant.condition is not True for grant in grants):
        raise NotGrantableError("the condition of an existing grant is not true")


def check_writable_name(name: str) -> str:
    """Check that a name can be written in quotes and matches only itself. Raises NotGrantableError."""
    if "*" in name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise NotGrantableError("the request contains a name that a policy cannot express")
    return name


# ── Targets of grants ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SuggestedTarget:
    """The target of a `may`. `place` is the same target as guards write it; `wilds` is the number of `*` segments or,
    for an existing scope, of its patterns.
    """

    may: str
    place: str
    destroys: bool
    wilds: int = 0
    scope: str | None = None  # the scope to declare, as text


@dataclass
class TargetFinder:
    """Finds the narrowest target for each need."""

    checked: CheckResult
    package: str
    made: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.checked.kernel is not None
        self.kernel = self.checked.kernel
        self.places = PlaceResolver(self.checked.program)
        own = [one for one in self.places.scopes() if one.package == self.package]
        self.scopes = [(one, [pattern for _, pattern in self.places.of_scope(one, True)]) for one in own]
        self.names = {one.name for one in own}
        self.aliases = {scope_alias(one) for one in own}
        self.patterns = tuple(dict.fromkeys(patterns_of(self.kernel)))

    def of(self, needs: Sequence[GrantNeed]) -> Iterator[tuple[GrantNeed, SuggestedTarget | NotGrantableError]]:
        """Yield the targets of one agent's needs; requests that differ only in ids share one target."""
        spelled: dict[int, str | NotGrantableError] = {}
        for group in group_similar(needs):
            spelled |= zip((one.line for one in group), target_texts(group, self.patterns, self.kernel), strict=True)
        for need in needs:
            words = spelled[need.line]
            try:
                if isinstance(words, NotGrantableError):
                    raise words
                yield need, self.target(need, words)
            except NotGrantableError as problem:
                yield need, problem

    def target(self, need: GrantNeed, words: str) -> SuggestedTarget:
        """Return the scope or endpoint that a grant for this need can name. Raises NotGrantableError."""
        destroys, wilds = is_destructive(need.endpoint), words.count("*")
        if destroys and need.user is None:
            raise NotGrantableError("the request is destructive, and has no user who could approve it")
        issuer = self.kernel.issuers[need.issuer]
        if self.checked.program.lookup(self.package, "issuer", need.issuer) is None:
            raise NotGrantableError("the issuer is declared in another package")
        if issuer.scopes_none:
            return SuggestedTarget(words, words, destroys, wilds)
        held = set(need.held)
        fitting = [one for one in self.scopes if self._fits(one, need.endpoint, held, destroys)]
        if fitting:
            scope, patterns = min(fitting, key=lambda one: (len(one[1]), one[0].name))
            return SuggestedTarget(scope.name, scope.name, destroys, len(patterns))
        free = sorted(alias for alias in held - self.aliases if alias.isprintable() and alias and " " not in alias)
        if not free:
            raise NotGrantableError("the credential has no scope that a grant could use")
        name = self.made.setdefault((free[0], ""), self._fresh())
        return SuggestedTarget(name, words, destroys, wilds, free[0])

    def _fits(self, one: tuple[Symbol, list[k.Pattern]], endpoint: Endpoint, held: set[str], destroys: bool) -> bool:
        """Return whether the credential carries the scope, the scope covers the endpoint, and the scope contains
        neither `**` nor a pattern that is destructive although the request is not.
        """
        scope, patterns = one
        owners = [owner for owner, p in self.places.of_scope(scope, True) if match_pattern(p, endpoint) is not None]
        carried = any(held.intersection(self.places.carriers(owner)) for owner in owners)
        wide = any(isinstance(p, k.HttpPattern) and p.rest for p in patterns)
        return carried and not wide and (destroys or not any(map(is_destructive_pattern, patterns)))

    def _fresh(self) -> str:
        number = 1
        while f"suggested_{number}" in self.names:
            number += 1
        self.names.add(f"suggested_{number}")
        return f"suggested_{number}"

    def asked_before(self, endpoint: Endpoint) -> bool:
        """Return whether a guard already requires approval there unconditionally."""
        return any(
            isinstance(one, k.Confirm) and one.condition is None and place_covers(guard.place, endpoint)
            for guard in self.kernel.guards
            for one in guard.effects
        )


def patterns_of(kernel: k.Kernel) -> Iterator[k.Pattern]:
    """Yield the patterns that the policy itself uses."""
    yield from (binder.pattern for binder in kernel.binders)
    blocks: tuple[k.AgentBlock | k.UserBlock | k.AnyoneBlock, ...] = (*kernel.agents, *kernel.users, *kernel.anyones)
    yield from (opening.pattern for block in blocks for grant in block.grants for opening in grant.openings)
    yield from (pattern for guard in kernel.guards for pattern in guard.place.patterns or ())


def is_destructive(endpoint: Endpoint) -> bool:
    match endpoint:
        case HttpEndpoint(method):
            return method == "DELETE"
        case ToolEndpoint(_, name):
            return DESTRUCTIVE_NAME.search(name) is not None
        case ActionEndpoint(verb):
            return DESTRUCTIVE_NAME.search(verb) is not None
        case MalformedEndpoint():
            return True


def is_destructive_pattern(pattern: k.Pattern) -> bool:
    match pattern:
        case k.HttpPattern(methods):
            return methods is None or "DELETE" in methods
        case k.ToolPattern(name) | k.ActionPattern(name):
            return "*" in name or DESTRUCTIVE_NAME.search(name) is not None


# ── Texts of endpoints ────────────────────────────────────────────────────────────────────────


def group_similar(needs: Iterable[GrantNeed]) -> list[list[GrantNeed]]:
    """Group paths of one method and length whose segments are equal except for ids; other paths stay alone."""
    groups: dict[tuple[object, ...], list[GrantNeed]] = defaultdict(list)
    for need in needs:
        endpoint = need.endpoint
        key: tuple[object, ...] = (endpoint,)
        if isinstance(endpoint, HttpEndpoint):
            key = endpoint.method, *("*" if ID_LIKE.fullmatch(one) else f"={one}" for one in endpoint.segments)
        groups[key].append(need)
    return list(groups.values())


def target_texts(
    group: Sequence[GrantNeed], patterns: Sequence[k.Pattern], kernel: k.Kernel
) -> Iterator[str | NotGrantableError]:
    """Yield targets; a segment is `*` if the policy has a pattern with `*` there, or if several ids were requested."""
    paths = [one.endpoint.segments for one in group if isinstance(one.endpoint, HttpEndpoint)]
    varied = [len(set(column)) > 1 for column in zip(*paths, strict=True)]
    for need in group:
        try:
            yield target_text(need.endpoint, varied, patterns, kernel)
        except NotGrantableError as problem:
            yield problem


def target_text(endpoint: Endpoint, varied: Sequence[bool], patterns: Sequence[k.Pattern], kernel: k.Kernel) -> str:
    """Return the text of a target. Raises NotGrantableError."""
    match endpoint:
        case HttpEndpoint(method, _, segments):
            fitting = [one for one in patterns if isinstance(one, k.HttpPattern) and is_simple_match(one, endpoint)]
            if fitting:
                best = min(
                    fitting, key=lambda one: (sum(part.wild for part in one.segments), http_pattern_text(method, one))
                )
                return http_pattern_text(method, best)
            return http_target_text(method, segments, varied)
        case ToolEndpoint() if "*" not in endpoint.qualified and endpoint.qualified.isprintable():
            name = endpoint.qualified
            return f"TOOL {name if BARE_TOOL_NAME.fullmatch(name) else quote_string(name)}"
        case ActionEndpoint(verb, type_) if WORD.fullmatch(verb) and type_ in kernel.entities:
            return f"ACTION {verb} {type_}"
        case _:
            raise NotGrantableError("a policy cannot express the endpoint")


def is_simple_match(pattern: k.HttpPattern, endpoint: HttpEndpoint) -> bool:
    """Return whether the pattern matches and has no `**` and no partial wildcard."""
    whole = all(not one.wild or not (one.prefix or one.suffix) for one in pattern.segments)
    return whole and not pattern.rest and match_pattern(pattern, endpoint) is not None


def http_pattern_text(method: str, pattern: k.HttpPattern) -> str:
    return http_target_text(method, [one.prefix for one in pattern.segments], [one.wild for one in pattern.segments])


def http_target_text(method: str, segments: Sequence[str], wild: Sequence[bool]) -> str:
    """Return the target of a path. Raises NotGrantableError."""
    parts = list(zip(segments, wild, strict=True))
    if not all(is_open or LITERAL.fullmatch(one) for one, is_open in parts):
        raise NotGrantableError("a policy cannot express the path")
    return f"{method} /{'/'.join('*' if is_open else one for one, is_open in parts)}"
