"""The same request asks for the same approval at every door of a server, and each door hands the approval on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from policyengine.http.approval_links import approval_links, select_ticket
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.reload import ReloadableEngine
from policyengine.runtime.decision import Answer, ApprovalTicket, Gate, Outcome, Reason, Remedy
from policyengine.server.adapters.responses import MAX_PROBLEM_BYTES, encode_problem, problem_document
from policyengine.server.socket.answers import answer_frame
from tests.server.approving import BOT, Desk, bearer, token

URL = "https://pdp.example"
EXPORT = {
    "request": {"method": "GET", "path": "/export", "query": {"year": "2026"}}, **BOT,
    "options": {"request_approval": True},
}  # fmt: skip
FACTS = {"x-agent-id": "bot", "x-agent-issuer": "acme", "x-agent-user": "alice"}
FORWARDED = {**FACTS, "x-forwarded-method": "GET", "x-forwarded-uri": "/export?year=2026"}
Door = Callable[[Desk], tuple[Any, dict[str, str]]]  # returns the decision or problem, and the headers


def decide(desk: Desk) -> tuple[Any, dict[str, str]]:
    return desk.ask(EXPORT), {}


def decide_by_msgpack(desk: Desk) -> tuple[Any, dict[str, str]]:
    media = {"content-type": "application/msgpack", "accept": "application/msgpack"}
    answer = desk.call("POST", "/decide", content=msgpack.packb(EXPORT), headers=media)
    return msgpack.unpackb(answer.content), {}


def decide_in_a_batch(desk: Desk) -> tuple[Any, dict[str, str]]:
    answer = desk.call("POST", "/decide/batch", json={"requests": [{**EXPORT, "options": {**CONSUMES, **ASKS}}]})
    return answer.json()["decisions"][0], {}


def frame(desk: Desk) -> tuple[Any, dict[str, str]]:
    return msgpack.unpackb(answer_frame(desk.engine, msgpack.packb([1, "decide", EXPORT]))[0])[2], {}


def frame_of_a_list(desk: Desk) -> tuple[Any, dict[str, str]]:
    return msgpack.unpackb(answer_frame(desk.engine, msgpack.packb([1, "decide", [EXPORT]]))[0])[2][0], {}


def forward_auth(desk: Desk) -> tuple[Any, dict[str, str]]:
    return problem_and_headers(desk.call("GET", "/forward-auth", headers=FORWARDED))


def nginx(desk: Desk) -> tuple[Any, dict[str, str]]:
    answer = desk.call("GET", "/forward-auth/nginx", headers=FORWARDED)
    if answer.status_code == 200:
        return problem_and_headers(answer)
    return json.loads(answer.headers["x-problem"]), dict(answer.headers)


def envoy(desk: Desk) -> tuple[Any, dict[str, str]]:
    return problem_and_headers(
        desk.call("GET", "/envoy/export?year=2026", headers={**FACTS, "x-envoy-internal": "true"})
    )


def envoy_by_grpc(desk: Desk) -> tuple[Any, dict[str, str]]:
    pytest.importorskip("grpc")
    from envoy.service.auth.v3 import external_auth_pb2

    from policyengine.server.adapters.envoy_grpc import AuthorizationService, EnvoyGrpcAdapter

    adapter = EnvoyGrpcAdapter(ReloadableEngine(desk.engine), GatewayHeaders(), None, "127.0.0.1:0")
    asked = external_auth_pb2.CheckRequest()
    http = asked.attributes.request.http
    http.method, http.path, http.host = "GET", "/export?year=2026", "api.example"
    http.headers.update({**FACTS, ":method": "GET", ":path": http.path})
    answered = AuthorizationService(adapter).check(asked, SilentContext())
    found = external_auth_pb2.CheckResponse.FromString(answered)
    answer = found.denied_response
    if found.status.code == 0:
        return {"outcome": "allow"}, {}
    return json.loads(answer.body), {one.header.key: one.header.value for one in answer.headers}


class SilentContext:
    """A call over gRPC without metadata."""

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return []

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def is_active(self) -> bool:
        return True


def problem_and_headers(answer: httpx.Response) -> tuple[Any, dict[str, str]]:
    if answer.status_code == 200:
        return {"outcome": answer.headers["x-decision"]}, dict(answer.headers)
    assert answer.status_code == 403
    return answer.json(), dict(answer.headers)


CONSUMES, ASKS = {"consume": True}, {"request_approval": True}
QUESTIONS: list[Door] = [decide, decide_by_msgpack, decide_in_a_batch, frame, frame_of_a_list]
GATEWAYS: list[Door] = [forward_auth, nginx, envoy, envoy_by_grpc]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("doors"), settings={"url": URL})


def ticket_of(answer: Any) -> Any:
    [remedy] = answer["remedies"]
    return remedy["approval"]


@pytest.mark.parametrize("door", [*QUESTIONS, *GATEWAYS], ids=lambda door: door.__name__)
def test_every_door_names_the_same_approval(desk: Desk, door: Door) -> None:
    answer, _ = door(desk)
    assert (answer["outcome"], ticket_of(answer)) == ("confirm", ticket_of(desk.ask(EXPORT)))
    assert ticket_of(answer)["status"] == f"{URL}/approvals/{ticket_of(answer)['id']}"


@pytest.mark.parametrize("door", GATEWAYS, ids=lambda door: door.__name__)
def test_the_problem_of_a_gateway_has_the_approval_and_a_link(desk: Desk, door: Door) -> None:
    problem, headers = door(desk)
    assert {name: problem[name] for name in ("type", "title", "status", "outcome")} == {
        "type": "about:blank", "title": "Approval Needed", "status": 403, "outcome": "confirm",
    }  # fmt: skip
    assert problem["approval"] == ticket_of(problem)
    assert headers["link"] == f'<{problem["approval"]["status"]}>; rel="status"'


@pytest.mark.parametrize("door", [*QUESTIONS, *GATEWAYS], ids=lambda door: door.__name__)
def test_an_approved_request_passes_once_at_every_door(tmp_path: Path, door: Door) -> None:
    desk = Desk(tmp_path, settings={"url": URL})
    id = ticket_of(door(desk)[0])["id"]
    desk.call("POST", f"/approvals/{id}/approve", headers=bearer(token()))
    assert door(desk)[0]["outcome"] == "allow"
    assert ticket_of(door(desk)[0])["id"] != id


@pytest.mark.parametrize("door", ["/forward-auth", "/forward-auth/nginx"])
def test_a_gateway_gets_no_link_if_the_server_does_not_know_its_url(tmp_path: Path, door: str) -> None:
    answer = Desk(tmp_path).call("GET", door, headers=FORWARDED)
    assert answer.json()["approval"]["status"].startswith("/approvals/")
    assert "link" not in answer.headers


def test_other_refusals_name_no_approval(desk: Desk) -> None:
    answer = desk.call("GET", "/forward-auth", headers={**FORWARDED, "x-forwarded-uri": "/other"})
    assert (answer.status_code, "approval" in answer.json(), "link" in answer.headers) == (403, False, False)


# ── The parts ─────────────────────────────────────────────────────────────────────────────────


def remedy(state: str | None, id: str | None = "a", status: str | None = "https://pdp.example/approvals/a") -> Remedy:
    return Remedy("approval", approval=ApprovalTicket(id=id, state=state, status=status))


@pytest.mark.parametrize(
    ("remedies", "place"),
    [
        ([remedy("pending")], 0),
        ([remedy("approved"), remedy("pending")], 1),
        ([Remedy("wait", within="1m"), remedy("denied")], 1),
        ([remedy("denied"), remedy("approved")], 0),
        ([remedy(None, None), remedy("pending")], 1),
    ],
)
def test_a_client_follows_the_approval_that_waits(remedies: list[Remedy], place: int) -> None:
    assert select_ticket(remedies) is remedies[place].approval


@pytest.mark.parametrize(
    "status",
    [
        None, "/approvals/a", "//pdp.example/approvals/a", "ftp://pdp.example/a", "javascript:alert(1)", "https://",
        'https://pdp.example/>; rel="payment"', "https://pdp.example/a\r\nx: 1", "https://pdp.example/ä", "https://a b",
        f"https://pdp.example/{'a' * 2_000}",
    ],
)  # fmt: skip
def test_only_a_url_that_fits_into_a_header_is_a_link(status: str | None) -> None:
    assert approval_links([remedy("pending", status=status)]) == ()


def test_the_approval_stays_in_a_problem_that_is_too_long_for_a_header() -> None:
    remedies = tuple(remedy("pending") for _ in range(40))
    reasons = (Reason(Gate.GUARD, "x" * 500, "r"),)
    answer = Answer(Outcome.CONFIRM, Gate.GUARD, reasons, remedies, (), (), "shop", "r1")
    problem = json.loads(encoded := encode_problem(problem_document(answer, 403, "01M874BN1FBKKCX6K4X7XFQD60")))
    assert len(encoded) <= MAX_PROBLEM_BYTES
    assert (problem["approval"]["state"], "remedies" in problem) == ("pending", False)


def test_a_long_reason_of_a_denial_does_not_make_a_problem_too_long_for_a_header() -> None:
    ticket = ApprovalTicket(id="a", state="denied", status=f"{URL}/approvals/a", reason="\U0001f600" * 500)
    answer = Answer(
        Outcome.CONFIRM, Gate.GUARD, (Reason(Gate.GUARD, "x", "r"),), (Remedy("approval", approval=ticket),), (), (),
        "shop", "r1",
    )  # fmt: skip
    problem = json.loads(encoded := encode_problem(problem_document(answer, 403, "01M874BN1FBKKCX6K4X7XFQD60")))
    assert len(encoded) <= MAX_PROBLEM_BYTES
    assert problem["approval"] == {"id": "a", "state": "denied", "status": f"{URL}/approvals/a"}
