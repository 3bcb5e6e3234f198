"""The options of `policyengine approvals`, and its exchanges with the server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, TypeAlias
from urllib.parse import quote

import typer

from policyengine.bounded_files import read_bounded
from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.output.terminal import Screen
from policyengine.control_characters import printable_json
from policyengine.install_hints import install_command

ServerUrl: TypeAlias = Annotated[str, typer.Option("--url", metavar="URL", help="The server of the decision API.")]
PersonToken: TypeAlias = Annotated[
    str,
    typer.Option(
        "--token-file",
        metavar="FILE|-",
        help="A file with your token from an issuer of the policies; `-` reads it from stdin.",
        show_default=False,
    ),
]
ApprovalId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="The ID of the approval.", show_default=False)]
DEFAULT_URL = "http://127.0.0.1:8080"
TOKEN_HINT = "get a new token of your own from an issuer of the policies (docs/approvals.md)"
TIMEOUT_SECONDS = 20.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_TOKEN_BYTES = 65_536
STATUSES = frozenset({200, 400, 401, 403, 404, 409, 415, 501, 503})


class ApprovalServer:
    """A client of the server at a URL, which sends the token of a person."""

    def __init__(self, url: str, token_file: str, wait: float = 0.0) -> None:
        """Read the token. `wait` is the number of seconds that the server may wait before it answers. Raises
        CommandError."""
        self._url, self._token, self._wait = url.rstrip("/"), read_person_token(token_file), wait

    def get(self, path: str) -> dict[str, Any]:
        """Return the answer of the server to a GET request. Raises CommandError."""
        return self._ask("GET", path, b"")

    def post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Send an answer to an approval, and return the approval. Raises CommandError."""
        return self._ask("POST", path, json.dumps(content).encode())

    def _ask(self, method: str, path: str, content: bytes) -> dict[str, Any]:
        try:
            from policyengine.http.fetch import Fetcher, FetchError
        except ImportError:
            hint = install_command("httpx")
            raise CommandError("install", "requests to a server need more packages", hint) from None
        fetcher = Fetcher(largest=MAX_ANSWER_BYTES, statuses=STATUSES)
        headers = {"Authorization": f"Bearer {self._token}"}
        url, until = f"{self._url}/approvals{path}", monotonic() + TIMEOUT_SECONDS + self._wait
        try:
            if method == "GET":
                answer = fetcher.get(url, until, "application/json", headers)
            else:
                answer = fetcher.post(url, content, {**headers, "Content-Type": "application/json"}, until)
        except FetchError as error:
            hint = "name the server with `--url http://HOST:PORT`; another machine needs `https://`"
            raise CommandError("server", f"`{self._url}`: {error.why}", hint) from None
        return read_answer(answer.status, answer.body, self._url)


def read_answer(status: int, body: bytes, url: str) -> dict[str, Any]:
    """Return the answer of the server. Raises CommandError with its problem."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CommandError("server", f"`{url}`: the answer is not from a decision API", "name the server with `--url`")
    if status == 200:
        return found
    facts = (("status", status), ("code", found.get("code")))
    hint = TOKEN_HINT if status == 401 else found.get("hint")
    raise CommandError("approval", str(found.get("detail", status)), hint, facts)


def read_person_token(file: str) -> str:
    """Return the token in a file, or on stdin. Raises CommandError."""
    try:
        raw = sys.stdin.buffer.read(MAX_TOKEN_BYTES) if file == "-" else read_bounded(Path(file), MAX_TOKEN_BYTES)
    except OSError as error:
        raise file_error(file, error) from None
    token = raw.decode("ascii", "replace").strip()
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise CommandError("usage", "the file must contain one token", "write the token alone into the file", code=2)
    return token.removeprefix("Bearer ")


def approval_path(id: str, verb: str) -> str:
    return f"/{quote(id, safe='')}/{verb}"


def show_approval(approval: dict[str, Any]) -> None:
    """Print everything about an approval, with control characters escaped."""
    screen, who = Screen(), approval.get("requester", {})
    screen.line((str(approval.get("state")), "bold"), f"  {approval.get('id')}")
    for name, value in (
        ("rule", approval.get("rule")),
        ("message", approval.get("message")),
        ("endpoint", approval.get("endpoint")),
        ("agent", who.get("agent")),
        ("issuer", who.get("issuer")),
        ("for user", who.get("user")),
        ("chain", " → ".join(map(str, who.get("chain", ())))),
        ("approvers", approval.get("by")),
        ("answer until", approval.get("expires")),
        ("counts for", approval.get("within")),
        ("approved by", ", ".join(str(one.get("by")) for one in approval.get("approved", ()))),
        ("denied by", approval.get("denied", {}).get("by")),
        ("reason", approval.get("reason")),
    ):
        if value:
            screen.line(f"  {name + ':':<14}{value}")
    screen.line("  the request, in the words of the requester:")
    for line in printable_json(json.dumps(approval.get("question"), indent=2, ensure_ascii=False)).splitlines():
        screen.line(f"    {line}")
    show_directory(screen, approval.get("directory", []))
    show_history(screen, approval.get("history", {}))


def show_directory(screen: Screen, rows: list[dict[str, Any]]) -> None:
    """Print the entity rows of the people and things in a request."""
    if rows:
        screen.line("  entity rows:")
    for row in rows:
        words = json.dumps({**row.get("attributes", {}), **({"in": row["in"]} if row.get("in") else {})})
        if row.get("known") is not True:
            words = "not known" if row.get("known") is False else "the source of the row did not answer"
        screen.line(f"    {row.get('type')} {json.dumps(row.get('id'))}: {words}")


def show_history(screen: Screen, history: dict[str, Any]) -> None:
    """Print what the requester did before."""
    if not history:
        return
    if "unread" in history:
        screen.line(f"  what the requester did before is not known: {history['unread']}")
        return
    screen.line(f"  what the requester did since {history.get('since')}:")
    for title, counts, latest in (
        ("decisions", "decisions", "latest"), ("approvals", "approvals", "latest_approvals"),
    ):  # fmt: skip
        numbers = ", ".join(f"{number:,} {name}" for name, number in history.get(counts, {}).items())
        screen.line(f"    {title}: {numbers or 'none'}")
        for past in history.get(latest, []):
            what = past.get("outcome") or past.get("state")
            screen.line(
                f"      {past.get('time')}  {what}  {past.get('endpoint', '')}  {past.get('rule', '')}".rstrip()
            )
