"""Credentials of several principals in one question: nothing is allowed that not one of them alone would be allowed.

All parts are real, and whoever mixes has everything: tokens, keys, certificates and attestations of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations, count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine import Engine
from policyengine.identity.config.model import parse_identity_config
from policyengine.runtime.decision import Decision, Outcome
from tests.depth import examples, scaled
from tests.identity.bound_world import (
    API_KEY,
    NOW,
    ORIGIN,
    Message,
    ec_key,
    ed_key,
    field_of,
    jkt,
    proof,
    signed,
    workload,
    write_files,
    x5t,
)

IDP, LAB, AUDIENCE = "https://idp.acme.example", "https://lab.acme.example", "payments-api"
MACHINE, OTHER = "spiffe://acme.example/machine", "spiffe://acme.example/other"
POLICY = f"""
language 1
package acme.mixed
issuer acme    {{ url "{IDP}"  audience "{AUDIENCE}"  scopes none  records chains }}
issuer mesh    {{ url "spiffe://acme.example"  scopes none }}
issuer crawler {{ url "{ORIGIN}"  scopes none }}
issuer keys    {{ scopes none }}
attester lab   {{ url "{LAB}" }}
scope all {{ GET /any  GET /bound  GET /attested  GET /task  GET /alice  GET /bob  GET /alone  GET /chain }}
users unrestricted
agent "plain"  {{ issued by acme  acts for any user  may all, GET /plain }}
agent "proven" {{
  issued by acme  acts for any user  may all, GET /proven
  may delegate all to agent "late"
  may delegate all to agent "plain"
}}
agent "pinned" {{ issued by acme  acts for any user  may all, GET /pinned }}
agent "late"   {{ issued by acme  acts for any user  may all, GET /late }}
agent "{MACHINE}" {{ issued by mesh  acts alone  may all, GET /machine }}
agent "{OTHER}"   {{ issued by mesh  acts alone  may all, GET /other }}
agent "crawler.example" {{ issued by crawler  acts alone  may all, GET /crawler }}
agent "legacy-bot" {{ issued by keys  acts alone  may all, GET /legacy }}
guard "bound"    on GET /bound    {{ require credential.bound }}
guard "attested" on GET /attested {{ require attestation.verified }}
guard "task"     on GET /task     {{ require task.id is present }}
guard "alice"    on GET /alice    {{ require user.id == "alice" }}
guard "bob"      on GET /bob      {{ require user.id == "bob" }}
guard "alone"    on GET /alone    {{ deny when user.id is present }}
guard "chain"    on GET /chain    {{ require chain.depth > 0 }}
"""
PATHS = (
    "any", "bound", "attested", "task", "alice", "bob", "alone", "chain", "plain", "proven", "pinned", "late",
    "machine", "other", "crawler", "legacy",
)  # fmt: skip
fresh = (f"once-{number}" for number in count())

# Whose each thing is. `late` acts through `proven`, by a transaction token; `pinned` and `machine` are one workload.
AGENTS = {
    "A": {"plain"}, "B": {"proven"}, "C": {"pinned", MACHINE}, "D": {"legacy-bot"}, "E": {"crawler.example"},
    "F": {OTHER}, "T": {"late"},
}  # fmt: skip


def token(agent: str, user: str, typ: str = "at+jwt", **more: object) -> str:
    claims = {
        "iss": IDP, "aud": AUDIENCE, "sub": user, "client_id": agent, "iat": NOW - 10, "exp": NOW + 600,
        "jti": f"t-{agent}", **more,
    }  # fmt: skip
    return signed({"alg": "ES256", "typ": typ, "kid": "idp"}, json.dumps(claims), ec_key("idp"), "ES256")


def certificate(name: str) -> Any:
    return workload((name,))


TOKENS = {
    "A": token("plain", "alice"),
    "B": token("proven", "bob", cnf={"jkt": jkt(ec_key("B"))}, task={"id": "t-1"}),
    "C": token("pinned", "alice", cnf={"x5t#S256": x5t(certificate(MACHINE))}),
    "T": token("late", "alice", "txntoken+jwt", txn="x", req_wl="late", act={"sub": "proven", "iat": NOW - 20}),
}
KEYS: dict[str, dict[str, str]] = {
    "A": {"jkt": jkt(ec_key("A"))}, "B": {"jkt": jkt(ec_key("B"))}, "C": {"x5t#S256": x5t(certificate(MACHINE))},
    "E": {"jkt": ed_key().thumbprint()}, "F": {"x5t#S256": x5t(certificate(OTHER))}, "T": {"jkt": jkt(ec_key("T"))},
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Something of `owner`, made anew for each question, as most counts once."""

    owner: str
    name: str
    made: Callable[[Engine], Mapping[str, object]]


def attestation(owner: str) -> Callable[[Engine], Mapping[str, object]]:
    def made(engine: Engine) -> Mapping[str, object]:
        assert engine.identity is not None
        assert engine.identity.attestation_nonces is not None
        nonce, _ = engine.identity.attestation_nonces(NOW)
        claims = {"iss": LAB, "iat": NOW, "exp": NOW + 60, "eat_nonce": nonce, "cnf": KEYS[owner]}
        head = {"alg": "ES256", "typ": "eat+jwt", "kid": "lab"}
        return {"attestation": signed(head, json.dumps(claims), ec_key("lab"), "ES256")}

    return made


def dpop(owner: str, of: str) -> Part:
    def made(engine: Engine) -> Mapping[str, object]:
        return {"dpop": proof(TOKENS[of], ec_key(owner), jti=next(fresh), htu="https://api.example/x")}

    return Part(owner, f"proof by {owner} for the token of {of}", made)


def message(engine: Engine) -> Mapping[str, object]:
    found = Message(url="https://api.example/x", nonce=next(fresh)).credentials()
    return {name: getattr(found, name) for name in ("signature", "signature_input", "signature_agent")}


def always(owner: str, member: str, value: str) -> Part:
    return Part(owner, f"{member} of {owner}: {value.split()[0]}", lambda engine: {member: value})


SLOTS: tuple[tuple[Part, ...], ...] = (
    tuple(always(one, "authorization", f"{how} {TOKENS[one]}") for one in "ABCT" for how in ("Bearer", "DPoP")),
    tuple(dpop(one, of) for one in "ABT" for of in "ABCT"),
    tuple(always(one, "client_certificate", field_of(certificate(of))) for one, of in (("C", MACHINE), ("F", OTHER))),
    tuple(Part(one, f"attestation of {one}", attestation(one)) for one in KEYS),
    (always("D", "api_key", API_KEY),),
    (Part("E", "signature of E", message),),
    (always("T", "txn_token", TOKENS["T"]),),
)  # fmt: skip
CLAIMED: dict[str, object] = {
    "agent": {"id": "proven", "issuer": "acme"}, "user": {"id": "bob"},
    "chain": {"hops": [{"agent": "proven", "issuer": "acme", "issued_at": NOW - 60}]},
    "credential": {"kind": "jwt", "issuer": "acme", "bound": True, "scopes": ["all"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = write_files(tmp_path_factory.mktemp("mixed"))
    for name in ("idp", "lab"):
        keys = {"keys": [{**ec_key(name).as_dict(private=False), "kid": name}]}
        (folder / f"{name}.json").write_text(json.dumps(keys))
    raw = {
        "issuers": {"acme": {"keys": "idp.json"}}, "attesters": {"lab": {"keys": "lab.json"}},
        "signatures": {"directories": {"crawler": "directory.json"}}, "api_keys": {"file": "api-keys"},
        "trust_domains": {"acme.example": {"bundle": "acme.pem"}},
    }  # fmt: skip
    found = Engine.from_text(POLICY, clock=lambda: datetime.fromtimestamp(NOW, UTC))
    return found.verify_credentials(parse_identity_config(raw, folder))


def asked(engine: Engine, path: str, parts: tuple[Part, ...], claims: Mapping[str, object]) -> Decision:
    credentials: dict[str, object] = {"url": "https://api.example/x", "method": "GET"}
    for part in parts:
        credentials |= part.made(engine)
    return engine.decide({"request": {"method": "GET", "path": f"/{path}"}, **claims, "credentials": credentials})


PARTS = tuple((number, part) for number, slot in enumerate(SLOTS) for part in slot)
mixes = st.lists(st.sampled_from(PARTS), min_size=3, max_size=5, unique_by=lambda one: one[0]).map(
    lambda found: tuple(part for _, part in found)
)


def check(engine: Engine, mix: tuple[Part, ...], path: str, claims: Mapping[str, object]) -> bool:
    """That one of them alone would be allowed it, where it is; whether it is."""
    decision = asked(engine, path, mix, claims)
    if decision.outcome is not Outcome.ALLOW:
        return False
    alone = {
        owner
        for owner in {part.owner for part in mix}
        if asked(engine, path, tuple(part for part in mix if part.owner == owner), {}).outcome is Outcome.ALLOW
    }
    assert decision.principal.agent in {agent for owner in alone for agent in AGENTS[owner]}, path
    return True


@pytest.mark.parametrize("claims", [{}, CLAIMED], ids=["no claims", "claims"])
def test_no_pair_of_credentials_is_allowed_more_than_one_of_its_owners(
    claims: Mapping[str, object], engine: Engine
) -> None:
    """Whoever is refused at `/any`, which is open to all of them, is refused everywhere."""
    pairs = [(one, other) for (m, one), (n, other) in combinations(PARTS, 2) if m != n]
    passing = [mix for mix in pairs if check(engine, mix, "any", claims)]
    assert 0 < len(passing) < len(pairs) / 4
    for mix in (*passing, *((part,) for _, part in PARTS)):
        for path in PATHS[1:]:
            check(engine, mix, path, claims)


@scaled
@settings(max_examples=examples(30, 600))
@given(mix=mixes, path=st.sampled_from(PATHS), claims=st.sampled_from(({}, CLAIMED)))
def test_mixed_credentials_are_never_allowed_more_than_one_of_their_owners(
    mix: tuple[Part, ...], path: str, claims: Mapping[str, object], engine: Engine
) -> None:
    check(engine, mix, path, claims)


WHOLE: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "A": (("Bearer",), {"any", "alice", "plain"}),
    "B": (("DPoP", "proof by B for the token of B", "attestation"),
          {"any", "bob", "bound", "attested", "task", "proven"}),
    "C": (("Bearer", "client_certificate", "attestation"), {"any", "alice", "bound", "attested", "pinned"}),
    "D": (("api_key",), {"any", "alone", "legacy"}),
    "E": (("signature", "attestation"), {"any", "alone", "bound", "attested", "crawler"}),
    "F": (("client_certificate", "attestation"), {"any", "alone", "bound", "attested", "other"}),
    "T": (("txn_token",), {"any", "alice", "chain"}),
}  # fmt: skip


@pytest.mark.parametrize("owner", WHOLE)
def test_each_owner_alone_is_allowed_its_own_paths(owner: str, engine: Engine) -> None:
    """Or the property would say nothing."""
    words, paths = WHOLE[owner]
    parts = tuple(
        part for slot in SLOTS for part in slot if part.owner == owner and any(word in part.name for word in words)
    )
    assert {path for path in PATHS if asked(engine, path, parts, {}).outcome is Outcome.ALLOW} == paths


@pytest.mark.parametrize(
    ("mix", "code"),
    [
        (("authorization of B: DPoP", "proof by A for the token of B"), "bound_to_other"),
        (("authorization of B: DPoP", "proof by B for the token of A"), "proof_token"),
        (("authorization of B: Bearer",), "wrong_scheme"),
        (("authorization of A: Bearer", "proof by B for the token of A"), "not_bound"),
        (("authorization of A: Bearer", "attestation of B"), "attestation_key"),
        (("authorization of C: Bearer", "client_certificate of F: "), "bound_to_other"),
        (("authorization of A: Bearer", "api_key of D: "), "two_credentials"),
        (("api_key of D: ", "signature of E"), "two_credentials"),
        (("signature of E", "attestation of B"), "attestation_key"),
        (("client_certificate of F: ", "attestation of C"), "attestation_key"),
        (("api_key of D: ", "attestation of E"), "attestation_key"),
    ],
    ids=lambda one: " + ".join(one) if isinstance(one, tuple) else one,
)
def test_mixed_credentials_of_two_owners_are_rejected_with_the_cause(
    mix: tuple[str, ...], code: str, engine: Engine
) -> None:
    parts = tuple(part for name in mix for slot in SLOTS for part in slot if part.name.startswith(name))
    assert len(parts) == len(mix)
    assert asked(engine, "any", parts, CLAIMED).reasons[0].code == code


@pytest.mark.parametrize("said", [{}, {"size": 0}, {"headers": {"content-length": "0"}}], ids=str)
def test_an_unsigned_body_is_rejected_with_a_message_signature(said: Mapping[str, object], engine: Engine) -> None:
    """Whatever the gateway says of its size: what is in it is what policies decide by."""
    for body, code in (({}, None), ({"body": {"amount": 9}}, "message_components")):
        credentials = {"url": "https://api.example/x", "method": "GET", **message(engine)}
        request = {"method": "GET", "path": "/bound", **said}
        decision = engine.decide({"request": request, **body, "credentials": credentials})
        assert (decision.reasons[0].code if decision.reasons else None) == code
