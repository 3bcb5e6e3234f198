"""`policyengine repl`: what a session answers, how it tells mistakes, and that it works at a terminal and in a pipe."""

from __future__ import annotations

import codecs
import os
import re
import select
import signal
import subprocess
import time

import pytest

from policyengine.check import check
from policyengine.cli.commands import repl
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing.repl_session import ReplSession, StatementError, is_complete
from tests import forking

POLICY = """package shop
entity user { roles: set<string>   plan: string }
facts { body.amount: number   body.note: string? }
issuer acme { url "https://login.acme.example"   scopes none }
users unrestricted
agent "bot" { issued by acme   acts for any user   may POST /pay   valid until 2026-06-01 }
anyone { may GET /health, POST /pay }
guard "large" on POST /pay { confirm by role finance within 15m when body.amount > 500 }
guard "headers" on GET /health { deny when (request.headers["x-id"] else "") == "7" }
fixture people { given entities { user "carol" { roles: ["finance"] } }   given body.amount 900 }
test "session" { GET /health => allow }
"""
ENDED = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


@pytest.fixture
def policy(tmp_path):
    (tmp_path / "shop.policy").write_text(POLICY)
    return tmp_path / "shop.policy"


@pytest.fixture
def say(run, policy):
    """Pipes lines in."""

    def pipe(*lines: str, options: tuple[str, ...] = ()):
        return run("repl", policy, *options, stdin="\n".join([*lines, ""]).encode())

    return pipe


def session() -> ReplSession:
    module, _ = parse(Source("shop.policy", POLICY))
    return ReplSession.of(check([module]))


# ── What is answered ──────────────────────────────────────────────────────────────────────────


def test_the_repl_decides_each_request(say):
    ended = say("GET /health", "GET /nowhere", "body.amount = 900", "POST /pay")
    assert (ended.code, ended.err) == (0, "")
    heads = [line for line in ended.out.splitlines() if not line.startswith(" ")]
    assert heads[0] == "allow"
    assert heads[1].startswith("deny by ")
    assert heads[2] == 'confirm by guard "large"'


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        (["given body.amount 900"], "confirm"),
        (["body.amount 900"], "confirm"),
        (["body { amount: 900 }"], "confirm"),
        (["body.amount=900"], "confirm"),
        (["body.amount = 900 # a lot"], "confirm"),
        (["body.amount = 900", "body.amount = 5"], "allow"),
        (["use people"], "confirm"),
        (["use people", 'approval { rule: "large", by: "carol" }'], "allow"),
        (["use people", 'approval = { rule: "large", by: "carol" }', "POST /pay"], "confirm"),  # spent
        (["body.amount = 5", 'agent "bot" from acme for user "alice"'], "allow"),
        (["body.amount = 900", "reset", "body.amount = 5"], "allow"),
    ],
)
def test_given_facts_affect_later_requests(say, lines, outcome):
    assert say(*lines, f"POST /pay => {outcome}").code == 0


def test_facts_of_a_request_apply_only_to_it(say):
    assert say("body.amount = 900", "POST /pay { body.amount: 5 } => allow", "POST /pay => confirm").code == 0


def test_a_header_can_be_given_by_its_name(say):
    assert say('request.headers["x-id"] = "7" # odd', "GET /health => deny").code == 0


def test_a_request_with_several_methods_is_decided_for_each_method(say):
    said = say("GET|POST /nowhere", options=("--format", "json"))
    assert [one["request"] for one in said.lines] == ["GET /nowhere", "POST /nowhere"]


def test_time_after_and_at_show_and_move_the_clock(say):
    ended = say("time", "after 5m", "after 10s", "time", "at 2026-03-01T09:00:00Z", "time", "time 2026-04-01", "time")
    assert ended.out.splitlines() == [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:05:10Z",
        "2026-03-01T09:00:00Z",
        "2026-04-01T00:00:00Z",
    ]


def test_the_clock_stays_moved_after_a_request(say):
    ended = say("after 5m", "GET /health", "after 1m GET /health", "time")
    assert ended.out.splitlines()[-1] == "2026-01-01T00:06:00Z"


def test_explain_shows_the_whole_walk_in_the_repl(say):
    ended = say("body.amount = 900", "POST /pay", "explain")
    assert "✓ body.amount = 900" in ended.out
    assert 'guard "headers" — not about this endpoint' in ended.out


def test_why_not_shows_only_the_failing_gates(say):
    ended = say("body.amount = 900", "why not POST /pay")
    assert "✗ guards" in ended.out
    assert "body.amount > 500" in ended.out
    assert "✓ door" not in ended.out
    assert say("why not GET /health").out == "the request is allowed: nothing stops it\n"


def test_facts_lists_the_given_facts(say):
    assert say("facts").out == "no facts are given\n"
    assert say("body.amount = 5", 'user "alice"', "facts").out == 'given body.amount 5\ngiven user "alice"\n'


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('request.headers["x-id"] = "7"', 'given request.headers { "x-id": "7" }\n'),
        ('request.headers["x-id"] = "#7"', 'given request.headers { "x-id": "#7" }\n'),
        ('request.headers["x-id"] = "7" # odd', 'given request.headers { "x-id": "7" # odd\n}\n'),
    ],
)
def test_facts_shows_a_header_on_one_line_unless_a_comment_ends_the_line(say, line, shown):
    assert say(line, "facts").out == shown


def test_an_open_brace_continues_the_statement_on_the_next_line(say):
    assert say("entities {", '  user "carol" { roles: ["finance"] } # }', "}", "facts").out.count("\n") == 3


@pytest.mark.parametrize(
    ("text", "whole"),
    [("a { b", False), ("a { b }", True), ('a "{"', True), ("a # {", True), ("[{", False), ('a "\\"{"', True)],
)
def test_brackets_in_strings_and_comments_do_not_continue_a_statement(text, whole):
    assert is_complete(text) is whole


def test_the_repl_prints_one_json_line_per_answer(say):
    said = say(
        "GET /health => allow", "GET /health", "why not", "explain", "facts", "time", options=("--format", "json")
    )
    first, second, why, walk, facts, now = said.lines
    assert (first["line"], first["expected"], first["met"]) == (1, "allow", True)
    assert second["decision"]["outcome"] == "allow"
    assert why["in_the_way"] == []
    assert walk["walk"]["gates"]
    assert (facts["given"], now["time"]) == ([], "2026-01-01T00:00:00Z")


# ── Mistakes ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "place", "underlined", "hint"),
    [
        ("body.amunt = 5", "repl:1:1", "body.amunt", "did you mean `body.amount`?"),
        ("body.amunt 5", "repl:1:1", "body.amunt", "did you mean `body.amount`?"),
        ("body.note =  ouch", "repl:1:14", "ouch", 'write a string in quotes: `"ouch"`'),
        ("use pepole", "repl:1:5", "pepole", "did you mean `people`?"),
        ('agent "bot" from acne', "repl:1:18", "acne", "did you mean `acme`?"),
        ("GET /a { body.amunt: 5 }", "repl:1:10", "body.amunt", "did you mean `body.amount`?"),
        ('POST /pay => confirm by "lage"', "repl:1:25", '"lage"', "did you mean `large`?"),
        ("after 5x", "repl:1:7", "5x", None),
    ],
)
def test_a_repl_mistake_is_underlined_with_a_hint(say, line, place, underlined, hint):
    ended = say(line)
    assert (ended.code, ended.out) == (1, "")
    told = ended.err.splitlines()
    assert told[0].startswith(f"{place}: E")
    carets = told[2]
    assert told[1][carets.index("^") : carets.rindex("^") + 1] == underlined
    assert hint is None or f"hint: {hint}" in ended.err


def test_a_repl_mistake_changes_no_facts_and_sets_the_exit_code(say):
    ended = say("body.amount = 5", "body.amunt = 900", "POST /pay => allow", "facts")
    assert ended.out.splitlines() == ["allow", "given body.amount 5"]
    assert ended.code == 1
    assert ended.err.startswith("repl:2:1: ")


def test_the_repl_reports_an_unexpected_outcome(say):
    ended = say("GET /health => deny")
    assert (ended.code, ended.out) == (1, "allow\n✗ expected: deny\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("explian", "there is no command `explian`\nhint: did you mean `explain`?"),
        ("explain", "there is no request to explain"),
        ("save", "name the test file to write"),
        ("save x.policy", "`x.policy` is not a test file name"),
        ("save x_test.policy", "no request was made yet"),
        ("load missing.policy", "the policy cannot be used"),
        ('user.plan = "x"\nGET /health', "there is no user"),
    ],
)
def test_the_repl_reports_why_a_command_fails(say, line, message):
    ended = say(line)
    assert ended.code == 1
    assert message in ended.err


def test_the_repl_reports_mistakes_as_json(say):
    said = say("body.amunt = 5", options=("--format", "json"))
    (told,) = said.lines
    assert told["error"]["kind"] == "policy"
    assert told["error"]["diagnostics"][0]["code"] == "E602"


def test_the_repl_rejects_policies_with_errors_at_startup(run, tmp_path):
    (tmp_path / "bad.policy").write_text("nonsense")
    assert "the policy cannot be used" in run("repl", tmp_path / "bad.policy").err


# ── Saving and loading ────────────────────────────────────────────────────────────────────────


def test_save_writes_the_session_as_a_passing_test(run, say, policy, tmp_path):
    lines = [
        "use people", "POST /pay", "body.amount = 5 # less", "POST /pay", "after 5m", "GET|POST /nowhere",
        'POST /pay { body.note: "a \\"b\\"" } => allow', 'request.headers["x-id"] = "7"', "GET /health", 'GET "/a//b"',
    ]  # fmt: skip
    ended = say(*lines, 'save my_test.policy "what I saw"', "save my_test.policy")
    assert "`my_test.policy` already exists and is not replaced" in ended.err
    assert 'test "what I saw" {' in (tmp_path / "my_test.policy").read_text()
    said = run("test", tmp_path, "--format", "json").json
    assert (said["passed"], said["failed"], said["errored"]) == (8, 0, 0)  # one is the policy's own
    assert run("fmt", "--check", tmp_path).err == ""


def test_save_chooses_an_unused_test_name(say, tmp_path):
    say("GET /health", "save my_test.policy")
    assert 'test "session 2" {' in (tmp_path / "my_test.policy").read_text()


def test_load_replaces_the_policies_and_keeps_the_session(say, policy, tmp_path):
    other = tmp_path / "other.policy"
    other.write_text(POLICY.replace("> 500", "> 1_000"))
    assert say("body.amount = 900", "POST /pay => confirm", f"load {other}", "POST /pay => allow").code == 0


def test_load_resets_the_session_if_the_new_policies_lack_its_facts(say, tmp_path):
    (tmp_path / "other.policy").write_text("anyone { may GET /health }")
    ended = say("body.amount = 900", "load other.policy", "facts", "GET /health => allow")
    assert ended.code == 0
    assert "the session was reset" in ended.err
    assert ended.out.splitlines()[0] == "no facts are given"


@pytest.mark.parametrize("line", ["} anyone { may GET /x", "given", "=", '"', "GET", "]", "é", "a = = b", "{}"])
def test_an_invalid_repl_line_is_not_an_internal_error(line):
    one = session()
    with pytest.raises(StatementError):
        one.take(line)
    assert one.items == []


def test_repl_completion_offers_commands_facts_agents_and_fixtures():
    assert repl.completions("ex", session()) == ["explain", "exit"]
    assert "body.amount" in repl.completions("body.", session())
    assert repl.completions("agent", session())[0] == 'agent "bot"'
    assert repl.completions("use ", session()) == ["use people"]


# ── At a terminal ─────────────────────────────────────────────────────────────────────────────


class Terminal:
    """The command at a pseudo-terminal of its own."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        import pty

        self.us, them = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", **variables}
        self.process = subprocess.Popen(
            [*forking.command(), *arguments],
            stdin=them,
            stdout=them,
            stderr=them,
            env=environment,
            start_new_session=True,
        )
        os.close(them)
        self.shown = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def type(self, text: str) -> None:
        os.write(self.us, text.encode())

    def until(self, text: str) -> str:
        """What was shown up to that text; it is then done with."""
        latest = time.monotonic() + 60
        while text not in self.shown:
            assert time.monotonic() < latest, self.shown
            if select.select([self.us], [], [], 0.1)[0]:
                self.shown += ENDED.sub("", self.decoder.decode(os.read(self.us, 65_536)))
        before, _, self.shown = self.shown.partition(text)
        return before

    def interrupted(self) -> None:
        """Ctrl-C until it is heard: the first may come before anybody listens."""
        latest = time.monotonic() + 60
        while "^C" not in self.shown:
            assert time.monotonic() < latest, self.shown
            self.process.send_signal(signal.SIGINT)
            if select.select([self.us], [], [], 0.5)[0]:
                self.shown += ENDED.sub("", self.decoder.decode(os.read(self.us, 65_536)))
        self.until("^C")

    def ended(self) -> int:
        return self.process.wait(60)


@pytest.fixture
def terminal(policy, tmp_path):
    pytest.importorskip("pty", reason="this system has no terminals")
    started = []

    def start() -> Terminal:
        started.append(Terminal("repl", str(policy), POLICYENGINE_HISTORY=str(tmp_path / "history")))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        os.close(one.us)


def test_the_repl_prompts_answers_and_saves_a_private_history(terminal, tmp_path):
    at = terminal()
    at.until("policy> ")
    at.type("GET /health\n")
    assert "allow" in at.until("policy> ")
    at.type("body.amunt = 5\n")
    assert "did you mean `body.amount`?" in at.until("policy> ")
    at.type("entities {\n")
    at.until("… ")
    at.type("}\n")
    at.until("policy> ")
    at.type("quit\n")
    assert at.ended() == 0
    assert "GET /health" in (tmp_path / "history").read_text()
    assert (tmp_path / "history").stat().st_mode & 0o077 == 0


def test_ctrl_d_ends_the_repl_and_ctrl_c_discards_the_line(terminal):
    at = terminal()
    at.until("policy> ")
    at.type("entities {\n")
    at.until("… ")
    at.interrupted()
    at.until("policy> ")
    at.type("GET /health\n")
    assert "allow" in at.until("policy> ")
    at.type("\x04")
    assert at.ended() == 0


def test_the_tab_key_completes_a_fact(terminal):
    at = terminal()
    at.until("policy> ")
    at.type("body.am\t = 900\n")
    at.until("policy> ")
    at.type("facts\n")
    assert "given body.amount 900" in at.until("policy> ")


def test_the_hint_of_a_void_block_names_the_command_of_the_repl(run, project):
    ended = run("repl", "project", stdin=b'given agent "nobody" from acme\nGET /documents\n')
    assert "would help: `explain` shows which blocks did not apply, and why" in ended.out
