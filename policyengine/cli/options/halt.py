"""The options of the `halt` commands that say where halts are kept, and the three places: a store, a file, a server."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias
from urllib.parse import quote, urlsplit

import typer

from policyengine.cli.errors import CommandError, file_error, short_message

if TYPE_CHECKING:
    from policyengine.halts.control import HaltControl
    from policyengine.runtime.halts import Halt

PLACE_HINT = "write `--store URL`, `--file FILE`, or `--server URL --token-file FILE`"
OPERATOR_TOKEN_HINT = "write the operator's token, and nothing else, into the file"
SERVER_SECONDS = 10.0
MAX_ANSWER_BYTES = 2**22
HaltStoreUrl: TypeAlias = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="The store of the servers, as in `serve --store`.", show_default=False),
]
HaltedFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--file", metavar="FILE", help="The halt file of the servers, as in `serve --halt-file`.", show_default=False
    ),
]
ServerUrl: TypeAlias = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="A server, such as http://127.0.0.1:8080.", show_default=False),
]
OperatorToken: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", help="The file with the operator's token for `--server`.", show_default=False
    ),
]
OperatorName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="NAME",
        help="The operator's name; a server takes it from the token. [default: your user name]",
        show_default=False,
    ),
]
ReasonText: TypeAlias = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="The reason, which callers see.", show_default=False)
]


class HaltPlace(Protocol):
    """Where halts are kept. Each method raises CommandError. Halts and liftings are plain data, as in the answers of
    the server."""

    @property
    def shown(self) -> str:
        """The place, without a password."""
        ...

    def add(self, halt: Halt) -> Mapping[str, Any]: ...

    def lift(self, id: str, reason: str, by: str) -> Mapping[str, Any]: ...

    def list(self) -> Mapping[str, Any]: ...


@contextmanager
def open_place(
    store: str | None, file: Path | None, server: str | None, token_file: Path | None
) -> Iterator[HaltPlace]:
    """Open the place that the options name. Raises CommandError, also for errors of the place in the `with` block."""
    if sum(one is not None for one in (store, file, server)) != 1:
        raise CommandError("usage", "name one place where halts are kept", PLACE_HINT, code=2)
    if (server is None) is not (token_file is None):
        problem = "`--server` needs the operator's token" if token_file is None else "`--token-file` needs `--server`"
        raise CommandError("usage", problem, PLACE_HINT, code=2)
    if file is not None:
        with report_halt_errors(str(file)):
            yield FilePlace(file)
    elif server is not None and token_file is not None:
        yield ServerPlace(server.rstrip("/"), read_operator_token(token_file))
    else:
        with open_store_place(store or "") as place:
            yield place


# ── A store ───────────────────────────────────────────────────────────────────────────────────


@contextmanager
def open_store_place(url: str) -> Iterator[StorePlace]:
    from policyengine.halts.control import HaltControl
    from policyengine.stores.clock_skew import system_time
    from policyengine.stores.url import StoreUrlError, open_existing_store, parse_store_url

    try:
        store = open_existing_store(url)
    except StoreUrlError as error:
        raise CommandError("store", error.message, error.hint) from None
    shown = parse_store_url(url).shown
    with closing(store), report_halt_errors(shown):
        store.check(system_time())  # a wrong clock would set a wrong end
        control = HaltControl(store.halts)
        for _, why in control.unread:
            raise CommandError("halt", f"the halts in `{shown}` cannot be read: {why}", None, (("store", shown),))
        yield StorePlace(shown, control)


@dataclass(frozen=True, slots=True)
class StorePlace:
    shown: str
    control: HaltControl

    def add(self, halt: Halt) -> Mapping[str, Any]:
        return self.control.halt(halt).to_dict()

    def lift(self, id: str, reason: str, by: str) -> Mapping[str, Any]:
        return self.control.lift(id, reason, by).to_dict()

    def list(self) -> Mapping[str, Any]:
        halts = [halt.to_dict() for halt in self.control.status.halts]
        return {"halts": halts, "lifted": [one.to_dict() for one in reversed(self.control.liftings)]}


# ── A file ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class FilePlace:
    path: Path

    @property
    def shown(self) -> str:
        return str(self.path)

    def add(self, halt: Halt) -> Mapping[str, Any]:
        from policyengine.halts.file import add_to_file

        add_to_file(self.path, halt)
        return halt.to_dict()

    def lift(self, id: str, reason: str, by: str) -> Mapping[str, Any]:
        from policyengine.halts.document import HaltLift
        from policyengine.halts.file import lift_from_file

        lift_from_file(self.path, id)
        return HaltLift(id, reason, int(time()), by).to_dict()

    def list(self) -> Mapping[str, Any]:
        from policyengine.halts.file import HaltFile

        now = datetime.now(UTC).timestamp()
        return {"halts": [halt.to_dict() for halt in HaltFile(self.path).read() if halt.until > now], "lifted": []}


# ── A server ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ServerPlace:
    shown: str
    token: str

    def add(self, halt: Halt) -> Mapping[str, Any]:
        plain = halt.to_dict()
        body = {name: value for name, value in plain.items() if name not in ("id", "since", "by")}
        answer: Mapping[str, Any] = self._ask("POST", "/halt", "halt", body)["halt"]
        return answer

    def lift(self, id: str, reason: str, by: str) -> Mapping[str, Any]:
        path = f"/halt/{quote(id, safe='')}?reason={quote(reason)}"
        answer: Mapping[str, Any] = self._ask("DELETE", path, "lifted")["lifted"]
        return answer

    def list(self) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self._ask("GET", "/halt", "halts")
        return answer

    def _ask(self, method: str, path: str, member: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request and return the answer, which must have a member. Raises CommandError."""
        facts = (("server", self.shown),)
        try:
            status, answer = self._exchange(method, path, None if body is None else json.dumps(body))
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = f"the server at `{self.shown}` did not answer: {describe_failure(error)}"
            raise CommandError("server", why, "use `--store` or `--file` instead", facts) from None
        is_done = status in (200, 201)
        if not isinstance(answer, dict) or (member if is_done else "detail") not in answer:
            why = f"the answer of `{self.shown}` is not that of a decision API ({status})"
            raise CommandError("server", why, None, facts)
        if is_done:
            return answer
        detail = answer["detail"]
        if status == 404 and str(detail).startswith("nothing is served"):
            problem = f"the server at `{self.shown}` has no operators, so it has no `/halt` (404)"
            raise CommandError("server", problem, "start it with `--halt-operator NAME` (docs/halt.md)", facts)
        if status == 401:
            problem = f"the server does not accept the token: {detail} (401)"
            raise CommandError("server", problem, OPERATOR_TOKEN_HINT, facts)
        raise CommandError("server", f"the server refused: {detail} ({status})", answer.get("hint"), facts)

    def _exchange(self, method: str, path: str, body: str | None) -> tuple[int, object]:
        url = urlsplit(self.shown)
        if url.scheme not in ("http", "https") or url.hostname is None:
            raise CommandError("usage", f"`{self.shown}` is not the URL of a server", "write http://HOST:PORT", code=2)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        headers = {"authorization": f"Bearer {self.token}"}
        headers |= {} if body is None else {"content-type": "application/json"}
        with closing(kind(url.hostname, url.port, timeout=SERVER_SECONDS)) as connection:
            connection.request(method, f"{url.path}{path}", body, headers)
            response = connection.getresponse()
            return response.status, parse_answer(response.read(MAX_ANSWER_BYTES))


def parse_answer(body: bytes) -> object:
    """Return the JSON of an answer; None if it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def describe_failure(error: OSError | http.client.HTTPException | ValueError) -> str:
    """Return why a server did not answer, such as `connection refused`."""
    words = error.strerror if isinstance(error, OSError) else None
    return words.lower() if words else short_message(error)


def read_operator_token(path: Path) -> str:
    """Return the first token of a file, without its name. Raises CommandError."""
    from policyengine.server.bearer_tokens import LINE, TOKEN_DIGEST, TOKEN_HINT, BearerTokenError, read_token_file

    try:
        lines = read_token_file(path).tokens
    except BearerTokenError as error:
        hint = OPERATOR_TOKEN_HINT if error.hint == TOKEN_HINT else error.hint
        raise CommandError("usage", error.message, hint, code=2) from None
    found = LINE.fullmatch(lines[0])
    token = "" if found is None else found["token"]
    if len(lines) != 1 or TOKEN_DIGEST.fullmatch(token):
        raise CommandError("usage", f"`{path}` does not hold exactly one token", OPERATOR_TOKEN_HINT, code=2)
    return token


def own_name() -> str:
    """Return the name of the user that runs the command; an empty text if the user has no name."""
    try:
        return getuser()
    except (OSError, KeyError, ImportError):
        return ""


@contextmanager
def report_halt_errors(shown: str) -> Iterator[None]:
    """Convert errors of a store or a file with halts to a CommandError."""
    from policyengine.halts.errors import HaltError, HaltsUnreadableError
    from policyengine.stores.base import StoreError

    try:
        yield
    except HaltError as error:
        raise CommandError("halt", error.message, error.hint) from None
    except HaltsUnreadableError as error:
        raise CommandError("halt", f"the halts in `{shown}` cannot be read: {error}", error.hint) from None
    except StoreError as error:
        hint = "the change may or may not be in effect: see `policyengine halt list`"
        raise CommandError("store", f"the store at `{shown}` cannot be used: {error}", hint) from None
    except OSError as error:
        raise file_error(shown, error) from None


def describe_halt(halt: Mapping[str, Any]) -> str:
    """Return what a halt covers: `agent invoice-bot, issuer acme`."""
    from policyengine.runtime.halts import SCOPE_MEMBERS

    members = [f"{name.replace('_', ' ')} {halt[name]}" for name in SCOPE_MEMBERS if name in halt]
    return ", ".join(members) or "everything"
