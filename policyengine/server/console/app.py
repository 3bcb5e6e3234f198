"""The application of the console: its routes, and the checks before each page."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from policyengine.audit import SystemEvent
from policyengine.reload import ReloadableEngine
from policyengine.server.console.context import ConsoleContext, ConsolePage, ConsoleVisit
from policyengine.server.console.cookies import CookieNames
from policyengine.server.console.forms import FormError, read_form
from policyengine.server.console.guard import ConsoleGuard
from policyengine.server.console.html import answer_asset, render_public, render_visit
from policyengine.server.console.options import CALLBACK_PATH, ConsoleOptions
from policyengine.server.console.pages.table import PAGES
from policyengine.server.console.records import ConsoleRecords
from policyengine.server.console.sessions import ConsoleSession, ConsoleSessions
from policyengine.server.console.sign_in import LINK_PATH, SESSION_COOKIE, SIGN_IN_PATH, SignInPages, sign_out
from policyengine.server.telemetry.shared_counters import ServerCounters

SIGN_OUT = ConsolePage("/sign-out", sign_out, method="POST")


def create_context(
    options: ConsoleOptions, reloading: ReloadableEngine, tally: ServerCounters, port: int
) -> ConsoleContext:
    """Create the state of the console on this port."""
    records = ConsoleRecords(reloading)

    def ended(session: ConsoleSession, why: str) -> None:
        records.act(SystemEvent.CONSOLE_SIGNED_OUT, session.person, why=why)

    sessions = ConsoleSessions(options.idle, options.longest, ended)
    cookies = CookieNames(options.is_secure, port)
    base_url = options.base_url(port)
    return ConsoleContext(options, reloading, tally, base_url, cookies, options.rules, records, sessions)


def build_console(console: ConsoleContext) -> Starlette:
    """Return the console as an ASGI application."""
    pages = SignInPages(console)
    routes = [
        Route(SIGN_IN_PATH, pages.page),
        Route(f"{SIGN_IN_PATH}/start", pages.start, methods=["GET"]),
        Route(CALLBACK_PATH, pages.callback, methods=["GET"]),
        Route(LINK_PATH, pages.link_page, methods=["GET"]),
        Route(LINK_PATH, pages.follow_link, methods=["POST"]),
        Route(f"{LINK_PATH}/new", pages.print_link, methods=["POST"]),
        Route("/static/{name}", answer_static),
        Route(SIGN_OUT.path, PageGate(console, SIGN_OUT, open_to_all=True).answer, methods=["POST"]),
        *(Route(page.path, PageGate(console, page).answer, methods=[page.method]) for page in PAGES),
    ]

    async def failed(http: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = "there is no such page" if error.status_code == 404 else error.detail.lower()
        return render_public(
            console, "refused.html.j2", "Not found", status=error.status_code, message=message, again="/"
        )

    guard = Middleware(ConsoleGuard, hosts=console.options.host_names, secure=console.options.is_secure)
    app = Starlette(routes=routes, middleware=[guard], exception_handlers={HTTPException: failed})
    app.router.redirect_slashes = False
    return app


async def answer_static(http: Request) -> Response:
    return answer_asset(http.path_params["name"])


class PageGate:
    """Checks the session, the form token and the role, and then calls the handler of a page. `open_to_all` pages need
    no role.
    """

    def __init__(self, console: ConsoleContext, page: ConsolePage, open_to_all: bool = False) -> None:
        self.console, self.page, self.open_to_all = console, page, open_to_all

    async def answer(self, http: Request) -> Response:
        console, page = self.console, self.page
        name = console.cookies.read(http.headers.get("cookie", ""), SESSION_COOKIE)
        session = console.sessions.find(name, touch=not page.background)
        if session is None:
            return self.sign_in(http)
        form: dict[str, str] = {}
        if page.method == "POST":
            try:
                form = await read_form(http)
            except FormError as error:
                return self.refuse(400, str(error))
            if not session.accepts(form.pop("csrf", "")):
                return self.refuse(403, "this form was not made for your session: open the page again")
        visit = ConsoleVisit(http, console, session, await console.roles(session.person), form)
        if page.role not in visit.roles and not self.open_to_all:
            visit = replace(visit, notices=await console.notices(session.person, visit.roles))
            return render_visit(visit, "no_role.html.j2", "Not allowed", status=403, role=page.role.value)
        if not page.background:
            visit = replace(visit, notices=await console.notices(session.person, visit.roles))
        return await page.handler(visit)

    def sign_in(self, http: Request) -> Response:
        """Return the redirect to the sign-in. A form is not repeated after signing in."""
        if self.page.method == "POST":
            return self.refuse(403, "you are not signed in, or your session has ended")
        asked = http.url.path + (f"?{http.url.query}" if http.url.query else "")
        return RedirectResponse(f"{SIGN_IN_PATH}?next={quote(asked, safe='/')}", 303)

    def refuse(self, status: int, message: str) -> Response:
        return render_public(self.console, "refused.html.j2", "Not done", status=status, message=message, again="/")
