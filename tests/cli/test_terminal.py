"""Colour and tables for a person at a terminal, plain text for a pipe."""

import json
import os
import pty
import subprocess
import sys

import pytest

from policyengine.cli.output.terminal import Screen, show_progress
from policyengine.control_characters import printable
from tests import forking

ESCAPE = "\x1b["


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """Return what `policyengine` writes when its output is a terminal."""
    return written_on_a_terminal([*forking.command(), *arguments], **environment)


def written_on_a_terminal(command: list[str], **environment: str) -> str:
    leader, follower = pty.openpty()
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env={**plain, "TERM": "xterm", **environment})
    os.close(follower)
    written = b""
    try:
        while chunk := os.read(leader, 65536):
            written += chunk
    except OSError:  # how Linux says that the other side has closed
        pass
    finally:
        os.close(leader)
        process.wait(timeout=30)
    return written.decode()


def test_a_terminal_gets_coloured_output():
    assert f"{ESCAPE}1;31mE101" in on_a_terminal("explain-code", "E101")


def test_a_terminal_gets_coloured_errors():
    assert f"{ESCAPE}1;31merror: " in on_a_terminal("explain-code", "nonsense")


def test_a_terminal_gets_a_coloured_table_of_codes():
    assert f"{ESCAPE}1mE101" in on_a_terminal("explain-code")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_and_a_dumb_terminal_disable_colour(environment):
    assert ESCAPE not in on_a_terminal("explain-code", "E101", **environment)


def test_a_pipe_gets_plain_text(run):
    assert ESCAPE not in run("explain-code", "E101").out + run("explain-code").out


def test_json_has_no_colour_on_a_terminal():
    assert ESCAPE not in on_a_terminal("explain-code", "E101", "--format", "json")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü", "plain ü"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb", "a\\rb"),
        ("\u202eright to left", "\\u202eright to left"),
        ("\udcff", "\\udcff"),
        ("two\n\tlines", "two\\n\tlines"),
    ],
)
def test_control_characters_in_text_are_escaped(text, shown):
    assert printable(text) == shown


def test_a_table_in_a_pipe_is_aligned(capsys):
    Screen().table([("E1", "short"), ("E1000", "longer")])
    assert capsys.readouterr().out == "E1     short\nE1000  longer\n"


def test_a_table_of_records_is_not_shortened_on_a_narrow_terminal(tmp_path):
    line = {"v": 2, "time": "2027-01-15T08:00:00.000000Z", "decision": {"id": "01M8K7Y4NH3F03T664EP7EZ3WF"}}
    log = tmp_path / "d.jsonl"
    log.write_text(json.dumps({**line, "request": {"request": {"method": "GET", "path": f"/{'long' * 9}"}}}) + "\n")
    narrow, wide = (on_a_terminal("audit", "query", str(log), COLUMNS=columns) for columns in ("60", "120"))
    assert (ESCAPE in narrow, ESCAPE in wide) == (False, True)
    for shown in (narrow, wide):
        assert ("2027-01-15T08:00:00Z" in shown, "01M8K7Y4NH3F03T664EP7EZ3WF" in shown) == (True, True)


def test_progress_is_not_shown_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setattr("policyengine.cli.output.terminal.PROGRESS_DELAY_SECONDS", 0)
    monkeypatch.setattr("threading.Timer", lambda *_: pytest.fail("it would be shown"))
    with show_progress("thinking"):
        pass
    assert capsys.readouterr().err == ""


WAITING = """
import sys, threading
from policyengine.cli.output import terminal
terminal.PROGRESS_DELAY_SECONDS = float(sys.argv[1])
shown = threading.Event()
start = terminal._Spinner.start
terminal._Spinner.start = lambda self: (start(self), shown.set())
with terminal.show_progress("thinking"):
    shown.wait(float(sys.argv[2]))
"""


@pytest.mark.parametrize(("patience", "takes", "shown"), [("0", "30", True), ("30", "0", False)])
def test_a_terminal_shows_progress_only_after_a_delay(patience, takes, shown):
    assert ("thinking" in written_on_a_terminal([sys.executable, "-c", WAITING, patience, takes])) is shown


def test_a_terminal_gets_a_coloured_walk(tmp_path):
    (tmp_path / "some.policy").write_text('anyone { may GET /health }\ntest "shut" { GET /health => deny }\n')
    shown = on_a_terminal("test", str(tmp_path / "some.policy"))
    assert f"{ESCAPE}1;31mfailed" in shown
    assert f"{ESCAPE}32m✓" in shown
    assert f"{ESCAPE}2m    · chain" in shown
    assert f"{ESCAPE}1;31m1 failed" in shown


def test_text_on_a_terminal_is_wrapped_between_words():
    lines = on_a_terminal("explain-code", "E308", COLUMNS="40").splitlines()
    assert max(map(len, lines[2:8])) <= 40
    assert all(not line or line[-1] != " " for line in lines)
    assert "`:id` would match only these three" in lines
