"""Requests that wait for people behind every real gateway: an agent asks and is refused with a link, a person approves
over the API with a token of an issuer, and the same request passes once.

Two servers share a store: one answers the gateways, and one verifies the tokens of people.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateways.servers import (
    DEPLOY,
    KINDS,
    Answer,
    Gateway,
    Kind,
    Upstream,
    engine_process,
    gateway,
)
from tests.gateways.test_gateways import JSON, READER, WRITER
from tests.ports import free_port
from tests.processes import wait_until
from tests.server.approving import ACME, AUDIENCE, bearer, key, token

POLICY = f"""
language 1
package desk
entity user {{ roles: set<string> }}
facts on POST /pay {{ body.amount: number }}
issuer acme {{ url "{ACME}"   audience "{AUDIENCE}"   scopes none }}
users unrestricted
agent "invoice-bot" {{ issued by acme   acts for any user   may GET /export, GET /short, POST /pay }}
agent "report-bot" {{ issued by acme   acts for any user   may GET /export }}
guard "export" on GET /export {{
  confirm by role finance within 15m bound to (request.query) message "an export of {{request.query.year}}"
}}
guard "short" on GET /short {{ confirm by role finance within 1s bound to (request.query) }}
guard "pay" on POST /pay {{ confirm by role finance within 15m when body.amount > 500 }}
"""
IDENTITY = """
[issuers.acme]
keys = "acme.json"
types = ["at+jwt"]
people = ["portal"]
"""
CAROL = {"type": "user", "id": "carol", "attributes": {"roles": ["finance"]}}
YEARS = count(1970)  # each test asks for another export
PATIENCE = 30.0


@dataclass
class Servers:
    """Both servers: `ports` are those of the gateways' one, `people` is the URL of the other."""

    folder: Path
    processes: list[subprocess.Popen[str]]
    ports: tuple[int, int]
    people: str
    token: str = field(default_factory=lambda: token(iat=int(time.time()) - 10, exp=int(time.time()) + 3_600))

    def answer(self, id: str, verb: str = "approve") -> dict[str, Any]:
        answered = httpx.post(f"{self.people}/approvals/{id}/{verb}", headers=bearer(self.token))
        assert answered.status_code == 200, answered.text
        found: dict[str, Any] = answered.json()
        return found

    def change_a_rule(self) -> None:
        """Reload both servers with other rules."""
        before = self.revisions()
        (self.folder / "desk.policy").write_text(POLICY.replace("within 15m", "within 16m"))
        for process in self.processes:
            process.send_signal(signal.SIGHUP)
        wait_until(lambda: not set(self.revisions()) & set(before))

    def revisions(self) -> list[str]:
        urls = (f"http://127.0.0.1:{self.ports[0]}", self.people)
        return [httpx.get(f"{url}/readyz").json()["revision"] for url in urls]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder, port = tmp_path_factory.mktemp("approving"), free_port()
    policies, url = folder / "policies", f"http://127.0.0.1:{port}"
    policies.mkdir()
    (policies / "desk.policy").write_text(POLICY)
    settings = f'[approvals]\nurl = "{url}"\nmost_per_requester = 1000\nmost_per_approver = 2000\n'
    (policies / "policyengine.toml").write_text(settings)
    (folder / "acme.json").write_text(json.dumps({"keys": [{**key("acme").as_dict(private=False), "use": "sig"}]}))
    (folder / "identity.toml").write_text(IDENTITY)
    (folder / "entities.json").write_text(json.dumps({"entities": [CAROL]}))
    shared = [
        str(policies),
        "--entities",
        str(folder / "entities.json"),
        "--store",
        f"sqlite:///{folder}/state.db",
        "--reload-compare",
        "0",
    ]
    with (
        engine_process(*shared) as (deciding, ports),
        engine_process(*shared, "--identity", str(folder / "identity.toml"), port=port) as (verifying, _),
    ):
        yield Servers(policies, [deciding, verifying], ports, url)


def with_two_agents(text: str) -> str:
    """Return the configuration in which the second key of the demonstration belongs to another agent."""
    if '"~." invoice-bot' in text:  # nginx
        return text.replace('"~." invoice-bot', "writer invoice-bot; reader report-bot")
    before, _, after = text.rpartition("invoice-bot")
    return f"{before}report-bot{after}" if before else text


@dataclass
class Desk:
    """A gateway, and the approvals that its requests open."""

    web: Gateway
    servers: Servers
    short: str  # an approval that counted for a second from the start of the tests of this gateway on

    def ask(self, target: str, *headers: str, **more: Any) -> Answer:
        self.web.api.taken()
        answer = self.web.client.ask(target, *(headers or (WRITER,)), **more)
        assert (len(self.web.api.taken()) == 1) == (answer.status == 200)
        return answer

    def opened(self, target: str, *headers: str, **more: Any) -> str:
        answer = self.ask(target, *headers, **more)
        assert (answer.status, answer.problem["approval"]["state"]) == (403, "pending")
        id: str = answer.problem["approval"]["id"]
        return id


@pytest.fixture(scope="module")
def desk(kind: Kind, servers: Servers, api: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with gateway(kind, tmp_path_factory.mktemp(kind.name), api, servers.ports, None, with_two_agents) as web:
        found = Desk(web, servers, "")
        found.short = found.opened(f"/short?gateway={kind.name}")
        servers.answer(found.short)
        yield found


@pytest.fixture
def export() -> str:
    return f"/export?year={next(YEARS)}"


def test_a_confirm_is_a_403_with_the_approval_in_its_body_and_a_link_in_its_head(desk: Desk, export: str) -> None:
    answer = desk.ask(export)
    problem = answer.problem
    assert (answer.status, problem["status"], problem["outcome"]) == (403, 403, "confirm")
    assert (problem["type"], problem["title"]) == ("about:blank", "Approval Needed")
    assert problem["detail"] == f'an export of "{export.partition("=")[2]}"'
    approval = problem["approval"]
    assert approval == problem["remedies"][0]["approval"]
    assert set(approval) == {"id", "state", "status", "expires", "poll"}
    assert answer.headers["link"] == f'<{approval["status"]}>; rel="status"'
    status = httpx.get(approval["status"]).json()  # as any client can
    assert (status["id"], status["state"], status["expires"]) == (approval["id"], "pending", approval["expires"])


def test_the_approved_request_passes_once(desk: Desk, export: str) -> None:
    id = desk.opened(export)
    assert desk.opened(export) == id
    desk.servers.answer(id)
    assert desk.ask(export).status == 200
    assert desk.opened(export) != id


def test_a_denied_request_does_not_pass(desk: Desk, export: str) -> None:
    id = desk.opened(export)
    desk.servers.answer(id, "deny")
    for _ in range(2):
        answer = desk.ask(export)
        assert (answer.status, answer.problem["approval"]["id"]) == (403, id)
        assert answer.problem["approval"]["state"] == "denied"


def test_an_approval_lets_no_other_query_pass(desk: Desk, export: str) -> None:
    desk.servers.answer(desk.opened(export))
    for other in ("0", "&year=1", "&all=1"):
        assert desk.ask(f"{export}{other}").status == 403
    assert desk.ask(export).status == 200


def test_an_approval_lets_no_other_body_pass(desk: Desk) -> None:
    amount = 1_000 + next(YEARS)
    more: dict[str, Any] = {"method": "POST", "body": b'{"amount": %d}' % amount}
    if not desk.web.kind.sees_body:
        answer = desk.ask("/pay", WRITER, JSON, **more)
        assert (answer.status, answer.problem["outcome"]) == (403, "deny")
        assert "approval" not in answer.problem
        return
    desk.servers.answer(desk.opened("/pay", WRITER, JSON, **more))
    for other in (b'{"amount": %d}' % (amount + 1_000), b'{"amount": %d, "to": "x"}' % amount):
        assert desk.ask("/pay", WRITER, JSON, method="POST", body=other).status == 403
    assert desk.ask("/pay", WRITER, JSON, **more).status == 200
    assert desk.ask("/pay", WRITER, JSON, **more).status == 403


def test_an_approval_lets_no_other_agent_pass(desk: Desk, export: str) -> None:
    id = desk.opened(export)
    desk.servers.answer(id)
    assert desk.opened(export, READER) != id
    assert desk.ask(export).status == 200


def test_an_approval_of_another_endpoint_lets_nothing_pass(desk: Desk, export: str) -> None:
    desk.servers.answer(desk.opened(export))
    assert desk.ask(export.replace("/export", "/short")).status == 403
    assert desk.ask(export).status == 200


def test_a_waiting_client_learns_of_the_approval_at_the_link(desk: Desk, export: str) -> None:
    link = desk.ask(export).headers["link"]
    url = link.removeprefix("<").removesuffix('>; rel="status"')
    desk.servers.answer(url.rpartition("/")[2])
    assert httpx.get(url, params={"wait": 30}).json()["state"] == "approved"


HOSTILE = {
    "line ends": "%0d%0aX-Evil:%201%0d%0a%0d%0a%3Cscript%3E", "quotes": "%22%7D%5C%22%27%2C%22allowed%22%3Atrue",
    "other scripts": "%E2%80%AE%D8%B3%C3%A9%F0%9F%98%80%EF%BB%BF", "variables": "$host$problem%24%7Bstatus%7D",
    "link": "%3E%3B%20rel%3D%22payment%22", "long": "%C3%A9" * 600,
}  # fmt: skip


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE)
def test_words_of_a_requester_have_no_effect_in_a_problem_behind_a_gateway(desk: Desk, words: str) -> None:
    answer = desk.ask(f"/export?year={words}{next(YEARS)}")
    approval = answer.problem["approval"]
    assert (answer.status, answer.problem["status"], approval["state"]) == (403, 403, "pending")
    assert "x-evil" not in answer.headers
    assert answer.headers["link"] == f'<{approval["status"]}>; rel="status"'


@pytest.mark.parametrize(
    "reason", ["\r\nX-Evil: 1\r\n\r\n<script>", '"}\\"', "\U0001f600" * 500, "$host ${problem}", "\0\x1b[2J"]
)
def test_the_reason_of_a_denial_has_no_effect_in_a_problem_behind_a_gateway(
    desk: Desk, export: str, reason: str
) -> None:
    id = desk.opened(export)
    url = f"{desk.servers.people}/approvals/{id}/deny"
    assert httpx.post(url, json={"reason": reason}, headers=bearer(desk.servers.token)).status_code == 200
    answer = desk.ask(export)
    assert (answer.status, answer.problem["approval"]["state"]) == (403, "denied")
    assert "x-evil" not in answer.headers


def test_an_approval_that_has_expired_lets_nothing_pass(desk: Desk) -> None:
    url = f"{desk.servers.people}/approvals/{desk.short}"
    wait_until(lambda: httpx.get(url).json()["state"] == "expired")
    assert desk.opened(f"/short?gateway={desk.web.kind.name}") != desk.short


def test_an_approval_under_other_rules_lets_nothing_pass_behind_any_gateway(
    servers: Servers, api: Upstream, tmp_path: Path
) -> None:
    """All gateways share one reload, which takes seconds."""
    with ExitStack() as stack:
        desks = []
        for kind in KINDS:
            if kind.found() is not None:
                (tmp_path / kind.name).mkdir()
                started = gateway(kind, tmp_path / kind.name, api, servers.ports, None)
                desks.append(Desk(stack.enter_context(started), servers, ""))
        before = []
        for desk in desks:
            export = f"/export?year={next(YEARS)}"
            before.append((desk, export, desk.opened(export), desk.opened(f"{export}0")))
            servers.answer(before[-1][2])
        servers.change_a_rule()
        for desk, export, approved, waiting in before:
            assert desk.opened(export) != approved
            late = httpx.post(f"{servers.people}/approvals/{waiting}/approve", headers=bearer(servers.token))
            assert (late.status_code, late.json()["code"]) == (409, "approval_ended")
            assert desk.ask(f"{export}0").status == 403
    if not desks:
        pytest.skip("every gateway is missing: make tools")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_only_the_second_key_belongs_to_another_agent(kind: Kind) -> None:
    texts = [(DEPLOY / name).read_text(encoding="utf-8") for name in (kind.file, *kind.others)]
    changed = [with_two_agents(text) for text in texts]
    assert sum(text.count("report-bot") for text in changed) == 1
    assert sum(text.count("invoice-bot") for text in changed) >= 1
