"""Renders the pages of the console, with the style that reports have, and serves their style sheet and script."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

from starlette.responses import HTMLResponse, Response

from policyengine.audit import report
from policyengine.server.console.context import ConsoleContext, ConsolePage, ConsoleVisit
from policyengine.server.console.notices import NO_NOTICES
from policyengine.server.console.roles import role_names
from policyengine.templates import FOLDER, render_template

STATIC = Path(__file__).parent / "static"
YEAR_SECONDS = 31_536_000
KINDS = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@cache
def asset(name: str) -> bytes:
    """Return a static file. The style sheet begins with the style sheet of reports."""
    own = (STATIC / name).read_bytes()
    if name != "console.css":
        return own
    return (Path(report.__file__).parent / FOLDER / "report.css").read_bytes() + own


@cache
def asset_url(name: str) -> str:
    """Return the URL of a static file, which changes with its content."""
    return f"/static/{name}?v={sha256(asset(name)).hexdigest()[:16]}"


def answer_asset(name: str) -> Response:
    """Return a static file as a response that browsers may keep."""
    if name not in KINDS:
        return Response("not found\n", 404)
    caching = {"Cache-Control": f"public, max-age={YEAR_SECONDS}, immutable"}
    return Response(asset(name), media_type=KINDS[name], headers=caching)


def render_visit(visit: ConsoleVisit, template: str, title: str, *, status: int = 200, **values: object) -> Response:
    """Render a page for a person who is signed in."""
    from policyengine.server.console.pages.table import PAGES

    known = {
        "menu": menu(PAGES, visit),
        "person": visit.person,
        "roles": ", ".join(role_names(visit.roles)),
        "csrf": visit.session.csrf,
        "notices": visit.notices if visit.roles else NO_NOTICES,
    }
    return render_html(template, title, visit.console, status, **known, **values)


def render_public(console: ConsoleContext, template: str, title: str, status: int = 200, **values: object) -> Response:
    """Render a page that needs no session."""
    return render_html(
        template, title, console, status, menu=(), person=None, roles="", csrf="", notices=None, **values
    )


def render_html(template: str, title: str, console: ConsoleContext, status: int, **values: object) -> HTMLResponse:
    engine = console.engine
    text = render_template(
        __file__,
        template,
        title=title,
        style=asset_url("console.css"),
        script=asset_url("console.js"),
        icon=asset_url("icon.svg"),
        packages=", ".join(engine.packages),
        revision=engine.revision,
        **values,
    )
    return HTMLResponse(text, status)


def menu(pages: tuple[ConsolePage, ...], visit: ConsoleVisit) -> list[dict[str, object]]:
    """Return the pages of the menu that the person may see."""
    path = visit.http.url.path
    return [
        {"path": page.path, "title": page.title, "current": page.path == path, "badge": page.badge(visit.notices)}
        for page in pages
        if page.title and page.role in visit.roles and page.is_listed(visit.console.engine)
    ]
