"""No line of an example is there for nothing: without it the policy has an error, or one of its tests fails.

What questions of AuthZEN become, tests inside a policy cannot ask: the tables of its own tests do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from policyengine.check import CheckResult, check
from policyengine.engine import Engine
from policyengine.policy_files import load_sources
from policyengine.source import Source, is_test_file
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse
from policyengine.testing import collect
from policyengine.testing.report import ResultStatus
from policyengine.testing.runner import case_results
from tests.depth import examples, scaled
from tests.pages import EXAMPLES
from tests.server.authzen.asking import MANY, WRITE, caller, decisions, example
from tests.server.authzen.test_evaluation import RULES
from tests.server.authzen.test_interop import ROWS

CAROL = {"type": "user", "id": "carol", "properties": {"role": "admin"}}
RECORD = {"type": "record", "id": "record-9", "properties": {"status": "archived"}}
BY_AUTHZEN = {
    "authzen": [
        *({"subject": who, "action": action, "resource": resource} for who, action, resource, _ in RULES),
        {"subject": CAROL, "action": WRITE, "resource": RECORD},
    ],
    "todo": [question for question, _ in ROWS],
}
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())

# What no decision reads, by its first words. It is there for people, and for what stands in front of the engine.
UNREAD = {
    "language 1": "there is one language so far, and it is the default",
    'url "': "whoever verifies credentials looks here for the keys; the engine is told who issued them",
    'profile "brokers"': "it shapes what is learned, but the traces of the tests form the same groups without it",
    'audience "': "whoever verifies credentials compares it; the engine sees none that are for others",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a policy: a line, with all that it opens; or an item or a name that shares its line with others."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        return " ".join(self.source.text[self.start : self.end].split())

    @property
    def id(self) -> str:
        at = self.source.position(self.start)[0]
        return f"{Path(self.source.name).name}:{at} {self.text[:50]}"

    @property
    def without(self) -> Source:
        return Source(self.source.name, self.source.text[: self.start] + self.source.text[self.end :])

    @property
    def unread(self) -> str | None:
        return next((words for words in UNREAD if self.text.startswith(words)), None)


# ── The pieces of a policy ────────────────────────────────────────────────────────────────────


def pieces_of(source: Source) -> Iterator[Piece]:
    shown, before = shown_in(source), ""
    for start, line in lines_of(source.text):
        said = line.partition(" #")[0].rstrip()
        goes_on, before = continues(said, before), said
        if goes_on and not said.lstrip().startswith(PHRASES):
            continue
        if not said.strip() or said.lstrip().startswith(("#", "}")) or any(start in lines for lines in shown):
            continue
        yield Piece(source, start, end_of_block(source.text, start))
        for found in items_in(said):
            yield Piece(source, start + found.start(), start + found.end())


def shown_in(source: Source) -> list[range]:
    """What shows the policy and is none of it: fixtures and tests."""
    module, _ = parse(source)
    assert module is not None
    shown = (one for one in module.declarations if isinstance(one, ast.FixtureDecl | ast.TestDecl))
    return [range(one.span.start, one.span.end) for one in shown]


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.splitlines(keepends=True):
        yield start, line
        start += len(line)


PHRASES = ("message ", "since ", "when ")  # of a rule that goes on in the next line: it reads without them, too


def continues(line: str, before: str) -> bool:
    """Whether the line before it goes on in it."""
    return bool(before.strip()) and not before.endswith(("{", "}")) and indented(line) > indented(before)


def indented(line: str) -> int:
    return len(line) - len(line.lstrip())


def end_of_block(text: str, start: int) -> int:
    """Behind the line; behind the line that closes what it opens, or in which it goes on."""
    still_open, end, first = 0, start, text[start:].partition("\n")[0]
    for line in text[start:].splitlines(keepends=True):
        if still_open <= 0 and end > start and not continues(line, first):
            break
        still_open += line.count("{") - line.count("}")
        end += len(line)
    return end


# In canonical form three spaces stand between items on one line.
ITEM = re.compile(r"(?<=\{ )[^{}]+?(?=   )|(?<=   )(?:[^{}]|\{[^{}]*\})+?(?=   | \}| *$)")
NAME = re.compile(r' as "[^"]*"')


def items_in(line: str) -> Iterator[re.Match[str]]:
    """Each of several items, and the name by which credentials call a scope."""
    yield from ITEM.finditer(line, len(line) - len(line.lstrip()))
    yield from NAME.finditer(line)


# ── Without one of them ───────────────────────────────────────────────────────────────────────


@cache
def sources_of(folder: Path) -> tuple[Source, ...]:
    sources, problems = load_sources([folder])
    assert problems == []
    return tuple(sources)


@cache
def module_of(source: Source) -> ast.Module:
    module, mistakes = parse(source)
    assert module is not None
    assert mistakes == []
    return module


def is_noticed(folder: Path, piece: Piece) -> bool:
    """By the check of all that an engine loads, by the check of the tests, or by one of the tests."""
    others = [source for source in sources_of(folder) if source != piece.source]
    module = module_of(piece.without)  # cut so that it still reads: a brace too many would be noticed without any test
    rules = [module_of(source) for source in others if not is_test_file(source.name)]
    tests = [module_of(source) for source in others if is_test_file(source.name)]
    if fails(check([module, *rules, *tests])) or has_errors(found := check([module, *rules])):
        return True
    return folder.name in BY_AUTHZEN and answers(folder, found) != answers(
        folder, check([*map(module_of, loaded(folder))])
    )


def loaded(folder: Path) -> list[Source]:
    return [source for source in sources_of(folder) if not is_test_file(source.name)]


def answers(folder: Path, checked: CheckResult) -> list[bool]:
    assert checked.kernel is not None
    ask = caller(Engine(checked.kernel, directory=example(folder.name).directory))
    return decisions(ask("POST", MANY, json={"evaluations": BY_AUTHZEN[folder.name]}))


def fails(checked: CheckResult) -> bool:
    if checked.kernel is None or has_errors(checked):
        return True
    bad = {ResultStatus.FAILED, ResultStatus.ERRORED}
    return any(result.status in bad for result in case_results(collect(checked), checked.kernel))


def has_errors(checked: CheckResult) -> bool:
    return any(found.is_error for found in checked.diagnostics)


def pieces() -> Iterator[tuple[Path, Piece]]:
    for folder in FOLDERS:
        for source in sources_of(folder):
            if not is_test_file(source.name):
                yield from ((folder, piece) for piece in pieces_of(source))


PIECES = list(pieces())
EXPECTED = [pytest.param(folder, piece, id=piece.id) for folder, piece in PIECES if piece.unread is None]


@scaled
@pytest.mark.parametrize("folder", [pytest.param(folder, id=folder.name) for folder in FOLDERS[:: examples(4, 1)]])
def test_an_unchanged_example_passes_its_tests(folder: Path) -> None:
    assert not fails(check([module_of(source) for source in sources_of(folder)]))


@pytest.mark.parametrize(("folder", "piece"), EXPECTED[::13])
def test_removing_a_part_of_an_example_fails_check_or_a_test(folder: Path, piece: Piece) -> None:
    assert is_noticed(folder, piece), f"nothing fails without `{piece.text}`"


@pytest.mark.deep
@pytest.mark.parametrize(("folder", "piece"), EXPECTED)
def test_removing_any_part_of_an_example_fails_check_or_a_test(folder: Path, piece: Piece) -> None:
    assert is_noticed(folder, piece), f"nothing fails without `{piece.text}`"


@scaled
@pytest.mark.parametrize("words", UNREAD)
def test_parts_listed_as_unread_exist_and_affect_no_decision(words: str) -> None:
    unread = [(folder, piece) for folder, piece in PIECES if piece.unread == words][:: examples(4, 1)]
    assert unread, f"no example says `{words}` any more"
    assert [piece.id for folder, piece in unread if is_noticed(folder, piece)] == []


def test_parts_of_every_example_are_removed() -> None:
    assert {folder for folder, _ in PIECES} == set(FOLDERS)
    assert len(PIECES) >= 300
