"""docs/attestation.md is true: what it configures opens, what it shows is accepted, what fails has the code it says."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import pytest
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import ECKey

from policyengine import Engine
from policyengine.identity.attestation import MAX_NONCES, MAX_SUBMODULE_DEPTH, MAX_SUBMODULES
from policyengine.identity.attestation_nonces import NONCE_LIFETIME_SECONDS
from policyengine.identity.config.model import parse_identity_config
from policyengine.server.app import create_app
from tests.identity.bound_world import ec_key, proof
from tests.identity.test_attacks_attestation import ATTACKS
from tests.pages import CHECKOUT, blocks

PAGE = CHECKOUT / "docs" / "attestation.md"
TEXT = PAGE.read_text(encoding="utf-8")
URL = "https://api.acme.example/reports"

LOGIN, LAB, OTHER = (ECKey.generate_key("P-256", {"kid": name}) for name in ("login", "lab", "lab"))


def now() -> int:
    return int(time())


def shown(language: str, place: int = 0) -> str:
    return [one.text for one in blocks(PAGE) if one.language == language][place]


def claims() -> dict[str, Any]:
    """As the page shows them; an indented block, the nonce's, is none of these."""
    found: dict[str, Any] = json.loads(shown("json"))
    return found


@dataclass
class Presenter:
    client: TestClient

    def nonce(self) -> str:
        answer = self.client.post("/attestation/nonce")
        assert answer.status_code == 200
        assert answer.json().keys() == {"nonce", "expires_at"}
        return str(answer.json()["nonce"])

    def attestation(self, change: Callable[[dict[str, Any]], object] = lambda claims: None) -> dict[str, Any]:
        found = {**claims(), "iat": now() - 60, "exp": now() + 600, "eat_nonce": self.nonce()}
        found["cnf"] = {"jkt": ec_key("mine").thumbprint()}
        change(found)
        return found

    def asks(self, raw: str) -> dict[str, Any]:
        bound = {"cnf": {"jkt": ec_key("mine").thumbprint()}, "iat": now() - 10, "exp": now() + 600, "jti": "t-1"}
        said = {"iss": "https://login.acme.example", "aud": "reports-api", "sub": "alice", "client_id": "summarizer"}
        token = jwt.encode(
            {"alg": "ES256", "kid": "login", "typ": "at+jwt"}, {**said, **bound, "scope": "write:reports"}, LOGIN
        )
        held = proof(token, key=ec_key("mine"), htm="POST", htu=URL, iat=now(), jti=self.nonce())
        question = {
            "request": {"method": "POST", "path": "/reports"},
            "credentials": {"authorization": f"DPoP {token}", "dpop": held, "attestation": raw, "url": URL},
        }
        found: dict[str, Any] = self.client.post("/decide", json=question).json()
        return found


def signed(claims: dict[str, Any], key: ECKey = LAB, **header: str) -> str:
    return jwt.encode({"alg": "ES256", "kid": "lab", "typ": "eat+jwt", **header}, claims, key)


@pytest.fixture(scope="module")
def presenter(tmp_path_factory: pytest.TempPathFactory) -> Presenter:
    folder: Path = tmp_path_factory.mktemp("attested")
    for name, key in (("lab", LAB), ("login", LOGIN)):
        (folder / f"{name}.jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    raw = tomllib.loads(shown("toml")) | {"issuers": {"login": {"keys": "login.jwks.json"}}}
    engine = Engine.from_text(shown("policy"))
    engine.verify_credentials(parse_identity_config(raw, folder))
    return Presenter(TestClient(create_app(engine), "http://localhost"))


def test_the_attestation_on_the_page_is_accepted_only_once(presenter: Presenter) -> None:
    raw = signed(presenter.attestation())
    first, again = presenter.asks(raw), presenter.asks(raw)
    assert first["allowed"], first
    assert again["reasons"][0]["code"] == "attestation_nonce"


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda claims: claims.pop(name)


def with_(**changed: Any) -> Callable[[dict[str, Any]], object]:
    return lambda claims: claims.update(changed)


FAILING: dict[str, list[Callable[[Presenter], str]]] = {
    "attester": [lambda one: signed(one.attestation(with_(iss="https://attest.acme.example/")))],
    "signature": [lambda one: signed(one.attestation(), OTHER)],
    "token_type": [lambda one: signed(one.attestation(), typ="jwt")],
    "missing_claim": [
        lambda one: signed(one.attestation(without("iat"))), lambda one: signed(one.attestation(without("exp"))),
    ],
    "attestation_age": [
        lambda one: signed(one.attestation(with_(iat=now() - 3_700))),
        lambda one: signed(one.attestation(with_(exp=now() - 100))),
        lambda one: signed(one.attestation(with_(iat=now() + 300))),
    ],
    "attestation_nonce": [
        lambda one: signed(one.attestation(without("eat_nonce"))),
        lambda one: signed(one.attestation(with_(eat_nonce="A" * 43))),
        lambda one: signed(one.attestation(with_(eat_nonce=[one.nonce() for _ in range(MAX_NONCES + 1)]))),
    ],
    "attestation_key": [
        lambda one: signed(one.attestation(without("cnf"))),
        lambda one: signed(one.attestation(with_(cnf={"jkt": OTHER.thumbprint()}))),
    ],
    "audience": [lambda one: signed(one.attestation(with_(aud="https://elsewhere.example")))],
    "attested_model": [
        lambda one: signed(one.attestation(with_(ai_model_id="other-7b"))),
        lambda one: signed(one.attestation(with_(submods={"router": {"ai_model_id": "other-1b"}}))),
        lambda one: signed(one.attestation(with_(ai_model_hash=f"sha256:{'0' * 64}"))),
    ],
    "attested_environment": [lambda one: signed(one.attestation(with_(environment="dev")))],
    "attestation": [lambda one: signed(one.attestation(with_(submods={"router": "eyJhbGciOi"})))],
    "claim_type": [lambda one: signed(one.attestation(with_(ai_model_id=7)))],
}  # fmt: skip


@pytest.mark.parametrize("code", FAILING)
def test_each_failing_attestation_has_the_code_documented_on_the_page(presenter: Presenter, code: str) -> None:
    for made in FAILING[code]:
        answer = presenter.asks(made(presenter))
        assert (answer["allowed"], answer["reasons"][0]["code"]) == (False, code)


def test_every_documented_attestation_code_has_a_test() -> None:
    section = TEXT.partition("## What fails")[2]
    codes = set(re.findall(r"^\|[^|]+\| `([a-z_]+)` \|$", section, re.MULTILINE))
    of_tokens = re.findall(r"`([a-z_]+)`", section.partition("codes of tokens")[2].partition(".\n")[0])
    # `provider` is tried beside these attacks, and `weak_key` with the key sets of every kind of issuer.
    tried = FAILING.keys() | {attack.code for attack in ATTACKS} | {"provider", "weak_key"}
    assert (codes | set(of_tokens)) - tried == set()
    assert FAILING.keys() - codes == set()


def test_the_documented_bounds_match_the_code() -> None:
    assert (NONCE_LIFETIME_SECONDS, MAX_NONCES, MAX_SUBMODULE_DEPTH) == (300, 8, 4)
    assert f"{MAX_SUBMODULES} submodules" in TEXT
