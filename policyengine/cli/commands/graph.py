"""`policyengine graph`: draw the compiled rules as a tree."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyengine.cli.errors import CommandError
from policyengine.cli.load_engine import load_engine
from policyengine.cli.options.common import PoliciesOrBundle
from policyengine.cli.output.terminal import Screen, is_ascii_only, json_text
from policyengine.cli.output.text_file import write_text_file

if TYPE_CHECKING:
    from policyengine.compiler.graph.box import Box
    from policyengine.compiler.graph.text import TextTreeRow
    from policyengine.kernel import Kernel

STYLES = {
    "policy": "bold",
    "endpoint": "bold",
    "section": "bold",
    "path": "bold cyan",
    "tool": "bold cyan",
    "action": "bold cyan",
    "method": "cyan",
    "agent": "bold green",
    "user": "bold green",
    "anyone": "bold green",
    "may": "green",
    "delegate": "green",
    "guard": "bold red",
    "deny": "red",
    "confirm": "yellow",
    "oblige": "magenta",
    "profile": "bold magenta",
    "exempt": "dim",
    "more": "dim",
}


class GraphFormat(StrEnum):
    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    JSON = "json"


SUFFIXES = {
    ".mermaid": GraphFormat.MERMAID,
    ".mmd": GraphFormat.MERMAID,
    ".dot": GraphFormat.DOT,
    ".gv": GraphFormat.DOT,
    ".svg": GraphFormat.SVG,
    ".json": GraphFormat.JSON,
}


def graph(
    paths: PoliciesOrBundle,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="Draw only what this agent can reach.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", metavar="NAME", help="A group of the agent; may be repeated.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", metavar="ENDPOINT", help="Draw only this endpoint, or the endpoints below a path: `/v1/**`."
        ),
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", min=1, help="Number of levels to draw below the root.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Draw the whole tree, however large.")] = False,
    format: Annotated[
        GraphFormat | None,
        typer.Option(
            "--format", help="Output format. [default: from the suffix of --output, or text]", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write instead of stdout.")
    ] = None,
) -> int:
    """Draw the compiled rules as a tree.

    The drawing shows each endpoint and method, who may call it with which scopes and conditions, its guards, and the
    orders of calls that profiles declare. Large parts are folded; `--agent`, `--group` and `--endpoint` draw a part of
    the tree.

    \b
    Examples:
      policyengine graph payments/
      policyengine graph payments/ --endpoint "GET /v1/invoices/42"
      policyengine graph payments/ --agent planner -o planner.svg
    """
    if group and agent is None:
        raise CommandError("usage", "`--group` needs `--agent`: it names a group of that agent", code=2)
    kernel = load_engine(paths, None).kernel
    box = _draw_tree(kernel, agent, group or [], endpoint, depth, all)
    picture = format or (SUFFIXES.get(output.suffix.lower(), GraphFormat.TEXT) if output else GraphFormat.TEXT)
    if output is not None:
        write_text_file(output, _render(kernel, box, picture, ascii=False))
    elif picture is GraphFormat.TEXT:
        _show(box)
    else:
        print(_render(kernel, box, picture, ascii=is_ascii_only()), end="")
    return 0


def _draw_tree(
    kernel: Kernel, agent: str | None, groups: list[str], endpoint: str | None, depth: int | None, whole: bool
) -> Box:
    from policyengine.compiler.graph.collapse import collapse
    from policyengine.compiler.graph.draw import draw
    from policyengine.compiler.graph.selection import SelectionError, agent_reach, read_endpoint
    from policyengine.compiler.tree import tree_of

    try:
        pattern = None if endpoint is None else read_endpoint(endpoint)
        reach = None if agent is None else agent_reach(kernel, agent, groups)
    except SelectionError as error:
        raise CommandError(error.kind, error.message, error.hint) from None
    more = _options_that_show_more(endpoint is None, agent is None, depth is not None)
    return collapse(draw(kernel, tree_of(kernel), pattern, reach), depth, whole=whole, more=more)


def _options_that_show_more(endpoint: bool, agent: bool, depth: bool) -> str:
    """Return a hint that names the options which show folded boxes. `endpoint` and `agent` say whether these options
    are unused, and `depth` whether `--depth` limits the drawing.
    """
    options = [*(["`--endpoint`"] if endpoint else []), *(["`--agent`"] if agent else [])]
    last = "a larger `--depth`" if depth else "`--all`"
    return f"use {', '.join(options)}{' or ' if options else ''}{last} to see more"


def _render(kernel: Kernel, box: Box, picture: GraphFormat, *, ascii: bool) -> str:
    from policyengine.compiler.graph import dot, mermaid, svg, text

    match picture:
        case GraphFormat.MERMAID:
            return mermaid.render(box)
        case GraphFormat.DOT:
            return dot.render(box)
        case GraphFormat.SVG:
            return svg.render(box)
        case GraphFormat.TEXT:
            return text.render(box)
        case GraphFormat.JSON:
            return json_text(_data(kernel, box)) + "\n"


def _data(kernel: Kernel, box: Box) -> dict[str, Any]:
    return {"packages": list(kernel.packages), "revision": kernel.revision, "boxes": box.size, "tree": box.to_dict()}


# ── Terminal output ───────────────────────────────────────────────────────────────────────────


def _show(box: Box) -> None:
    from policyengine.compiler.graph.text import ASCII, UNICODE, to_ascii, tree_rows

    screen, plain = Screen(), is_ascii_only()
    for row in tree_rows(box, ASCII if plain else UNICODE):
        _show_row(screen, row, to_ascii if plain else str)


def _show_row(screen: Screen, row: TextTreeRow, spelled: Callable[[str], str]) -> None:
    """Print a row. On a terminal, a long row wraps to the right of its branches."""
    from policyengine.compiler.graph.text import box_note, box_title

    label, told = spelled(box_title(row.box)), spelled(box_note(row.box))
    if not screen.styled:
        screen.line(row.branch, label, told)
        return
    first, *others = _wrap(label + told, len(row.branch))
    screen.line((row.branch, "dim"), (first[: len(label)], STYLES.get(row.box.kind, "")), (first[len(label) :], "dim"))
    for line in others:
        screen.line((row.under, "dim"), (line, "dim"))


def _wrap(text: str, indent: int) -> list[str]:
    from shutil import get_terminal_size
    from textwrap import wrap

    room = max(get_terminal_size().columns - indent, 30)
    return wrap(text, room, subsequent_indent="    ", break_on_hyphens=False) or [text]
