"""What should be over and goes on: against real servers on one store, of which one has two workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from tests.identity.bound_world import field_of, x5t
from tests.identity.ending import ACME, ARCHIVE, LAB, STATIC, Answer, Held, Server, World, key_of, proof
from tests.identity.issuing import ec, signed
from tests.identity.providing import faulty

EC2 = ec("P-256", "nobodys")
FRESH = ec("P-256", "fresh")
WORKERS = 4  # times that two workers are asked: one of both answers


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with faulty() as far:
        yield World(tmp_path_factory.mktemp("ending"), far)


@pytest.fixture(scope="module")
def servers(world: World) -> Iterator[tuple[Server, Server]]:
    with ExitStack() as stack:
        one, workers = world.serving(), world.serving("--workers", "2")
        found = stack.enter_context(one), stack.enter_context(workers)
        world.others.append(found[1])
        yield found


@pytest.fixture
def s(servers: tuple[Server, Server]) -> Iterator[Server]:
    yield servers[0]
    servers[0].world.restore()


@pytest.fixture
def workers(servers: tuple[Server, Server]) -> Server:
    """Another server, with workers, of the same store."""
    return servers[1]


# ── A token ───────────────────────────────────────────────────────────────────────────────────

# What is revoked, and what has to be over then: itself, where it can be presented, and what rests on it.
Made = tuple[str, list[Held]]
UNVERIFIED = {"verified": False}


def transaction(s: Server) -> Made:
    held = s.world.transaction()
    return held.raw, [held]


def of_another_audience(s: Server) -> Made:
    """Of the same `jti` there is one for us."""
    jti = s.world.fresh()
    return s.world.subject(aud="mail-api", jti=jti), [Held(s.world.subject(jti=jti))]


def issued_for_another_audience(s: Server) -> Made:
    """What rests on it is asked for elsewhere, and shown by its links."""
    raw = s.exchanged(s.world.subject(), audience=ARCHIVE).raw
    return raw, []


def rotated(s: Server) -> Made:
    """Its issuer has other keys since it was exchanged."""
    raw = s.world.subject()
    held = s.exchanged(raw)
    s.world.rotate()
    return raw, [held]


def used(s: Server) -> Made:
    raw = s.world.id_jag()
    return raw, [s.exchanged(raw)]


def inactive(s: Server) -> Made:
    """Its issuer ended it; what rests on it goes on. What it said before is known to another server alone."""
    raw = s.world.opaque()
    held = s.world.others[0].exchanged(raw)
    s.world.active.remove(raw)
    return raw, [held]


def further_down(s: Server) -> Made:
    raw = s.world.subject()
    return raw, [s.exchanged(s.exchanged(raw).raw, by="clerk")]


def by_a_key_of_ours_that_is_gone(s: Server) -> Made:
    first = s.exchanged(s.world.subject())
    s.world.rotate_ours()
    return first.raw, []


def of_a_later_time(s: Server) -> Made:
    jti = s.world.fresh()
    return s.world.subject(nbf=s.world.now + 500, jti=jti), [Held(s.world.subject(jti=jti))]


def that_says_nothing_that_is_understood(s: Server) -> Made:
    """Of its `act` nobody is told, and of its times none is one."""
    jti = s.world.fresh()
    return s.world.subject(act=7, exp="never", iat=-1, jti=jti), [Held(s.world.subject(jti=jti))]


def static_key(s: Server) -> Made:
    return STATIC, [Held(STATIC, header="api_key")]


def with_blanks_around(s: Server) -> Made:
    raw = s.world.subject()
    return f"\n {raw} \n", [Held(raw), s.exchanged(raw)]


ENDINGS: list[tuple[Callable[[Server], Made], dict[str, object]]] = [
    (transaction, {}),
    (of_another_audience, {}),
    (issued_for_another_audience, {}),
    (rotated, UNVERIFIED),
    (used, {}),
    (inactive, UNVERIFIED),
    (further_down, {}),
    (by_a_key_of_ours_that_is_gone, UNVERIFIED),
    (of_a_later_time, {}),
    (that_says_nothing_that_is_understood, {}),
    (static_key, UNVERIFIED),
    (with_blanks_around, {}),
]


def named(endings: Any) -> Any:
    return pytest.mark.parametrize(("made", "told"), endings, ids=[made.__name__ for made, _ in endings])


@named(ENDINGS)
def test_a_revocation_by_an_operator_applies_at_every_worker_and_is_recorded(
    s: Server, workers: Server, made: Callable[[Server], Made], told: dict[str, object]
) -> None:
    raw, over = made(s)
    assert [s.code(held) for held in over] == ["allow"] * len(over)
    before = len(s.ended), s.world.marks
    answer = s.revoke(token=raw)
    assert (answer.status, answer.body) == (200, told)
    assert (len(s.ended), s.world.marks > before[1]) == (before[0] + 1, True)
    assert s.ended[-1].get("verified") is told.get("verified")
    assert [s.code(held) for held in over] == ["revoked"] * len(over)
    assert [workers.code(held) for held in over for _ in range(WORKERS)] == ["revoked"] * len(over) * WORKERS
    assert [server.active(one) for server in (s, workers) for one in (raw, *(held.raw for held in over))] == [False] * (
        2 * (1 + len(over))
    )


def test_an_operator_can_revoke_a_token_whose_key_is_not_fetched_yet(s: Server, workers: Server) -> None:
    """Somebody's unknown key id keeps the keys from being asked for again, for ten seconds: another server knows it."""
    assert s.code(s.world.subject("far-1")) == "allow"
    assert s.code(signed({"alg": "ES256", "kid": "evil"}, {"iss": "https://login.far.example"}, EC2)) == "unknown_key"
    s.world.publish(ec("P-256", "far-1"), ec("P-256", "far-2"))
    raw, other = s.world.subject("far-2"), s.world.subject("far-2")
    assert s.code(raw) == "unknown_key"
    refused = s.revoke("planner", token=raw)
    assert (refused.status, refused.error, refused.headers["retry-after"]) == (503, "temporarily_unavailable", "10")
    assert s.revoke(token=raw).body == UNVERIFIED
    assert [workers.code(one) for one in (other, *[raw] * WORKERS)] == ["allow", *["revoked"] * WORKERS]


def test_a_revoked_attestation_is_rejected(s: Server) -> None:
    def attestation() -> str:
        claims = {"iss": LAB, "iat": s.world.now, "exp": s.world.now + 300, "eat_nonce": s.nonce(), "jti": "a"}
        return signed({"alg": "ES256", "typ": "eat+jwt", "kid": "acme-1"}, claims, ec("P-256", "acme-1"))

    one, other = attestation(), attestation()
    raw = s.world.subject(jti=s.world.fresh())
    assert s.revoke("planner", token=one).error == "unauthorized_client"
    assert s.revoke(token=one).body == {}
    assert [s.code(raw, {"attestation": each}) for each in (other, one)] == ["allow", "revoked"]


def test_a_revoked_client_assertion_does_not_authenticate_its_client(s: Server) -> None:
    asked = s.world.assertion("summarizer")
    assert s.revoke(token=asked["client_assertion"]).body == UNVERIFIED
    assert s.asked(s.world.subject(), **asked).error == "unauthorized_client"


def test_revoking_a_dpop_proof_as_a_token_is_rejected(s: Server) -> None:
    before = s.world.marks
    answer = s.revoke(token=proof(FRESH, "GET", "https://api.acme.example/"))
    assert (answer.status, answer.error, s.world.marks) == (400, UNSUPPORTED, before)
    assert answer.body["error_description"].endswith("send its thumbprint as `key`")


def test_revoking_a_token_for_a_limited_time_is_rejected(s: Server) -> None:
    raw = s.world.subject()
    assert s.revoke(token=raw, **{"for": "1h"}).error == "invalid_request"
    assert s.code(raw) == "allow"


# ── By clients ────────────────────────────────────────────────────────────────────────────────


def forged(s: Server) -> str:
    return signed({"alg": "ES256", "typ": "at+jwt", "kid": "acme-1"}, {"iss": ACME, "client_id": "summarizer"}, EC2)


def unknown(s: Server) -> str:
    s.world.active.discard("opaque-gone")
    return "opaque-gone"


def of_nobodys_issuer(s: Server) -> str:
    return s.world.subject(iss="https://login.evil.example", client_id="summarizer")


def without_signature(s: Server) -> str:
    return s.world.subject(client_id="summarizer").rpartition(".")[0] + ".AAAA"


UNSUPPORTED, NOT_ITS = "unsupported_token_type", "unauthorized_client"
CLIENTS: list[tuple[str, Callable[[Server], str], int, str]] = [
    ("a random string", lambda s: "a-random-string", 400, UNSUPPORTED),
    ("three parts of nothing", lambda s: "a.b.c", 400, UNSUPPORTED),
    ("one that names it, by nobody's key", forged, 400, UNSUPPORTED),
    ("one that names it, of an issuer that nobody trusts", of_nobodys_issuer, 400, UNSUPPORTED),
    ("one that names it, with another signature", without_signature, 400, UNSUPPORTED),
    ("an opaque one of which its issuer knows nothing", unknown, 400, UNSUPPORTED),
    ("a static key", lambda s: STATIC, 400, UNSUPPORTED),
    ("another agent's", lambda s: s.world.subject(), 400, NOT_ITS),
    ("another agent's for another API", lambda s: s.world.subject(aud="mail-api"), 400, NOT_ITS),
    ("another agent's transaction", lambda s: s.world.transaction().raw, 400, NOT_ITS),
    ("one that does not say whose it is", lambda s: s.world.subject(act=7, client_id="summarizer"), 400, NOT_ITS),
    ("one of a name beside a person's", lambda s: s.world.subject(client_id="portal"), 400, NOT_ITS),
    ("one with its scheme", lambda s: f"Bearer {s.world.subject()}", 400, "invalid_request"),
    ("one that is too large", lambda s: "x" * 16_385, 400, "invalid_request"),
    ("one that is no ASCII", lambda s: "tökèn", 400, "invalid_request"),
]


@pytest.mark.parametrize(("made", "status", "error"), [one[1:] for one in CLIENTS], ids=[one[0] for one in CLIENTS])
def test_a_client_cannot_revoke_tokens_that_it_does_not_own(
    s: Server, made: Callable[[Server], str], status: int, error: str
) -> None:
    before = s.world.marks, s.ended
    answer = s.revoke("summarizer", token=made(s))
    assert (answer.status, answer.error) == (status, error)
    assert (s.world.marks, s.ended) == before, "and takes no room"
    if error == UNSUPPORTED:
        told = answer.body["error_description"]
        assert told.startswith("the token was not revoked: ")
        assert told.endswith("; an operator can revoke it anyway")


OWN: list[tuple[str, Callable[[Server], Made]]] = [
    ("for another of our audiences", issued_for_another_audience),
    ("for another API", lambda s: (s.world.subject(client_id="summarizer", aud="mail-api"), [])),
    ("a transaction", lambda s: ((held := s.world.transaction(req_wl="summarizer")).raw, [held])),
    ("used", lambda s: ((raw := s.world.id_jag(client_id="summarizer")), [s.exchanged(raw)])),
    ("ended", lambda s: (s.world.subject(client_id="summarizer", exp=s.world.now - 500, iat=1), [])),
    ("handed on", lambda s: ((raw := s.exchanged(s.world.subject()).raw), [s.exchanged(raw, by="clerk")])),
]


@pytest.mark.parametrize("made", [one[1] for one in OWN], ids=[one[0] for one in OWN])
def test_a_client_can_revoke_each_kind_of_token_that_names_it(s: Server, made: Callable[[Server], Made]) -> None:
    raw, over = made(s)
    before = len(s.ended)
    answer = s.revoke("summarizer", token=raw)
    assert (answer.status, answer.body, len(s.ended)) == (200, {}, before + 1)
    assert [s.code(held) for held in over] == ["revoked"] * len(over)
    assert s.active(raw) is False


def test_a_client_can_revoke_only_its_own_opaque_tokens(s: Server, workers: Server) -> None:
    """Another issuer's agent of a client's name is another."""
    mine, planners = s.world.opaque("asker"), s.world.opaque()
    assert s.revoke("planner", token=planners).error == "unauthorized_client"
    assert s.revoke("asker", token=mine).body == {}
    assert [server.code(one) for server in (s, workers) for one in (mine, planners)] == ["revoked", "allow"] * 2


def test_revoking_an_expired_token_stores_nothing(s: Server) -> None:
    """As clients that tidy up send tokens whose keys are long gone."""
    raw = signed({"alg": "ES256", "typ": "at+jwt", "kid": "k"}, {"iss": ACME, "exp": s.world.now - 301}, EC2)
    before = s.world.marks, s.ended
    answer = s.revoke("summarizer", token=raw)
    assert (answer.status, answer.body) == (200, UNVERIFIED)
    assert (s.world.marks, s.ended) == before


def test_introspection_and_decisions_agree_on_transaction_tokens(s: Server) -> None:
    good, ended = s.world.transaction(), s.world.transaction(exp=s.world.now - 60, iat=1)
    found = s.form("/introspect", {"token": good.raw, **s.world.assertion("clerk")}).body
    assert (found["active"], found["sub"]) == (True, "alice")
    assert [s.code(one) for one in (good, ended)] == ["allow", "expired"]
    assert not s.active(ended.raw)


def test_an_introspected_token_for_another_audience_stays_rejected(s: Server) -> None:
    held = s.exchanged(s.world.subject(), audience=ARCHIVE, task='{"id": "t-archive"}')
    assert s.active(held.raw)
    assert s.complete("t-other", held).error == "unauthorized_client"
    assert s.code(held) == "audience"


# ── Keys ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def revoked(s: Server) -> Iterator[Callable[..., Answer]]:
    """Revokes what is named, for this test alone: others have need of it."""
    names: list[str] = []

    def revoke(**form: str) -> Answer:
        names.extend(f"{kind}:{name}" for kind, name in form.items())
        return s.revoke(**form)

    yield revoke
    s.world.forget(names)


def bound(s: Server, by_hash: bool = False) -> Held:
    """A token of `acme` that is bound to a certificate."""
    raw = s.world.subject(cnf={"x5t#S256": x5t(s.world.certificate)})
    return Held(raw, certificate=of_gateway(s, by_hash))


def of_gateway(s: Server, by_hash: bool) -> str:
    return f"Hash={s.world.certificate.fingerprint(SHA256()).hex()}" if by_hash else field_of(s.world.certificate)


def to_mtls(s: Server, by_hash: bool = False) -> Held:
    """A token of ours to a client that is known by its certificate."""
    answer = s.by_certificate(s.world.subject())
    assert answer.status == 200, answer.body
    return Held(answer.body["access_token"], certificate=of_gateway(s, by_hash))


BY_CERTIFICATE: list[tuple[str, Callable[[Server], Held], Callable[[World], str]]] = [
    ("a token bound to a certificate, by its key", bound, lambda w: w.cert_key),
    ("a token bound to a certificate, by its digest", bound, lambda w: x5t(w.certificate)),
    ("a token bound to a certificate, of which the gateway tells the digest alone", lambda s: bound(s, True),
     lambda w: x5t(w.certificate)),
    ("a token that was issued to a certificate, by its key", to_mtls, lambda w: w.cert_key),
    ("a token that was issued to a certificate, by its digest", to_mtls, lambda w: x5t(w.certificate)),
    ("a token that was issued to a certificate, of which the gateway tells the digest alone, by its key",
     lambda s: to_mtls(s, True), lambda w: w.cert_key),
]  # fmt: skip


@pytest.mark.parametrize(("made", "key"), [one[1:] for one in BY_CERTIFICATE], ids=[one[0] for one in BY_CERTIFICATE])
def test_revoking_the_key_of_a_certificate_revokes_the_credentials_bound_to_it(
    s: Server, workers: Server, revoked: Any, made: Callable[[Server], Held], key: Callable[[World], str]
) -> None:
    held = made(s)
    assert s.code(held) == "allow"
    assert revoked(key=key(s.world)).body == {}
    assert [s.code(held), *(workers.code(held) for _ in range(WORKERS))] == ["revoked"] * (1 + WORKERS)


@pytest.mark.parametrize("by", ["key", "digest"])
def test_a_certificate_with_a_revoked_key_cannot_get_a_token(s: Server, revoked: Any, by: str) -> None:
    assert s.by_certificate(s.world.subject()).status == 200
    revoked(key=s.world.cert_key if by == "key" else x5t(s.world.certificate))
    answer = s.by_certificate(s.world.subject())
    assert (answer.status, answer.error) == (400, "unauthorized_client")


def test_a_revoked_assertion_key_gets_no_token_with_a_new_dpop_key(s: Server, revoked: Any) -> None:
    """And what it got so before is over, though the token is bound to another key."""
    held = s.exchanged(s.world.subject(), key=FRESH)
    assert s.code(held) == "allow"
    revoked(key=key_of("summarizer").thumbprint())
    for key in (FRESH, None):
        assert s.asked(s.world.subject(), key=key).error == "unauthorized_client"
    assert s.code(held) == "revoked"
    assert not s.active(held.raw)


def test_a_proof_by_a_revoked_key_gets_no_token_despite_a_valid_assertion(s: Server, revoked: Any) -> None:
    revoked(key=FRESH.thumbprint())
    assert s.asked(s.world.subject(), key=FRESH).error == "unauthorized_client"
    assert s.asked(s.world.subject()).status == 200


def test_revoking_a_client_key_revokes_every_token_derived_from_its_tokens(s: Server, revoked: Any) -> None:
    held = s.exchanged(s.exchanged(s.world.subject(), key=FRESH).raw, by="clerk")
    assert s.code(held) == "allow"
    revoked(key=key_of("summarizer").thumbprint())
    assert s.code(held) == "revoked"


@pytest.mark.parametrize("path", ["/token", "/introspect", "/revoke"])
def test_a_client_with_a_revoked_key_is_rejected_by_every_endpoint(s: Server, revoked: Any, path: str) -> None:
    raw = s.exchanged(s.world.subject()).raw
    revoked(key=key_of("summarizer").thumbprint())
    answer = s.asked(raw) if path == "/token" else s.form(path, {"token": raw, **s.world.assertion("summarizer")})
    assert (answer.status, answer.error) == (400, "unauthorized_client")


@pytest.mark.parametrize("issuer", ["acme", "desk"])
def test_a_revoked_client_can_neither_introspect_nor_revoke(s: Server, revoked: Any, issuer: str) -> None:
    raw = s.world.subject(client_id="clerk")
    asked = {"token": raw, **s.world.assertion("clerk")}
    assert s.form("/introspect", asked).body["active"]
    revoked(agent=f"{issuer}/clerk")
    answers = [s.form(path, {"token": raw, **s.world.assertion("clerk")}) for path in ("/introspect", "/revoke")]
    assert [answer.error for answer in answers] == ["unauthorized_client"] * 2


NONE: list[tuple[str, dict[str, str], str]] = [
    ("a key that none is", {"key": "abc"}, "`key` must be a key's thumbprint"),
    ("a key with a blank", {"key": "A" * 43 + " "}, "`key` must be a key's thumbprint"),
    ("a key with padding", {"key": "A" * 43 + "="}, "`key` must be a key's thumbprint"),
    ("a key with bits that mean nothing", {"key": "A" * 42 + "B"}, "`key` must be a key's thumbprint"),
    ("a key in hexadecimal", {"key": "ab" * 32}, "`key` must be a key's thumbprint"),
    ("a static key in capitals", {"key": "sha256:" + "AB" * 32}, "`key` must be a key's thumbprint"),
    ("a static key itself", {"key": STATIC}, "`key` must be a key's thumbprint"),
    ("an agent with a blank behind", {"agent": "acme/planner "}, "with no spaces around it"),
    ("an agent with a line end", {"agent": "acme/planner\n"}, "with no spaces around it"),
    ("an agent with a control character", {"agent": "acme/pla\x00nner"}, "with no spaces around it"),
    ("an agent without a name", {"agent": "acme/"}, "with no spaces around it"),
    ("an agent without an issuer", {"agent": "planner"}, "with no spaces around it"),
    ("an issuer with a blank", {"agent": "acme /planner"}, "the policy has no issuer"),
    ("a client by which people ask", {"agent": "acme/portal"}, "is a client of people"),
    ("a user with a blank in front", {"user": "acme/ alice"}, "with no spaces around it"),
    ("a task with a tab", {"task": "acme/t\t9"}, "with no spaces around it"),
    ("a name that is too long", {"user": "acme/" + "a" * 2_049}, "with no spaces around it"),
]


@pytest.mark.parametrize(("form", "told"), [one[1:] for one in NONE], ids=[one[0] for one in NONE])
def test_a_revocation_with_an_invalid_name_is_rejected_with_the_cause(
    s: Server, form: dict[str, str], told: str
) -> None:
    before = s.world.marks
    answer = s.revoke(**form)
    assert (answer.status, answer.error, s.world.marks) == (400, "invalid_request", before)
    assert told in answer.body["error_description"]


# ── Tasks ─────────────────────────────────────────────────────────────────────────────────────

T9 = '{"id": "t-9"}'


def test_completing_a_task_does_not_complete_another_clients_task_of_the_same_name(s: Server) -> None:
    mine, theirs = (s.exchanged(s.world.subject(sub="carol"), by=by, task=T9) for by in ("summarizer", "clerk"))
    assert s.complete("t-9", theirs).status == 200
    assert [s.code(held) for held in (theirs, mine)] == ["revoked", "allow"]
    assert s.complete("t-9", mine).status == 200
    assert s.code(mine) == "revoked"


def test_a_client_that_received_a_task_can_complete_it(s: Server, workers: Server) -> None:
    mine = s.exchanged(s.world.subject(sub="dave"), task=T9)
    handed = s.exchanged(mine.raw, by="clerk")
    others = s.exchanged(s.world.subject(sub="dave"), by="clerk", task=T9)
    assert workers.complete("t-9", handed).status == 200
    assert [s.code(held) for held in (mine, handed, others)] == ["revoked", "revoked", "allow"]


def test_completing_a_task_of_another_issuer_ends_all_tokens_of_that_task(s: Server) -> None:
    raw = s.world.subject(sub="erin", task={"id": "t-9"})
    one, other = s.exchanged(raw), s.exchanged(raw, by="clerk")
    alone = s.exchanged(s.world.subject(sub="erin"), by="clerk", task=T9)
    assert s.complete("t-9", one).status == 200
    assert [s.code(held) for held in (one, other, alone)] == ["revoked", "revoked", "allow"]


def test_a_client_cannot_name_another_client_as_the_opener_of_a_task(s: Server) -> None:
    """Neither in the request, nor by a name that looks like another's."""
    assert s.asked(s.world.subject(), task='{"id": "t-9", "opened_by": "acme/clerk"}').status == 400
    mine = s.exchanged(s.world.subject(sub="frank"), by="clerk", task=T9)
    odd = s.exchanged(s.world.subject(sub="frank"), task='{"id": "acme%2Fclerk/t-9"}')
    assert s.complete("acme%2Fclerk/t-9", odd).status == 200
    assert [s.code(held) for held in (odd, mine)] == ["revoked", "allow"]


@pytest.mark.parametrize("name", ["a/b", "a/complete", "/", "a b/c?d", "ä/%2F"])
def test_a_task_with_a_slash_in_its_name_can_be_completed(s: Server, name: str) -> None:
    held = s.exchanged(s.world.subject(), task=json.dumps({"id": name}))
    answer = s.complete(name, held)
    assert (answer.status, answer.body.get("task")) == (200, name)
    assert s.code(held) == "revoked"


def test_a_token_for_another_configured_audience_can_complete_a_task(s: Server) -> None:
    held = s.exchanged(s.world.subject(sub="grace"), audience=ARCHIVE, task=T9)
    here = s.exchanged(s.world.subject(sub="grace"), task=T9)
    assert s.complete("t-9", held).body == {"task": "t-9", "state": "completed"}
    assert (s.code(here), s.active(held.raw)) == ("revoked", False)


@pytest.mark.parametrize("name", ["t-9 ", "t\n9", ""])
def test_completing_a_task_with_an_invalid_name_is_rejected(s: Server, name: str) -> None:
    before = s.world.marks
    assert (s.complete(name).status in (400, 404), s.world.marks) == (True, before)


def test_decisions_exchange_and_introspection_agree_on_malformed_may_act_claims(s: Server) -> None:
    for may_act in (None, 7, [], "summarizer"):
        raw = s.world.subject(may_act=may_act, client_id="summarizer")
        assert (s.code(raw), s.asked(raw).error, s.active(raw)) == ("claim_type", "invalid_request", False)
    raw = s.world.subject(may_act={"sub": "summarizer"}, client_id="summarizer")
    assert (s.code(raw), s.asked(raw).status, s.active(raw)) == ("allow", 200, True)


@pytest.mark.parametrize("rows", [CLIENTS, OWN, NONE, BY_CERTIFICATE], ids=["clients", "own", "names", "certificates"])
def test_every_attack_in_each_table_has_a_unique_name(rows: list[tuple[Any, ...]]) -> None:
    assert len({one[0] for one in rows}) == len(rows)
