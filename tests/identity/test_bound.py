"""What bound credentials prove: facts, when they end, and what is set up by which setting."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from policyengine.engine import Engine
from policyengine.identity.config.authenticator_factory import build_authenticator
from policyengine.identity.config.model import IdentityConfigError, parse_identity_config
from policyengine.identity.proof.dpop import DpopNonces
from policyengine.identity.proof.key_confirmation import BindingVerifier, create_proof_verifiers
from policyengine.identity.proof.spiffe import key_thumbprint
from policyengine.identity.url_compare import normalize_url
from policyengine.identity.verified import UNBOUND, ConfirmedKey, ProofContext
from policyengine.identity.verify.api_keys import hash_api_key
from policyengine.runtime.credential_errors import CredentialError
from policyengine.runtime.credentials import Credentials
from policyengine.stores.base import StoreError
from policyengine.stores.credential_marks import MemoryMarks
from tests.identity.attacks import alone, mtls
from tests.identity.bound_world import (
    API_KEY,
    ISSUERS,
    NOW,
    SVID,
    URL,
    Message,
    World,
    authority,
    der,
    directory_of,
    ec_key,
    ed_key,
    field_of,
    issuer,
    jkt,
    pem,
    proof,
    workload,
    write_files,
    x5t,
)

Raw = dict[str, Any]


def told(world: World, given: Credentials, **request: Any) -> dict[str, Any]:
    return {root: dict(facts) for root, facts in world.prove(given, **request).facts.items()}


# ── Facts ─────────────────────────────────────────────────────────────────────────────────────


def test_a_token_with_a_dpop_proof_is_bound(world: World) -> None:
    token = world.issued.token({"jkt": jkt()})
    facts = told(world, Credentials(authorization=f"DPoP {token}", dpop=proof(token)))
    assert facts["credential"]["bound"] is True
    assert facts["agent"] == {"id": "invoice-bot", "issuer": "acme"}


def test_a_bearer_token_is_not_bound_despite_a_client_certificate(world: World) -> None:
    given = Credentials(authorization=f"Bearer {world.issued.token()}", client_certificate=field_of(workload()))
    assert told(world, given)["credential"]["bound"] is False


def test_a_client_certificate_identifies_the_workload(world: World) -> None:
    facts = told(world, alone(workload())(world))
    assert facts["agent"] == {"id": SVID, "issuer": "mesh"}
    credential = facts["credential"]
    assert (credential["kind"], credential["bound"], credential["subject"]) == ("mtls", True, SVID)
    assert credential["expires_at"].timestamp() == NOW + 3_600


def test_facts_proved_by_a_certificate_expire_with_it_or_after_five_minutes(world: World) -> None:
    assert world.prove(alone(workload())(world)).expires == NOW + 300
    assert world.prove(alone(workload(ends=NOW + 20))(world)).expires == NOW + 20


def test_a_token_is_rejected_after_the_certificate_bound_to_it_expires(world: World) -> None:
    given = mtls(world, workload(ends=NOW + 20))
    assert world.refusal(given) == "proved"
    world.now = NOW + 21
    assert world.refusal(given) == "certificate_time"


def test_a_message_signature_identifies_the_origin_of_the_agent(world: World) -> None:
    facts = told(world, Message().credentials())
    assert facts["agent"] == {"id": "crawler.example", "issuer": "crawler"}
    assert (facts["credential"]["kind"], facts["credential"]["bound"]) == ("signature", True)


@pytest.mark.parametrize(("components", "bound"), [
    ('"@authority" "signature-agent"', False),
    ('"@method" "@authority" "@path" "signature-agent"', False),
    ('"@method" "@authority" "@path" "@query" "signature-agent"', True),
    ('"@method" "@target-uri" "signature-agent"', True),
])  # fmt: skip
def test_a_message_signature_is_bound_only_if_it_covers_method_and_target(
    bound_files: Path, components: str, bound: bool
) -> None:
    settings = {"components": [], "directories": {"crawler": "directory.json"}}
    world = World(bound_files, {"signatures": settings})
    assert told(world, Message(components=components).credentials())["credential"]["bound"] is bound


def test_a_message_signature_without_a_nonce_is_not_bound(bound_files: Path) -> None:
    world = World(bound_files, {"signatures": {"nonce": False, "directories": {"crawler": "directory.json"}}})
    found = [told(world, Message(nonce=nonce).credentials())["credential"]["bound"] for nonce in (None, None, "n")]
    assert found == [False, False, True]
    assert world.refusal(Message(nonce="n").credentials()) == "message_replayed"


def test_an_api_key_provides_its_agent_and_is_not_bound(world: World) -> None:
    facts = told(world, Credentials(api_key=API_KEY))
    assert facts["agent"] == {"id": "legacy-bot", "issuer": "keys"}
    assert (facts["credential"]["kind"], facts["credential"]["bound"]) == ("api_key", False)


POLICY = """
scope read { GET /v1/notes }
issuer acme { url "https://idp.acme.example" scopes none }
issuer mesh { url "spiffe://acme.example" scopes none }
issuer keys { scopes none }
agent "spiffe://acme.example/**" { issued by mesh  acts alone  credential { kind in [jwt, mtls]  bound }  may read }
agent "legacy-bot" { issued by keys  acts alone  credential { kind in [jwt, mtls] }  may read }
guard "nobody shares" { deny when credential.shared }
"""


def test_a_policy_can_deny_api_keys_and_shared_credentials(world: World, tmp_path: Path) -> None:
    (tmp_path / "p.policy").write_text(POLICY)
    engine = Engine.load(tmp_path / "p.policy", clock=lambda: at_now(world))
    engine.use_identity(world.front)

    def asked(given: Raw, ip: str = "10.1.2.3") -> str:
        http = {"method": "GET", "path": "/v1/notes", "host": "api.acme.example", "ip": ip}
        decision = engine.decide({"request": http, "credentials": given})
        return f"{decision.outcome} {decision.reasons[0].rule}" if decision.reasons else str(decision.outcome)

    certificate = {"client_certificate": pem(workload())}
    assert asked({"api_key": API_KEY}).startswith("deny")
    assert [asked(certificate), asked(certificate, "10.1.2.99")] == ["allow", "allow"]
    assert asked(certificate, "192.0.2.7") == "deny nobody shares"
    assert asked(certificate) == "deny nobody shares"


def at_now(world: World) -> Any:
    return datetime.fromtimestamp(world.now, UTC)


def test_an_incomplete_signature_is_rejected_despite_a_proved_certificate(world: World) -> None:
    half = replace(alone(workload())(world), signature_input="sig1=()")
    found = [world.refusal(given) for given in (half, alone(workload())(world), half)]
    assert found == ["message_signature", "proved", "message_signature"]


# ── Revoked ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [f"key:{x5t(workload())}", f"agent:mesh/{SVID}"], ids=["its key", "its agent"])
def test_a_certificate_revoked_before_its_first_use_stays_rejected(world: World, name: str) -> None:
    world.marks.revoke([name], NOW + 900, NOW)
    assert [world.refusal(alone(workload())(world)) for _ in range(2)] == ["revoked", "revoked"]


# ── Settings ──────────────────────────────────────────────────────────────────────────────────

WRONG: list[tuple[str, Raw, str]] = [
    ("a trust domain and no issuer", {"trust_domains": {"other.example": {"bundle": "acme.pem"}}},
     "no issuer of the policy has the trust domain `other.example`"),
    ("a bundle that is not there", {"trust_domains": {"acme.example": {"bundle": "no.pem"}}}, "no such file"),
    ("a bundle that is none", {"trust_domains": {"acme.example": {"bundle": "api-keys"}}},
     "neither certificates in PEM nor a SPIFFE bundle"),
    ("a bundle and a gateway", {"trust_domains": {"acme.example": {"bundle": "x", "verified_by_gateway": True}}},
     "either `bundle` or"),
    ("neither", {"trust_domains": {"acme.example": {}}}, "either `bundle` or"),
    ("a directory of nobody", {"signatures": {"directories": {"who": "directory.json"}}},
     "`signatures.directories.who`: the policy has no issuer"),
    ("a directory that is none", {"signatures": {"directories": {"crawler": "acme.pem"}}}, "not a JSON object"),
    ("keys that are not there", {"api_keys": {"file": "no-keys"}}, "cannot read the API keys"),
    ("a time without a unit", {"dpop": {"window": "60"}}, "write a time like"),
    ("clocks that differ by a day", {"identity": {"leeway": "1d"}}, "`identity.leeway`"),
    ("an issuer that is waited for without end", {"identity": {"timeout": "1h"}}, "`identity.timeout`"),
    ("an issuer that nobody waits for", {"identity": {"timeout": "0s"}}, "`identity.timeout`"),
    ("proofs that are good for a day", {"dpop": {"window": "1d"}}, "`dpop.window`"),
    ("proofs that are good for no time", {"dpop": {"window": "0s"}}, "`dpop.window`"),
    ("nonces that are good for a day", {"dpop": {"nonce_lifetime": "1d"}}, "`dpop.nonce_lifetime`"),
    ("signatures that are good for a day", {"signatures": {"window": "1d"}}, "`signatures.window`"),
    ("a prefix that is too long", {"sharing": {"ipv4": 33}}, "sharing.ipv4"),
    ("credentials that are seen for no time", {"sharing": {"window": "0s"}}, "`sharing.window`"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_invalid_proof_settings_are_rejected(bound_files: Path, raw: Raw, message: str) -> None:
    with pytest.raises(IdentityConfigError) as error:
        create_proof_verifiers(parse_identity_config(raw, bound_files), ISSUERS, MemoryMarks())
    assert message in str(error.value)


LINES = [
    ("legacy-bot: sha256:" + "0" * 64, "line 2 of"),
    (f"keys/legacy-bot: {API_KEY}", "line 2 of"),
    ("keys/legacy-bot: sha256:" + "0" * 63, "line 2 of"),
    ("others/bot: sha256:" + "0" * 64, "an issuer that the policy does not have"),
    (f"keys/another: {hash_api_key(API_KEY)}", "repeats a key"),
]


@pytest.mark.parametrize(("line", "message"), LINES)
def test_an_invalid_api_key_line_is_reported_without_the_key(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "api-keys").write_text(f"keys/legacy-bot: {hash_api_key(API_KEY)}\n{line}\n")
    with pytest.raises(IdentityConfigError) as error:
        create_proof_verifiers(
            parse_identity_config({"api_keys": {"file": "api-keys"}}, tmp_path), ISSUERS, MemoryMarks()
        )
    assert message in str(error.value)
    assert API_KEY not in str(error.value)
    assert "0" * 60 not in str(error.value)


@pytest.mark.parametrize("key", ["short", "x" * 31, "k" * 31 + " ", "k" * 40 + "é"])
def test_a_weak_api_key_is_not_hashed(key: str) -> None:
    with pytest.raises(ValueError, match="a key must have at least 32 visible ASCII characters"):
        hash_api_key(key)


# ── Files that change ─────────────────────────────────────────────────────────────────────────


def later(path: Path, text: str) -> None:
    """Written, and newer than before on any file system."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_a_changed_trust_bundle_is_reloaded_and_a_broken_one_keeps_the_last_good(tmp_path: Path) -> None:
    world = World(write_files(tmp_path))
    evil = alone(workload(by="evil"))(world)
    assert world.refusal(evil) == "certificate_chain"
    later(tmp_path / "acme.pem", pem(authority("acme").certificate, authority("evil").certificate))
    assert world.refusal(evil) == "proved"
    later(tmp_path / "acme.pem", "nothing")
    assert world.refusal(alone(workload(ends=NOW + 9))(world)) == "proved"


def test_a_spiffe_bundle_in_json_is_accepted(tmp_path: Path) -> None:
    world = World(write_files(tmp_path))
    x5c = [b64encode(der(authority("acme").certificate)).decode()]
    keys = [{"use": "x509-svid", "kty": "EC", "x5c": x5c}, {"use": "jwt-svid", "kty": "EC"}]
    (tmp_path / "acme.pem").write_text(json.dumps({"keys": keys, "spiffe_refresh_hint": 60}))
    assert world.refusal(alone(workload())(world)) == "proved"
    assert world.refusal(alone(workload(by="evil"))(world)) == "certificate_chain"


def test_a_changed_key_directory_is_reloaded_and_a_broken_one_has_no_keys(tmp_path: Path) -> None:
    world = World(write_files(tmp_path))
    signed = Message().credentials(ec_key("late"))
    assert world.refusal(signed) == "unknown_key"
    later(tmp_path / "directory.json", directory_of(ec_key("late")))
    assert world.refusal(signed) == "proved"
    assert world.refusal(Message(nonce="n-2").credentials(ed_key())) == "unknown_key"
    later(tmp_path / "directory.json", "{")
    assert world.refusal(Message(nonce="n-3").credentials(ec_key("late"))) == "provider"


@pytest.mark.parametrize(("more", "code"), [
    ({"exp": NOW + 1, "nbf": NOW}, "proved"), ({"exp": NOW}, "unknown_key"), ({"nbf": NOW + 1}, "unknown_key"),
    ({"exp": "soon"}, "unknown_key"), ({"use": "enc"}, "unknown_key"), ({"kid": "another"}, "proved"),
])  # fmt: skip
def test_a_directory_key_is_found_by_its_thumbprint_while_it_is_valid(tmp_path: Path, more: Raw, code: str) -> None:
    world = World(write_files(tmp_path))
    (tmp_path / "directory.json").write_text(directory_of(ed_key(), **more))
    assert world.refusal(Message().credentials()) == code


def test_a_directory_key_expires_without_a_reload(tmp_path: Path) -> None:
    world = World(write_files(tmp_path))
    (tmp_path / "directory.json").write_text(directory_of(ed_key(), exp=NOW + 5))
    assert world.refusal(Message().credentials()) == "proved"
    world.now = NOW + 5
    assert world.refusal(Message(nonce="n-2").credentials()) == "unknown_key"


# ── URLs ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("url", "normal"), [
    ("HTTPS://A.Example:443", "https://a.example/"),
    ("http://a.example:80/x", "http://a.example/x"),
    ("http://a.example:8080/x", "http://a.example:8080/x"),
    ("https://a.example:/x?y#z", "https://a.example/x"),
    ("https://[2001:DB8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
    ("https://a.example/%7euser/%c3%a9/%2f", "https://a.example/~user/%C3%A9/%2F"),
    ("https://a.example/é", "https://a.example/%C3%A9"),
    ("https://u@a.example/x", None), ("ftp://a.example/", None), ("//a.example/", None), ("", None),
    ("https://a.example/%zz", None), ("https://a.example/%", None), ("https:///x", None),
    ("https://a.example/a/./b", None), ("https://a.example/%2e%2e/b", None), ("https://a.example/\n", None),
    ("https://a.example\\@b.example/", None), ("https://a.example/" + "x" * 9_000, None),
])  # fmt: skip
def test_urls_are_normalized_or_rejected(url: str, normal: str | None) -> None:
    assert normalize_url(url) == normal


def test_empty_credentials_present_nothing(world: World) -> None:
    given = Credentials(dpop="x", client_certificate="y")
    assert (
        world.parts.presents(replace(given, dpop=None, client_certificate=None), ProofContext("GET", URL), NOW) is None
    )


def test_a_proof_without_a_token_yields_the_confirmed_keys_of_the_client(world: World) -> None:
    """As clients ask for one by their keys alone."""
    binds, request = world.parts.binds, ProofContext("GET", URL)
    certificate = workload()
    both = Credentials(dpop=proof(None), client_certificate=field_of(certificate))
    assert binds(Credentials(), request, None, NOW) == UNBOUND
    assert binds(both, request, None, NOW) == ConfirmedKey(
        jkt(), x5t(certificate), NOW + 3_600, key_thumbprint(certificate)
    )
    for wrong in (both, Credentials(dpop=proof(None, jti="p-2", htm="POST")), Credentials(client_certificate=":AA==:")):
        with pytest.raises(CredentialError):
            binds(wrong, request, None, NOW)


def test_proofs_without_a_token_are_rate_limited(world: World) -> None:
    """Anybody can make a key and proofs by it; whoever comes with a token is asked for a proof all the same."""
    binds, request = world.parts.binds, ProofContext("GET", URL)
    binds.strangers.most = 2
    for number in range(2):
        binds(Credentials(dpop=proof(None, jti=f"s-{number}")), request, None, NOW)
    with pytest.raises(StoreError, match="2 proofs without a token within 150 s"):
        binds(Credentials(dpop=proof(None, jti="s-3")), request, None, NOW)
    raw = world.issued.token({"jkt": jkt()})
    assert world.refusal(Credentials(authorization=f"DPoP {raw}", dpop=proof(raw))) == "proved"
    early, later = (Credentials(dpop=proof(None, jti=f"s-{after}", iat=NOW + after)) for after in (149, 150))
    with pytest.raises(StoreError):
        binds(early, request, None, NOW + 149)  # what they made is remembered still
    assert binds(later, request, None, NOW + 150).jkt == jkt()


def test_an_invalid_proof_does_not_use_up_the_limit_on_proofs_without_a_token(world: World) -> None:
    """Whatever is wrong with it: else whoever sends `DPoP: x` often enough shuts the door for real clients."""
    binds, request = world.parts.binds, ProofContext("GET", URL)
    binds.strangers.most = 1
    header, claims, signature = proof(None).split(".")
    for wrong in ("x", "x.y.z", f"{header}.{claims}.{signature[:-4]}AAAA", proof(None, htm="POST"), proof(None, iat=1),
                  proof(None, htu="https://evil.example/"), f"{header}.{claims}."):  # fmt: skip
        for _ in range(3):
            with pytest.raises(CredentialError):
                binds(Credentials(dpop=wrong), request, None, NOW)
    assert binds(Credentials(dpop=proof(None)), request, None, NOW).jkt == jkt()
    with pytest.raises(StoreError):
        binds(Credentials(dpop=proof(None, jti="another")), request, None, NOW)


def test_a_proof_by_a_known_client_key_is_exempt_from_the_stranger_limit(world: World) -> None:
    binds, request = world.parts.binds, ProofContext("GET", URL)
    binds.strangers.most = 0
    for number in range(3):
        made = Credentials(dpop=proof(None, jti=f"known-{number}"))
        assert binds(made, request, None, NOW, lambda key: key == jkt()).jkt == jkt()
    with pytest.raises(StoreError):
        binds(Credentials(dpop=proof(None, jti="other")), request, None, NOW, lambda key: False)


EVIL = "https://evil.example/v1/invoices/42"
OURS = {
    "identity": {"hosts": ["api.acme.example", "other.acme.example:8443"], "url": "https://desk.acme.example/x"},
    "signatures": {"directories": {"crawler": "directory.json"}},
}


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (URL, "proved"),
        ("https://API.acme.example:443/v1/invoices/42", "proved"),
        ("https://other.acme.example:8443/v1/invoices/42", "proved"),
        ("https://desk.acme.example/v1/invoices/42", "proved"),
        (EVIL, "foreign_host"),
        ("https://other.acme.example/v1/invoices/42", "foreign_host"),
        ("https://api.acme.example:8443/v1/invoices/42", "foreign_host"),
        ("https://api.acme.example.evil.example/v1/invoices/42", "foreign_host"),
        ("https://api.acme.example./v1/invoices/42", "foreign_host"),
        (None, "foreign_host"),
    ],
)
def test_a_proof_for_a_foreign_host_is_rejected(bound_files: Path, url: str | None, code: str) -> None:
    """Passed on by that service, with its own name in `Host`: the proof is for the URL that the gateway tells."""
    world = World(bound_files, OURS)
    raw = world.issued.token({"jkt": jkt()})
    shown = Credentials(authorization=f"DPoP {raw}", dpop=proof(raw, htu=url or URL))
    assert world.refusal(shown, url) == code


@pytest.mark.parametrize(("url", "code"), [(URL, "proved"), (EVIL, "foreign_host")])
def test_a_message_signed_for_a_foreign_host_is_rejected(bound_files: Path, url: str, code: str) -> None:
    assert World(bound_files, OURS).refusal(Message(url=url).credentials(), url) == code


def test_a_proof_for_any_host_is_accepted_if_no_hosts_are_configured(world: World) -> None:
    raw = world.issued.token({"jkt": jkt()})
    assert world.refusal(Credentials(authorization=f"DPoP {raw}", dpop=proof(raw, htu=EVIL)), EVIL) == "proved"


@pytest.mark.parametrize(
    "host", ["https://a.example", "A.example", "a.example/x", "u@a.example", "a b", "", "a.example.", "a.example:443"]
)
def test_an_invalid_host_is_rejected(tmp_path: Path, host: str) -> None:
    with pytest.raises(IdentityConfigError, match=r"identity\.hosts"):
        parse_identity_config({"identity": {"hosts": [host]}}, tmp_path)


def test_servers_that_share_a_nonce_key_accept_each_others_dpop_nonces(bound_files: Path, tmp_path: Path) -> None:
    kernel = Engine.from_text("language 1\nscope a { GET /a }\n").kernel

    def nonces(key: str | None) -> DpopNonces:
        path = tmp_path / "key"
        path.write_text(key or "")
        path.chmod(0o600)
        raw = {"dpop": {"nonces": True, **({} if key is None else {"nonce_key": "file:key"})}}
        bound = build_authenticator(
            parse_identity_config(raw, tmp_path), kernel, MemoryMarks(), lambda: NOW
        ).parts.binds
        assert isinstance(bound, BindingVerifier)
        assert bound.proofs.nonces is not None
        return bound.proofs.nonces

    one, other, alone, another = (nonces(key) for key in ("k" * 32, "k" * 32, None, "l" * 32))
    one.check(other.nonce(NOW), NOW)
    for wrong in (alone, another):
        with pytest.raises(CredentialError):
            one.check(wrong.nonce(NOW), NOW)
    with pytest.raises(
        IdentityConfigError, match=r"`dpop.nonce_key` is too short \(generate at least 32 random characters"
    ):
        nonces("k" * 31)


def test_proof_verifiers_keep_their_state_when_the_policy_is_reloaded(bound_files: Path) -> None:
    marks, settings = MemoryMarks(), {"dpop": {"nonces": True}, "signatures": {}}
    configuration = parse_identity_config(settings, bound_files)
    first = create_proof_verifiers(configuration, ISSUERS, marks)
    again = create_proof_verifiers(
        configuration, (*ISSUERS[:2], issuer("late", "https://late.example")), marks, before=first
    )
    fresh = create_proof_verifiers(configuration, ISSUERS, marks)
    assert (again.sharing is first.sharing, fresh.sharing is first.sharing) == (True, False)
    assert again.nonces is first.nonces is not None
    before, after = (one.presents.signatures for one in (first, again))
    assert before is not None
    assert after is not None
    known, then = after.directories.known, before.directories.known
    assert known["https://crawler.example"] is then["https://crawler.example"]
    assert known.keys() - then.keys() == {"https://late.example"}
