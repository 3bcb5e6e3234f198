"""What all commands share: versions, help, usage, and ends that nobody planned."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from policyengine import __version__
from policyengine.cli import app, main
from policyengine.evaluator import is_compiled
from tests import forking

COMMAND = (sys.executable, "-c", "import sys; from policyengine.cli import main; sys.exit(main())")
COMMANDS = [
    *["check", "lint", "fmt", "test", "compile", "decide", "explain", "diff", "simulate", "graph"],
    *["explain-code", "serve", "doctor", "mcp-gateway", "repl", "record", "suggest", "why", "init"],
    *["approvals list", "approvals show", "approvals approve", "approvals deny"],
    *["approvals watch", "approvals webhooks"],
    *["audit verify", "audit prove", "audit check", "audit rotate-key"],
    *["audit query", "audit pack", "audit report", "audit export"],
    *["behavior learn", "behavior show", "behavior forget", "behavior release", "behavior evaluate"],
    *["behavior report", "behavior suggest", "mcp review", "mcp pins", "halt", "halt list", "halt lift"],
    *["keys", "config"],
]
GROUPS = {"approvals", "audit", "behavior", "halt", "mcp"}
VERSION = f"policyengine {__version__} ({'compiled' if is_compiled() else 'pure Python'})\n"
HEAVY = {"fastapi", "lark", "pydantic", "rich", "uvicorn"}


def test_version_prints_the_version(run):
    assert run("--version").out == VERSION


def test_python_runs_the_package_as_the_command_line():
    done = subprocess.run([sys.executable, "-m", "policyengine", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, VERSION)


def test_version_ignores_other_arguments(run):
    ended = run("--version", "check")
    assert (ended.code, ended.out) == (0, VERSION)


def test_version_and_help_import_no_heavy_modules():
    program = """
import sys
from policyengine.cli import main
for arguments in (["--version"], ["--help"], ["check", "--help"]):
    main(arguments)
    print(arguments[0], *sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after = [line.split() for line in done.stderr.splitlines()]
    assert [(line[0], HEAVY.intersection(line)) for line in after] == [
        ("--version", set()), ("--help", set()), ("check", set()),
    ]  # fmt: skip


def test_version_does_not_import_typer():
    program = "import sys; from policyengine.cli import main; main(['--version']); sys.exit('typer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_an_example(run, name):
    ended = run(*name.split(), "--help")
    assert ended.code == 0
    assert f"\n    policyengine {name} " in ended.out


@pytest.mark.parametrize("name", dict.fromkeys([*COMMANDS, *sorted(GROUPS)]))
def test_the_help_names_values_and_no_types_of_python(run, name):
    shown = run(*name.split(), "--help").out
    assert not re.findall(r"<(?:list|str|path|int|float|bool)\b.*?>|\[default: \(|\[\[", shown)


def test_the_help_explains_the_exit_codes(run):
    assert "130  interrupted" in run("--help").out


def test_the_help_lists_every_command(run):
    listed = run("--help").out.partition("Commands:")[2]
    shown = [name for name in COMMANDS if " " not in name]
    assert {line.split()[0] for line in listed.strip().splitlines()} == {*shown, *GROUPS}


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_the_help_of_a_group_lists_its_commands(run, group):
    listed = run(group, "--help").out.partition("Commands:")[2]
    assert [f"{group} {line.split()[0]}" for line in listed.strip().splitlines()] == [
        name for name in COMMANDS if name.startswith(f"{group} ")
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_describes_each_in_a_full_sentence(run, name):
    *group, command = name.split()
    line = next(line for line in run(*group, "--help").out.splitlines() if line.startswith(f"  {command} "))
    assert line.endswith(".")
    assert not line.endswith("...")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage: policyengine"),
        (["chekc"], "Did you mean 'check'?"),
        (["check"], "Missing argument 'PATH'"),
        (["check", "--nope", "x"], "No such option: --nope"),
        (["check", "--format", "xml", "x"], "'xml'"),
        (["decide", "x"], "Missing option '--request'"),
        (["serve", "x", "--port", "99999"], "65535"),
        (["fmt", "-", "x"], "`-` cannot be combined with other paths"),
    ],
)
def test_wrong_usage_exits_with_2(run, arguments, message):
    ended = run(*arguments)
    assert ended.code == 2
    assert message in ended.err
    assert ended.out == ""


def test_wrong_usage_is_reported_as_json_on_request(run):
    ended = run("chekc", "--format", "json")
    assert ended.code == 2
    assert ended.json["error"]["kind"] == "usage"
    assert "Did you mean 'check'?" in ended.json["error"]["message"]


def break_with(monkeypatch, error):
    def broken():
        raise error

    monkeypatch.setattr(app, "build_command", lambda *_: type("Broken", (), {"main": lambda *_, **__: broken()}))


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("too deep"), MemoryError(), AssertionError()])
def test_an_internal_error_is_reported_in_one_message(run, monkeypatch, error):
    break_with(monkeypatch, error)
    ended = run("check", "x")
    assert ended.code == 1
    assert ended.err.startswith(f"error: internal error: {type(error).__name__}")
    assert "please report it" in ended.err
    assert "Traceback" not in ended.err


def test_an_internal_error_is_reported_as_json_on_request(run, monkeypatch):
    break_with(monkeypatch, KeyError("x"))
    assert run("check", "x", "--format=json").json["error"]["kind"] == "internal"


@pytest.mark.parametrize("arguments", [["--traceback", "check", "x"], ["check", "x", "--traceback"]])
def test_traceback_shows_where_an_internal_error_occurred(run, monkeypatch, arguments):
    break_with(monkeypatch, KeyError("x"))
    assert "Traceback (most recent call last)" in run(*arguments).err


def test_the_traceback_variable_shows_where_an_internal_error_occurred(run, monkeypatch):
    break_with(monkeypatch, KeyError("x"))
    monkeypatch.setenv("POLICYENGINE_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in run("check", "x").err


def test_an_interrupt_exits_with_130(run, monkeypatch):
    break_with(monkeypatch, KeyboardInterrupt())
    assert run("check", "x") == (ended := run("check", "x"))
    assert (ended.code, ended.out, ended.err) == (130, "", "")


def test_an_interrupt_while_waiting_for_requests_exits_with_130(project):
    program = [*forking.command(), "decide", str(project), "--request", "-", "--format", "json"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(b'{"request": {"method": "GET", "path": "/health"}}\n')
        process.stdin.flush()
        assert b'"allow"' in process.stdout.readline()  # an answer before the stream ends
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 130


@pytest.mark.parametrize("arguments", [["--version"], ["explain-code"], ["--help"]])
def test_a_closed_pipe_exits_with_1_without_a_message(arguments):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([*COMMAND, *arguments], stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only some systems have a disk that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["explain-code"]])
def test_output_that_cannot_be_written_is_an_error(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write the output: no space left on device\n"


def test_closed_streams_do_not_cause_a_failure():
    program = (
        "import sys; sys.stdout = sys.stderr = sys.stdin = None; from policyengine.cli import main; sys.exit(main())"
    )
    assert subprocess.run([sys.executable, "-c", program, "explain-code"]).returncode == 0


def test_an_ascii_terminal_shows_other_characters_escaped(tmp_path):
    missing = tmp_path / "ü.policy"
    done = subprocess.run(
        [*COMMAND, "init", str(missing)], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert done.returncode == 0
    assert b"\\xfc.policy" in done.stdout


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_completion_script(monkeypatch, capsys, name):
    monkeypatch.setenv("_POLICYENGINE_COMPLETE", f"source_{name}")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert "_POLICYENGINE_COMPLETE" in capsys.readouterr().out
