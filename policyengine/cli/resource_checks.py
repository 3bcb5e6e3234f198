"""Checks of `policyengine mcp-gateway --identity`: whether clients can find out how to get a token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError
from policyengine.cli.name_checks import raise_unknown_name

if TYPE_CHECKING:
    from policyengine import kernel as k
    from policyengine.integrations.mcp.protected_resource import ResourceAccess

LOOPBACK_NAMES = ("127.0.0.1", "::1", "[::1]", "localhost")


@dataclass(frozen=True, slots=True)
class ResourceOptions:
    """The options that say where clients reach the gateway, and which scopes they request first."""

    server: str
    host: str
    public_url: str | None
    allowed_hosts: Sequence[str]
    initial_scopes: Sequence[str]

    @property
    def is_remote(self) -> bool:
        return any(name not in LOOPBACK_NAMES for name in (self.host, *self.allowed_hosts))

    def access(self, kernel: k.Kernel) -> ResourceAccess:
        from policyengine.integrations.mcp.protected_resource import read_resource_access

        return read_resource_access(kernel, self.server)


def check_wildcards(options: ResourceOptions) -> None:
    """Check that no client can choose the URL for which others request tokens. Raises CommandError."""
    wild = next((name for name in options.allowed_hosts if "*" in name), None)
    if wild is not None and options.public_url is None:
        message = f"with `--allowed-host {wild}`, the request chooses the URL for which clients get tokens"
        raise CommandError("usage", message, "name the URL with `--public-url https://…`", code=2)


def check_initial_scopes(options: ResourceOptions, kernel: k.Kernel) -> None:
    """Check that the policies know each scope. Raises CommandError."""
    known = options.access(kernel).scopes
    for scope in options.initial_scopes:
        if scope not in known:
            message = f"no grant for server `{options.server}` requires this scope"
            raise_unknown_name("--initial-scope ", scope, message, known)


def resource_warnings(options: ResourceOptions, kernel: k.Kernel) -> Iterator[str]:
    """Yield a warning for each reason why clients cannot get a token that the gateway accepts."""
    access = options.access(kernel)
    if not access.issuers:
        yield (
            f"clients cannot find out where to get a token for `{options.server}`: the issuers of its grants have no "
            'URL; write the `iss` of their tokens: `issuer NAME { url "https://…" }`'
        )
    if options.public_url is None:
        if options.is_remote:
            yield (
                "clients on other machines request tokens for a URL with `http://` and the host that they call: behind "
                "a proxy that terminates TLS, pass `--public-url https://…`"
            )
        return
    resource = f"{options.public_url}/mcp"
    for issuer in kernel.issuers.values():
        if issuer.url in access.issuers and issuer.audience != resource:
            has = "has no `audience`" if issuer.audience is None else f"has the audience `{issuer.audience}`"
            yield (
                f"issuer `{issuer.name}` {has}, but clients request tokens for `{resource}`: write "
                f'`audience "{resource}"`, unless the issuer maps one to the other'
            )
