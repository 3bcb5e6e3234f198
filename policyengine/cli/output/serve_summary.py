"""The summary that `serve` prints once it listens: addresses, policies, and a request to try."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyengine.cli.absence_warnings import ABSENCE_HINT, UNSENT_HINT, HiddenAbsences, UnsentFacts
from policyengine.cli.output.engine_summary import describe_engine, print_engine
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.kernel import HttpPattern

if TYPE_CHECKING:
    from policyengine.engine import Engine
    from policyengine.kernel import AgentBlock, AnyoneBlock, Kernel, Pattern, UserBlock


MEMORY_STATE_WARNING = (
    "state is kept in memory: counts, spent approvals and revocations are lost with this process, and another server "
    "or pod keeps its own state"
)
DEFAULT_ENDPOINT = ("GET", "/")
PLAIN_TEXT = re.compile(r"[A-Za-z0-9._~:@-]*")  # such a text needs no quotes in a shell, and no escapes in JSON


class ServeSummary(NamedTuple):
    """The facts in the summary. `tests` is the number of test requests, or None if tests were not run. `hidden` holds
    conditions that depend on whether a fact is absent, if gateways do not report this; `unsent` holds facts that
    gateways never send, if `policyengine.toml` configures gateways. `lone` means that other machines can connect, but
    state is kept in memory. `metrics` is the URL of the metrics port, `envoy` the address for Envoy over gRPC, and
    `store` the URL of the store, without its password.
    """

    url: str | None
    socket: Path | None
    workers: int
    tests: int | None
    hidden: HiddenAbsences
    unsent: UnsentFacts
    lone: bool
    metrics: str | None = None
    envoy: str | None = None
    store: str | None = None


def print_summary(engine: Engine, served: ServeSummary, curl: str | None, format: OutputFormat) -> None:
    """Print the summary and flush it, because the program that started the server may wait for it."""
    if format is OutputFormat.JSON:
        listening = {"listening": served.url} if served.url else {}
        socket = {"socket": str(served.socket)} if served.socket else {}
        workers = {"workers": served.workers} if served.workers > 1 else {}
        metrics = {"metrics": served.metrics} if served.metrics else {}
        envoy = {"envoy_grpc": served.envoy} if served.envoy else {}
        hidden = {"hidden_absences": served.hidden.to_dict()} if served.hidden else {}
        unsent = {"unsent_facts": served.unsent.to_dict()} if served.unsent else {}
        lone = {"state_in_memory": True} if served.lone else {}
        print_json(
            {
                **listening,
                **socket,
                **metrics,
                **envoy,
                **workers,
                **describe_engine(engine, served.tests, served.store),
                **hidden,
                **unsent,
                **lone,
            },
            indent=None,
        )
        return
    screen = Screen()
    for place in (served.url, served.socket):
        if place is not None:
            screen.line("listening on ", (str(place), "bold"))
    if served.metrics is not None:
        screen.line(f"metrics:  {served.metrics}")
    if served.envoy is not None:
        screen.line(f"envoy:    {served.envoy} (gRPC)")
    if served.workers > 1:
        screen.line(f"workers:  {served.workers}")
    print_engine(screen, engine, served.tests, served.store)
    if served.lone:
        screen.line((MEMORY_STATE_WARNING, "yellow"))
        screen.line("  hint: share a store: `--store postgresql://…`, `redis://…`, or `sqlite:///FILE` on one machine")
    for unknown, hint in ((served.hidden, ABSENCE_HINT), (served.unsent, UNSENT_HINT)):
        if unknown:
            screen.line((unknown.message, "yellow"))
            for line in unknown.lines():
                screen.line(f"  {line}")
            screen.line(f"  hint: {hint}")
    if curl is not None:
        screen.line(f"try:      {curl}")
    screen.stream.flush()


def curl_command(
    url: str, paths: Sequence[Path], kernel: Kernel, token_file: Path | None, tokens: Sequence[str] | None
) -> str:
    """Return a curl command to try, with the `request.json` next to the policies if there is one, or with an endpoint
    that the policies grant.
    """
    beside = next((path / "request.json" for path in paths if (path / "request.json").is_file()), None)
    asked = f"'{sample_question(kernel)}'" if beside is None else f"@{shlex.quote(beside.as_posix())}"
    token = "" if token_file is None else f' -H "authorization: Bearer {_token_expression(token_file, tokens or ())}"'
    return f"curl -s {url}/decide -H 'content-type: application/json'{token} -d {asked}"


def sample_question(kernel: Kernel) -> str:
    """Return a request to an endpoint that anyone may call, or else that some caller may call; `GET /` if
    there is none.
    """
    blocks: Iterable[AnyoneBlock | UserBlock | AgentBlock]
    # If they come from a bundle, they are decoded one by one.
    blocks = chain(kernel.anyones, kernel.users, kernel.agents)
    openings = (opening for block in blocks for grant in block.grants for opening in grant.openings)
    endpoints = (sample_endpoint(opening.pattern) for opening in openings)
    method, path = next((endpoint for endpoint in endpoints if endpoint is not None), DEFAULT_ENDPOINT)
    return json.dumps({"request": {"method": method, "path": path}})


def sample_endpoint(pattern: Pattern) -> tuple[str, str] | None:
    """Return a method and a path that the pattern matches, with `1` for each variable text; None for a tool, an action
    or a path that needs escapes.
    """
    if not isinstance(pattern, HttpPattern):
        return None
    segments = [f"{one.prefix}{'1' if one.wild else ''}{one.suffix}" for one in pattern.segments]
    if not all(PLAIN_TEXT.fullmatch(segment) for segment in segments):
        return None
    methods = pattern.methods or ("GET",)
    return "GET" if "GET" in methods else methods[0], f"/{'/'.join(segments)}"


def _token_expression(token_file: Path, tokens: Sequence[str]) -> str:
    """Return a shell expression for a token: the first line of the token file, or `$TOKEN` if that line has a name or a
    digest.
    """
    bare = bool(tokens) and not re.match(r"(\S+:\s)|(sha256:)", tokens[0])
    return f"$(head -n 1 {shlex.quote(str(token_file))})" if bare else "$TOKEN"
