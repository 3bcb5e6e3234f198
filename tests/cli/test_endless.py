"""What never ends, or is no file: every command says so once, and its memory is bounded."""

import json
import os
import sys

import pytest

from policyengine.audit import files
from policyengine.cli import main
from policyengine.cli.output.terminal import json_text

ZERO = "/dev/zero"


@pytest.mark.parametrize(
    "words",
    [
        ("decide", "project", "--request", ZERO),
        ("explain", "project", "--request", ZERO),
        ("decide", "project", "--request", "project/request.json", "--entities", ZERO),
        ("decide", ZERO, "--request", "project/request.json"),
        ("check", ZERO),
        ("fmt", ZERO),
        ("why", "01M87PQTAN82Y0JAKZA7JY4YXN", "--log", ZERO),
        ("record", "project", "--log", ZERO),
        ("suggest", "project", "--log", ZERO),
        ("simulate", "project", "--trace", ZERO),
        ("init", "new", "--openapi", ZERO),
        ("decide", "pipe", "--request", "project/request.json"),
        ("decide", "pipe.policybundle", "--request", "project/request.json"),
        ("fmt", "pipe"),
        ("why", "01M87PQTAN82Y0JAKZA7JY4YXN", "--log", "pipe"),
        ("decide", "project", "--request", "project"),
    ],
    ids=" ".join,
)
def test_a_device_or_a_pipe_is_rejected_with_an_error(run, project, tmp_path, words):
    for name in ("pipe", "pipe.policybundle"):
        os.mkfifo(tmp_path / name)
    ended = run(*words)
    assert ended.code in (1, 2, 12)
    assert "internal error" not in ended.err
    assert "error" in ended.out + ended.err


def test_a_request_line_without_end_is_rejected(run, project, tmp_path):
    with (tmp_path / "many.jsonl").open("wb") as sparse:
        sparse.truncate(2**33)
    ended = run("decide", project, "--request", "many.jsonl")
    assert (ended.code, "line 1 contains more than" in ended.err) == (1, True)


def test_stdin_without_end_is_rejected(run, project, monkeypatch, capsys):
    with open(ZERO, "rb") as endless:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": endless, "isatty": lambda: False}))
        code = main(["decide", str(project), "--request", "-"])
    assert (code, "line 1 contains more than" in capsys.readouterr().err) == (1, True)


def test_an_overlong_log_line_is_skipped_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 8)
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 20)
    log, heard = tmp_path / "some.jsonl", []
    log.write_bytes(b'{"a":1}\n' + b'{"long":"' + b"x" * 40 + b'"}\n' + b"\0" * 30 + b"\n" + b'{"whole":12345}\n')
    assert list(files.read_lines(log, heard.append)) == [(1, b'{"a":1}\n'), (4, b'{"whole":12345}\n')]
    assert [line.split(": ")[0] for line in heard] == [f"{log}:2", f"{log}:3"]


def test_non_printable_characters_are_escaped_in_json():
    text = json_text({"a\x85b": "\x9b31m\u202e\u2028 é 日本 \x1b"})
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == {"a\x85b": "\x9b31m\u202e\u2028 é 日本 \x1b"}


def test_a_line_break_in_a_name_is_not_printed_raw(run, tmp_path):
    guard = 'guard "no" on GET /a { deny message "no\\n::error::x" }\n'
    (tmp_path / "p.policy").write_text(f"anyone {{ may GET /a }}\n{guard}")
    (tmp_path / "r.json").write_text(json.dumps({"request": {"method": "GET", "path": "/a"}}))
    for command in ("decide", "explain"):
        out = run(command, "p.policy", "--request", "r.json").out
        assert "no\\n::error::x" in out
        assert "\n::error::" not in out
