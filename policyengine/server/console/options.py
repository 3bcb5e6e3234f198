"""The options of the console, checked before the server listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from policyengine.engine import Engine
from policyengine.http.host_check import AllowedHostError, AllowedHosts, url_host_names
from policyengine.identity.config.model import IdentityConfig, IdentityConfigError
from policyengine.identity.login.open_id_client import LoginClient, OpenIdClient
from policyengine.identity.verify.introspection import ClientAuthMethod
from policyengine.server.console.roles import RoleRuleError, RoleRules
from policyengine.server.listeners import ServeError, is_reachable_remotely, resolve_address

IDLE = timedelta(minutes=30)
LONGEST = timedelta(hours=12)
CALLBACK_PATH = "/sign-in/callback"


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """Where people sign in: an issuer of the policy, by its name, and this server's registration there. `secret`
    returns the client secret; None for a public client.
    """

    issuer: str
    client_id: str
    secret: Callable[[], str] | None = field(default=None, repr=False)
    method: ClientAuthMethod = "client_secret_basic"
    scopes: tuple[str, ...] = ()
    identity: IdentityConfig = field(default_factory=IdentityConfig)


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """The options of the console. Without `login`, people sign in with links from the terminal, as `link_user`. `view`,
    `approve` and `halt` are rules for roles. `announce` is called with the URL of the console and, with links, with
    each link that signs in. A person with a link answers approvals as the user `link_user` of `link_issuer`; without
    `link_issuer`, that person may answer none.
    """

    port: int
    host: str = "127.0.0.1"
    public_url: str | None = None
    allowed_hosts: Sequence[str] = ()
    login: LoginSettings | None = None
    view: Sequence[str] = ()
    approve: Sequence[str] = ()
    halt: Sequence[str] = ()
    link_user: str = "operator"
    link_issuer: str | None = None
    idle: timedelta = IDLE
    longest: timedelta = LONGEST
    announce: Callable[[str, str | None], None] = lambda url, link: None

    def check(self, engine: Engine) -> None:
        """Check the options before the server listens. Raises ServeError."""
        is_remote = is_reachable_remotely(resolve_address(self.host, self.port))
        if is_remote and (self.login is None or not self.is_secure):
            raise ServeError(
                f"the console on `{self.host}` can be reached from other machines: people must sign in at an issuer, "
                "over HTTPS",
                "set `issuer`, `client_id` and an `https://` `public_url` in `[console]`, or listen on 127.0.0.1",
            )
        self._check_public_url()
        try:
            rules = self.rules
            AllowedHosts.of(self.allowed_hosts)
        except (RoleRuleError, AllowedHostError) as error:
            raise ServeError(f"`[console]`: {error}", "docs/console.md describes the settings") from None
        self._check_link_issuer(engine)
        if self.login is not None:
            if not rules:
                hint = 'set `view` in `[console]`, for example `view = ["roles:ops"]`'
                raise ServeError("no person may use the console: it has no rules for roles", hint)
            self.open_id_client(engine, self.login, self.base_url(self.port))

    def _check_link_issuer(self, engine: Engine) -> None:
        """Check the issuer of the person with a link. Raises ServeError."""
        if self.link_issuer is None:
            return
        if self.login is not None:
            raise ServeError("`[console] link_issuer` has no effect with `[console] issuer`", "remove it")
        if self.link_issuer not in engine.kernel.issuers:
            names = ", ".join(f"`{name}`" for name in sorted(engine.kernel.issuers)) or "none"
            raise ServeError(
                f"`[console] link_issuer`: no policy names the issuer `{self.link_issuer}`",
                f"the issuers of the policy: {names}",
            )

    def _check_public_url(self) -> None:
        """Check the public URL. Raises ServeError."""
        if self.public_url is None:
            return
        parts = urlsplit(self.public_url)
        if parts.path.strip("/") or parts.query or parts.fragment or not parts.hostname or "@" in parts.netloc:
            hint = "write it without a path, such as https://console.example.com"
            raise ServeError(f"`{self.public_url}` is not the URL of a console", hint)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost", "[::1]", "::1"):
            raise ServeError(
                f"`{self.public_url}` must begin with `https://`", "cookies would be sent without encryption"
            )

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach the console over HTTPS."""
        return self.public_url is not None and self.public_url.startswith("https://")

    @property
    def rules(self) -> RoleRules:
        """The rules for roles. Raises RoleRuleError."""
        return RoleRules.of(self.view, self.approve, self.halt)

    @property
    def host_names(self) -> AllowedHosts:
        return AllowedHosts.of((*self.allowed_hosts, *url_host_names(self.public_url)))

    def base_url(self, port: int) -> str:
        """Return the URL of the console in browsers, without a slash at its end."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        address = resolve_address(self.host, port)[0]
        return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"

    def open_id_client(self, engine: Engine, login: LoginSettings, base_url: str) -> OpenIdClient:
        """Create the client for the issuer of the current policies. Raises ServeError."""
        issuers = engine.kernel.issuers
        if login.issuer not in issuers:
            names = ", ".join(f"`{name}`" for name in sorted(issuers)) or "none"
            raise ServeError(
                f"`[console] issuer`: no policy names the issuer `{login.issuer}`",
                f"the issuers of the policy: {names}",
            )
        redirect = f"{base_url}{CALLBACK_PATH}"
        client = LoginClient(login.client_id, redirect, login.secret, login.method, login.scopes)
        try:
            return OpenIdClient.of(issuers[login.issuer], client, login.identity)
        except IdentityConfigError as error:
            raise ServeError(f"`[console] issuer`: {error.message}", error.hint) from None
