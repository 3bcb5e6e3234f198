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
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.kernel import HttpPattern
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.audit import DecisionLog
    from policyengine.behavior.shared import SharedTracker
    from policyengine.behavior.tracker import BehaviorTracker
    from policyengine.compiler.tree import Tree
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
    state is kept in memory.
    """

    url: str | None
    socket: Path | None
    workers: int
    tests: int | None
    hidden: HiddenAbsences
    unsent: UnsentFacts
    lone: bool


def print_summary(engine: Engine, served: ServeSummary, curl: str | None, format: OutputFormat) -> None:
    """Print the summary and flush it, because the program that started the server may wait for it."""
    rules, warnings = count_rules(engine.kernel, engine.decider.tree), len(engine.warnings)
    if format is OutputFormat.JSON:
        listening = {"listening": served.url} if served.url else {}
        socket = {"socket": str(served.socket)} if served.socket else {}
        workers = {"workers": served.workers} if served.workers > 1 else {}
        tests = {} if served.tests is None else {"tests": served.tests}
        packages = list(engine.packages)
        facts = {"packages": packages, "revision": engine.revision, "rules": rules, "warnings": warnings}
        observing = {"observing": engine.observing.to_dict()} if engine.observing else {}
        hidden = {"hidden_absences": served.hidden.to_dict()} if served.hidden else {}
        unsent = {"unsent_facts": served.unsent.to_dict()} if served.unsent else {}
        log = {} if engine.log is None else {"log": describe_log(engine.log)}
        behavior = {} if engine.behavior is None else {"behavior": engine.behavior.describe()}
        lone = {"state_in_memory": True} if served.lone else {}
        print_json(
            {
                **listening,
                **socket,
                **workers,
                **facts,
                **tests,
                **log,
                **behavior,
                **observing,
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
    if served.workers > 1:
        screen.line(f"workers:  {served.workers}")
    screen.line(f"packages: {', '.join(engine.packages)}")
    screen.line(f"revision: {engine.revision}")
    screen.line(f"rules:    {rules:,}")
    if served.tests is not None:
        screen.line(f"tests:    {served.tests:,} passed")
    if engine.log is not None:
        print_log(screen, engine.log)
    if engine.behavior is not None:
        print_behavior(screen, engine.behavior)
    if engine.observing:
        screen.line(
            (
                f"OBSERVING until {engine.observing.to_dict()['until']}: decisions are reported, not enforced",
                "bold yellow",
            )
        )
    if warnings:
        screen.line((f"{pluralize(warnings, 'warning')}: `policyengine check` shows them", "yellow"))
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


def describe_log(log: DecisionLog) -> dict[str, object]:
    """Return where the decision log is, how it is sealed, and the names of its sinks."""
    sealer, sinks = log.sealer, [] if log.sinks is None else [sink.name for sink in log.sinks.sinks]
    sealed = {} if sealer is None else {"seal": str(sealer.folder), "key": str(sealer.key_path)}
    return {"file": str(log.path), **sealed, "sinks": sinks}


def print_log(screen: Screen, log: DecisionLog) -> None:
    sealed = "not sealed" if log.sealer is None else f"sealed in {log.sealer.folder} with the key {log.sealer.key_path}"
    screen.line(f"log:      {log.path}, {sealed}")
    if log.sinks is not None:
        screen.line(f"sinks:    {', '.join(sink.name for sink in log.sinks.sinks)}")


def print_behavior(screen: Screen, tracker: BehaviorTracker | SharedTracker) -> None:
    known = tracker.describe()
    place = known.get("folder", "in memory: it is lost with this process (name a folder: `--behavior FOLDER`)")
    if "shared" in known:
        place = "in the store, for all processes that share it"
    callers = f"{pluralize(known['callers'], 'caller')}, " if "callers" in known else ""
    learned = f"{callers}model {known['model']}" if known["model"] else "nothing is learned yet"
    screen.line(f"behavior: {place}; {learned}")


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


def count_rules(kernel: Kernel, tree: Tree) -> int:
    """Count the grants, guard effects and limits of the policies. Grants are counted in the tree, because counting them
    in a bundle would decode its blocks.
    """
    grants = {(opens.kind, opens.block, opens.grant) for uses in tree.uses for opens in uses.opens}
    return len(grants) + sum(len(guard.effects) for guard in kernel.guards) + len(kernel.limits)
