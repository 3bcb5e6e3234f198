"""Signs people in and out: at an issuer of the policy, or with a link from the terminal.

Following a link changes nothing on the server: starting a sign-in only sets a cookie of the browser, and a link from
the terminal shows a button. So a program that fetches links to preview them cannot use up a link.
"""

from __future__ import annotations

import re
import secrets
from hmac import compare_digest
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from policyengine.audit import SystemEvent
from policyengine.identity.login.errors import LoginError, LoginRefusal
from policyengine.identity.login.open_id_client import LoginAttempt, Person
from policyengine.server.console.context import ConsoleContext, ConsoleVisit
from policyengine.server.console.forms import FormError, parse_fields, read_form
from policyengine.server.console.html import render_public
from policyengine.server.console.links import LINK_SECONDS
from policyengine.server.console.roles import role_names
from policyengine.server.listeners import ServeError

SIGN_IN_PATH = "/sign-in"
LINK_PATH = "/sign-in/link"
LOGIN_SECONDS = 600  # seconds for signing in at the issuer
LOGIN_COOKIE, FORM_COOKIE, SESSION_COOKIE = "login", "form", "session"
MAX_PATH_LENGTH = 1_000
# Paths of this server: browsers read `//host` and `/\host` as another host, and drop tabs and line ends.
OWN_PATH = re.compile(r"/(?:[\x21\x23-\x2e\x30-\x3b\x3d\x3f-\x5b\x5d-\x7e][\x21\x23-\x3b\x3d\x3f-\x5b\x5d-\x7e]*)?")
ERROR_CODE = re.compile(r"[a-z_]{1,64}")
FORM_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class SignInPages:
    """The pages for people who are not signed in."""

    def __init__(self, console: ConsoleContext) -> None:
        self.console = console

    # ── At an issuer ──────────────────────────────────────────────────────────────────────────

    async def page(self, http: Request) -> Response:
        """Show how to sign in."""
        following = own_path(http.query_params.get("next"))
        if self.console.login is None:
            return self._with_form_token(http, "sign_in_terminal.html.j2")
        start = f"{SIGN_IN_PATH}/start?{urlencode({'next': following})}"
        return render_public(self.console, "sign_in.html.j2", "Sign in", start=start, issuer=self.console.login.issuer)

    async def start(self, http: Request) -> Response:
        """Send the browser to the issuer, with a sealed cookie that the answer must match."""
        console, attempt = self.console, LoginAttempt.begin()
        if console.login is None:
            return await self.missing(http)
        try:
            url = await console.run(lambda: console.client.authorization_url(attempt))
        except ServeError as error:
            return self._refuse(http, LoginError(LoginRefusal.PROVIDER, str(error)))
        except LoginError as error:
            return self._refuse(http, error)
        values = {"state": attempt.state, "nonce": attempt.nonce, "verifier": attempt.verifier}
        values |= {"next": own_path(http.query_params.get("next"))}
        response = RedirectResponse(url, 303)
        sealed = console.seal.seal(LOGIN_COOKIE, values, LOGIN_SECONDS)
        console.cookies.put(response, LOGIN_COOKIE, sealed, LOGIN_SECONDS)
        return response

    async def callback(self, http: Request) -> Response:
        """Complete a sign-in with the answer of the issuer."""
        console = self.console
        if console.login is None:
            return await self.missing(http)
        try:
            attempt, following, answer = self._match(http)
            signing_in = console.client.sign_in
            person = await console.run(signing_in, attempt, answer.get("code", ""), answer.get("iss"))
            return await self._signed_in(http, person, following, "issuer")
        except ServeError as error:
            return self._refuse(http, LoginError(LoginRefusal.PROVIDER, str(error)))
        except LoginError as error:
            return self._refuse(http, error)

    def _match(self, http: Request) -> tuple[LoginAttempt, str, dict[str, str]]:
        """Return the sign-in that this answer completes, the page that the person wanted, and the answer. A sign-in is
        completed once. Raises LoginError.
        """
        console = self.console
        try:
            answer = parse_fields(http.url.query.encode())
        except FormError as error:
            raise LoginError(LoginRefusal.STATE, str(error)) from None
        values = console.seal.open(LOGIN_COOKIE, self._cookie(http, LOGIN_COOKIE))
        state = answer.get("state", "").encode("utf-8", "surrogatepass")
        if values is None or not compare_digest(values["state"].encode(), state):
            raise LoginError(LoginRefusal.STATE)
        if console.seal.is_over(values):
            raise LoginError(LoginRefusal.EXPIRED)
        self._count(http)  # before the state is spent: this bounds the number of spent states
        if not console.spent.spend(values["state"], int(values["exp"]), int(console.seal.clock())):
            raise LoginError(LoginRefusal.REPLAYED)
        if "error" in answer:
            code = answer["error"]
            raise LoginError(LoginRefusal.CANCELLED, code if ERROR_CODE.fullmatch(code) else "")
        return LoginAttempt(values["state"], values["nonce"], values["verifier"]), values["next"], answer

    # ── With a link from the terminal ─────────────────────────────────────────────────────────

    async def link_page(self, http: Request) -> Response:
        """Show the button that signs in, and spend nothing."""
        if self.console.login is not None:
            return await self.missing(http)
        secret = http.query_params.get("secret", "")
        return self._with_form_token(http, "sign_in_link.html.j2", secret)

    async def follow_link(self, http: Request) -> Response:
        """Sign in with the secret of a link."""
        console = self.console
        if console.login is not None:
            return await self.missing(http)
        try:
            form = await self._form(http)
            self._count(http)
            if not console.link.spend(form.get("secret", "")):
                raise LoginError(LoginRefusal.LINK)
            return await self._signed_in(http, Person(console.options.link_user), "/", "link")
        except LoginError as error:
            return self._refuse(http, error)

    async def print_link(self, http: Request) -> Response:
        """Print a new link on the terminal, where only the operator can read it."""
        console = self.console
        if console.login is not None:
            return await self.missing(http)
        try:
            await self._form(http)
            self._count(http)
        except LoginError as error:
            return self._refuse(http, error)
        announce_link(console)
        return render_public(console, "sign_in_printed.html.j2", "Sign in", minutes=LINK_SECONDS // 60)

    async def _form(self, http: Request) -> dict[str, str]:
        """Return a form that needs no session, whose token must match the cookie. Raises LoginError."""
        try:
            form = await read_form(http)
        except FormError as error:
            raise LoginError(LoginRefusal.STATE, str(error)) from None
        token = self._cookie(http, FORM_COOKIE) or ""
        given = form.get("csrf", "").encode("utf-8", "surrogatepass")
        if not FORM_TOKEN.fullmatch(token) or not compare_digest(token.encode(), given):
            raise LoginError(LoginRefusal.STATE)
        return form

    def _with_form_token(self, http: Request, template: str, secret: str = "") -> Response:
        token = self._cookie(http, FORM_COOKIE) or ""
        if not FORM_TOKEN.fullmatch(token):
            token = secrets.token_urlsafe(32)
        response = render_public(
            self.console, template, "Sign in", form_token=token, secret=secret, minutes=LINK_SECONDS // 60
        )
        self.console.cookies.put(response, FORM_COOKIE, token)
        return response

    # ── Both ──────────────────────────────────────────────────────────────────────────────────

    async def _signed_in(self, http: Request, person: Person, following: str, by: str) -> Response:
        """Open a session with a new id, and record it. Raises LoginError."""
        console = self.console
        roles = list(role_names(await console.roles(person)))
        details = {"by": by, "roles": roles, "address": client_address(http)}
        if not console.records.act(SystemEvent.CONSOLE_SIGNED_IN, person, **details):
            raise LoginError(LoginRefusal.UNRECORDED)
        before = console.sessions.find(self._cookie(http, SESSION_COOKIE))
        if before is not None:
            console.sessions.end(before, "replaced")
        name, _ = console.sessions.open(person)
        response = RedirectResponse(following, 303)
        console.cookies.put(response, SESSION_COOKIE, name)
        for purpose in (LOGIN_COOKIE, FORM_COOKIE):
            console.cookies.drop(response, purpose)
        return response

    def _count(self, http: Request) -> None:
        """Count an attempt. Raises LoginError if there were too many."""
        if not self.console.throttle.admit(client_address(http)):
            raise LoginError(LoginRefusal.THROTTLED)

    def _refuse(self, http: Request, error: LoginError) -> Response:
        self.console.records.refused(error.refusal.value, error.detail, client_address(http))
        status = {LoginRefusal.THROTTLED: 429, LoginRefusal.PROVIDER: 502, LoginRefusal.UNRECORDED: 503}
        code = status.get(error.refusal, 403)
        response = render_public(
            self.console, "refused.html.j2", "Not signed in", status=code, message=error.message, again=SIGN_IN_PATH
        )
        if error.refusal is LoginRefusal.THROTTLED:
            response.headers["Retry-After"] = "60"
        return response

    def _cookie(self, http: Request, purpose: str) -> str | None:
        return self.console.cookies.read(http.headers.get("cookie", ""), purpose)

    async def missing(self, http: Request) -> Response:
        return render_public(
            self.console, "refused.html.j2", "Not found", status=404, message="there is no such page", again="/"
        )


async def sign_out(visit: ConsoleVisit) -> Response:
    """End the session."""
    console = visit.console
    console.sessions.end(visit.session, "signed out")
    response = RedirectResponse(SIGN_IN_PATH, 303, {"Clear-Site-Data": '"cache", "storage"'})
    console.cookies.drop(response, SESSION_COOKIE)
    return response


def announce_link(console: ConsoleContext) -> None:
    """Print a new link that signs in, unless one was printed a moment ago."""
    secret = console.link.renew()
    if secret is not None:
        console.options.announce(console.base_url, f"{console.base_url}{LINK_PATH}?secret={quote(secret)}")


def own_path(path: str | None) -> str:
    """Return a path of this server to which a browser may be sent; `/` for anything else."""
    if path is None or len(path) > MAX_PATH_LENGTH or not OWN_PATH.fullmatch(path) or path.startswith(SIGN_IN_PATH):
        return "/"
    return path


def client_address(http: Request) -> str:
    return http.client.host if http.client is not None else ""
