"""An agent asks for a refund through Envoy, a person approves it in the console, and the log proves the decision.

    python deploy/identity/demo_approvals.py FOLDER ENVOY [PORT] [--by-hand]   # `make demo-approvals`

FOLDER contains node_modules/oidc-provider, and ENVOY is the program. The servers listen on PORT, by default 18251, and
the five ports after it. With `--by-hand`, you sign in and approve in your browser. Everything runs on this machine and
stops with this script.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urljoin

import httpx
from demo import MOST_PAGES, attribute, form_fields, running

HERE = Path(__file__).parent
EXAMPLE = HERE.parent.parent / "policies" / "examples" / "approvals"
PORT = 18251  # of the issuer in the policy
POLICYENGINE = Path(sys.executable).with_name("policyengine")
SETTINGS = """
[serve]
port = {api}
envoy_grpc = {grpc}
identity = "identity.toml"
entities = ["entities.json"]

[log]
file = "decisions.jsonl"

[store]
url = "sqlite:///state.db"

[approvals]
url = "http://127.0.0.1:{api}"

[gateway]
bodies = ["envoy_grpc"]

[console]
port = {console}
public_url = "http://127.0.0.1:{console}"
issuer = "staff"
client_id = "console"
client_secret_file = "console.secret"
view = ["roles:finance"]
approve = ["roles:finance"]
"""
SECONDS_TO_START = 30


@dataclass(frozen=True)
class Ports:
    """The ports of the demo, which follow each other."""

    provider: int

    @property
    def console(self) -> int:
        return self.provider + 1

    @property
    def api(self) -> int:
        return self.provider + 2

    @property
    def grpc(self) -> int:
        return self.provider + 3

    @property
    def envoy(self) -> int:
        return self.provider + 4

    @property
    def upstream(self) -> int:
        return self.provider + 5


@contextmanager
def project(ports: Ports) -> Iterator[Path]:
    """Yield a folder with the policies, the settings and the configuration of Envoy, for these ports."""
    with TemporaryDirectory() as folder:
        for file in EXAMPLE.iterdir():
            text = file.read_text(encoding="utf-8").replace(str(PORT), str(ports.provider))
            Path(folder, file.name).write_text(text, encoding="utf-8")
        settings = SETTINGS.format(api=ports.api, grpc=ports.grpc, console=ports.console)
        Path(folder, "policyengine.toml").write_text(settings, encoding="utf-8")
        secret = Path(folder, "console.secret")
        secret.write_text("demo-secret-of-the-console", encoding="utf-8")
        secret.chmod(0o600)
        envoy = (HERE.parent / "envoy" / "grpc.yaml").read_text(encoding="utf-8")
        for shown, port in (("8000", ports.envoy), ("9000", ports.upstream), ("8081", ports.grpc)):
            envoy = envoy.replace(f"port_value: {shown}", f"port_value: {port}")
        Path(folder, "envoy.yaml").write_text(envoy, encoding="utf-8")
        yield Path(folder)


@contextmanager
def background(*command: str | Path, log: Path) -> Iterator[None]:
    """Run a server inside the block; its output goes to a file."""
    with log.open("wb") as output, subprocess.Popen(list(map(str, command)), stdout=output, stderr=output) as server:
        try:
            yield
        finally:
            server.terminate()


@dataclass
class RefundAgent:
    """An agent that asks for refunds through Envoy, with a token of the provider."""

    envoy: str
    provider: str

    def token(self) -> str:
        form = {"grant_type": "client_credentials", "scope": "refunds", "resource": "urn:refunds"}
        client = httpx.BasicAuth("refund-agent", "demo-secret-of-the-agent")
        answer = httpx.post(f"{self.provider}/token", data=form, auth=client, trust_env=False)
        return str(answer.raise_for_status().json()["access_token"])

    def refund(self, amount: int) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token()}"}
        path = f"{self.envoy}/orders/17/refunds"
        return httpx.post(path, json={"amount": amount}, headers=headers, trust_env=False)

    def wait_for_envoy(self) -> None:
        """Wait until Envoy answers. Raises SystemExit if it does not."""
        until = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < until:
            try:
                httpx.get(f"{self.envoy}/", trust_env=False)
            except httpx.TransportError:
                time.sleep(0.1)
            else:
                return
        raise SystemExit(f"Envoy did not start within {SECONDS_TO_START} s; if its port is in use, choose another port")


def approve(page: str, person: str) -> str:
    """Sign in at the provider as a person does, approve on the page, and return the title of the page that follows.
    Raises SystemExit if a page is unexpected."""
    with httpx.Client(trust_env=False, follow_redirects=True) as browser:
        shown = browser.get(page)
        shown = browser.get(urljoin(str(shown.url), sign_in_link(shown.text)))
        for _ in range(MOST_PAGES):
            if str(shown.url) == page:
                break
            form = form_fields(shown.text, person)
            shown = browser.post(urljoin(str(shown.url), attribute("action", shown.text)), data=form)
        else:
            raise SystemExit(f"the provider shows more than {MOST_PAGES} pages")
        found = re.search(
            r'action="(/approvals/\w+/approve)">\s*<input type="hidden" name="csrf" value="([^"]+)"', shown.text
        )
        if found is None:
            raise SystemExit(f"{person} may not approve on {page}")
        answer = browser.post(
            urljoin(page, found[1]), data={"csrf": unescape(found[2])}, headers={"origin": origin(page)}
        )
        title = re.search("<h1>(.*?)</h1>", answer.raise_for_status().text)
        return "" if title is None else unescape(title[1])


def sign_in_link(html: str) -> str:
    found = re.search(r'class="button" href="([^"]+)"', html)
    if found is None:
        raise SystemExit("the console shows no link to sign in")
    return unescape(found[1])


def origin(url: str) -> str:
    return str(httpx.URL(url).copy_with(raw_path=b"")).rstrip("/")


def wait_by_hand(approval: dict[str, Any]) -> None:
    """Wait until a person has answered in a browser. Raises SystemExit if the approval ends without a yes."""
    print(f"  open {approval['page']} and sign in as fiona, with any password", flush=True)
    state = "pending"
    while state == "pending":
        answer = httpx.get(f"{approval['status']}?wait=30", timeout=60, trust_env=False).raise_for_status().json()
        state = answer["state"]
    if state != "approved":
        raise SystemExit(f"the approval is {state}")


def prove(folder: Path, decision: str) -> str:
    """Prove that a decision is in the sealed log, check the proof without the log, and return what it proves. Raises
    SystemExit if the check fails."""
    log, proof = folder / "decisions.jsonl", folder / "decision.tlog-proof"
    prove, until = ("audit", "prove", decision, "--log", log, "-o", proof), time.monotonic() + SECONDS_TO_START
    while (done := run_policyengine(*prove)).returncode:  # the checkpoint that covers the decision follows it
        if time.monotonic() > until:
            raise SystemExit(done.stderr)
        time.sleep(0.5)
    done = run_policyengine("audit", "check", proof, "--key", f"{log}.tlog/vkey", "--format", "json")
    if done.returncode:
        raise SystemExit(done.stderr)
    record = json.loads(done.stdout)["record"]
    asked = record["request"]["request"]
    return f"{record['decision']['outcome']} {asked['method']} {asked['path']}"


def run_policyengine(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(POLICYENGINE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def show(attempt: str, answer: httpx.Response) -> None:
    show_step(
        attempt, f"{answer.status_code}" if answer.is_success else f"{answer.status_code} {answer.json()['detail']}"
    )


def show_step(step: str, result: str) -> None:
    print(f"{step:<44} {result}", flush=True)


def main(folder: str, envoy: str, port: int, *, by_hand: bool) -> None:
    ports = Ports(port)
    console = f"http://127.0.0.1:{ports.console}"
    with ExitStack() as stack:
        command = ("node", HERE / "provider.mjs", Path(folder).resolve(), str(port), console)
        provider = stack.enter_context(running(*command))
        files = stack.enter_context(project(ports))
        envoy = str(Path(envoy).resolve())
        os.chdir(files)
        stack.enter_context(
            background(sys.executable, HERE.parent / "upstream.py", str(ports.upstream), log=files / "upstream.log")
        )
        served = stack.enter_context(running(POLICYENGINE, "serve", ".", "--format", "json"))
        if "listening" not in json.loads(served):
            raise SystemExit("`policyengine serve` exited; if one of its ports is in use, choose other ports")
        options = ("-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart")
        stack.enter_context(background(Path(envoy), *options, log=files / "envoy.log"))
        agent = RefundAgent(f"http://127.0.0.1:{ports.envoy}", provider)
        agent.wait_for_envoy()
        show("The agent refunds 90", agent.refund(90))
        asked = agent.refund(900)
        show("It refunds 900", asked)
        approval = asked.json()["remedies"][0]["approval"]
        if by_hand:
            wait_by_hand(approval)
        else:
            show_step("Fiona signs in, and approves on the page", approve(approval["page"], "fiona"))
        show("The agent refunds 901 instead", agent.refund(901))
        passed = agent.refund(900)
        show("It asks for the 900 again", passed)
        show("It asks for the 900 once more", agent.refund(900))
        headers = {name.lower(): value for name, value in passed.json()["headers"]}
        show_step("The log proves the decision", prove(files, headers["x-decision-id"]))


if __name__ == "__main__":
    given = [one for one in sys.argv[1:] if one != "--by-hand"]
    if len(given) not in (2, 3) or not all(one.isdigit() for one in given[2:]):
        raise SystemExit(__doc__)
    main(given[0], given[1], int(given[2]) if len(given) == 3 else PORT, by_hand="--by-hand" in sys.argv[1:])
