"""Describes an MCP server as a protected resource of OAuth (RFC 9728), from the policies: its issuers, its scopes, and
whether its tokens must be bound to a key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from urllib.parse import urlsplit

import msgspec

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import globs_meet
from policyengine.clock import Clock, utc_now
from policyengine.identity.config.model import SAFE_ALGORITHMS

WELL_KNOWN = "/.well-known/oauth-protected-resource"
SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749, 3.3
URL_PREFIXES = ("https://", "http://")


@dataclass(frozen=True, slots=True)
class ResourceAccess:
    """The conditions on tokens for one MCP server that clients need to know. `issuers` are URLs. `scopes` are the
    scopes that grants for the server require, the one that opens the fewest endpoints first. `has_public_grants` says
    whether `anyone` may use something, and `requires_binding` whether every other grant requires a bound credential.
    """

    issuers: tuple[str, ...]
    scopes: tuple[str, ...]
    has_public_grants: bool
    requires_binding: bool

    def narrowest_first(self, scopes: Iterable[str]) -> list[str]:
        """Return those of these scopes that clients can request, the narrowest first."""
        wanted = set(scopes)
        return [scope for scope in self.scopes if scope in wanted]


def read_resource_access(
    kernel: k.Kernel, server: str, own_issuer: str | None = None, *, clock: Clock = utc_now
) -> ResourceAccess:
    """Return the conditions on tokens for the server. Issuers are in the order of the policies, because most clients
    use the first; `own_issuer`, as which this process itself acts, has no page for people, so it comes last. Blocks
    that have expired do not count, because no token would help."""
    now = clock()
    agents = [
        block
        for block in kernel.agents
        if opens_server(block.grants, server) and not has_expired(block.requirements, now)
    ]
    users = (
        []
        if agents
        else [
            block
            for block in kernel.users
            if opens_server(block.grants, server) and not has_expired(block.requirements, now)
        ]
    )
    names = {name for block in agents for name in accepted_issuers(block, kernel)} if agents else {*kernel.issuers}
    accepted = (one for one in kernel.issuers.values() if one.name in names)
    known = sorted(accepted, key=lambda one: (one.name == own_issuer, one.span.source.name, one.span.start))
    with_scopes = {one.name for one in known if not one.scopes_none}
    grants = [
        *(block.grants for block in agents if with_scopes.intersection(accepted_issuers(block, kernel))),
        *(block.grants for block in users if with_scopes),
    ]
    scopes = {scope for some in grants for scope in required_scopes(some, server)}
    everywhere = [*(block.grants for block in kernel.agents), *(block.grants for block in kernel.users)]
    widths = Counter(scope for some in everywhere for scope in required_scopes(some, None))
    return ResourceAccess(
        tuple(one.url for one in known if one.url is not None and one.url.startswith(URL_PREFIXES)),
        tuple(sorted(filter(SCOPE_TOKEN.fullmatch, scopes), key=lambda scope: (widths[scope], scope))),
        any(opens_server(block.grants, server) for block in kernel.anyones),
        bool(agents) and all(has_binding(block.requirements) for block in agents),
    )


def opens_server(grants: Iterable[k.Grant], server: str) -> bool:
    return any(concerns_server(opening.pattern, server) for grant in grants for opening in grant.openings)


def required_scopes(grants: Iterable[k.Grant], server: str | None) -> Iterator[str]:
    """Yield the scopes of each opening; with a server, only of the openings that open something of this server."""
    for grant in grants:
        for opening in grant.openings:
            if server is None or concerns_server(opening.pattern, server):
                yield from opening.carriers


def concerns_server(pattern: k.Pattern, server: str) -> bool:
    """Return whether an MCP server may offer what the pattern names. Resources and prompts are actions, whose patterns
    do not name the server."""
    if isinstance(pattern, k.ToolPattern):
        return has_tool(pattern.glob, server)
    return not isinstance(pattern, k.HttpPattern)


@lru_cache(maxsize=4_096)  # many blocks grant the same tools
def has_tool(glob: str, server: str) -> bool:
    literal = glob.partition("*")[0]  # most globs of other servers differ in it
    return f"{server}/".startswith(literal[: len(server) + 1]) and globs_meet(glob, f"{server}/*")


def accepted_issuers(block: k.AgentBlock, kernel: k.Kernel) -> Collection[str]:
    named = [one.issuers for one in block.requirements if isinstance(one, k.IssuedBy)]
    return named[0] if named else kernel.issuers.keys()


def has_expired(requirements: Iterable[k.Requirement], now: datetime) -> bool:
    periods = (one for one in requirements if isinstance(one, k.ValidityPeriod))
    return any(period.end is not None and period.end <= now for period in periods)


def has_binding(requirements: Iterable[k.Requirement]) -> bool:
    return any(isinstance(one, k.ProofOfPossession) for one in requirements)


# ── The resource and its metadata ─────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """An MCP server at a URL, which clients send as `resource` when they request a token (RFC 8707)."""

    url: str
    name: str

    @property
    def metadata_url(self) -> str:
        """The URL of the metadata: the well-known path comes between the host and the path of the resource."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path.rstrip('/')}"

    def metadata(self, access: ResourceAccess) -> bytes:
        bound = {"dpop_bound_access_tokens_required": True} if access.requires_binding else {}
        return msgspec.json.encode(
            {
                "resource": self.url,
                **({"authorization_servers": access.issuers} if access.issuers else {}),
                **({"scopes_supported": access.scopes} if access.scopes else {}),
                "bearer_methods_supported": ["header"],
                "resource_name": self.name,
                "dpop_signing_alg_values_supported": SAFE_ALGORITHMS,
                **bound,
            }
        )


def metadata_headers(content: bytes, seconds: int) -> Mapping[str, str]:
    """Return headers with which clients and proxies cache the metadata for a short time, because a reload may change
    it."""
    digest = sha256(content).hexdigest()[:32]
    return {
        "content-type": "application/json", "cache-control": f"public, max-age={seconds}", "etag": f'"{digest}"',
    }  # fmt: skip
