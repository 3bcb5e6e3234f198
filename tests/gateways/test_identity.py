"""Real gateways before an engine that verifies credentials: they hand on what clients bring, and forged words of their
own go nowhere."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.gateways.servers import KINDS, Gateway, Kind, Upstream, engine, gateway
from tests.gateways.test_gateways import spellings
from tests.identity import bound_world
from tests.identity.bound_world import authority, jkt, pem, workload, workload_key
from tests.identity.proving import BOT, HOST, SVID, USER, proof, token, written

FOREVER, BEGAN = 4_000_000_000, 1_600_000_000
CERTIFICATE = workload(begins=BEGAN, ends=FOREVER)
FORGED = {
    "Client-Cert": bound_world.field_of(CERTIFICATE),
    "X-Forwarded-Client-Cert": bound_world.envoy(CERTIFICATE),
}
PATH = "/v1/invoices/7"
ENVOYS = [kind for kind in KINDS if kind.name.startswith("envoy")]


def with_identity(text: str) -> str:
    """As the files say that it is turned on."""
    lines = [line for line in text.splitlines(keepends=True) if "# remove with `serve --identity`" not in line]
    return "".join(lines).replace("#identity ", "")


def with_certificates(text: str) -> str:
    return with_identity(text).replace("#mtls ", "")


@pytest.fixture(scope="module")
def verifying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    folder = tmp_path_factory.mktemp("verifying")
    identity = written(folder, only_proved=True, hosts=[HOST])
    with engine(str(folder / "doors.policy"), "--identity", str(identity), "--allowed-host", HOST) as ports:
        yield ports


@pytest.fixture(scope="module")
def proved(
    kind: Kind, api: Upstream, verifying: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    with gateway(kind, tmp_path_factory.mktemp(kind.name), api, verifying, None, with_identity) as one:
        yield one


def bound(method: str = "GET", path: str = PATH, raw: str | None = None) -> tuple[str, str]:
    """Headers with a token that is bound to a key, and its proof."""
    now = time.time()
    raw = raw or token(now, cnf={"jkt": jkt()})
    return f"Authorization: DPoP {raw}", f"DPoP: {proof(now, raw, method, f'http://{HOST}{path}')}"


def ask(web: Gateway, *headers: str, path: str = PATH, **more: Any) -> Any:
    web.api.taken()
    return web.client.ask(path, *headers, host=HOST, **more)


def test_only_proven_credentials_pass(proved: Gateway) -> None:
    held = f"Authorization: Bearer {token(time.time())}"
    for headers in ((held,), bound()):
        assert ask(proved, *headers).status == 200
        (seen,) = proved.api.taken()
        assert (seen.values("x-auth-subject"), seen.values("x-auth-user")) == ([BOT], [USER])
    for headers, code in [
        ((), ""),
        ((f"Authorization: Bearer {token(time.time(), exp=5, iat=1)}",), 'error="invalid_token"'),
        (bound(path="/v1/invoices/8"), 'error="invalid_dpop_proof"'),
        (bound("DELETE"), 'error="invalid_dpop_proof"'),
        (("X-Agent-Id: invoice-bot", "X-Agent-Issuer: acme", "X-Agent-User: alice"), ""),
        (("Authorization: Bearer demo-writer",), 'error="invalid_'),
    ]:
        answer = ask(proved, *headers)
        assert (answer.status, proved.api.taken()) == (401, []), headers
        assert code in answer.headers["www-authenticate"]
        assert answer.problem["status"] == 401


def test_a_proof_for_another_host_is_rejected(proved: Gateway) -> None:
    now = time.time()
    for host in ("evil.example", f"{HOST}.evil.example", f"{HOST}:81"):
        raw = token(now, cnf={"jkt": jkt()})
        headers = f"Authorization: DPoP {raw}", f"DPoP: {proof(now, raw, 'GET', f'http://{host}{PATH}')}"
        proved.api.taken()
        answer = proved.client.ask(PATH, *headers, host=host)
        assert (answer.status in (400, 401, 403, 404, 421), proved.api.taken()) == (True, []), host


def test_a_proof_works_once_for_a_request_with_a_body(proved: Gateway) -> None:
    headers = bound("POST", "/v1/invoices")
    body = {"method": "POST", "path": "/v1/invoices", "body": b'{"amount":1}'}
    statuses = [ask(proved, *headers, "Content-Type: application/json", **body).status for _ in range(2)]
    assert statuses == [200, 401]


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_certificate_header_is_neither_used_nor_forwarded(proved: Gateway, name: str) -> None:
    held = f"Authorization: Bearer {token(time.time())}"
    arrived = []
    for spelled in spellings(name):
        assert ask(proved, f"{spelled}: {FORGED[name]}").status in (400, 401)
        assert proved.api.taken() == []
        ask(proved, held, f"{spelled}: {FORGED[name]}")
        arrived += proved.api.taken()
    assert arrived
    assert [seen.values(name.lower()) for seen in arrived] == [[]] * len(arrived)


def test_a_forged_forwarded_authorization_header_is_not_used(proved: Gateway) -> None:
    held = f"Bearer {token(time.time())}"
    for spelled in spellings("X-Forwarded-Authorization"):
        answer = ask(proved, f"{spelled}: {held}")
        assert (answer.status in (400, 401), proved.api.taken()) == (True, [])
    expired = f"Authorization: Bearer {token(time.time(), exp=5, iat=1)}"
    assert ask(proved, f"X-Forwarded-Authorization: {held}", expired).status in (400, 401)


# ── Certificates ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=ENVOYS, ids=lambda kind: kind.name)
def mutual(
    request: pytest.FixtureRequest,
    api: Upstream,
    verifying: tuple[int, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """An Envoy whose clients have certificates."""
    kind: Kind = request.param
    if kind.found() is None:
        pytest.skip(f"{kind.name} is missing: {kind.install}")
    folder = tmp_path_factory.mktemp(f"{kind.name}-mtls")
    key = workload_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    server = workload(("spiffe://acme.example/gateway",), begins=BEGAN, ends=FOREVER, purpose=None)
    other = workload(("spiffe://acme.example/ns/pay/sa/other",), begins=BEGAN, ends=FOREVER)
    files = {"server.pem": pem(server), "server.key": key, "client.pem": pem(CERTIFICATE), "other.pem": pem(other)}
    for name, text in {**files, "clients.pem": pem(authority("acme").certificate)}.items():
        (folder / name).write_text(text)
    with gateway(kind, folder, api, verifying, None, with_certificates, client_of(folder, "client.pem")) as one:
        yield one


def client_of(folder: Path, certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "clients.pem")
    context.check_hostname = False
    context.load_cert_chain(folder / certificate, folder / "server.key")
    return context


def test_a_workload_certificate_authenticates_the_caller(mutual: Gateway) -> None:
    other = bound_world.envoy(workload(("spiffe://acme.example/ns/pay/sa/other",), begins=BEGAN, ends=FOREVER))
    for headers in ((), (f"X-Forwarded-Client-Cert: {other}",), ("Client-Cert: :bm9uZQ==:",)):
        assert ask(mutual, *headers).status == 200
        (seen,) = mutual.api.taken()
        assert seen.values("x-auth-subject") == [SVID]


def test_another_certificate_does_not_authenticate_the_workload(mutual: Gateway) -> None:
    before = mutual.client.tls
    mutual.client.close()
    mutual.client.tls = client_of(mutual.output.parent, "other.pem")
    try:
        assert ask(mutual, f"X-Forwarded-Client-Cert: {FORGED['X-Forwarded-Client-Cert']}").status in (401, 403)
        assert mutual.api.taken() == []
    finally:
        mutual.client.close()
        mutual.client.tls = before


def test_a_certificate_bound_token_needs_the_certificate_of_the_connection(mutual: Gateway) -> None:
    for thumbprint, status in ((bound_world.x5t(CERTIFICATE), 200), (bound_world.x5t(workload()), 401)):
        raw = token(time.time(), cnf={"x5t#S256": thumbprint})
        answer = ask(mutual, f"Authorization: Bearer {raw}", method="POST", path="/v1/invoices")
        assert answer.status == status
