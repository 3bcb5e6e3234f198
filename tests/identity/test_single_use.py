"""What counts once is used last: an ID-JAG that somebody stole, cannot present, asks about, or is refused a token for,
is still its owner's. Against a server, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any

import pytest

from policyengine.identity.issue.clients import ASSERTION_TYPE
from policyengine.identity.issue.request import ACCESS_TOKEN, TOKEN_EXCHANGE_GRANT
from tests.identity.issuing import signed
from tests.identity.minting import AUDIENCE, DESK, IDENTITY, assertion, fresh, key_of, subject, write_desk
from tests.identity.test_token_endpoint import dpop
from tests.server.processes import started
from tests.server.test_log import SERVE
from tests.server.test_tokens_on_record import API, OPERATOR, Server

TYPES = IDENTITY.replace("[issuers.acme]", '[issuers.acme]\ntypes = ["at+jwt", "oauth-id-jag+jwt"]')


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("single")
    write_desk(folder, int(time()))
    (folder / "identity.toml").write_text(TYPES)
    (folder / "tokens").write_text(f"ops: {OPERATOR}\n")
    (folder / "tokens").chmod(0o600)
    files = ["--identity", folder / "identity.toml", "--token-file", folder / "tokens"]
    arguments = ["serve", folder / "desk.policy", "--port", "0", "--format", "json", *files]
    with started(SERVE, *map(str, arguments)) as (line, process):
        yield Server(int(json.loads(line)["listening"].rpartition(":")[2]), process.pid)


def jag(**claims: Any) -> str:
    """An assertion of acme's that alice's `planner` may have a token of ours: good once."""
    now = int(time())
    given = {
        "iss": "https://login.acme.example", "sub": "alice", "client_id": "planner", "aud": DESK, "resource": AUDIENCE,
        "iat": now - 10, "exp": now + 300, "jti": fresh(), "scope": "read:invoices", **claims,
    }  # fmt: skip
    return signed({"alg": "ES256", "typ": "oauth-id-jag+jwt", "kid": "ec"}, given)


def bound() -> str:
    return jag(cnf={"jkt": key_of("planner").thumbprint()})


def decided(server: Server, **credentials: str) -> str:
    """How a decision ends: its outcome, or the code by which the credential was refused."""
    asked = {"request": {"method": "GET", "path": "/v1/invoices"}, "credentials": {"url": API, **credentials}}
    answer = server.post("/decide", json.dumps(asked), "application/json", operator=True)[1]
    return str(answer["outcome"] if answer["outcome"] == "allow" else answer["reasons"][0]["code"])


def owner(server: Server, raw: str) -> str:
    return decided(server, authorization=f"DPoP {raw}", dpop=dpop(raw, API, int(time()), by="planner"))


def exchanged(server: Server, raw: str, scope: str = "read:invoices") -> tuple[int, Any]:
    form = {
        "grant_type": TOKEN_EXCHANGE_GRANT, "subject_token": raw, "subject_token_type": ACCESS_TOKEN, "scope": scope,
        "client_assertion": assertion("summarizer", int(time())), "client_assertion_type": ASSERTION_TYPE,
    }  # fmt: skip
    return server.form("/token", form)


def introspected(server: Server, raw: str) -> bool:
    return bool(server.form("/introspect", {"token": raw}, operator=True)[1]["active"])


def test_an_id_jag_presented_without_its_key_is_not_used_up(server: Server) -> None:
    raw = bound()
    assert decided(server, authorization=f"Bearer {raw}") == "wrong_scheme"
    assert decided(server, authorization=f"DPoP {raw}") == "proof_missing"
    assert owner(server, raw) == "allow"
    assert owner(server, raw) == "replayed"


def test_an_id_jag_presented_with_another_key_is_not_used_up(server: Server) -> None:
    raw = bound()
    stolen = dpop(raw, API, int(time()), by="clerk")
    assert decided(server, authorization=f"DPoP {raw}", dpop=stolen) == "bound_to_other"
    assert owner(server, raw) == "allow"


def test_an_id_jag_presented_with_a_second_credential_is_not_used_up(server: Server) -> None:
    raw = bound()
    assert decided(server, authorization=f"Bearer {raw}", api_key="k") == "two_credentials"
    assert decided(server, authorization=f"Bearer {raw}", attestation="none") != "replayed"
    assert owner(server, raw) == "allow"


def test_introspection_does_not_use_up_an_id_jag_and_reports_a_used_one_inactive(server: Server) -> None:
    raw = bound()
    assert [introspected(server, raw) for _ in range(2)] == [True, True]
    assert owner(server, raw) == "allow"
    assert not introspected(server, raw)


def test_only_a_successful_exchange_uses_up_an_id_jag(server: Server) -> None:
    raw = jag()
    status, refused = exchanged(server, raw, scope="write:everything")
    assert (status, refused["error"]) == (400, "invalid_scope")
    assert exchanged(server, raw)[0] == 200
    status, refused = exchanged(server, raw)
    assert (status, refused["error"]) == (400, "invalid_request")
    assert "used before" in refused["error_description"]
    assert decided(server, authorization=f"Bearer {raw}") == "replayed"


def test_an_id_jag_used_for_a_decision_cannot_be_exchanged(server: Server) -> None:
    raw = bound()
    assert owner(server, raw) == "allow"
    assert exchanged(server, raw)[0] == 400


def test_an_access_token_can_be_exchanged_repeatedly(server: Server) -> None:
    now = int(time())
    raw = subject(iat=now - 60, exp=now + 600)
    assert [exchanged(server, raw)[0] for _ in range(2)] == [200, 200]
