"""`policyengine mcp review`: show how the tools of an MCP server differ from their pins, and pin them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeAlias

import typer

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.load_engine import load_engine
from policyengine.cli.name_checks import check_server, raise_unknown_name
from policyengine.cli.options.common import PoliciesOrBundle, TextOrJson
from policyengine.cli.options.halt import own_name
from policyengine.cli.options.mcp import PassedVariables, PinFileOption, ServerName, UpstreamServer, UpstreamToken
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.cli.output.tool_review import print_review, review_data, show_name, state_word
from policyengine.cli.pin_setup import existing_paths, pin_places, read_pin_file
from policyengine.cli.upstream_setup import (
    check_upstream,
    read_token_header,
    require_sdk,
    select_environment,
    split_command,
)
from policyengine.clock import utc_now
from policyengine.control_characters import one_line, shell_command
from policyengine.diagnostics.suggest import suggest
from policyengine.plurals import pluralize
from policyengine.time_formats import format_rfc3339
from policyengine.tool_pins.pin_file import PinFile, PinSet, write_pins
from policyengine.tool_pins.review import ToolReview, accept_reviews, review_tools

if TYPE_CHECKING:
    from policyengine.importers.mcp_client import ToolListings

MAX_ERROR_CHARACTERS = 2_000
MAX_ERROR_LINES = 5  # last lines of the server's errors, if it cannot be listed
MAX_REVIEWER_LENGTH = 200
AcceptedTools: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--accept", metavar="TOOL", help="Pin this tool as it is listed; may be repeated.", show_default=False
    ),
]
AcceptAll: TypeAlias = Annotated[bool, typer.Option("--accept-all", help="Pin every tool as it is listed.")]
Interactive: TypeAlias = Annotated[bool, typer.Option("--interactive", "-i", help="Ask about each tool.")]
ReviewerName: TypeAlias = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="The reviewer. [default: your user name]", show_default=False),
]
ListSeconds: TypeAlias = Annotated[
    float, typer.Option("--timeout", min=1, max=600, help="Seconds to wait for the lists of the server.")
]


def review(
    paths: PoliciesOrBundle,
    upstream: UpstreamServer,
    server: ServerName,
    accept: AcceptedTools = None,
    accept_all: AcceptAll = False,
    interactive: Interactive = False,
    by: ReviewerName = None,
    pins: PinFileOption = None,
    env: PassedVariables = None,
    token_file: UpstreamToken = None,
    timeout: ListSeconds = 30.0,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Show and pin the tools of a server that are not reviewed.

    The command lists the tools as `mcp-gateway` does, and shows each tool that is new, changed or removed, or whose
    name looks like that of a reviewed tool, with the difference and with hints about suspicious texts. With --accept,
    --accept-all or --interactive, the command writes the accepted definitions to `mcp-pins.json`, next to the policies.

    \b
    Exit codes:
      0  every tool is reviewed
      1  tools must be reviewed, or the server or the pin file cannot be read
      2  wrong usage

    \b
    Example:
      policyengine mcp review policies/ --server files --upstream "python server.py"
      policyengine mcp review policies/ --server files --upstream "python server.py" --accept read_file
      policyengine mcp review policies/ --server files --upstream http://127.0.0.1:8000/mcp --interactive
    """
    require_sdk()
    check_review_options(server, upstream, accept, accept_all, interactive, format)
    source = ToolSource(upstream, read_token_header(token_file), select_environment(env or ()), timeout)
    file = PinFile(pins or choose_place(existing_paths(paths)))
    before = read_pin_file(file) if file.path.exists() or file.path.is_symlink() else PinSet()
    check_reviewed_server(server, paths, before.servers)
    found = source.list()
    session = ReviewSession(server, before, review_tools(found.listings, server, before), found.listings, found.notes)
    accepted = session.accept_named(accept or (), everything=accept_all)
    if format is OutputFormat.TEXT:
        accepted = session.show(accepted, ask=interactive)
    if accepted:
        session.write(file, accepted, (by or own_name())[:MAX_REVIEWER_LENGTH])
    names = {one.name for one in accepted}
    left = [one for one in session.reviews if one.name not in names]
    if format is OutputFormat.JSON:
        print_json(session.to_dict(file, names))
    else:
        print_summary(file, accepted, left)
    return 1 if left else 0


def check_review_options(
    server: str,
    upstream: str,
    accept: Sequence[str] | None,
    accept_all: bool,
    interactive: bool,
    format: OutputFormat,
) -> None:
    """Check that the options are consistent. Raises CommandError."""
    if not server or "/" in server or not server.isprintable():
        raise CommandError(
            "usage", f"`{server}` is not the name of a server", "write the name of the server in the policies", code=2
        )
    if sum((bool(accept), accept_all, interactive)) > 1:
        message = "`--accept`, `--accept-all` and `--interactive` cannot be combined"
        raise CommandError("usage", message, "use one of them", code=2)
    if interactive and format is OutputFormat.JSON:
        raise CommandError("usage", "`--interactive` asks people, and JSON is for programs", "omit one", code=2)
    check_upstream(upstream)


def check_reviewed_server(server: str, paths: Sequence[Path], pinned: Collection[str]) -> None:
    """Check that the policies or the pins name the server, because every tool of an unknown server would look new.
    Policies that cannot be loaded name no server. Raises CommandError."""
    if server in pinned:
        return
    try:
        kernel = load_engine(paths, None).kernel
    except CommandError:
        if suggest(server, pinned) is not None:
            raise_unknown_name("--server ", server, "no tool of this server is reviewed", pinned)
        return
    check_server(server, kernel)


def choose_place(paths: Sequence[Path]) -> Path:
    """Return the pin file next to the policies, or the place for a new one."""
    places = pin_places(paths)
    return next((place for place in places if place.exists() or place.is_symlink()), places[0])


@dataclass(frozen=True, slots=True)
class ToolSource:
    """The server whose tools are reviewed. Its error output does not reach the terminal, because the output could
    imitate the review."""

    upstream: str
    token: Mapping[str, str]
    environment: Mapping[str, str]
    limit: float

    def list(self) -> ToolListings:
        """Return the lists of the server. Raises CommandError."""
        from policyengine.importers import ApiImportError
        from policyengine.importers.mcp_client import list_server_tools

        with TemporaryFile("w+", errors="replace") as errors:
            try:
                return list_server_tools(self.upstream, lambda: self._connect(errors), self.limit)
            except ApiImportError as error:
                errors.seek(max(0, errors.seek(0, SEEK_END) - MAX_ERROR_CHARACTERS))
                last = errors.read(MAX_ERROR_CHARACTERS).splitlines()[-MAX_ERROR_LINES:]
                detail = "\n".join(one_line(f"  | {line}") for line in last)
                raise CommandError("upstream", str(error), error.hint, detail=detail) from None

    def _connect(self, errors: TextIO) -> Any:
        from mcp.client.stdio import StdioServerParameters, stdio_client

        from policyengine.integrations.mcp.upstream.bounded_transport import bounded_streams
        from policyengine.integrations.mcp.upstream.server import McpUpstream

        target = McpUpstream(self.upstream, self.token, self.environment, self.limit)
        if target.is_url:
            return bounded_streams(target)
        command, *arguments = split_command(self.upstream)
        parameters = StdioServerParameters(command=command, args=arguments, env=dict(self.environment))
        return stdio_client(parameters, errlog=errors)


@dataclass(frozen=True, slots=True)
class ReviewSession:
    """One run of the command: the tools to review, and the pins before the run."""

    server: str
    before: PinSet
    reviews: Sequence[ToolReview]
    listings: Mapping[str, Sequence[Mapping[str, Any]]]
    notes: Sequence[str] = ()

    @property
    def others(self) -> Collection[str]:
        """The names of all tools that a text may refer to."""
        pinned = {tool for tools in self.before.servers.values() for tool in tools}
        return pinned | {str(one.get("name")) for listing in self.listings.values() for one in listing}

    def accept_named(self, names: Sequence[str], *, everything: bool) -> list[ToolReview]:
        """Return the reviews that the options accept. Raises CommandError."""
        if everything:
            return [one for one in self.reviews if one.is_acceptable]
        known = {one.name: one for one in self.reviews}
        accepted = {}
        for text in names:
            name, _, hash = (text, "", "") if text in known else text.rpartition("=")
            if name not in known:
                message = f"`{show_name(name or text)}` is not a tool that must be reviewed"
                raise CommandError("usage", message, "run the command without `--accept` to see the tools", code=2)
            check_accepted(known[name], hash)
            accepted[name] = known[name]
        return list(accepted.values())

    def show(self, accepted: list[ToolReview], *, ask: bool) -> list[ToolReview]:
        """Print the reviews and, if `ask` is true, ask about each of them. Return the accepted reviews."""
        screen, others = Screen(), self.others
        for note in self.notes:
            Screen(sys.stderr).warn(note)
        for item in self.reviews:
            print_review(screen, item, self.server, others)
            if not ask or not item.is_acceptable:
                continue
            answer = ask_reviewer(
                f"accept the {state_word(item)} tool `{self.server}/{show_name(item.name)}`? [y/N/q] "
            )
            if answer == "q":
                break
            if answer == "y":
                accepted = [*accepted, item]
        return accepted

    def write(self, file: PinFile, accepted: Sequence[ToolReview], by: str) -> None:
        """Write the pins, unless the file was changed meanwhile. Raises CommandError."""
        now = read_pin_file(file) if file.path.exists() or file.path.is_symlink() else PinSet()
        if now != self.before:
            raise CommandError("pins", f"`{file.name}` was changed during the review", "review again")
        moment = format_rfc3339(utc_now(), "seconds")
        try:
            write_pins(file.path, accept_reviews(now, self.server, accepted, moment, by))
        except OSError as error:
            raise file_error(file.name, error) from None

    def to_dict(self, file: PinFile, accepted: Collection[str]) -> dict[str, Any]:
        others = self.others
        return {
            "server": self.server,
            "pins": file.name,
            "versions": list(self.listings),
            **({"notes": list(self.notes)} if self.notes else {}),
            "tools": [review_data(one, others, accepted=one.name in accepted) for one in self.reviews],
        }


def check_accepted(review: ToolReview, hash: str) -> None:
    """Check that a tool can be pinned, and that it still has the hash that the reviewer saw, if one is given. Raises
    CommandError."""
    name = show_name(review.name)
    if not review.is_acceptable:
        raise CommandError("pins", f"`{name}` cannot be pinned: {review.why}")
    if hash and hash != review.digest:
        message = f"`{name}` has another hash now: `{review.digest}`"
        raise CommandError("pins", message, "the server has changed it since the review: review it again")


def ask_reviewer(question: str) -> str:
    """Return the first letter of the answer; `q` at the end of the input."""
    print(one_line(question), end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip().lower()[:1] if line else "q"


def print_summary(file: PinFile, accepted: Sequence[ToolReview], left: Sequence[ToolReview]) -> None:
    screen = Screen()
    if accepted:
        screen.line(f"pinned {pluralize(len(accepted), 'tool')} in {shell_command([file.name])}")
    if left:
        screen.line(f"{pluralize(len(left), 'tool')} to review")
    elif not accepted:
        screen.line("every tool is reviewed")
