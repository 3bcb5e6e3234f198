"""`policyengine serve`: what it says before it answers, and why it does not start."""

import json
import re
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from itertools import islice

import pytest

from policyengine.cli import main
from policyengine.cli.load_engine import load_engine
from policyengine.cli.options.observe import ObserveOptions, start_observing
from policyengine.cli.output.serve_summary import sample_question
from policyengine.cli.settings.file import load_settings
from policyengine.client.socket import SocketClient
from policyengine.engine import Engine
from tests import forking


@pytest.fixture
def serving(project):
    """Starts the server on a free port; gives its process. Stops it by the signal that Ctrl-C sends."""
    started = []

    def start(*options: str, port: bool = True) -> subprocess.Popen:
        process = subprocess.Popen(
            [*forking.command(), "serve", str(project), *(["--port", "0"] if port else []), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def decide(url: str, **headers: str) -> int:
    request = urllib.request.Request(
        f"{url}/decide",
        data=b'{"request": {"method": "GET", "path": "/health"}}',
        headers={"content-type": "application/json", **headers},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return answer.status


def test_serve_prints_its_address_and_answers_until_interrupted(serving):
    process = serving()
    first, *others = [process.stdout.readline() for _ in range(5)]
    assert first.startswith("listening on http://127.0.0.1:")
    assert [line.split(":")[0] for line in others] == ["packages", "revision", "rules", "try"]
    assert decide(first.split()[-1]) == 200
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_the_curl_command_that_serve_prints_works(serving):
    process = serving()
    lines = [process.stdout.readline() for _ in range(5)]
    curl = lines[-1].removeprefix("try:").strip()
    answer = subprocess.run(
        ["sh", "-c", curl.replace("curl ", "curl --noproxy '*' ", 1)], capture_output=True, check=True
    )
    assert json.loads(answer.stdout)["outcome"] == "deny"


def test_serve_prints_its_address_as_json(serving):
    said = json.loads(serving("--format", "json").stdout.readline())
    assert said.keys() == {"listening", "packages", "revision", "rules", "warnings"}
    assert said["rules"] == 6
    assert decide(said["listening"]) == 200


def test_serve_prints_where_the_log_is_and_how_it_is_sealed(serving, tmp_path):
    log = tmp_path / "d.jsonl"
    process = serving("--log", str(log))
    assert f"log:      {log}, sealed in {log}.tlog with the key {log}.key\n" in islice(process.stdout, 6)
    unsealed = serving("--log", f"{log}2", "--log-seal", "off", "--log-sink", "http://127.0.0.1:9/#name=collector")
    assert {f"log:      {log}2, not sealed\n", "sinks:    collector\n"} <= set(islice(unsealed.stdout, 7))
    said = json.loads(serving("--log", f"{log}3", "--format", "json").stdout.readline())
    assert said["log"] == {"file": f"{log}3", "seal": f"{log}3.tlog", "key": f"{log}3.key", "sinks": []}


def test_the_printed_curl_command_includes_a_required_token(serving, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("0123456789abcdef0123456789abcdef\n")
    tokens.chmod(0o600)
    process = serving("--token-file", str(tokens))
    lines = [process.stdout.readline() for _ in range(5)]
    assert f'-H "authorization: Bearer $(head -n 1 {tokens})"' in lines[-1]
    url = lines[0].split()[-1]
    assert decide(url, authorization="Bearer 0123456789abcdef0123456789abcdef") == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        decide(url)


@pytest.mark.parametrize(("option", "may_be_free"), [("--port", True), ("--metrics-port", False)])
def test_serve_reports_a_port_in_use(run, project, option, may_be_free):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        free = () if option == "--port" else ("--port", 0)
        ended = run("serve", project, option, port, *free, "--format", "json")
    assert ended.code == 1
    assert ended.json["error"]["kind"] == "serve"
    assert f"port {port} on `127.0.0.1` is in use" in ended.err
    assert f"choose another port with `{option}`" in ended.err
    assert ("0 picks a free one" in ended.err) == may_be_free


def test_serve_rejects_a_public_address_without_a_token(run, project):
    ended = run("serve", project, "--host", "0.0.0.0", "--port", "0")
    assert ended.code == 1
    assert "no token is set" in ended.err
    assert "--token-file" in ended.err


@pytest.mark.parametrize(("text", "message"), [(None, "cannot read"), ("", "no token"), ("short", "shorter than 16")])
def test_serve_rejects_an_invalid_token_file(run, project, tmp_path, text, message):
    if text is not None:
        (tmp_path / "tokens").write_text(text)
    ended = run("serve", project, "--port", "0", "--token-file", "tokens")
    assert ended.code == 1
    assert message in ended.err


def test_serve_rejects_a_policy_with_errors(run, tmp_path):
    (tmp_path / "bad.policy").write_text("anyone { may GET /health when nonsense }\n")
    ended = run("serve", "bad.policy", "--port", "0")
    assert ended.code == 1
    assert "bad.policy:1:" in ended.err


def test_serve_with_a_socket_opens_no_port_by_default(serving, tmp_path):
    path = tmp_path / "policy.sock"
    process = serving("--socket", str(path), port=False)
    assert process.stdout.readline() == f"listening on {path}\n"
    assert [process.stdout.readline().split(":")[0] for _ in range(3)] == ["packages", "revision", "rules"]
    with SocketClient(path, timeout=30) as client:
        assert client.decide({"request": {"method": "GET", "path": "/health"}}).allowed
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    assert not path.exists()


def test_serve_can_listen_at_a_socket_and_a_port(serving, tmp_path):
    path = tmp_path / "policy.sock"
    said = json.loads(serving("--socket", str(path), "--socket-mode", "660", "--format", "json").stdout.readline())
    assert said["socket"] == str(path)
    assert decide(said["listening"]) == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


@pytest.mark.parametrize("mode", ["rw", "9", "0o600", "77777"])
def test_serve_rejects_an_invalid_socket_mode(run, project, mode):
    ended = run("serve", project, "--socket", "a.sock", "--socket-mode", mode)
    assert ended.code == 2
    assert f"`{mode}` is not a file mode" in ended.err


def test_a_folder_for_learned_behavior_and_a_shared_store_exclude_each_other(run, tmp_path):
    guard = 'guard "g" on GET /a { deny when behavior.burst }'
    (tmp_path / "learning.policy").write_text(f"language 1\npackage p\nanyone {{ may GET /a }}\n{guard}\n")
    ended = run("serve", "learning.policy", "--store", "sqlite:///store.db", "--behavior", "folder")
    assert ended.code == 1
    assert "the store keeps what is learned about callers, for all processes that share the store" in ended.err


def test_a_file_that_is_not_a_socket_is_not_replaced(run, project, tmp_path):
    (tmp_path / "precious").write_text("data")
    ended = run("serve", project, "--socket", "precious")
    assert ended.code == 1
    assert "`precious` exists and is not a socket" in ended.err
    assert (tmp_path / "precious").read_text() == "data"


def test_serve_rejects_several_workers_for_a_policy_that_confirms(run, project, tmp_path):
    (tmp_path / "confirms.policy").write_text(
        "language 1\npackage a\nentity user { roles: set<string> }\nanyone { may GET /health }\n"
        'guard "ask" on GET /health { confirm by role finance within 15m }\n'
    )
    ended = run("serve", "confirms.policy", "--port", "0", "--workers", "2")
    assert ended.code == 1
    assert "policies with `confirm`, limits, history or learned behavior need one worker" in ended.err


def test_the_printed_curl_command_has_a_placeholder_for_a_named_token(serving, tmp_path):
    """What stands in the file is no token by itself, so the command to try has a place for one."""
    (tmp_path / "tokens").write_text("edge: a-token-of-the-edge-gateway\n")
    (tmp_path / "tokens").chmod(0o600)
    process = serving("--token-file", str(tmp_path / "tokens"))
    lines = [process.stdout.readline() for _ in range(5)]
    assert 'authorization: Bearer $TOKEN"' in lines[-1]
    assert decide(lines[0].split()[-1], authorization="Bearer a-token-of-the-edge-gateway") == 200


# ── Observing ─────────────────────────────────────────────────────────────────────────────────


def test_observe_mode_is_reported_at_startup_at_readyz_and_in_decisions(serving):
    process = serving("--observe", "--observe-until", "1h", "--format", "json")
    said = json.loads(process.stdout.readline())
    warnings = [process.stderr.readline() for _ in range(3)]
    assert warnings[0].startswith("warning: OBSERVING, NOT ENFORCING, until ")
    assert warnings[1].startswith("warning: no decisions are recorded: name a file with `--log`")
    assert warnings[2].startswith("warning: each restart begins a new period")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{said['listening']}/readyz", timeout=30) as answer:
        assert json.loads(answer.read())["observing"] == said["observing"]
    question = {"request": {"method": "GET", "path": "/x"}, "agent": {"id": "a", "issuer": "b"}}
    asked = urllib.request.Request(
        f"{said['listening']}/decide", json.dumps(question).encode(), {"content-type": "application/json"}
    )
    with opener.open(asked, timeout=30) as answer:
        found = json.loads(answer.read())
    assert (found["outcome"], found["would_be"]) == ("allow", "deny")


def observed(project, *, option=None, until=None, endpoints=()):
    engine = load_engine([project], None)
    start_observing(engine, ObserveOptions(option, until, (), endpoints), load_settings([project]).observe)
    return engine.observing


def test_observe_options_override_the_settings_file(project, capsys):
    (project / "policyengine.toml").write_text('[observe]\nuntil = "1h"\nendpoints = ["GET /v1/**"]\n')
    assert observed(project).endpoints == ("GET /v1/**",)
    assert observed(project, endpoints=("/v2/**",)).endpoints == ("/v2/**",)
    assert observed(project, option=False) is None
    (project / "policyengine.toml").write_text("")
    assert observed(project) is None


def test_an_expired_observe_period_enforces_everything(project, capsys):
    (project / "policyengine.toml").write_text("[observe]\nuntil = 2026-01-01T00:00:00Z\n")
    assert observed(project) is None
    assert "observe mode ended at 2026-01-01T00:00:00+00:00: every decision is enforced" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--observe"], "observe mode needs an end, after which policies are enforced"),
        (["--observe-until", "1h"], "nothing is observed, so there is nothing to limit"),
        (["--no-observe", "--observe-package", "x"], "nothing is observed, so there is nothing to limit"),
        (["--observe", "--observe-until", "tomorrow"], "`tomorrow` is not a time or a duration"),
        (["--observe", "--observe-until", "2026-12-01T00:00"], "`2026-12-01T00:00` is not a time or a duration"),
        (["--observe", "--observe-until", "91d"], "would last longer than 90d"),
        (["--observe", "--observe-until", "1h", "--observe-package", "nobody"], "there is no package `nobody`"),
        (["--observe", "--observe-until", "1h", "--observe-endpoint", "GET v1"], "`GET v1` is not an endpoint"),
    ],
)
def test_serve_rejects_invalid_observe_options(run, project, options, message):
    ended = run("serve", project, *options)
    assert ended.code == 2
    assert message in ended.err


@pytest.mark.parametrize(
    "written", ["until = 1", "until = 2026-12-01", 'until = ""', "packages = 1", "endpoints = [1]"]
)
def test_serve_rejects_invalid_observe_settings_in_the_file(run, project, written):
    (project / "policyengine.toml").write_text(f"[observe]\n{written}\n")
    ended = run("serve", project)
    assert ended.code == 1
    assert f"policyengine.toml:2:1: `{written.partition(' ')[0]}` must be" in ended.err


# ── AuthZEN ───────────────────────────────────────────────────────────────────────────────────


def metadata(process: subprocess.Popen) -> dict[str, object]:
    url = process.stdout.readline().split()[-1]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/.well-known/authzen-configuration", timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("name", ["http://pdp.example", "pdp.example:8080", ""])
def test_serve_rejects_an_invalid_allowed_host(project, capsys, name):
    assert main(["serve", str(project), "--port", "0", "--allowed-host", name]) == 2
    assert f"`{name}` is not a host name" in capsys.readouterr().err


def test_the_public_url_appears_in_the_authzen_metadata(serving):
    found = metadata(serving("--public-url", "https://pdp.example.com/"))
    assert found["policy_decision_point"] == "https://pdp.example.com"


@pytest.mark.parametrize(
    "url", ["pdp.example.com", "ftp://x", "https://x?y", "https://", "https://u@x", "https://x/a b"]
)
def test_serve_rejects_an_invalid_public_url(project, capsys, url):
    assert main(["serve", str(project), "--port", "0", "--public-url", url]) == 2
    assert f"`{url}` is not a server URL" in capsys.readouterr().err


# ── The policies' own tests ───────────────────────────────────────────────────────────────────


def test_serve_with_test_starts_only_if_the_policy_tests_pass(serving, project, capsys):
    (project / "some_test.policy").write_text('test "open" { GET /health => allow   GET /other => deny }\n')
    process = serving("--test", "--format", "json")
    assert json.loads(process.stdout.readline())["tests"] > 2
    process.kill()
    (project / "some_test.policy").write_text('test "shut" { GET /health => deny }\n')
    assert main(["serve", str(project), "--port", "0", "--test"]) == 1
    told = capsys.readouterr().err
    assert "some_test.policy:1" in told
    assert re.search(r"error: nothing is served: 1 of \d+ test requests failed", told)
    assert "hint: `policyengine test" in told


def test_serve_with_test_rejects_a_bundle(project, tmp_path, capsys):
    bundle = tmp_path / "p.policybundle"
    assert main(["compile", str(project), "-o", str(bundle)]) == 0
    capsys.readouterr()
    assert main(["serve", str(bundle), "--port", "0", "--test"]) == 2
    assert "a bundle contains no tests" in capsys.readouterr().err


# ── Where its state is ────────────────────────────────────────────────────────────────────────

RATE = 'anyone { may GET /x } rate "r" per request.ip { 2/1m }'


@pytest.mark.parametrize(
    ("policy", "host", "store", "told"),
    [
        (RATE, "0.0.0.0", "memory:", True),
        (RATE, "127.0.0.1", "memory:", False),
        (RATE, "0.0.0.0", "sqlite:///store.db", False),
        ("anyone { may GET /x }", "0.0.0.0", "memory:", False),
    ],
)
def test_serve_warns_about_state_in_memory_at_a_public_address(run, tmp_path, monkeypatch, policy, host, store, told):
    """Nothing listens: what a listener would say is said of an address alone."""
    (tmp_path / "a.policy").write_text(policy)
    (tmp_path / "tokens").write_text("edge: a-token-of-the-gateway\n")
    monkeypatch.setattr("policyengine.server.serve", lambda *_, listening, **__: listening(f"http://{host}:8080"))
    words = ("serve", "a.policy", "--host", host, "--token-file", "tokens", "--store", store)
    assert ("state is kept in memory: counts" in run(*words).out) is told
    assert json.loads(run(*words, "--format", "json").out).get("state_in_memory", False) is told


def test_serve_prints_its_metrics_port_its_port_for_envoy_and_its_store(run, tmp_path, monkeypatch):
    (tmp_path / "a.policy").write_text(RATE)
    monkeypatch.setattr("policyengine.server.serve", lambda *_, listening, **__: listening("http://127.0.0.1:8080"))
    words = ("serve", "a.policy", "--store", "sqlite:///store.db")
    ports = ("--metrics-port", "9100", "--envoy-grpc", "9001")
    assert run(*words, *ports).out.splitlines()[:7] == [
        "listening on http://127.0.0.1:8080",
        "metrics:  http://127.0.0.1:9100/metrics",
        "envoy:    127.0.0.1:9001 (gRPC)",
        *run(*words).out.splitlines()[1:4],
        "store:    sqlite:///store.db",
    ]
    told = json.loads(run(*words, *ports, "--format", "json").out)
    assert {name: told[name] for name in ("metrics", "envoy_grpc", "store")} == {
        "metrics": "http://127.0.0.1:9100/metrics", "envoy_grpc": "127.0.0.1:9001", "store": "sqlite:///store.db",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        ("anyone { may GET /health }", ("GET", "/health")),
        ("issuer a { scopes none }\nuser any { may POST|PATCH /v1/{x}/y }\nanyone { may POST /h/** }", ("POST", "/h")),
        (
            'issuer a { scopes none }\nagent "b" { issued by a   acts alone   may PATCH /q/{id}:go }',
            ("PATCH", "/q/1:go"),
        ),
        ("anyone { may TOOL x/y }", ("GET", "/")),
    ],
)
def test_the_request_to_try_is_for_an_endpoint_of_the_policy(policy, asked):
    method, path = asked
    question = json.loads(sample_question(Engine.from_text(policy).kernel))
    assert question == {"request": {"method": method, "path": path}}


def test_serve_warns_of_a_console_without_a_port(run, project, monkeypatch):
    (project / "policyengine.toml").write_text('[console]\nview = ["*"]\n')
    monkeypatch.setattr("policyengine.server.serve", lambda *_, **given: print(given["console"]))
    ended = run("serve", project, "--port", "0")
    assert (ended.out, ended.err.splitlines()[0]) == (
        "None\n",
        "warning: `[console]` has no `port`, so this server has no console",
    )


def test_serve_refuses_an_issuer_of_approvers_that_no_policy_names(run, project):
    (project / "policyengine.toml").write_text('[approvals]\nissuers = ["acne"]\n')
    (project / "people.policy").write_text(
        'language 1\npackage people\nissuer acme { url "https://login.acme.example" }\n'
    )
    ended = run("serve", project / "people.policy", "--port", "0")
    assert ended.code == 1
    assert ended.err == (
        "error: `[approvals] issuers`: no policy names the issuer `acne`\nhint: did you mean `acme`?\n"
    )
