"""Raw credentials at every door of the server: a real engine, real tokens, and the same answer wherever they come."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from policyengine.audit import read_records, replay_decision
from policyengine.client.socket import FRAME_HEADER
from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.identity.config.model import SAFE_ALGORITHMS
from policyengine.reload import ReloadableEngine, ReloadRules
from policyengine.runtime.credentials import body_digests
from policyengine.server import create_app
from policyengine.server.socket.answers import answer_frame
from tests.identity import bound_world
from tests.identity.proving import BOT, HOST, POLICY, SVID, USER, Doors, asking, url
from tests.server.conftest import TOKEN, client_for

MSGPACK = {"content-type": "application/msgpack"}
PATH = "/v1/invoices/7"
Doing = Callable[[httpx.AsyncClient], Any]


@pytest.fixture
def doors(tmp_path: Path) -> Doors:
    return Doors(tmp_path)


@asynccontextmanager
async def connected(doors: Doors, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server, which is made once for these options; each exchange has a loop of its own."""
    key = f"{id(doors.engine)} {sorted(options.items())}"
    if key not in doors.apps:
        doors.apps[key] = create_app(doors.engine, allowed_hosts=[HOST], **options)
    async with client_for(doors.apps[key]) as client:
        yield client


def asked(doors: Doors, *questions: Any, path: str = "/decide", **options: Any) -> list[httpx.Response]:
    """The answers, in order, of one server."""
    headers = {"authorization": f"Bearer {TOKEN}"} if options.get("token") else {}
    headers |= options.pop("headers", {})

    async def run() -> list[httpx.Response]:
        async with connected(doors, **options) as client:
            return [await client.post(path, json=one, headers=headers) for one in questions]

    return asyncio.run(run())


def codes(answers: list[httpx.Response]) -> list[tuple[str, str | None]]:
    return [(one["outcome"], code_of(one)) for one in (answer.json() for answer in answers)]


def code_of(decision: dict[str, Any]) -> str | None:
    found: str | None = decision["reasons"][0].get("code") if decision["reasons"] else None
    return found


def without_id(content: bytes) -> bytes:
    return re.sub(rb'"id":"[0-9A-Z]{26}"', b"", content)


# ── Our own endpoints ─────────────────────────────────────────────────────────────────────────


def test_a_verified_credential_is_answered_on_the_fast_path_with_the_same_bytes(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[object] = []
    from policyengine.server import decide_requests

    real = decide_requests.run_in_threadpool

    async def watched(work: Any) -> Any:
        threads.append(work)
        return await real(work)

    monkeypatch.setattr(decide_requests, "run_in_threadpool", watched)
    question = asking(doors.bearer())
    careful, quick, again = asked(doors, question, question, question)
    assert len(threads) == 1
    assert json.loads(careful.content)["principal"]["agent"] == BOT
    assert without_id(careful.content) == without_id(quick.content) == without_id(again.content)
    assert dict(careful.headers) == dict(quick.headers)


def test_messagepack_returns_the_same_answer_as_json(doors: Doors) -> None:
    async def run() -> tuple[httpx.Response, httpx.Response]:
        async with connected(doors) as client:
            packed = [msgpack.packb(asking(one)) for one in (doors.bearer(), doors.dpop("POST", url()))]
            first, second = [await client.post("/decide", content=one, headers=MSGPACK) for one in packed]
            return first, second

    first, second = asyncio.run(run())
    assert msgpack.unpackb(first.content)["outcome"] == "allow"
    assert code_of(msgpack.unpackb(second.content)) == "proof_method"


REFUSED: list[tuple[str, Callable[[Doors], dict[str, Any]]]] = [
    ("expired", lambda d: d.bearer(exp=int(d.now) - 60, iat=int(d.now) - 90)),
    ("audience", lambda d: d.bearer(aud="somebody-else")),
    ("unknown_issuer", lambda d: d.bearer(iss="https://login.acme.example.evil")),
    ("algorithm", lambda d: {"authorization": "Bearer e30.e30.e30"}),
    ("no_scheme", lambda d: {"authorization": "Basic Ym90OmJvdA=="}),
    ("proof_missing", lambda d: {"authorization": d.dpop("GET", url())["authorization"]}),
    ("proof_url", lambda d: d.dpop("GET", url("/v1/invoices/8"))),
    ("two_credentials", lambda d: {**d.bearer(), "api_key": d.kept("k-" + "1" * 40)}),
    ("certificate", lambda d: {"client_certificate": ":bm9uZQ==:"}),
]


@pytest.mark.parametrize(("code", "given"), REFUSED, ids=[code for code, _ in REFUSED])
@pytest.mark.parametrize("path", ["/decide", "/evaluate", "/explain"])
def test_an_invalid_credential_is_denied_with_its_refusal_code(
    doors: Doors, path: str, code: str, given: Callable[[Doors], dict[str, Any]]
) -> None:
    (answer,) = asked(doors, asking(given(doors)), path=path)
    told = answer.json()
    assert answer.status_code == 200
    decision = told["decision"] if path == "/explain" else told
    assert (decision["outcome"], decision["gate"], code_of(decision)) == ("deny", "identity", code)


def test_the_error_names_an_unknown_credentials_member_and_leaks_no_secret(doors: Doors) -> None:
    secret = doors.token()
    answer, digests = asked(doors, asking({"authorisation": f"Bearer {secret}"}), asking({"digests": {"sha-256": "x"}}))
    assert (answer.status_code, answer.json()["member"]) == (400, "credentials.authorisation")
    assert secret not in answer.text
    assert (digests.status_code, digests.json()["member"]) == (400, "credentials.digests.sha-256")


def test_an_engine_without_identity_rejects_the_credentials_member(tmp_path: Path) -> None:
    (tmp_path / "p.policy").write_text(POLICY)
    plain = Doors(tmp_path)
    plain.engine = Engine.load(tmp_path / "p.policy")
    (answer,) = asked(plain, asking(plain.bearer()))
    assert (answer.status_code, answer.json()["member"]) == (400, "credentials")


def test_a_request_with_an_explanation_uses_its_proof_once(doors: Doors) -> None:
    explained = {**asking(doors.dpop("GET", url())), "options": {"explain": True}}
    first, second = asked(doors, explained, explained)
    assert (first.json()["outcome"], first.json()["explanation"]["gates"][0]["mark"]) == ("allow", "yes")
    assert code_of(second.json()) == "proof_replayed"
    walked, replayed = asked(doors, *[asking(doors.dpop("GET", url()))] * 2, path="/explain")
    assert walked.json()["decision"]["outcome"] == "allow"
    assert code_of(replayed.json()["decision"]) == "proof_replayed"


@pytest.mark.parametrize("store", ["memory:", "sqlite:///{}/store.db"], ids=["memory", "shared"])
def test_each_batch_item_is_authenticated_separately(tmp_path: Path, store: str) -> None:
    doors = Doors(tmp_path, store=store.format(tmp_path))
    spend = {"options": {"consume": True}}
    proven = doors.dpop("GET", url())
    items = [
        {**asking(doors.bearer()), **spend},
        {**asking(proven), **spend},
        {**asking(proven), **spend},
        {**asking(doors.bearer(exp=5, iat=1)), **spend},
        {**asking({"authorisation": "x"}), **spend},
        {**asking(None, path="/health"), **spend},
        asking(doors.dpop("GET", url())),
    ]
    (answer,) = asked(doors, {"requests": items}, path="/decide/batch")
    found = [(one["outcome"], code_of(one)) for one in answer.json()["decisions"]]
    assert found == [
        ("allow", None), ("allow", None), ("deny", "proof_replayed"), ("deny", "expired"), ("deny", None),
        ("allow", None), ("allow", None),
    ]  # fmt: skip


def test_socket_frames_are_authenticated(doors: Doors) -> None:
    proven = doors.dpop("GET", url())
    frames = [
        (1, "decide", asking(proven)),
        (2, "evaluate", asking(doors.bearer())),
        (3, "decide", [asking(proven), asking(doors.bearer())]),
        (4, "decide", {**asking(doors.dpop("GET", url())), "options": {"explain": True}}),
    ]
    answers = [msgpack.unpackb(answer_frame(doors.engine, msgpack.packb(one), "user 1")[0])[2] for one in frames]
    assert [answers[0]["outcome"], answers[1]["outcome"], answers[3]["outcome"]] == ["allow"] * 3
    assert [code_of(one) for one in answers[2]] == ["proof_replayed", None]
    assert FRAME_HEADER.size == 4


def test_authzen_reads_credentials_from_the_context(doors: Doors) -> None:
    def evaluation(credentials: Any, **context: Any) -> dict[str, Any]:
        return {
            "subject": {"type": "user", "id": "somebody"},
            "action": {"name": "view"},
            "resource": {"type": "invoice", "id": "7"},
            "context": {"credentials": credentials, **context},
        }

    proven = doors.dpop("POST", url("/x"), None)
    sent = {**proven, "method": "POST", "url": url("/x")}
    questions = [evaluation(doors.bearer()), evaluation(doors.bearer(exp=5, iat=1)), evaluation(sent), evaluation(sent)]
    answers = asked(doors, *questions, path="/access/v1/evaluation")
    assert [one.json()["decision"] for one in answers] == [True, False, True, False]
    many = {**evaluation(doors.bearer()), "evaluations": [{}, {"context": {"credentials": {"authorization": "x"}}}]}
    (answer,) = asked(doors, many, path="/access/v1/evaluations")
    assert [one["decision"] for one in answer.json()["evaluations"]] == [True, False]


# ── By a key ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("store", ["memory:", "sqlite:///{}/store.db"], ids=["memory", "shared"])
def test_a_retry_with_its_idempotency_key_returns_the_decision_instead_of_proof_replayed(
    tmp_path: Path, store: str, explain: bool
) -> None:
    doors = Doors(tmp_path, store=store.format(tmp_path), log=True)
    question = asking(doors.dpop("POST", url()), "POST")
    question |= {"options": {"explain": True}} if explain else {}
    keyed = {"idempotency-key": "k-1"}
    first, again = asked(doors, question, question, token=TOKEN, headers=keyed)
    assert first.json()["outcome"] == "allow"
    assert {**first.json(), "explanation": 0} == {**again.json(), "explanation": 0}
    assert again.headers["idempotency-replayed"] == "true"
    (other,) = asked(doors, question, token=TOKEN, headers={"idempotency-key": "k-2"})
    assert code_of(other.json()) == "proof_replayed"
    assert doors.engine.identity is not None
    if not explain:
        assert doors.engine.identity.counts["proof_replayed"] == 1
    records = list(read_records(doors.folder / "decisions.jsonl"))
    assert [replay_decision(one, doors.engine.kernel).same for one in records] == [True] * 3
    assert records[0].request == records[1].request


def test_a_denial_because_the_provider_is_down_is_not_stored_under_the_idempotency_key(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    from policyengine.identity.verify.tokens import TokenVerifier
    from policyengine.runtime.credential_errors import CredentialError, RefusalCode

    real, question = TokenVerifier.verify, asking(doors.bearer())

    def down(self: TokenVerifier, raw: str, now: int) -> Any:
        raise CredentialError(RefusalCode.PROVIDER)

    keyed = {"idempotency-key": "k-1"}
    monkeypatch.setattr(TokenVerifier, "verify", down)
    (first,) = asked(doors, question, token=TOKEN, headers=keyed)
    monkeypatch.setattr(TokenVerifier, "verify", real)
    (second,) = asked(doors, question, token=TOKEN, headers=keyed)
    assert [code_of(first.json()), second.json()["outcome"]] == ["provider", "allow"]
    assert "idempotency-replayed" not in second.headers


def test_a_malformed_question_does_not_use_up_its_idempotency_key(doors: Doors) -> None:
    keyed = {"idempotency-key": "k-1"}
    bad, good = asking({"authorisation": "x"}), asking(doors.bearer())
    answers = asked(doors, bad, good, token=TOKEN, headers=keyed)
    assert [one.status_code for one in answers] == [400, 200]


# ── What is said beside ───────────────────────────────────────────────────────────────────────

CLAIMED = {"agent": {"id": BOT, "issuer": "acme"}, "user": {"id": "root"}, "credential": {"kind": "jwt", "scopes": []}}
ENOUGH = {**CLAIMED, "credential": {"kind": "jwt", "issuer": "acme", "scopes": ["read:invoices"]}}


def test_verified_facts_override_claimed_facts(doors: Doors) -> None:
    (answer,) = asked(doors, {**asking(doors.bearer()), **CLAIMED})
    assert (answer.json()["outcome"], answer.json()["principal"]["user"]) == ("allow", USER)


def test_only_proved_ignores_claimed_facts(tmp_path: Path) -> None:
    doors = Doors(tmp_path, only_proved=True)
    questions = [{**asking(None), **ENOUGH}, asking(doors.bearer()), asking(None), asking(None, path="/health")]
    assert codes(asked(doors, *questions)) == [("deny", "unproved"), ("allow", None), ("deny", None), ("allow", None)]
    (answer,) = asked(Doors(tmp_path), {**asking(None), **ENOUGH})
    assert answer.json()["outcome"] == "allow"


def test_observe_mode_still_denies_a_refused_credential(doors: Doors) -> None:
    from datetime import timedelta

    doors.engine.observe(Observe(doors.clock() + timedelta(hours=1)))
    refused, bound = asked(doors, asking(doors.bearer(exp=5, iat=1)), asking(doors.bearer(), "POST"))
    assert (refused.json()["allowed"], code_of(refused.json())) == (False, "expired")
    assert (bound.json()["allowed"], bound.json()["would_be"]) == (True, "deny")


# ── Doors for gateways ────────────────────────────────────────────────────────────────────────


def through(doors: Doors, door: str, sent: dict[str, str], method: str = "GET", **options: Any) -> httpx.Response:
    """What a gateway asks at this door about a request that brings these headers."""
    content = options.pop("content", b"")

    async def run() -> httpx.Response:
        async with connected(doors, **options) as client:
            if door == "/envoy":
                headers = {**sent, "host": HOST}
                return await client.request(method, f"/envoy{PATH}", headers=headers, content=content)
            forwarded = {"x-forwarded-method": method, "x-forwarded-uri": PATH, "x-forwarded-host": HOST}
            return await client.get(door, headers={**sent, **forwarded})

    return asyncio.run(run())


def status_of(answer: httpx.Response) -> int:
    """Also as nginx is told it."""
    return int(answer.headers.get("x-status", answer.status_code))


GATEWAYS = ["/forward-auth", "/forward-auth/nginx", "/envoy"]


@pytest.mark.parametrize("door", GATEWAYS)
def test_gateway_adapters_verify_the_credentials_of_the_client(doors: Doors, door: str) -> None:
    answer = through(doors, door, doors.bearer())
    assert (answer.status_code, answer.headers["x-auth-subject"]) == (200, BOT)
    assert answer.headers["x-auth-user"] == USER
    proven = doors.dpop("GET", url())
    assert [through(doors, door, proven).status_code for _ in range(2)] == [200, 401]


@pytest.mark.parametrize("door", GATEWAYS)
def test_with_a_gateway_token_the_client_credential_comes_in_x_forwarded_authorization(doors: Doors, door: str) -> None:
    own, given = {"authorization": f"Bearer {TOKEN}"}, doors.bearer()["authorization"]
    answer = through(doors, door, {**own, "x-forwarded-authorization": given}, token=TOKEN)
    assert (answer.status_code, answer.headers["x-auth-subject"]) == (200, BOT)
    assert through(doors, door, own, token=TOKEN).status_code == 401
    for spelled in ("x_forwarded_authorization", "x-forwarded_authorization"):
        assert status_of(through(doors, door, {**own, spelled: given}, token=TOKEN)) == 400
    both = through(doors, door, {"authorization": given, "x-forwarded-authorization": given})
    assert status_of(both) == 400


CHALLENGES: list[tuple[str, Callable[[Doors], dict[str, str]], str]] = [
    ("nothing", lambda d: {}, 'Bearer realm="agents"'),
    ("expired", lambda d: d.bearer(exp=5, iat=1),
     'Bearer realm="agents", error="invalid_token", error_description="the credential has expired"'),
    ("another path", lambda d: d.dpop("GET", url("/v1/invoices/8")),
     'DPoP realm="agents", error="invalid_dpop_proof", error_description="the proof is for another URL"'),
    ("another method", lambda d: d.dpop("POST", url()),
     'DPoP realm="agents", error="invalid_dpop_proof", error_description="the proof is for another method"'),
    ("no proof", lambda d: {"authorization": d.dpop("GET", url())["authorization"].replace("DPoP", "Bearer")},
     'DPoP realm="agents", error="invalid_dpop_proof"'),
]  # fmt: skip


@pytest.mark.parametrize("door", GATEWAYS)
@pytest.mark.parametrize(("given", "said"), [one[1:] for one in CHALLENGES], ids=[one[0] for one in CHALLENGES])
def test_a_client_without_a_valid_credential_gets_a_challenge(
    doors: Doors, door: str, given: Callable[[Doors], dict[str, str]], said: str
) -> None:
    sent = given(doors)
    answer = through(doors, door, sent)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith(said)
    assert "dpop-nonce" not in answer.headers
    assert not any(secret in answer.text + str(answer.headers) for secret in doors.secrets)


@pytest.mark.parametrize("door", GATEWAYS)
def test_a_proof_without_a_required_nonce_gets_a_nonce(tmp_path: Path, door: str) -> None:
    doors = Doors(tmp_path, nonces=True)
    answer = through(doors, door, doors.dpop("GET", url()))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('DPoP realm="agents", error="use_dpop_nonce"')
    assert answer.headers["www-authenticate"].endswith(f', algs="{" ".join(SAFE_ALGORITHMS)}"')
    nonce = answer.headers["dpop-nonce"]
    assert through(doors, door, doors.dpop("GET", url(), nonce=nonce)).status_code == 200
    assert through(doors, door, doors.dpop("GET", url(), nonce=nonce[:-1])).status_code == 401


@pytest.mark.parametrize("door", GATEWAYS)
@pytest.mark.parametrize("name", ["client-cert", "x-forwarded-client-cert"])
def test_the_client_certificate_header_identifies_a_workload_only_if_configured(
    doors: Doors, door: str, name: str
) -> None:
    workload = bound_world.workload()
    sent = bound_world.field_of(workload) if name == "client-cert" else bound_world.envoy(workload)
    assert through(doors, door, {name: sent}).status_code == 401  # nobody says that the gateway sets it
    named = GatewayHeaders(client_certificate=name)
    answer = through(doors, door, {name: sent}, gateway=named)
    assert (answer.status_code, answer.headers["x-auth-subject"]) == (200, SVID.replace("%", "%25"))
    for spelled in (name.replace("-", "_"), name.replace("-", "_", 1)):
        assert status_of(through(doors, door, {spelled: sent}, gateway=named)) == 400


def test_only_a_complete_body_has_digests(doors: Doors) -> None:
    from policyengine.http.gateway_headers import collect_headers
    from policyengine.http.gateway_omissions import ForwardedParts
    from policyengine.http.gateway_questions import GatewayQuestionBuilder, RequestTarget, add_credentials

    def digests(*more: tuple[bytes, bytes], content: bytes = b"{}") -> object:
        given = collect_headers([(b"signature", b"sig1=:AA==:"), (b"content-digest", b"sha-256=:AA==:"), *more])
        target = RequestTarget("POST", PATH, HOST)
        question = add_credentials(
            GatewayQuestionBuilder(GatewayHeaders(), ForwardedParts()).build(target, given),
            target,
            given,
            own=True,
            certificate=None,
            content=content,
        )
        found = question["credentials"]
        assert isinstance(found, dict)
        return found.get("digests")

    partial = b"x-envoy-auth-partial-body"
    assert digests((partial, b"false")) == body_digests(b"{}")
    assert digests((partial, b"false"), content=b"x" * 1_000_000) == body_digests(b"x" * 1_000_000)
    for one in [(), ((partial, b"true"),), ((partial, b"false"), (partial, b"false"))]:
        assert digests(*one) is None
    assert digests((partial, b"false"), content=b"") is None


# ── What is counted, what is written, and what never is ───────────────────────────────────────


HEADERS = {
    "api_key": "x-api-key", "txn_token": "txn-token", "attestation": "x-attestation",
    "signature_input": "signature-input",
}  # fmt: skip


def every_door(doors: Doors, caplog: pytest.LogCaptureFixture) -> str:
    """Everything that anybody is told while credentials come in at all doors: held ones, and such that are refused."""
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    key, signature = doors.kept("k-" + "7" * 40), doors.kept("sig1=:c2VjcmV0IHNpZ25hdHVyZQ==:")
    for given in (
        doors.bearer(), doors.bearer(exp=5, iat=1), doors.dpop("GET", url()), doors.dpop("PUT", url("/x")),
        {"api_key": key}, {"txn_token": doors.token()}, {**doors.bearer(), "attestation": doors.token()},
        {"signature": signature, "signature_input": 'sig1=("@method");tag="web-bot-auth"'},
    ):  # fmt: skip
        for path in ("/decide", "/evaluate", "/explain"):
            told += [one.text + str(one.headers) for one in asked(doors, asking(given), path=path)]
        told += [one.text for one in asked(doors, {"requests": [asking(given), 7]}, path="/decide/batch")]
        bad = {**asking(given), "credential": {"kind": 7}, "agnet": given}
        told += [one.text for one in asked(doors, bad, {**asking(given), "credentials": [given]})]
        for door in GATEWAYS:
            answer = through(doors, door, {HEADERS.get(name, name): value for name, value in given.items()})
            told.append(answer.text + str(answer.headers))
        question = asking(given)
        told += [repr(doors.engine.decide(question)), repr(doors.engine.explain(question))]
        told += [repr(doors.engine.authenticate(question)), repr(doors.engine.identity), repr(doors.engine)]
    told.append(caplog.text)
    told += [str(vars(one)) for one in caplog.records if one.name.startswith("policyengine")]
    told.append((doors.folder / "decisions.jsonl").read_text())
    return "\n".join(told)


def test_no_secret_appears_in_answers_logs_or_reprs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    doors = Doors(tmp_path, log=True)
    doors.secrets.append(bound_world.ec_key().as_dict(private=True)["d"])
    held = doors.bearer()
    asked(doors, asking(held))
    told = every_door(doors, caplog)
    for secret in doors.secrets:
        assert secret not in told
        assert secret.rsplit(".", 1)[-1] not in told  # nor its signature alone
    from hashlib import sha256

    raw = held["authorization"].removeprefix("Bearer ")
    log = (tmp_path / "decisions.jsonl").read_text()
    assert f'"fingerprint":"sha256:{sha256(raw.encode()).hexdigest()[:32]}"' in log
    assert '"credential":{"refused":"expired"}' in log


def test_replay_of_logged_credential_decisions_returns_the_same_decisions(tmp_path: Path) -> None:
    doors = Doors(tmp_path, log=True)
    given = [given(doors) for _, given in REFUSED]
    asked(doors, *map(asking, given), asking(doors.bearer()), asking(doors.dpop("POST", url()), "POST"))
    records = list(read_records(tmp_path / "decisions.jsonl"))
    assert len(records) == len(REFUSED) + 2
    for record in records:
        again = replay_decision(record, doors.engine.kernel)
        assert again.same
        assert [one.code for one in again.decision.reasons] == [
            one.get("code") for one in record.decision.get("reasons", ())
        ]


def test_credentials_are_counted_by_result(doors: Doors) -> None:
    async def run() -> str:
        async with connected(doors) as client:
            held = doors.bearer()
            for one in (held, held, doors.bearer(exp=5, iat=1), doors.dpop("GET", url("/x"))):
                await client.post("/decide", json=asking(one))
            return (await client.get("/metrics")).text

    text = asyncio.run(run())
    found = dict(re.findall(r'^policyengine_credentials_total\{result="(\w+)"\} (\S+)$', text, re.MULTILINE))
    assert found == {"proved": "1.0", "expired": "1.0", "proof_url": "1.0"}
    assert not any(secret in text for secret in doors.secrets)


# ── Other policies ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def reloading(doors: Doors) -> ReloadableEngine:
    found = ReloadableEngine.load(
        doors.folder / "doors.policy",
        identity=doors.folder / "identity.toml",
        clock=doors.clock,
        tested=False,
        rules=ReloadRules(seconds=0),
    )
    doors.engine = found.current
    return found


def test_a_reload_keeps_verified_tokens_seen_proofs_and_revocations(doors: Doors, reloading: ReloadableEngine) -> None:
    def code(given: dict[str, Any]) -> str | None:
        decision = reloading.current.decide(asking(given))
        return decision.reasons[0].code if decision.reasons else None

    revoked, proven = doors.bearer(sub="mallory"), doors.dpop("GET", url())
    assert [code(revoked), code(proven)] == [None, None]
    before = reloading.current.identity
    assert before is not None
    before.marks.revoke(("user:acme/mallory",), int(doors.now) + 600, int(doors.now))
    policy = doors.folder / "doors.policy"
    policy.write_text(POLICY + "\nanyone { may GET /other }\n")
    (doors.folder / "jwks.json").rename(doors.folder / "gone.json")
    assert reloading.reload()
    assert reloading.current.identity is not before
    (doors.folder / "gone.json").rename(doors.folder / "jwks.json")
    assert reloading.reload()
    assert [code(revoked), code(proven), code(doors.bearer())] == ["revoked", "proof_replayed", None]
    assert reloading.current.identity is not before
    assert reloading.current.identity is not None
    assert reloading.current.identity.counts["revoked"] == 1


def test_a_reload_with_mismatched_issuers_is_refused_and_the_last_policy_stays(
    doors: Doors, reloading: ReloadableEngine
) -> None:
    policy = doors.folder / "doors.policy"
    policy.write_text(POLICY.replace("issuer acme", "issuer acmee").replace("issued by acme ", "issued by acmee "))
    assert not reloading.reload()
    assert reloading.reloads.why == "the issuers do not match `--identity`"
    assert reloading.current.decide(asking(doors.bearer())).allowed


def test_the_docs_page_shows_a_credentials_example_if_the_engine_verifies_credentials(doors: Doors) -> None:
    async def run() -> tuple[str, dict[str, Any]]:
        async with connected(doors) as client:
            return (await client.get("/docs")).text, (await client.get("/openapi.json")).json()

    page, document = asyncio.run(run())
    assert "credentials to verify" in page
    shown = document["paths"]["/decide"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    (answer,) = asked(doors, shown["credentials to verify"]["value"])
    assert (answer.status_code, answer.json()["gate"]) == (200, "identity")
    assert create_app(doors.engine).openapi() == document


def test_wrong_body_digests_do_not_matter_without_a_signature(doors: Doors) -> None:
    wrong = {"sha-256": b64encode(b"x" * 32).decode(), "sha-512": b64encode(b"x" * 64).decode()}
    (answer,) = asked(doors, asking({**doors.bearer(), "digests": wrong}))
    assert answer.json()["outcome"] == "allow"  # nothing of it is signed
