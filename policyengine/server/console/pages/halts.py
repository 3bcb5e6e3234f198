"""Halts: what is halted now, a form that halts requests after a confirmation, and a form that lifts a halt."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from time import time
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from policyengine.approvals.model import to_datetime
from policyengine.audit import SystemEvent
from policyengine.audit.query.halted_requests import HaltedCount, HaltedRequestSearch
from policyengine.audit.query.log_process import LogReadError
from policyengine.audit.query.query import format_time
from policyengine.engine import Engine
from policyengine.halts.errors import HaltError
from policyengine.halts.requests import (
    MAX_NAME_LENGTH,
    MAX_REASON_LENGTH,
    check_known_names,
    check_text,
    make_halt,
    parse_end,
)
from policyengine.runtime.halts import SCOPE_MEMBERS, Halt
from policyengine.server.console.context import ConsoleVisit
from policyengine.server.console.html import render_visit
from policyengine.server.console.pages.log_search import read_log_file
from policyengine.server.console.roles import ConsoleRole
from policyengine.server.halt_routes import status_of
from policyengine.spec.halts import issuer_urls
from policyengine.stores.base import StoreError
from policyengine.time_formats import format_epoch_seconds

ONCE_BYTES = 24
COUNTED_TIME = timedelta(hours=1)
MAX_ENDED_SHOWN = 50
FORM_SECONDS = 3_600  # seconds for which a confirmation can be sent
LABELS = {
    "agent": "Agent", "issuer": "Issuer", "user": "User", "chain_root": "First agent of the chain", "task": "Task",
    "tool": "Tool", "place": "Endpoints", "package": "Package",
}  # fmt: skip
EXAMPLES = {
    "agent": "billing-bot", "issuer": "acme", "user": "alice", "chain_root": "planner", "task": "t-42",
    "tool": "mail/*", "place": "POST /v1/refunds/**", "package": "acme.shop",
}  # fmt: skip
STORE_HINT = "the change may or may not be in effect: see this page; a halt file works without the store"
SENT_BEFORE = "this form was sent before, or does not come from the confirmation page"


@dataclass(frozen=True, slots=True)
class HaltForm:
    """The fields of the form, as the person filled them in, and the errors by field."""

    scope: Mapping[str, str] = field(default_factory=dict)
    everything: bool = False
    reason: str = ""
    end: str = ""
    errors: Mapping[str, HaltError] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> HaltForm:
        scope = {name: text for name in SCOPE_MEMBERS if (text := fields.get(name, "").strip())}
        everything = fields.get("everything", "") == "yes"
        return cls(scope, everything, fields.get("reason", "").strip(), fields.get("end", "").strip())

    @property
    def fields(self) -> dict[str, str]:
        """The fields that are filled in, by name."""
        everything = {"everything": "yes"} if self.everything else {}
        return {**self.scope, **everything, "reason": self.reason, "end": self.end}

    def check(self, engine: Engine, by: str) -> tuple[Halt | None, dict[str, HaltError]]:
        """Return the halt, as `POST /halt` makes it, or the errors by field; an error that concerns no single field is
        under `halt`.
        """
        errors: dict[str, HaltError] = {}
        now, hour = engine.halting.now(), timedelta(hours=1)
        given: dict[str, Any] = dict(self.scope)

        def note(name: str, error: HaltError) -> None:
            errors.setdefault(name, error)

        for name, text in given.items():
            try:
                one: Any = {name: text}
                check_known_names(make_halt(one, everything=False, reason="-", end=hour, by="", now=now), engine.kernel)
            except HaltError as error:
                note(name, error)
        try:
            make_halt({}, everything=True, reason=self.reason, end=hour, by="", now=now)
        except HaltError as error:
            note("reason", error)
        try:
            make_halt({}, everything=True, reason="-", end=parse_end(self.end), by="", now=now)
        except HaltError as error:
            note("end", error if self.end else HaltError("a halt needs an end", "write it as `2h`"))
        try:
            check_text("your name", by, MAX_NAME_LENGTH)
            if not errors:
                scope: Any = given
                end = parse_end(self.end)
                return make_halt(scope, everything=self.everything, reason=self.reason, end=end, by=by, now=now), errors
            make_halt(
                {} if self.everything else {"agent": "-"},
                everything=self.everything,
                reason="-",
                end=hour,
                by="",
                now=now,
            )
        except HaltError as error:
            note("halt", error)
        return None, errors


@dataclass(frozen=True, slots=True)
class EndedHalt:
    """A halt that ended at the time `at`, because an operator (`by`) lifted it or because its time was over. `halt` is
    None if the halt itself is no longer known.
    """

    id: str
    halt: Halt | None
    at: int
    by: str = ""
    reason: str = ""
    is_lifted: bool = False


# ── What is halted ────────────────────────────────────────────────────────────────────────────


async def answer_halts(visit: ConsoleVisit) -> Response:
    """Show the halts in effect, and those that ended last."""
    halting = visit.console.engine.halting
    return render_visit(
        visit, "halts.html.j2", "Halts", halts=halting.status.halts, ended=list_ended(visit.console.engine),
        unreadable=halting.status.unreadable, may_halt=may_halt(visit), cover=describe_scope, when=format_epoch_seconds,
    )  # fmt: skip


def list_ended(engine: Engine) -> list[EndedHalt]:
    """Return the halts that ended last, newest first."""
    lifted = [
        EndedHalt(one.id, one.halt, one.at, one.by, one.reason, is_lifted=True) for one in engine.halting.liftings
    ]
    expired = [EndedHalt(halt.id, halt, halt.until) for halt in engine.halting.ended]
    return sorted([*lifted, *expired], key=lambda one: one.at, reverse=True)[:MAX_ENDED_SHOWN]


def may_halt(visit: ConsoleVisit) -> bool:
    return ConsoleRole.HALT in visit.roles


def describe_scope(halt: Halt) -> str:
    """Return what a halt covers, in words."""
    covers = (f"{LABELS[name].lower()} {text}" for name, text in halt.scope.items())
    return ", ".join(covers) or "everything"


def operator_name(visit: ConsoleVisit) -> str:
    """Return the name of the person as halts record it."""
    person = visit.person
    return person.user if person.issuer is None else f"{person.user} of {person.issuer}"


# ── Halting ───────────────────────────────────────────────────────────────────────────────────


async def answer_halt_form(visit: ConsoleVisit) -> Response:
    """Show the form, with the fields that the link names filled in."""
    return show_form(visit, HaltForm.read(visit.http.query_params))


def show_form(visit: ConsoleVisit, form: HaltForm, status: int = 200) -> Response:
    return render_visit(
        visit, "halt_form.html.j2", "Halt requests", status=status, form=form, labels=LABELS, examples=EXAMPLES,
        packages_known=sorted(visit.console.engine.packages), most=MAX_REASON_LENGTH, most_name=MAX_NAME_LENGTH,
    )  # fmt: skip


async def answer_halt_check(visit: ConsoleVisit) -> Response:
    """Show what a halt will deny, and ask for the confirmation. Nothing is halted yet."""
    form = HaltForm.read(visit.form)
    halt, errors = form.check(visit.console.engine, operator_name(visit))
    if halt is None:
        return show_form(visit, HaltForm(form.scope, form.everything, form.reason, form.end, errors), 400)
    counted, unread = None, ""
    try:
        counted = await count_halted(visit, halt)
    except LogReadError as error:
        unread = error.message
    return render_visit(
        visit, "halt_check.html.j2", "Halt these requests?", halt=halt, form=form, counted=counted, unread=unread,
        covers=describe_scope(halt), until=format_epoch_seconds(halt.until), once=secrets.token_urlsafe(ONCE_BYTES),
        back=f"/halts/new?{urlencode(form.fields)}",
    )  # fmt: skip


async def count_halted(visit: ConsoleVisit, halt: Halt) -> HaltedCount | None:
    """Return how many requests of the last hour the halt covers; None for a halt of a package. Raises LogReadError."""
    engine = visit.console.engine
    if halt.package is not None:
        return None
    since = format_time(to_datetime(engine.decider.now()) - COUNTED_TIME)
    search = (
        None if engine.log is None else HaltedRequestSearch(engine.log.path, halt, issuer_urls(engine.kernel), since)
    )
    found = await read_log_file(visit.console, search)
    assert isinstance(found, HaltedCount)
    return found


async def answer_halt(visit: ConsoleVisit) -> Response:
    """Halt requests."""
    console, form = visit.console, HaltForm.read(visit.form)
    checked, errors = form.check(console.engine, operator_name(visit))
    if checked is None:
        return show_form(visit, HaltForm(form.scope, form.everything, form.reason, form.end, errors), 400)
    now, once = int(time()), visit.form.get("once", "")
    if len(once) < ONCE_BYTES or not console.spent.spend(f"halt {once}", now + FORM_SECONDS, now):
        return refuse(visit, "Not halted again", 409, HaltError(SENT_BEFORE, "`Halts` shows what is in effect"))
    scope: dict[str, Any] = dict(form.scope)
    try:
        halt = await console.run(
            lambda: console.engine.halt(
                reason=form.reason,
                end=parse_end(form.end),
                everything=form.everything,
                by=operator_name(visit),
                **scope,
            )
        )
    except HaltError as error:
        record(visit, SystemEvent.CONSOLE_HALTED, "", f"refused: {error.message}")
        return refuse(visit, "Not halted", status_of(error), error)
    except StoreError as error:
        record(visit, SystemEvent.CONSOLE_HALTED, "", f"refused: {error.reason}")
        message = f"the store did not accept the change: {error.reason}"
        return refuse(visit, "Not halted", 503, HaltError(message, STORE_HINT))
    record(visit, SystemEvent.CONSOLE_HALTED, halt.id, "done")
    visit = await visit.refresh()
    return render_visit(
        visit, "halted.html.j2", "Halted", status=201, halt=halt, covers=describe_scope(halt),
        until=format_epoch_seconds(halt.until),
    )  # fmt: skip


# ── Lifting ───────────────────────────────────────────────────────────────────────────────────


async def answer_halt_page(visit: ConsoleVisit) -> Response:
    """Show one halt in effect, with the form that lifts it."""
    return show_halt(visit)


def show_halt(visit: ConsoleVisit, error: HaltError | None = None, reason: str = "", status: int = 200) -> Response:
    id = visit.http.path_params["id"]
    halt = next((one for one in visit.console.engine.halts if one.id == id), None)
    if halt is None:
        return refuse(visit, "No halt", 404, HaltError("there is no such halt in effect", "it was lifted, or it ended"))
    return render_visit(
        visit, "halt.html.j2", "Halt", status=status, halt=halt, covers=describe_scope(halt), error=error,
        reason=reason, may_halt=may_halt(visit), since=format_epoch_seconds(halt.since),
        until=format_epoch_seconds(halt.until), most=MAX_REASON_LENGTH,
    )  # fmt: skip


async def answer_lift(visit: ConsoleVisit) -> Response:
    """Lift a halt, for the reason in the form."""
    console, id = visit.console, visit.http.path_params["id"]
    reason = visit.form.get("reason", "").strip()
    try:
        await console.run(lambda: console.engine.lift(id, reason=reason, by=operator_name(visit)))
    except HaltError as error:
        record(visit, SystemEvent.CONSOLE_LIFTED, id, f"refused: {error.message}", reason)
        if status_of(error) == 400:
            return show_halt(visit, error, reason, 400)
        return refuse(visit, "Not lifted", status_of(error), error)
    except StoreError as error:
        record(visit, SystemEvent.CONSOLE_LIFTED, id, f"refused: {error.reason}", reason)
        message = f"the store did not accept the change: {error.reason}"
        return refuse(visit, "Not lifted", 503, HaltError(message, STORE_HINT))
    record(visit, SystemEvent.CONSOLE_LIFTED, id, "done", reason)
    visit = await visit.refresh()
    return render_visit(visit, "lifted.html.j2", "Lifted", reason=reason)


# ── Both ──────────────────────────────────────────────────────────────────────────────────────


def refuse(visit: ConsoleVisit, title: str, status: int, error: HaltError) -> Response:
    return render_visit(
        visit, "message.html.j2", title, status=status, message=error.message, hint=error.hint or "", again="/halts"
    )


def record(visit: ConsoleVisit, event: SystemEvent, halt: str, result: str, reason: str = "") -> None:
    """Record what a person did. A halt does not wait for the log, as with `POST /halt`."""
    by = "link" if visit.person.issuer is None else "issuer"
    visit.console.records.act(event, visit.person, by=by, halt=halt[:64], result=result, reason=reason)
