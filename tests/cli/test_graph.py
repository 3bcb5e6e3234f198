"""`policyengine graph`: what is drawn in which format, where it goes, what is told when it cannot be."""

import json
import re
import sys
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest

POLICY = """
issuer idp { url "https://login.example" scopes none }
users unrestricted
anyone { may GET /health }
agent "bot" { issued by idp acts alone may GET /things/{id} when request.size < 10 }
agent "ops-bot" { issued by idp acts alone may DELETE /things/{id} }
guard "small" on /things/** { deny when request.size > 5 }
"""


@pytest.fixture
def policy(tmp_path, run) -> Path:
    path = tmp_path / "small.policy"
    path.write_text(POLICY)
    return path


def test_graph_draws_the_tree_as_text(run, policy):
    ended = run("graph", policy)
    first, *others = ended.out.splitlines()
    assert (ended.code, ended.err) == (0, "")
    assert first.startswith("policy main — revision ")
    assert others == [
        "├─ agents",
        '│  ├─ agent "bot" — issued by idp; acts alone  (small.policy:5)',
        '│  └─ agent "ops-bot" — issued by idp; acts alone  (small.policy:6)',
        "└─ paths",
        "   ├─ /health",
        "   │  └─ GET",
        "   │     └─ anyone  (small.policy:4)",
        "   │        └─ may GET /health  (small.policy:4)",
        "   └─ /things",
        "      ├─ /{id}",
        "      │  ├─ GET",
        '      │  │  └─ agent "bot"  (small.policy:5)',
        "      │  │     └─ may GET /things/{id} when request.size < 10"
        " — an issuer with `scopes none`  (small.policy:5)",
        "      │  └─ DELETE",
        '      │     └─ agent "ops-bot"  (small.policy:6)',
        "      │        └─ may DELETE /things/{id} — an issuer with `scopes none`  (small.policy:6)",
        "      └─ /**",
        "         └─ any method",
        '            └─ guard "small"  (small.policy:7)',
        "               └─ deny when request.size > 5  (small.policy:7)",
    ]


@pytest.mark.parametrize(
    ("format", "start"),
    [
        ("text", "policy main — revision "),
        ("mermaid", "flowchart LR\n"),
        ("dot", "digraph policy {\n"),
        ("svg", "<svg xmlns="),
        ("json", '{\n  "packages": ['),
    ],
)
def test_graph_prints_every_format(run, policy, format, start):
    ended = run("graph", policy, "--format", format)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(start)


@pytest.mark.parametrize("format", ["text", "mermaid", "dot", "svg", "json"])
def test_graph_output_is_deterministic(run, policy, format):
    assert run("graph", policy, "--format", format).out == run("graph", policy, "--format", format).out


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("tree.svg", "<svg"),
        ("tree.SVG", "<svg"),
        ("tree.mmd", "flowchart"),
        ("tree.mermaid", "flowchart"),
        ("tree.dot", "digraph"),
        ("tree.gv", "digraph"),
        ("tree.json", "{"),
        ("tree.txt", "policy main"),
        ("tree", "policy main"),
    ],
)
def test_the_suffix_of_the_output_selects_its_format(run, policy, tmp_path, name, start):
    ended = run("graph", policy, "-o", name)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)


def test_the_format_option_overrides_the_suffix_of_the_output(run, policy, tmp_path):
    run("graph", policy, "-o", "tree.txt", "--format", "svg")
    ElementTree.parse(tmp_path / "tree.txt")


def test_graph_json_contains_revision_and_size(run, policy):
    found = run("graph", policy, "--format", "json").json
    assert found.keys() == {"packages", "revision", "boxes", "tree"}
    assert found["packages"] == ["main"]
    assert found["tree"]["kind"] == "policy"
    assert found["boxes"] == json.dumps(found["tree"]).count('"kind"')


def test_graph_with_agent_shows_only_the_rules_of_that_agent(run, policy):
    out = run("graph", policy, "--agent", "bot").out
    assert 'agent "bot"' in out
    assert "ops-bot" not in out
    assert 'guard "small"' in out


def test_graph_with_endpoint_shows_only_the_rules_of_that_endpoint(run, policy):
    out = run("graph", policy, "--endpoint", "DELETE /things/7").out
    assert out.splitlines()[1].startswith('├─ agent "ops-bot" — issued by idp; acts alone')
    assert 'agent "bot"' not in out


def test_depth_folds_deeper_levels(run, policy):
    ended = run("graph", policy, "--depth", "1")
    assert ended.out.splitlines()[1:] == ["├─ agents — 2 agents below", "└─ paths — 4 rules below"]


def test_graph_with_all_draws_folded_paths(run, policy):
    policy.write_text(POLICY + "".join(f"anyone {{ may GET /x{n} }}\n" for n in range(300)))
    folded, whole = run("graph", policy).out, run("graph", policy, "--all").out
    assert "more paths: " in folded
    assert "/x150" not in folded
    assert "more paths" not in whole
    assert "/x150" in whole


@pytest.mark.parametrize(
    ("options", "kind", "message", "hint"),
    [
        (("--agent", "bott"), "agent", "no block names agent `bott`", "did you mean `bot`?"),
        (("--agent", "bot", "--group", "x"), "agent", "no block names group `x`", None),
        (
            ("--endpoint", "GET /a//b"),
            "endpoint",
            "`GET /a//b` is not an endpoint: an empty segment matches no path",
            "remove the extra `/`; a trailing slash makes no difference",
        ),
    ],
)
def test_graph_reports_an_unknown_agent_group_or_endpoint(run, policy, options, kind, message, hint):
    ended = run("graph", policy, *options, "--format", "json")
    assert ended.code == 1
    assert ended.json["error"] == {"kind": kind, "message": message, "hint": hint}
    assert ended.err.startswith(f"error: {message}\n")


@pytest.mark.parametrize("options", [("--group", "ops"), ("--depth", "0"), ("--format", "png")])
def test_wrong_usage_exits_with_2(run, policy, options):
    ended = run("graph", policy, *options)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err


def test_graph_reports_an_output_that_cannot_be_written(run, policy, tmp_path):
    ended = run("graph", policy, "-o", tmp_path)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == f"error: `{tmp_path}`: is a directory\n"


def test_graph_rejects_a_policy_with_mistakes(run, policy):
    policy.write_text("anyone { may nothing }")
    ended = run("graph", policy)
    assert (ended.code, ended.out) == (1, "")
    assert "the policy cannot be used: 1 error" in ended.err


class Terminal(StringIO):
    """A screen of its own kind of letters."""

    def __init__(self, encoding: str, tty: bool) -> None:
        super().__init__()
        self._encoding, self._tty = encoding, tty

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return self._tty


def shown_on(screen: Terminal, monkeypatch: pytest.MonkeyPatch, policy: Path) -> str:
    from policyengine.cli.commands.graph import graph

    monkeypatch.setattr(sys, "stdout", screen)
    assert graph([policy]) == 0
    return screen.getvalue()


def test_graph_prints_only_ascii_on_an_ascii_terminal(run, policy, monkeypatch):
    out = shown_on(Terminal("ascii", tty=False), monkeypatch, policy)
    assert out.isascii()
    assert "|- agents" in out


def test_graph_colours_boxes_and_wraps_long_rows_on_a_terminal(run, policy, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "63")
    out = shown_on(Terminal("utf-8", tty=True), monkeypatch, policy)
    assert "\x1b[1;31mguard" in out
    assert "\x1b[1;32magent" in out
    lines = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    number = lines.index("      │  │     └─ may GET /things/{id} when request.size < 10 —")
    assert lines[number + 1] == "      │  │            an issuer with `scopes none`"
    assert max(map(len, lines)) <= 63


def test_a_cut_drawing_says_how_to_see_more(run, tmp_path):
    (tmp_path / "a.policy").write_text(
        'issuer a { scopes none }\nagent "b" { issued by a   acts alone   may GET /x }\nanyone { may GET /y }\n'
    )
    whole = run("graph", "a.policy", "--depth", 1).out
    assert "folded: use `--endpoint`, `--agent` or a larger `--depth` to see more" in whole
    assert "1 agent below" in whole
    part = run("graph", "a.policy", "--depth", 1, "--agent", "b", "--endpoint", "GET /x").out
    assert "folded: use a larger `--depth` to see more" in part
