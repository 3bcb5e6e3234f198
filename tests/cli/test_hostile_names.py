"""Hostile names in every command and every format: nothing raw reaches a terminal, and every format stays readable."""

from __future__ import annotations

import csv
import json
import re
import shutil
import typing
from collections.abc import Callable
from enum import Enum
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from policyengine.cli.app import COMMANDS
from policyengine.cli.output import terminal
from policyengine.source import Source
from policyengine.syntax.parse import parse
from tests.cli import hostile

# What each command is asked, in a folder whose name is hostile; `ID` is a decision's. Each is run in every format.
ASKED: dict[str, tuple[str, ...]] = {
    "check": ("check good", "check broken", "check good -e bad-entities.json", "check none.policy"),
    "lint": ("lint good", "lint broken", "lint --diff good", "lint --select NAME good", "lint failing"),
    "fmt": ("fmt --diff good", "fmt --check broken", "fmt --check good"),
    "test": (
        "test good",
        "test -v good",
        "test -v failing",
        "test broken",
        "test -k NAME good",
        "test --coverage --mutate --mutants 3 good",
    ),
    "compile": ("compile --show good", "compile broken", "compile good -o NAME.policybundle"),
    "decide": (
        "decide good -r request.json -e entities.json",
        "decide good -r denied.json -e entities.json",
        "decide good -r odd.json",
        "decide good -r trace.jsonl",
        "decide good -r request.json -e bad-entities.json",
        "decide good -r request.json --store NAME",
        "decide good -r api.json",
    ),
    "explain": (
        "explain good -r request.json -e entities.json",
        "explain good -r denied.json -e entities.json",
        "explain good -r odd.json",
    ),
    "diff": ("diff good other --log log.jsonl --all --seconds 0.2", "diff good broken"),
    "simulate": (
        "simulate good --workflow steady -r trace.jsonl --rate 2/s --for 20s -e entities.json",
        "simulate good --trace trace.jsonl",
        "simulate good --trace log.jsonl -e entities.json",
        "simulate good --workflow steady -r odd.json",
    ),
    "graph": ("graph --all good", "graph good --agent NAME", "graph good --endpoint NAME", "graph broken"),
    "explain-code": ("explain-code NAME", "explain-code E141"),
    "doctor": ("doctor good --port 1 --store NAME", "doctor broken --port 1 --log NAME/x"),
    "record": ("record good --log log.jsonl", "record other --log log.jsonl", "record good --log api.json"),
    "suggest": ("suggest good --log log.jsonl", "suggest broken --log log.jsonl"),
    "why": (
        "why ID good --log log.jsonl",
        "why ID other --log log.jsonl",
        "why ID --log log.jsonl",
        "why NAME --log log.jsonl",
    ),
    "init": (
        "init new --openapi api.json",
        "init new2 --openapi bad-api.json",
        "init new3 --openapi api.json --name NAME",
        "init good",
    ),
    **{
        f"approvals {verb}": (
            f"approvals {verb}{id} --token-file NAME",
            f"approvals {verb}{id} --token-file token --url NAME",
            f"approvals {verb}{id} --token-file token --url http://127.0.0.1:1",
        )
        for verb, id in (("list", ""), ("show", " NAME"), ("approve", " NAME"), ("deny", " NAME"), ("watch", ""))
    },
    "approvals webhooks": (
        "approvals webhooks good",
        "approvals webhooks hooked",
        "approvals webhooks hooked --test NAME",
        "approvals webhooks hooked --test a",
        "approvals webhooks hooked --spool api.json",
    ),
    "audit verify": (
        "audit verify log.jsonl",
        "audit verify api.json",
        "audit verify NAME",
        "audit verify log.jsonl --key NAME",
    ),
    "audit prove": (
        "audit prove ID --log log.jsonl",
        "audit prove NAME --log log.jsonl",
        "audit prove ID --log api.json",
    ),
    "audit check": (
        "audit check api.json --key log.jsonl.tlog/vkey",
        "audit check NAME --key NAME",
        "audit check proof --key log.jsonl.tlog/vkey",
    ),
    "audit rotate-key": ("audit rotate-key log.jsonl", "audit rotate-key NAME"),
    "audit query": (
        "audit query log.jsonl",
        "audit query log.jsonl --kind all --count-by agent --count-by rule",
        "audit query log.jsonl --limit 0",
        "audit query log.jsonl --agent NAME --where NAME=NAME",
        "audit query log.jsonl --since NAME",
        "audit query api.json",
        "audit query NAME",
    ),
    "audit pack": (
        "audit pack log.jsonl -o NAME.parquet",
        "audit pack api.json -o x.parquet",
        "audit pack NAME -o api.json",
    ),
    "audit report": (
        "audit report log.jsonl -o NAME.html",
        "audit report NAME -o x.html",
        "audit report log.jsonl -o NAME/x.html",
    ),
    "audit export": (
        "audit export log.jsonl --format ocsf",
        "audit export log.jsonl --format cloudevents",
        "audit export log.jsonl --format csv",
        "audit export NAME --format csv",
        "audit export api.json --format csv -o NAME/none",
    ),
    "behavior learn": (
        "behavior learn log.jsonl --policies good -o NAME",
        "behavior learn log.jsonl -o learned",
        "behavior learn NAME -o learned",
        "behavior learn log.jsonl --policies broken -o learned",
        "behavior learn api.json -o learned",
    ),
    "behavior show": (
        "behavior learn log.jsonl --policies good -o NAME",
        "behavior show --behavior NAME",
        "behavior show --behavior NAME --policies good --sort name",
        "behavior show AGENT --behavior NAME --policies good",
        "behavior show NAME --behavior NAME",
        "behavior show --behavior good",
    ),
    "behavior forget": (
        "behavior learn log.jsonl --policies good -o NAME",
        "behavior forget NAME --behavior NAME --issuer NAME",
        "behavior forget AGENT --behavior NAME",
        "behavior forget --all --behavior NAME",
        "behavior forget --all --behavior good",
    ),
    "behavior suggest": (
        "behavior suggest log.jsonl --policies good",
        "behavior suggest log.jsonl NAME",
        "behavior suggest log.jsonl --policies good -o NAME.policy",
        "behavior suggest log.jsonl --policies broken",
        "behavior suggest api.json",
        "behavior suggest log.jsonl --policies NAME",
    ),
    "behavior release": (
        "behavior learn log.jsonl --policies good -o NAME",
        "behavior release CLASS --until 1d --behavior NAME",
        "behavior release CLASS --end --behavior NAME",
        "behavior release NAME --until NAME --behavior NAME",
        "behavior release NAME --until 1d --behavior NAME",
        "behavior release NAME --end --behavior NAME",
    ),
    "behavior evaluate": (
        "behavior evaluate --train log.jsonl --test log.jsonl --labels labels.jsonl --policies good",
        "behavior evaluate --train events.jsonl --test events.jsonl --labels labels.jsonl",
        "behavior evaluate --train events.jsonl --test events.jsonl --labels events.jsonl",
        "behavior evaluate --train NAME --test NAME --labels NAME",
        "behavior evaluate --train api.json --test api.json --labels labels.jsonl",
    ),
    "behavior report": (
        "behavior report log.jsonl good",
        "behavior report log.jsonl -o NAME.html",
        "behavior report log.jsonl good --groups",
        "behavior report NAME good",
        "behavior report log.jsonl broken",
        "behavior report log.jsonl --since NAME",
        "behavior report api.json good",
    ),
    "halt": (
        "halt --agent NAME --reason r --for 1h --file halts.json",
        "halt --place NAME --reason r --for NAME --file NAME",
        "halt --place NAME --reason r --for 1h --file NAME",
        "halt --agent a --reason NAME --for 1h --file NAME",
        "halt --agent SIGNS --reason SIGNS --by SIGNS --for 1h --file halts.json",
        "halt --agent a --reason r --for 1h --store NAME",
        "halt --agent a --reason r --for 1h --server NAME --token-file NAME",
    ),
    "halt list": (
        "halt --agent SIGNS --reason SIGNS --by SIGNS --for 1h --file halts.json",
        "halt list --file halts.json",
        "halt list --file NAME",
        "halt list --file api.json",
        "halt list --store sqlite:///NAME",
    ),
    "halt lift": (
        "halt lift NAME --reason r --file halts.json",
        "halt lift NAME --reason NAME --file halts.json",
        "halt lift x --reason r --file NAME",
        "halt lift x --reason r --store sqlite:///NAME",
    ),
    "mcp review": (
        "mcp review good --server NAME --upstream NAME",
        "mcp review none.policy --server notes --upstream true",
        "mcp review good --server notes --upstream true --pins NAME --accept NAME",
        "mcp review good --server notes --upstream true --pins api.json",
    ),
    "mcp pins": ("mcp pins none.policy", "mcp pins NAME", "mcp pins good --pins NAME", "mcp pins good --pins api.json"),
    "keys": ("keys list NAME", "keys list request.json", "keys new NAME/none"),
    "config": ("config check", "config show", "config check broken"),
    "repl": ("repl good", "repl broken"),
    "serve": ("serve broken --port 0", "serve good --port 0 -e bad-entities.json", "serve good --store NAME"),
    "mcp-gateway": (
        "mcp-gateway broken --upstream NAME --server NAME --as agent=NAME",
        "mcp-gateway good --upstream NAME --server NAME --as agent=NAME --as issuer=NAME",
    ),
}
TYPED = [f"GET {hostile.IN_A_PATH}", hostile.SIGNS, f"given body.name {json.dumps(hostile.ALL)}", "POST /p/d", ":help"]
SGR = re.compile(r"\x1b\[[0-9;]*m")
FORGED = ("::error::", "### h", "| a |")


def formats_of(command: str) -> tuple[str | None, ...]:
    """The choices of `--format`; None alone where a command has no such option."""
    hints = typing.get_type_hints(COMMANDS[command])
    asked = hints.get("format")
    found = [one for one in (asked, *typing.get_args(asked)) if isinstance(one, type) and issubclass(one, Enum)]
    return tuple(str(one.value) for one in found[0]) if found else (None,)


EVERY = [(command, format) for command in COMMANDS for format in formats_of(command)]


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("hostile")
    return root, hostile.write_world(root)


@pytest.fixture
def ask(template, run, tmp_path, monkeypatch):
    """Runs a command of the table in a copy of the world."""
    root, id = template
    shutil.copytree(root, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world" / hostile.FOLDER)
    (tmp_path / "world" / hostile.FOLDER / "token").write_text("one")
    Path("halts.json").write_text('{"halts": []}')
    Path("halts.json").chmod(0o600)
    monkeypatch.setattr(terminal, "PROGRESS_DELAY_SECONDS", 1e6)
    agent = "a " + hostile.LINES
    names = {"ID": id, "NAME": hostile.IN_A_PATH, "AGENT": agent, "CLASS": f'agent "{agent}"', "SIGNS": hostile.SIGNS}

    def words_of(line: str) -> list[str]:
        return [re.sub("ID|NAME|AGENT|CLASS|SIGNS", lambda found: names[found[0]], word) for word in line.split(" ")]

    def asked(line: str, *more: str):
        return run(*words_of(line), *more, stdin="\n".join(TYPED).encode("utf-8", "surrogateescape"))

    return asked


def test_every_command_is_in_the_table_of_hostile_names():
    assert set(ASKED) == set(COMMANDS)
    assert {format for _, format in EVERY} == set(READ)


@pytest.mark.parametrize(("command", "format"), EVERY)
def test_hostile_names_are_escaped_in_every_output_format(ask, command, format):
    for line in ASKED[command]:
        ended = ask(line, *([] if format is None else ["--format", format]))
        assert "internal error" not in ended.err, line
        assert_harmless(ended.err, line)
        assert_harmless(ended.out, line)
        READ[format](ended.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_hostile_names_are_escaped_in_coloured_output(ask, monkeypatch, command):
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # what is written here goes to no terminal
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = 0
    for line in ASKED[command]:
        ended = ask(line)
        coloured += bool(SGR.search(ended.out + ended.err))
        assert_harmless(SGR.sub("", ended.out + ended.err), line, forged=())
    assert coloured


def assert_harmless(text: str, line: str, forged: tuple[str, ...] = FORGED) -> None:
    raw = sorted({char for char in text if not (char.isprintable() or char in "\n\xa0")})
    assert not raw, (line, raw, [one for one in text.split("\n") if not one.isprintable()][:3])
    assert not [one for one in text.split("\n") if one.lstrip().startswith(forged)], (line, text)


# ── Each format is read as its readers read it ────────────────────────────────────────────────


def read_text(text: str) -> None:
    pass


def read_json(text: str) -> None:
    try:
        json.loads(text or "null")
    except ValueError:
        for line in text.splitlines():
            json.loads(line)


def read_csv(text: str) -> None:
    rows = list(csv.reader(text.splitlines(keepends=True)))
    assert {len(row) for row in rows} <= {len(rows[0])} if rows else True
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def read_xml(text: str) -> None:
    if text and not text.startswith("{"):
        root = ElementTree.fromstring(text)
        assert not [one for one in root.iter() if one.tag.endswith("script")]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "br", "link", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_html(text: str) -> None:
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.names
    assert tags.open == []


def read_tap(text: str) -> None:
    if not text:
        return
    head, plan, *lines = text.splitlines()
    numbers = [one for one in lines if re.match(r"(not )?ok \d+ - ", one)]
    assert (head, plan) == ("TAP version 14", f"1..{len(numbers)}")
    assert all(one in numbers or one.startswith("  ") for one in lines)


def read_github(text: str) -> None:
    for line in text.splitlines():
        commands = re.findall(r"::[a-z]+ file=", line)
        assert not commands or re.match(r"::(error|warning) file=[^,:]*,line=\d+,[^:]*::[^\n]*\Z", line), line


def read_markdown(text: str) -> None:
    outside = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", text)
    outside = re.sub(r"(`+)[^`](?:.*?[^`])?\1(?!`)", "", outside)
    assert not re.search(r"(?<!\\)<(?!/?(details|summary|br)\b)", outside), outside
    tables = re.findall(r"(?m)^\|.*$", text)
    assert all(one.endswith("|") for one in tables)


def read_dot(text: str) -> None:
    label = r'"(?:[^"\\]|\\.)*"'
    for line in text.splitlines()[4:-1]:
        assert re.fullmatch(rf"  n\d+ -> n\d+|  n\d+ \[label={label}(, \w+={label})*\]", line), line


def read_mermaid(text: str) -> None:
    for line in text.splitlines()[1:]:
        shape = r'n\d+\["[^"<>]*(<br/>[^"<>]*)*"\]:::\w+|n\d+ (---|-\.-) n\d+|classDef \w+ [\w:#,]+'
        assert re.fullmatch(f"  ({shape})", line), line


def read_policy(text: str) -> None:
    assert not parse(Source("suggested.policy", text))[1]


def read_json_lines(text: str) -> None:
    for line in text.splitlines():
        json.loads(line)


READ: dict[str | None, Callable[[str], None]] = {
    None: read_text,
    "text": read_text,
    "json": read_json,
    "csv": read_csv,
    "sarif": read_json,
    "junit": read_xml,
    "svg": read_xml,
    "html": read_html,
    "tap": read_tap,
    "github": read_github,
    "markdown": read_markdown,
    "dot": read_dot,
    "mermaid": read_mermaid,
    "policy": read_policy,
    "ocsf": read_json_lines,
    "cloudevents": read_json_lines,
    "parquet": read_text,
}


def test_hostile_names_are_escaped_in_coverage_pages_and_lcov(ask):
    ask("test good --coverage-html pages --coverage-lcov out.lcov")
    assert_harmless(Path("out.lcov").read_text(), "lcov")
    shape = r"TN:|end_of_record|SF:.+|(BRF|BRH|LF|LH):\d+|DA:\d+,\d+|BRDA:\d+,\d+,\d+,(\d+|-)"
    assert all(re.fullmatch(shape, line) for line in Path("out.lcov").read_text().splitlines())
    for page in Path("pages").iterdir():
        assert_harmless(page.read_text().replace("\t", " "), page.name, ())
        read_html(page.read_text())


@pytest.mark.parametrize("name", [hostile.IN_A_PATH, hostile.IN_A_PATH + "\udcff"], ids=["unprintable", "not UTF-8"])
@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("audit report", "page.html"),
        ("behavior report", "page.html"),
        ("behavior report --groups", "page.html"),
        ("simulate good -e entities.json --trace", "page.html"),
        ("simulate good -e entities.json --trace", "page.svg"),
    ],
)
def test_hostile_names_of_logs_are_escaped_in_pages_and_drawings(ask, line, name, output):
    shutil.copy("log.jsonl", f"{name}.jsonl")
    ended = ask(line, f"{name}.jsonl", "-o", output)
    assert ended.code == 0, ended.err
    page = Path(output).read_text(encoding="utf-8")
    assert_harmless(page, line, ())
    read_html(page)
