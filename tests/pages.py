"""Documentation pages as claims to test: blocks in order, what commands print, and what varies from run to run. A
comment on the line before a fence says what a block is: `<!-- error: E201 -->` shows a mistake, `<!-- fragment -->` is
a part of a policy, `<!-- file: notes.policy -->` is a file for later commands, `<!-- append: notes.policy -->` is
appended to it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests import forking

CHECKOUT = Path(__file__).parent.parent
EXAMPLES = CHECKOUT / "policies" / "examples"
BLOCK = re.compile(
    r"(?:^<!-- (?P<marker>[^\n]+?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
SERVED = "http://127.0.0.1:8080"
TIMEOUT = 60
VARYING = (
    (re.compile(r"\bsha256:[0-9a-f]{64}"), "sha256:…"),
    (re.compile(r"\b[0-9A-HJKMNP-TV-Z]{26}\b"), "01…"),  # the id of a decision
    (re.compile(r"\b\d+(?:\.\d+)? ?m?s\b(?= *\)?$)", re.MULTILINE), "…s"),
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    marker: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"

    def marked(self, word: str) -> str | None:
        """Return the value after a word of the marker: `E201` of `error: E201`."""
        said = self.marker or ""
        return said.removeprefix(f"{word}:").strip() if said.startswith(f"{word}:") else None


@dataclass(frozen=True)
class Command:
    """`$ command` and the lines printed below it."""

    line: str
    printed: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks. Line ends are preserved: some pages show their effect on a policy."""
    with page.open(encoding="utf-8", newline="") as file:
        text = file.read()
    return [
        Block(page, text.count("\n", 0, found.start("text")) + 1, found["language"], found["text"], found["marker"])
        for found in BLOCK.finditer(text)
    ]


def commands(block: Block) -> list[Command]:
    before, *rest = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not before, f"{block.place}: a console block begins with a command"
    return [Command(command, printed) for command, _, printed in (one.partition("\n") for one in rest)]


@cache
def forked_tools() -> tuple[Path, ...]:
    """Return the folder of our commands and of a `python3` that has imported our modules: scripts on pages, and the MCP
    servers that pages start, would import them for a second each. Empty if processes cannot be forked."""
    folder = forking.commands()
    if folder is None:
        return ()
    python = folder / "python3"
    if not python.exists():
        python.symlink_to(forking.python())
    return (folder,)


def ran(command: str, folder: Path, served: str = SERVED) -> str:
    """Run a command in a folder, with our commands first on the path, and return the output of both streams."""
    tools = [*forked_tools(), Path(sys.executable).parent]
    path = os.pathsep.join([*map(str, tools), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "NO_COLOR": "1", "no_proxy": "*"}
    done = subprocess.run(
        ["bash", "-c", command.replace(SERVED, served)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done.stdout.replace(served, SERVED)


def matches(documented: str, printed: str) -> bool:
    """Return whether the texts are equal except for what varies; `…` on its own line matches any lines, and within a
    line any text."""
    wanted, found = masked(documented), masked(printed)
    pattern = "".join(r"(?:.*\n)*?" if line.strip() == "…" else f"{within(line)}\n" for line in wanted.splitlines())
    return re.fullmatch(pattern, f"{found}\n" if found else "") is not None


def within(line: str) -> str:
    return re.escape(line.rstrip()).replace("…", ".*")


def masked(text: str) -> str:
    for varying, instead in VARYING:
        text = varying.sub(instead, text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def copy_examples(folder: Path) -> None:
    shutil.copytree(EXAMPLES, folder / "policies" / "examples")
