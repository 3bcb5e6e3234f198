"""The documentation is true: policies check and pass their tests, commands print what is shown, code runs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from typer.main import get_command

from policyengine.check import CheckResult, check, lint_text
from policyengine.cli.app import COMMANDS, GROUPS, build_application
from policyengine.runtime.request import Request
from policyengine.server.authzen.adapter import read_evaluation
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing import collect, run
from tests import forking
from tests.pages import CHECKOUT, EXAMPLES, SERVED, Block, blocks, commands, copy_examples, matches, ran
from tests.processes import stop

DOCS = CHECKOUT / "docs"
PAGES = sorted([CHECKOUT / "README.md", *DOCS.glob("*.md"), *EXAMPLES.glob("*/README.md")])
# Held to more than this by tests of their own: tests/test_codes.py, tests/testing/test_docs.py.
HELD_ELSEWHERE = (DOCS / "diagnostics.md", DOCS / "test-language.md")
BLOCKS = [block for page in PAGES for block in blocks(page)]
# What pieces of policies speak of, and no more.
PRELUDE = """
entity team in team
entity user in team
entity folder { editors: set<user or team> } in folder
entity document { owner: user   editors: set<user or team> inherited } in folder
"""
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
FENCE = re.compile(r"^( *)```[^\n]*\n.*?^\1```$", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^ *```sh\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)


def each(found: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in found])


def in_language(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def checked(block: Block, prelude: str = "") -> CheckResult:
    module, found = parse(Source(block.place, prelude + block.text))
    return check([module] if module else [], found)


# ── Policies ──────────────────────────────────────────────────────────────────────────────────

POLICIES = in_language("policy")
WHOLE = [block for block in POLICIES if block.marker is None and block.page not in HELD_ELSEWHERE]


@each(WHOLE)
def test_a_documented_policy_has_no_findings(block: Block) -> None:
    assert [diagnostic.render() for diagnostic in checked(block).diagnostics] == []


@each([block for block in WHOLE if re.search(r"^test ", block.text, re.MULTILINE)])
def test_a_documented_policy_passes_its_tests(block: Block) -> None:
    policy = checked(block)
    assert policy.kernel is not None
    report = run(collect(policy), policy.kernel)
    assert report.results
    assert report.ok, report.render()


@each([block for block in POLICIES if block.marked("error")])
def test_a_documented_error_is_reported(block: Block) -> None:
    assert block.marked("error") in {diagnostic.code for diagnostic in checked(block).diagnostics}


@each([block for block in POLICIES if block.marked("lint")])
def test_a_documented_lint_finding_is_reported(block: Block) -> None:
    assert block.marked("lint") in {found.code for found in lint_text(block.text, (str(block.marked("lint")),))}


@each([block for block in POLICIES if block.marker == "fragment"])
def test_a_documented_policy_fragment_compiles_with_the_prelude(block: Block) -> None:
    assert [diagnostic.render() for diagnostic in checked(block, PRELUDE).diagnostics if diagnostic.is_error] == []


@each([block for block in POLICIES if block.marker])
def test_every_block_marker_is_known(block: Block) -> None:
    marked = any(block.marked(word) for word in ("error", "lint", "file", "append"))
    assert marked or block.marker == "fragment", f"what is `<!-- {block.marker} -->`?"


# ── Commands and programs, page by page: a file on a page is there for what follows ───────────


SERVES = re.compile(r"^<!-- serves: (?P<example>[a-z-]+) -->$", re.MULTILINE)
Servers = Callable[[Path], str]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """What `make serve` serves, of the example that a page names or the one for all, on a free port each."""
    folder = tmp_path_factory.mktemp("served")
    copy_examples(folder)
    with ExitStack() as until_then:

        @cache
        def url_of(example: str) -> str:
            return until_then.enter_context(serving(folder, f"policies/examples/{example}"))

        yield lambda page: url_of(named["example"] if (named := SERVES.search(page.read_text("utf-8"))) else "payments")


@contextmanager
def serving(folder: Path, example: str) -> Iterator[str]:
    options = ["--entities", f"{example}/entities.json", "--port", "0", "--format", "json"]
    with subprocess.Popen(
        [*forking.command(), "serve", example, *options], cwd=folder, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["listening"]
        finally:
            stop(server)


RUN = [page for page in PAGES if any(block.language in ("console", "python") for block in blocks(page))]


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(CHECKOUT))) for page in RUN])
def test_commands_print_what_the_page_shows(
    page: Path, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = servers(page) if SERVED in page.read_text(encoding="utf-8") else SERVED
    of_an_example = page.parent.parent == EXAMPLES
    if of_an_example or "policies/examples" in page.read_text(encoding="utf-8"):
        copy_examples(tmp_path)
    own_files = any(block.marked("file") for block in blocks(page))
    folder = tmp_path / (page.parent.relative_to(CHECKOUT) if of_an_example else "own" if own_files else "")
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    for block in blocks(page):
        if block.marked("file") or block.marked("append"):
            put(block, folder)
        elif block.language == "python":
            execute(block, served)
        elif block.language == "console":
            wrong = [one for one in commands(block) if not matches(one.printed, ran(one.line, folder, served))]
            assert not wrong, f"{block.place}: `{wrong[0].line}` prints\n{ran(wrong[0].line, folder, served)}"


def test_the_whole_testing_tutorial_passes(tmp_path: Path) -> None:
    """All files of the page together, each with everything that the page appends to it."""
    for block in blocks(DOCS / "testing.md"):
        if block.marked("file") or block.marked("append"):
            put(block, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert ran("policyengine test .", tmp_path) == "29 passed\n"


def put(block: Block, folder: Path) -> None:
    name, mode = (block.marked("file"), "w") if block.marked("file") else (block.marked("append"), "a")
    with (folder / str(name)).open(mode, encoding="utf-8") as file:
        file.write(block.text)


def execute(block: Block, served: str) -> None:
    """Failures point into the page."""
    text = "\n" * (block.line - 1) + block.text.replace(SERVED, served)
    exec(compile(text, str(block.page), "exec"), {"__name__": "__documented__"})


# ── The rest ──────────────────────────────────────────────────────────────────────────────────


@each(in_language("json"))
def test_documented_json_is_valid_and_questions_are_requests(block: Block) -> None:
    found = json.loads(block.text)
    if "subject" in found:
        read_evaluation(found)
    elif {"request", "tool", "action"} & set(found):
        Request.from_mapping(found)


EACH_PAGE = pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(CHECKOUT))) for page in PAGES])


@EACH_PAGE
def test_links_target_existing_pages_and_sections(page: Path) -> None:
    links = {(path, section) for path, section in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))}
    broken = [path for path, _ in links if not (page.parent / path).exists()]
    assert broken == []
    pages = {(page.parent / path if path else page, section) for path, section in links if section}
    assert [f"{path.name}#{section}" for path, section in pages if section not in sections(path)] == []


@cache
def sections(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@EACH_PAGE
def test_documented_commands_exist_with_their_options(page: Path) -> None:
    """Blocks in `sh` are not run: their servers do not end, their files are the reader's."""
    shown = "".join(SHELL.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    groups = "|".join(GROUPS)
    named = rf"(?:(?:{groups}) )?[a-z][a-z-]*"
    calls = re.findall(rf"(?:^|[|;&] *)\s*policyengine ({named})([^|;&#\n]*)", shown, re.MULTILINE)
    unknown = [
        f"{name} {option}"
        for name, rest in calls
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)
        if name not in COMMANDS or option not in options_of(name)
    ]
    assert unknown == []


@cache
def options_of(name: str) -> set[str]:
    command: Any = get_command(build_application([name], alone=True))
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def test_the_index_lists_every_page() -> None:
    listed = set(re.findall(r"\(([\w-]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert listed == {page.name for page in DOCS.glob("*.md")} - {"index.md"}


def test_the_generated_pages_are_up_to_date() -> None:
    pages = run_path(str(DOCS / "generate.py"))["pages"]()
    stale = [path.name for path, text in pages.items() if path.read_bytes().decode() != text]
    assert stale == [], "run `python docs/generate.py`"


# ── What keeps these tests honest ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("documented", "printed", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\nb", "a\nc\n", False),
        ("a", "a\nb\n", False),
        ("a\nb", "a\n", False),
        ("", "", True),
        ("", "surprise\n", False),
        ("a\n…\nd", "a\nb\nc\nd\n", True),
        ("a\n…\nd", "a\nd\n", True),
        ("a\n…\nd", "a\nb\n", False),
        ("took … to run", "took long to run\n", True),
        ("1 + 1 = 2", "1 + 1 = 2\n", True),
        ("1 . 1", "1 + 1\n", False),
        (f"sha256:{'0' * 64}", f"sha256:{'1' * 64}\n", True),
        ("sha256:00", "sha256:11\n", False),
        ('"id": "01M874BN1FBKKCX6K4X7XFQD60"', '"id": "01M874BN1FBKKCX6K4X7XFQD61"\n', True),
    ],
)
def test_output_is_compared_without_its_varying_parts(documented: str, printed: str, same: bool) -> None:
    assert matches(documented, printed) is same


def test_the_documentation_has_blocks_of_every_language() -> None:
    assert len(WHOLE) >= 10
    assert {"policy", "console", "python", "json"} <= {block.language for block in BLOCKS}
