"""A file that is no decision log: one message from every command that reads a log."""

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("why 01M8K7Y4NH3F03T664EP7EZ3WF p.policy --log {}", 1),
        ("record p.policy --log {}", 1),
        ("suggest p.policy --log {}", 1),
        ("diff p.policy p.policy --log {}", 3),
        ("audit export {} --format ocsf", 1),
    ],
)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("language 1\n" * 300, "not valid JSON at line 1, column 1: a value was expected"),
        ('{"class_uid": 6003}\n' * 3, "it is not a line of a decision log"),
        ("\x00\xff\n", "not valid UTF-8"),
    ],
)
def test_a_file_that_is_no_log_is_one_message(run, tmp_path, command, code, text, why):
    Path("p.policy").write_text("anyone { may GET /health }\n")
    Path("odd.jsonl").write_text(text, encoding="latin-1")
    ended = run(*command.format("odd.jsonl").split())
    hint = "hint: name a file that `serve --log` or `audit pack` wrote"
    assert (ended.code, ended.err) == (code, f"error: `odd.jsonl` is not a decision log: odd.jsonl:1: {why}\n{hint}\n")


def test_an_empty_file_is_a_log_without_decisions(run, tmp_path):
    Path("p.policy").write_text("anyone { may GET /health }\n")
    Path("empty.jsonl").touch()
    assert run("suggest", "p.policy", "--log", "empty.jsonl").code == 0
    assert "no decisions in `empty.jsonl`" in run("record", "p.policy", "--log", "empty.jsonl").err
