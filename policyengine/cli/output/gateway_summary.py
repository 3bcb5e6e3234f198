"""The summary that `mcp-gateway` prints once it listens for HTTP: addresses, the MCP server, and the engine."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from policyengine.cli.output.engine_summary import print_engine
from policyengine.cli.output.terminal import Screen
from policyengine.control_characters import one_line

if TYPE_CHECKING:
    from policyengine.engine import Engine

URL_SEPARATOR = "://"
OPTION = re.compile(r"-|.*=|.*://", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GatewaySummaryPrinter:
    """Prints the summary and flushes it, because the program that started the gateway may wait for it. `tests` and
    `store` are arguments of `print_engine`. With `writes_stdout`, records are written to stdout, and the summary goes
    to stderr."""

    engine: Engine
    server: str
    upstream: str
    tests: int | None
    store: str | None
    writes_stdout: bool

    def __call__(self, url: str, metrics: Sequence[str]) -> None:
        with redirect_stdout(sys.stderr) if self.writes_stdout else nullcontext():
            screen = Screen()
            screen.line("listening on ", (f"{url}/mcp", "bold"))
            for address in metrics:
                screen.line(f"metrics:  {address}/metrics")
            screen.line(f"server:   {one_line(self.server)}")
            screen.line(f"upstream: {one_line(shown_upstream(self.upstream))}")
            print_engine(screen, self.engine, self.tests, self.store)
            screen.stream.flush()


def shown_upstream(upstream: str) -> str:
    """Return a URL without its user and its query, or a command up to its first option, assignment or URL, because
    what follows may contain secrets."""
    if URL_SEPARATOR in upstream.split(maxsplit=1)[0]:
        parts = urlsplit(upstream)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    words = shlex.split(upstream)
    plain = next((place for place, word in enumerate(words) if OPTION.match(word)), len(words))
    return shlex.join(words[:plain]) + (" …" if plain < len(words) else "")
