"""`policyengine serve --console`: its listener, its settings, several workers, and what it costs without a console."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyengine.cli import main
from tests import forking
from tests.console.answering import POLICY
from tests.console.world import Provider, StartedLogin, Visitor
from tests.processes import wait_until
from tests.server.processes import started
from tests.server.test_workers import workers_of

OPEN = 'language 1\npackage shop\nissuer acme { url "URL" scopes none }\nanyone { may GET /health }\n'
PIPES: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
ASK = {"request": {"method": "GET", "path": "/health"}}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "shop.policy"
    file.write_text(OPEN.replace("URL", "https://issuer.example"))
    return file


class Served:
    """A server process, and what it has printed about its listeners."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.urls: dict[str, str] = {}

    def read(self, *names: str) -> None:
        """Read lines until all of these were printed."""
        assert self.process.stdout is not None
        while not set(names) <= set(self.urls):
            line = self.process.stdout.readline()
            assert line, self.process.communicate()
            printed = json.loads(line)
            self.urls |= {name: url for name, url in printed.items() if name in ("listening", "console", "sign_in")}

    def decide(self) -> int:
        return httpx.post(f"{self.urls['listening']}/decide", json=ASK, trust_env=False).status_code

    def ask(self, question: Any) -> Any:
        return httpx.post(f"{self.urls['listening']}/decide", json=question, trust_env=False).json()

    def operator(self) -> Visitor:
        visitor = Visitor(self.urls["console"])
        assert visitor.sign_in_with(self.urls["sign_in"]).status == 303
        return visitor

    def stop(self) -> tuple[str, str]:
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=30)


@contextmanager
def serving(policy: Path, *options: str, links: bool = True) -> Iterator[Served]:
    words = ["serve", str(policy), "--port", "0", "--console", "0", "--format", "json", *options]
    with forking.popen([sys.executable, "-c", forking.COMMAND, *words], cwd=policy.parent, **PIPES) as process:
        served = Served(process)
        try:
            served.read("listening", "console", *(["sign_in"] if links else []))
            yield served
        finally:
            process.kill()


def count(visitor: Visitor) -> Any:
    return json.loads(visitor.get("/counts").text)["outcomes"]["allow"]


def test_the_console_has_a_listener_of_its_own(policy: Path, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    with serving(policy, "--log", str(log)) as served:
        visitor = served.operator()
        assert served.decide() == 200
        assert count(visitor) == 1
        page = visitor.get("/log")
        assert "GET /health" in page.text
        [decision] = set(re.findall(r"/decisions/(\w{26})", page.text))
        assert "holds: " in visitor.get(f"/decisions/{decision}").text
        decisions = Visitor(served.urls["listening"], visitor.cookies)
        for path in ("/sign-in", "/log", "/counts", "/sign-in/link?secret=x", "/static/console.css"):
            assert decisions.get(path).status == 404
        for path in ("/decide", "/healthz", "/metrics"):
            assert visitor.get(path).status == 404
        out, err = served.stop()
        assert (out, err) == ("", "")
    assert served.urls["sign_in"].rpartition("secret=")[2] not in log.read_text()
    assert '"console_signed_in"' in log.read_text()


def test_with_several_workers_one_console_counts_for_all(policy: Path, tmp_path: Path) -> None:
    with serving(policy, "--workers", "2", "--log", str(tmp_path / "d.jsonl")) as served:
        visitor = served.operator()
        for _ in range(20):
            assert served.decide() == 200
        assert [count(visitor) for _ in range(5)] == [20] * 5
        first = served.urls["sign_in"]
        os.kill(workers_of(served.process)[0], signal.SIGKILL)
        served.urls.pop("sign_in")
        served.read("sign_in")
        assert served.urls["sign_in"] != first
        assert visitor.get("/").status == 303  # sessions ended with the process
        assert served.operator().get("/").status == 200
        wait_until(lambda: len(workers_of(served.process)) == 2)
        _, err = served.stop()
        assert "Traceback" not in err


def test_a_person_with_a_link_approves_and_halts_at_a_server_of_two_workers(tmp_path: Path) -> None:
    """With the real processes: the console in the first worker, a store that both share, and the reader of the log."""
    policy, entities = tmp_path / "shop.policy", tmp_path / "entities.json"
    policy.write_text(POLICY.format(url="https://issuer.example"))
    entities.write_text(json.dumps({"entities": [{"type": "user", "id": "fay", "attributes": {"roles": ["finance"]}}]}))
    (tmp_path / "policyengine.toml").write_text('[console]\nlink_user = "fay"\nlink_issuer = "acme"\n')
    options = ["--entities", str(entities), "--store", f"sqlite:///{tmp_path}/state.db", "--log", str(tmp_path / "log")]
    asked = {
        "request": {"method": "POST", "path": "/refunds"}, "agent": {"id": "bot", "issuer": "acme"},
        "user": {"id": "alice"}, "body": {"amount": 900}, "options": {"request_approval": True},
    }  # fmt: skip
    with serving(policy, *options, "--workers", "2") as served:
        visitor = served.operator()
        [remedy] = served.ask(asked)["remedies"]
        path = f"/approvals/{remedy['approval']['id']}"
        page = visitor.get(path)
        assert "Decisions: 1 confirm" in page.text
        assert path in visitor.get("/approvals").text
        assert visitor.post(f"{path}/approve", {"csrf": page.field("csrf")}).status == 200
        assert [served.ask(asked)["outcome"] for _ in range(2)] == ["allow", "confirm"]
        assert "POST /refunds" in visitor.get("/traffic").text
        form = {"agent": "bot", "reason": "enough", "end": "1h"}
        page = visitor.post("/halts/check", {"csrf": page.field("csrf"), **form})
        assert "would have covered <b>3</b> of them" in page.text
        assert visitor.post("/halts", {"csrf": page.field("csrf"), "once": page.field("once"), **form}).status == 201
        wait_until(lambda: {served.ask(asked)["gate"] for _ in range(8)} == {"halted"})
        _, err = served.stop()
        assert "Traceback" not in err


def test_the_settings_are_in_the_settings_file(policy: Path, tmp_path: Path, provider: Provider) -> None:
    policy.write_text(OPEN.replace("URL", provider.url))
    secret = tmp_path / "secret"
    secret.write_text("the client secret\n")
    secret.chmod(0o600)
    (tmp_path / "policyengine.toml").write_text(
        '[console]\nissuer = "acme"\nclient_id = "console"\nclient_secret_file = "secret"\nview = ["id:alice"]\n'
        'scopes = ["email"]\n'
    )
    with serving(policy, links=False) as served:
        visitor = Visitor(served.urls["console"])
        login = StartedLogin.of(visitor)
        assert login.asked["scope"] == "openid email"
        assert login.answer(code=provider.code(login.asked["nonce"])).status == 303
        assert visitor.get("/").status == 200
        out, err = served.stop()
        assert "sign_in" not in served.urls
        assert "secret" not in out + err
    assert provider.headers[0]["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('issuer = "acme"', "`[console] issuer` needs a `[console] client_id`"),
        ('client_id = "console"', "`[console] client_id` has no effect without `[console] issuer`"),
        ('issuer = "acmee"\nclient_id = "c"\nview = ["*"]', "no policy names the issuer `acmee`"),
        ('issuer = "acme"\nclient_id = "c"', "no person may use the console"),
        ('issuer = "acme"\nclient_id = "c"\nview = ["ops"]', "`view` must be a list of rules"),
        ('issuer = "acme"\nclient_id = "c"\nclient_secret_file = "none"', "cannot read"),
        ('host = "0.0.0.0"', "people must sign in at an issuer, over HTTPS"),
        ("idle_minutes = 0", "`idle_minutes` must be a whole number of minutes, from 1 to 1440"),
        ('client_auth = "none"', "`client_auth` must be"),
    ],
)
def test_wrong_settings_start_no_server(
    policy: Path, settings: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (policy.parent / "policyengine.toml").write_text(f"[console]\n{settings}\n")
    assert main(["serve", str(policy), "--port", "0", "--console", "0"]) == 1
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_an_error(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(policy) as served:
        port = served.urls["console"].rpartition(":")[2]
        assert main(["serve", str(policy), "--port", "0", "--console", port]) == 1
        printed = capsys.readouterr().err
        assert f"port {port} on `127.0.0.1` is in use" in printed
        assert "--console" in printed


def test_the_text_summary_names_the_console_and_the_link(policy: Path) -> None:
    command = [*forking.command(), "serve", str(policy), "--port", "0", "--console", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(7)]
        process.kill()
    assert re.fullmatch(r"console:  http://127\.0\.0\.1:\d+\n", lines[-2])
    assert re.fullmatch(
        r"sign in:  http://127\.0\.0\.1:\d+/sign-in/link\?secret=[\w-]{43} \(once, within five minutes\)\n", lines[-1]
    )


def test_a_server_without_a_console_imports_nothing_of_it() -> None:
    code = """
import sys
from policyengine.engine import Engine
from policyengine.server import serve
def listening(url):
    console = [name for name in sys.modules if "console" in name.removeprefix("rich.") and name.startswith("policy")]
    print(console + [name for name in sys.modules if name.startswith(("joserfc", "policyengine.identity.login"))])
    sys.stdout.flush()
serve(Engine.from_text("anyone { may GET /health }"), port=0, listening=listening)
"""
    with started(code, fresh=True) as (printed, process):
        assert printed == "[]"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_the_child_that_reads_the_log_imports_neither_server_nor_web_framework() -> None:
    code = "import sys, policyengine.audit.query.log_process; print(sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    loaded = ran.stdout
    for name in ("fastapi", "starlette", "uvicorn", "rich", "typer", "policyengine.server"):
        assert f"'{name}'" not in loaded
