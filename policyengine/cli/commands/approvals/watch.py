"""`policyengine approvals watch`: follow the approvals that wait for a person."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Annotated, Any

import typer

from policyengine.cli import EXIT_INTERRUPTED
from policyengine.cli.errors import CommandError
from policyengine.cli.options.approvals import DEFAULT_URL, ApprovalServer, PersonToken, ServerUrl
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, is_terminal
from policyengine.control_characters import printable_json
from policyengine.time_formats import format_rfc3339, parse_time

WAIT_SECONDS = 25  # maximum seconds for which the server may hold one request
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 30.0
MAX_AWAY_SECONDS = 600.0  # seconds without an answer, after which the command fails
CLEAR_SCREEN = "\x1b[H\x1b[2J"
BELL = "\a"
MAX_CELL = 60


def watch(
    token_file: PersonToken,
    url: ServerUrl = DEFAULT_URL,
    bell: Annotated[bool, typer.Option("--bell", help="Ring the bell of the terminal for each new approval.")] = False,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Follow the approvals that wait for your answer.

    On a terminal, a table shows them with the time that is left. Otherwise, and with `--format json`, each change is
    one line: a new approval, or an approval that no longer waits. If the server does not answer, the command tries
    again for 10 minutes. Ctrl-C ends it.

    \b
    Example:
      policyengine approvals watch --token-file my-token --url https://pdp.example.com
      policyengine approvals watch --token-file my-token --format json
    """
    server = ApprovalServer(url, token_file, WAIT_SECONDS)
    view = create_view(format, bell)
    try:
        for waiting in follow(server):
            view(waiting)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


Approvals = Mapping[str, dict[str, Any]]
View = Callable[[Approvals], None]


def follow(
    server: ApprovalServer, clock: Callable[[], float] = monotonic, pause: Callable[[float], None] = sleep
) -> Iterator[Approvals]:
    """Yield the waiting approvals, whenever they change and at least once in each WAIT_SECONDS. Raises CommandError if
    the server refuses a request, does not answer the first request, or stops answering for too long.
    """
    version, failures, worked = "", 0, 0.0
    while True:
        asked, known = clock(), version
        try:
            answer = server.get(f"?wait={WAIT_SECONDS}&version={version}" if version else "")
        except CommandError as error:
            is_away = error.kind == "server" or ("status", 503) in error.facts
            if not is_away or not version or clock() - worked > MAX_AWAY_SECONDS:
                raise
            if not failures:
                Screen(sys.stderr).warn(f"{error.message}; trying again")
            pause(min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 8)))
            failures += 1
            continue
        failures, worked, version = 0, clock(), str(answer.get("version", ""))
        yield {str(one.get("id")): one for one in answer.get("approvals", ())}
        is_early = version == known and clock() - asked < FIRST_PAUSE_SECONDS  # too many wait, or the server stops
        if not version or is_early:  # an earlier version of the server does not wait, and sends no version
            pause(FIRST_PAUSE_SECONDS)


def create_view(format: OutputFormat, bell: bool) -> View:
    if format is OutputFormat.JSON:
        return ChangeView(print_change_json)
    if not is_terminal(sys.stdout):
        return ChangeView(print_change)
    return TableView(bell)


class ChangeView:
    """Prints each change of the waiting approvals."""

    def __init__(self, show: Callable[[str, dict[str, Any]], None]) -> None:
        self._show, self._known = show, dict[str, dict[str, Any]]()

    def __call__(self, waiting: Approvals) -> None:
        for id, approval in reversed(list(waiting.items())):  # the server lists the newest first
            if id not in self._known:
                self._show("waits", approval)
        for id, approval in self._known.items():
            if id not in waiting:
                self._show("ended", approval)
        self._known = dict(waiting)


def print_change_json(change: str, approval: dict[str, Any]) -> None:
    print(printable_json(json.dumps({"event": change, "approval": approval}, ensure_ascii=False)), flush=True)


def print_change(change: str, approval: dict[str, Any]) -> None:
    Screen().line(change, f"  {approval.get('id')}", f"  {describe_asker(approval)}: {approval.get('message')}")
    sys.stdout.flush()


class TableView:
    """Shows all waiting approvals on a cleared terminal, with the time left. New approvals can ring the bell."""

    def __init__(self, bell: bool, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._bell, self._now, self._known = bell, now, frozenset[str]()

    def __call__(self, waiting: Approvals) -> None:
        screen = Screen()
        screen.plain(CLEAR_SCREEN)
        now = self._now()
        screen.line(f"{len(waiting)} waiting for you at {format_rfc3339(now)}; Ctrl-C ends", "")
        if waiting:
            heads = ("ID", "time left", "agent", "rule", "message")
            screen.table([heads, *(table_row(one, now) for one in waiting.values())])
        if self._bell and not self._known.issuperset(waiting):
            screen.plain(BELL)
        sys.stdout.flush()
        self._known = frozenset(waiting)


def table_row(approval: dict[str, Any], now: datetime) -> tuple[str, ...]:
    message = str(approval.get("message"))
    shown = message if len(message) <= MAX_CELL else f"{message[: MAX_CELL - 1]}…"
    left = time_left(str(approval.get("expires")), now)
    return str(approval.get("id")), left, describe_asker(approval), str(approval.get("rule")), shown


def describe_asker(approval: dict[str, Any]) -> str:
    who = approval.get("requester", {})
    return str(who.get("agent") or who.get("user") or "anonymous")


def time_left(expires: str, now: datetime) -> str:
    """Return the time until an end, in hours and minutes or in minutes and seconds."""
    end = parse_time(expires)
    if end is None:
        return "?"
    seconds = max(0, int((end - now).total_seconds()))
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {seconds % 60:02}s"
