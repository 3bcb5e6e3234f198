"""Every setting: an option goes before a variable, a variable before the file; and whatever is unknown is an error."""

from __future__ import annotations

import http.client
import json
import re
from contextlib import closing
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

from policyengine.audit import read_records
from policyengine.cli import app
from policyengine.cli.app import COMMANDS, CONFIGURED_COMMANDS
from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import ProjectSettings, load_settings
from policyengine.cli.settings.registry import BY_NAME, BY_OPTION, BY_VARIABLE, SETTINGS, is_setting_variable
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.settings.toml_file import MAX_SHOWN_MISTAKES
from tests.server.processes import started
from tests.server.test_log import ASKED, SERVE

WRONG = {
    "port": ("99999", "`port` must be a port number from 0 to 65535"),
    "workers": ("0", "`workers` must be a whole number, 1 or more"),
    "host": ('""', "`host` must be a non-empty string"),
    "socket_mode": ('"9"', "`socket_mode` must be a file mode in octal"),
    "token_file": ("1", "`token_file` must be a path"),
    "trust": ('"a"', "`trust` must be a list of strings"),
    "allowed_hosts": ('["a.example:80"]', "`a.example:80` is not a host name"),
    "watch": ('"yes"', "`watch` must be `true` or `false`"),
    "log_format": ('"jsn"', "`log_format` must be one of `text`, `json`"),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.policy").write_text("anyone { may GET /health }\n")
    return tmp_path


def said(project: Path, text: str, **variables: str) -> ProjectSettings:
    (project / "policyengine.toml").write_text(text)
    return load_settings([project / "p.policy"], variables)


def refused(project: Path, text: str, **variables: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        said(project, text, **variables)
    assert caught.value.kind == "configuration"
    return caught.value


# ── The table ─────────────────────────────────────────────────────────────────────────────────


def test_every_setting_is_unique_and_its_options_exist() -> None:
    assert len({one.name for one in SETTINGS}) == len({one.variable for one in SETTINGS}) == len(SETTINGS)
    for command, parameter in BY_OPTION:
        assert parameter in signature(COMMANDS[command]).parameters, f"{command} has no {parameter}"


def test_every_command_with_a_setting_reads_the_settings() -> None:
    assert {command for command, _ in BY_OPTION} == CONFIGURED_COMMANDS


def test_every_gateway_header_has_a_setting() -> None:
    assert {key for section, key in BY_NAME if section == "gateway"} == {one.name for one in fields(GatewayHeaders)}


def test_every_option_of_serve_mcp_gateway_and_doctor_has_a_setting() -> None:
    """What is observed has a part of its own, which both read as a whole."""
    for command, others in (
        ("serve", {"paths", "format", "observing"}),
        ("mcp-gateway", {"paths", "observing"}),
        ("doctor", {"paths", "format"}),
    ):
        can = {parameter for named, parameter in BY_OPTION if named == command}
        there = {one for one in signature(COMMANDS[command]).parameters if not one.startswith("observe_")}
        assert there - can == others


def test_variables_can_set_the_observe_period(project: Path) -> None:
    assert said(project, "").observe is None
    found = said(project, "", POLICYENGINE_OBSERVE_UNTIL="7d", POLICYENGINE_OBSERVE_PACKAGES="a,b").observe
    assert found is not None
    assert (found.until, found.packages) == ("7d", ("a", "b"))
    assert said(project, "[observe]\n").observe is not None


@pytest.mark.parametrize(("key", "wrong"), WRONG.items())
def test_an_invalid_serve_setting_is_reported_with_its_place(project: Path, key: str, wrong: tuple[str, str]) -> None:
    found = refused(project, f"[serve]\n{key} = {wrong[0]}\n")
    assert found.message == f"`policyengine.toml`: {wrong[1]}"
    assert f"policyengine.toml:2:1: {wrong[1]}" in found.detail


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            '[log]\nredact = ["body.*"]',
            "`body.*` ends with a star: to redact everything below a fact, name the fact itself",
            None,
        ),
        ('[log]\nrotate = ["100 MB"]', "`100 MB` is neither a size nor an age", "write `100MB` or `1d`, for example"),
        ('[log]\nrotate = ["1s"]', "`1s` is too short to rotate a log", "use a minute or longer"),
        (
            '[approvals]\nurl = "pdp.example.com"',
            "`url` must be the URL of a server",
            'as in `"https://pdp.example.com"`',
        ),
        ('[log]\nfiel = "x"', "unknown key `fiel` in `[log]`", "did you mean `file`?"),
        ("[serv]\nport = 1", "unknown section `serv`", "did you mean `[serve]`?"),
        ('[serve]\nlog_format = "jsno"', "`log_format` must be one of `text`, `json`", "did you mean `json`?"),
        ("[mcp-gateway]\ntimeout = 0", "`timeout` must be a number of seconds, from 0.1 to 3600", None),
    ],
)
def test_a_settings_mistake_is_reported_with_a_hint(project: Path, text: str, message: str, hint: str | None) -> None:
    found = refused(project, text + "\n")
    assert found.message == f"`policyengine.toml`: {message}"
    if hint is not None:
        assert found.hint == hint


def test_paths_in_settings_are_relative_to_the_settings_file(project: Path) -> None:
    (project / "deep").mkdir()
    (project / ".policyroot").touch()
    (project / "policyengine.toml").write_text('[log]\nfile = "logs/d.jsonl"\n[serve]\ntrust = ["a.pem", "/b.pem"]\n')
    found = load_settings([project / "deep"], {})
    assert found.values["log", "file"] == str(project / "logs/d.jsonl")
    assert found.values["serve", "trust"] == (str(project / "a.pem"), "/b.pem")


# ── Variables ─────────────────────────────────────────────────────────────────────────────────


def test_a_variable_overrides_the_settings_file(project: Path) -> None:
    text = '[serve]\nport = 1\nwatch = true\n[log]\nredact = ["body.a"]\n[gateway]\nagent_id = "X-One"\n'
    found = said(
        project, text, POLICYENGINE_SERVE_PORT="2", POLICYENGINE_SERVE_WATCH="off",
        POLICYENGINE_LOG_REDACT="body.b, args.**.c", POLICYENGINE_GATEWAY_AGENT_ID="X-Two",
        POLICYENGINE_COVERAGE_FAIL_UNDER="90.5", POLICYENGINE_LINT_STRICT="true",
        POLICYENGINE_GATEWAY_TRUST_DOMAINS="acme.example=acme",
    )  # fmt: skip
    assert (found.values["serve", "port"], found.values["serve", "watch"]) == (2, False)
    assert found.values["log", "redact"] == ("body.b", "args.**.c")
    assert found.gateway.facts["agent_id"] == "x-two"
    assert (found.coverage.fail_under, found.lint.strict) == (90.5, True)
    assert found.gateway.trust_domains == (("acme.example", "acme"),)


def test_a_variable_applies_without_a_settings_file(project: Path) -> None:
    assert load_settings([project], {"POLICYENGINE_TEST_JOBS": "3"}).test.jobs == 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("POLICYENGINE_SERVE_PORT", "http", "`port` must be a port number from 0 to 65535"),
        ("POLICYENGINE_SERVE_WATCH", "maybe", "`watch` must be `true` or `false`"),
        ("POLICYENGINE_STORE_URL", "redsi://:hush@host", "`redsi:` is not a known kind of store"),
    ],
)
def test_the_error_names_the_invalid_environment_variable(project: Path, name: str, value: str, message: str) -> None:
    found = refused(project, "", **{name: value})
    assert found.message.startswith(f"the variable `{name}`: {message}")
    assert "hush" not in str(found.to_dict())


def test_an_unknown_policyengine_variable_is_rejected_with_a_suggestion(project: Path) -> None:
    found = refused(project, "", POLICYENGINE_LOG_FIEL="x")
    assert (found.message, found.hint) == (
        "the variable `POLICYENGINE_LOG_FIEL` is not a setting", "did you mean `POLICYENGINE_LOG_FILE`?",
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "POLICYENGINE_TRACEBACK", "POLICYENGINE_SERVICE_HOST", "POLICYENGINE_PORT_8080_TCP_ADDR",
        "POLICYENGINE_LOG_PORT", "POLICYENGINE_LOG_SERVICE_PORT_HTTP", "PATH",
    ],
)  # fmt: skip
def test_unrelated_environment_variables_are_not_settings(name: str) -> None:
    assert not is_setting_variable(name)
    assert name not in BY_VARIABLE


def test_a_settings_error_does_not_quote_a_password(project: Path) -> None:
    found = refused(project, '[store]\nurl = "redis://:hush@a,b"\n')
    assert "hush" not in found.detail + str(found.to_dict())


# ── Commands ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def given(project: Path, monkeypatch: pytest.MonkeyPatch):
    """What a command is called with."""
    calls: list[dict[str, object]] = []

    def called(*arguments: str) -> dict[str, object]:
        command = arguments[0]
        real = COMMANDS[command]

        def instead(**options: object) -> int:
            calls.append(options)
            return 0

        instead.__signature__ = signature(real, eval_str=True)  # type: ignore[attr-defined]
        instead.__doc__ = real.__doc__
        monkeypatch.setitem(app.COMMANDS, command, instead)
        code = app.run(list(arguments))
        monkeypatch.setitem(app.COMMANDS, command, real)
        assert code == 0
        return calls[-1]

    return called


def test_options_override_variables_which_override_the_file_and_defaults(given, project, monkeypatch) -> None:
    text = '[serve]\nhost = "::1"\nport = 1\nworkers = 2\nwatch = true\nlog_format = "json"\n[store]\nurl = "sqlite:///a.db"\n'
    (project / "policyengine.toml").write_text(text + '[log]\nfile = "d.jsonl"\nredact = ["body.a"]\nrotate = ["1d"]\n')
    monkeypatch.setenv("POLICYENGINE_SERVE_PORT", "5")
    monkeypatch.setenv("POLICYENGINE_SERVE_HOST", "127.0.0.2")
    found = given("serve", "p.policy", "--host", "127.0.0.3", "--no-watch")
    assert (found["host"], found["port"], found["workers"], found["socket_mode"]) == ("127.0.0.3", 5, 2, "600")
    assert (found["watch"], found["log_format"], found["store"]) == (False, "json", "sqlite:///a.db")
    assert (Path(found["log"]).name, list(found["redact"]), list(found["log_rotate"])) == (
        "d.jsonl",
        ["body.a"],
        ["1d"],
    )


def test_required_options_can_be_set_in_the_file(given, project) -> None:
    text = '[mcp-gateway]\nupstream = "python3 s.py"\nserver = "notes"\nas = ["agent=coder"]\n'
    (project / "policyengine.toml").write_text(text)
    found = given("mcp-gateway", "p.policy")
    assert (found["upstream"], found["server"], list(found["identity"]), found["timeout"]) == (
        "python3 s.py", "notes", ["agent=coder"], 60.0,
    )  # fmt: skip


def test_a_mistake_in_the_settings_file_stops_the_command(run, project) -> None:
    (project / "policyengine.toml").write_text("[serve]\nprot = 1\n")
    ended = run("serve", "p.policy", "--port", "0")
    assert ended.code == 1
    assert "policyengine.toml:2:1: unknown key `prot` in `[serve]`" in ended.err


def test_a_server_applies_the_settings_file(project: Path) -> None:
    (project / "policyengine.toml").write_text('[log]\nfile = "d.jsonl"\n[serve]\nport = 0\n')
    with started(SERVE, "serve", str(project / "p.policy"), "--format", "json") as (line, _):
        port = int(json.loads(line)["listening"].rpartition(":")[2])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("POST", "/decide", json.dumps(ASKED), {"content-type": "application/json"})
            assert connection.getresponse().status == 200
        assert [record.call for record in read_records(project / "d.jsonl")] == ["decide"]


# ── config ────────────────────────────────────────────────────────────────────────────────────


def test_config_check_reports_a_mistake_and_its_place(run, project) -> None:
    (project / "policyengine.toml").write_text("[serve]\nport = 1\n[test]\njobs = 2\n")
    assert run("config", "check").out == "no mistakes in `policyengine.toml`: 2 settings\n"
    (project / "policyengine.toml").write_text("[serve]\nport = true\n")
    ended = run("config", "check", "--format", "json")
    assert (ended.code, ended.json["error"]["kind"], ended.json["error"]["line"]) == (1, "configuration", 2)


def test_config_check_reports_all_mistakes(run, project) -> None:
    (project / "policyengine.toml").write_text(
        '[serve]\nprot = 1\nworkers = 0\n[approvals]\nwait = "x"\n[server]\nport = 1\n'
    )
    ended = run("config", "check")
    assert ended.code == 1
    assert re.findall(r"^policyengine.toml:(\d)", ended.err, re.MULTILINE) == ["2", "3", "5", "6"]
    assert "\n  hint: did you mean `port`?\n" in ended.err
    assert ended.err.endswith("error: `policyengine.toml` has 4 mistakes\n")
    found = run("config", "check", "--format", "json").json["error"]
    assert (found["line"], found["message"]) == (2, "`policyengine.toml` has 4 mistakes")


def test_a_file_with_very_many_mistakes_is_shown_in_part(run, project) -> None:
    (project / "policyengine.toml").write_text("".join(f"[part{number}]\n" for number in range(50)))
    ended = run("config", "check")
    assert MAX_SHOWN_MISTAKES < 50
    assert ended.err.count("unknown section") == MAX_SHOWN_MISTAKES
    assert ended.err.endswith("error: `policyengine.toml` has 50 mistakes\n")


@pytest.mark.parametrize(
    "line",
    [
        '[console]\nissuer = "acne"\nclient_id = "c"',
        '[approvals]\nissuers = ["acme", "acne"]',
        '[console]\nlink_issuer = "acne"',
    ],
)
def test_config_check_reports_an_issuer_that_no_policy_names(run, project, line) -> None:
    (project / "policyengine.toml").write_text(line)
    (project / "people.policy").write_text(
        'language 1\npackage people\nissuer acme { url "https://login.acme.example" }\n'
    )
    ended = run("config", "check", "people.policy")
    assert ended.code == 1
    assert "no policy names the issuer `acne`\nhint: did you mean `acme`?\n" in ended.err
    (project / "policyengine.toml").write_text(line.replace("acne", "acme"))
    assert run("config", "check", "people.policy").code == 0


def test_config_check_reports_a_missing_file(run, project) -> None:
    (project / "policyengine.toml").write_text('[serve]\ntoken_file = "tokens"\n')
    ended = run("config", "check")
    assert ended.code == 1
    assert "`serve.token_file`, from policyengine.toml:2: there is no file" in ended.err
    (project / "tokens").touch()
    assert run("config", "check").code == 0


@pytest.mark.parametrize(("consume", "code"), [("edge", 0), ("*", 0), ("egde", 1)])
def test_config_check_reports_an_authzen_consumer_without_a_token(run, project, consume, code) -> None:
    (project / "policyengine.toml").write_text(f'[serve]\ntoken_file = "tokens"\n[authzen]\nconsume = ["{consume}"]\n')
    (project / "tokens").write_text("edge: a-token-of-the-gateway\n")
    ended = run("config", "check")
    assert ended.code == code
    assert ("names the caller `egde`, but no token has that name" in ended.err) == bool(code)


def test_config_show_names_the_source_of_each_value_and_hides_passwords(run, project, monkeypatch) -> None:
    (project / "policyengine.toml").write_text('[serve]\nport = 1\n[store]\nurl = "redis://u:hush@host/0"\n')
    monkeypatch.setenv("POLICYENGINE_SERVE_HOST", "::1")
    out = run("config", "show").out
    assert 'host = "::1"  # POLICYENGINE_SERVE_HOST\nport = 1  # policyengine.toml:2\n' in out
    assert 'url = "redis://u:***@host/0"  # policyengine.toml:4' in out
    assert "workers = 1  # default" in out
    found = run("config", "show", "--format", "json").json
    assert len(found["settings"]) == len(SETTINGS)
    assert {one["from"] for one in found["settings"]} == {
        "default", "POLICYENGINE_SERVE_HOST", "policyengine.toml:2", "policyengine.toml:4",
    }  # fmt: skip
    assert "hush" not in json.dumps(found)


def test_config_check_without_a_settings_file_passes(run, project) -> None:
    assert run("config", "check").out == "no `policyengine.toml`: 0 settings\n"


@pytest.mark.parametrize(("operator", "code"), [("ops", 0), ("opps", 1), ("*", 1)])
def test_config_check_reports_an_operator_without_a_token(run, project, operator, code) -> None:
    (project / "policyengine.toml").write_text(
        f'[serve]\ntoken_file = "tokens"\n[halt]\noperators = ["{operator}"]\n', encoding="utf-8"
    )
    (project / "tokens").write_text("ops: operator-token-0123456789\n")
    (project / "tokens").chmod(0o600)
    done = run("config", "check", project)
    assert done.code == code, done.err
    assert ("but no token has that name" in done.err) == bool(code)
