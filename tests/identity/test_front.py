"""The front of identity: what was proved before is not proved again, and is gone as soon as anybody revokes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest

from policyengine.audit.encoder import to_raw_request
from policyengine.engine import question as engine_question
from policyengine.engine.authenticate import authenticate
from policyengine.identity.authenticator import MAX_CERTIFICATE_LENGTH, RECHECK_SECONDS, CredentialAuthenticator
from policyengine.identity.credential_checks import CredentialChecks
from policyengine.identity.verified import ConfirmedKey, ProofContext, TokenPrincipal, VerifiedCredential, VerifiedToken
from policyengine.runtime.credential_errors import CredentialError, RefusalCode
from policyengine.runtime.credentials import Credentials
from policyengine.runtime.decision import Outcome
from policyengine.runtime.request import Request as Question
from policyengine.stores.base import Store
from policyengine.stores.credential_marks import MemoryMarks
from policyengine.stores.resilient_store import ResilientStore
from policyengine.stores.sqlite.store import SqliteStore
from policyengine.stores.url import open_store
from tests.identity import issuing
from tests.stores.servers import Server, running

NOW = 1_800_000_000
END = NOW + 600
GET = ProofContext("GET", "https://api.example/a")


@dataclass
class Issued:
    """Every token is one that holds, of the agent that it names; who verifies them counts."""

    verified: list[str] = field(default_factory=list)
    meanwhile: Callable[[], object] = field(default=lambda: None)

    def verify(self, raw: str, now: int) -> VerifiedToken:
        self.verified.append(raw)
        self.meanwhile()
        return VerifiedToken("jwt", "acme", {"sub": raw}, {}, sha256(raw.encode()).digest(), END)

    def verify_txn(self, raw: str, now: int) -> VerifiedToken:
        raise CredentialError(RefusalCode.NOT_A_TOKEN)

    def reads(self, token: VerifiedToken) -> TokenPrincipal:
        return TokenPrincipal(str(token.claims["sub"]), None)

    def binds(
        self, credentials: Credentials, request: ProofContext, token: VerifiedToken | None, now: int
    ) -> ConfirmedKey:
        return ConfirmedKey(x5t=credentials.client_certificate)

    def presents(
        self, credentials: Credentials, request: ProofContext, now: int
    ) -> tuple[VerifiedToken, TokenPrincipal, ConfirmedKey] | None:
        if credentials.client_certificate is None:
            return None
        token = self.verify(credentials.client_certificate, now)
        return token, self.reads(token), ConfirmedKey(x5t="x5t")


def front(store: Store, issued: Issued) -> CredentialAuthenticator:
    return CredentialAuthenticator(CredentialChecks(issued, issued.reads, issued.binds, issued.presents), store.marks)


def bearer(agent: str) -> dict[str, object]:
    return {"authorization": f"Bearer {agent}"}


def proves(identity: CredentialAuthenticator, agent: str, now: int = NOW) -> str | None:
    """The agent that was proved, or why it was refused."""
    try:
        found = identity.prove(Credentials(authorization=f"Bearer {agent}"), GET, now)
    except CredentialError as refused:
        return refused.refusal.value
    return str(found.facts["agent"]["id"])


@pytest.fixture(params=["memory", "sqlite", "redis", "valkey"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """The store, as another worker has it, too."""
    match request.param:
        case "memory":
            one = open_store("memory:")
            return lambda: one
        case "sqlite":
            return lambda: open_store(f"sqlite:///{tmp_path}/store.db?timeout=10s")
    server: Server = request.getfixturevalue(f"{request.param}_server")
    import redis

    redis.Redis(port=server.port, protocol=2).flushall()
    return lambda: open_store(f"{server.url}?timeout=5s")


def test_proved_credentials_are_not_verified_again(opened: Callable[[], Store]) -> None:
    issued = Issued()
    identity = front(opened(), issued)
    assert [proves(identity, "bot") for _ in range(3)] == ["bot"] * 3
    assert issued.verified == ["bot"]
    assert proves(identity, "other") == "other"
    assert issued.verified == ["bot", "other"]


def test_proved_credentials_are_known_without_a_check_only_if_the_store_is_local(opened: Callable[[], Store]) -> None:
    store = opened()
    identity = front(store, Issued())
    assert identity.known(bearer("bot"), NOW) is None
    proves(identity, "bot")
    known = identity.known(bearer("bot"), NOW)
    assert (known is None) == store.marks.remote
    assert known is None or known.facts["agent"]["id"] == "bot"
    assert identity.known(bearer("bot"), END) is None
    assert identity.known({**bearer("bot"), "dpop": "proof"}, NOW) is None


def test_a_revocation_by_another_worker_applies_from_the_next_question(opened: Callable[[], Store]) -> None:
    issued = Issued()
    identity, other = front(opened(), issued), opened().marks
    assert [proves(identity, one) for one in ("bot", "other")] == ["bot", "other"]
    other.revoke(("agent:acme/bot",), END, NOW)
    assert identity.known(bearer("bot"), NOW) is None
    assert proves(identity, "bot") == "revoked"
    assert proves(identity, "other") == "other"
    assert store_knows(identity, "other")
    assert proves(identity, "bot", NOW + RECHECK_SECONDS - 1) == "revoked"
    assert issued.verified == ["bot", "other"]  # nobody's signature is looked at again
    assert identity.counts["revoked"] == 2


def test_a_proved_certificate_is_not_verified_again_until_it_is_revoked(opened: Callable[[], Store]) -> None:
    issued, store = Issued(), opened()
    identity, credentials = front(store, issued), Credentials(client_certificate="bot")
    for _ in range(3):
        identity.prove(credentials, GET, NOW)
        store.marks.revoke(("agent:acme/other",), END, NOW)
    assert issued.verified == ["bot"]
    store.marks.revoke(("key:x5t",), END, NOW)
    with pytest.raises(CredentialError, match="revoked"):
        identity.prove(credentials, GET, NOW)
    with pytest.raises(CredentialError, match="revoked"):  # what was proved is over, the key is revoked still
        CredentialAuthenticator(identity.parts, store.marks).prove(credentials, GET, NOW)


def store_knows(identity: CredentialAuthenticator, agent: str) -> bool:
    return identity.marks.remote or isinstance(identity.known(bearer(agent), NOW), VerifiedCredential)


def test_credentials_are_not_cached_if_a_revocation_arrives_during_verification(opened: Callable[[], Store]) -> None:
    """Whether it came before or after the look is not known: then it is looked at again."""
    issued, store = Issued(), opened()
    identity = front(store, issued)
    issued.meanwhile = lambda: store.marks.revoke(("agent:acme/somebody",), END, NOW)
    assert proves(identity, "bot") == "bot"
    assert identity.known(bearer("bot"), NOW) is None
    assert proves(identity, "bot") == "bot"
    assert store_knows(identity, "bot")


def test_proved_credentials_need_one_redis_call_per_question(redis_server: Server) -> None:
    import redis

    identity = front(open_store(f"{redis_server.url}?timeout=5s"), Issued())
    proves(identity, "bot")
    with redis.Redis(port=redis_server.port, protocol=2) as client:

        def asked() -> int:
            return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])

        before = asked()
        assert [proves(identity, "bot") for _ in range(5)] == ["bot"] * 5
        assert asked() == before + 5


def test_credentials_are_rejected_while_redis_is_down(tmp_path: Path) -> None:
    with running("redis-server", tmp_path) as server:
        identity = front(open_store(f"{server.url}?timeout=20s"), Issued())
        assert proves(identity, "bot") == "bot"
        server.kill()
        assert [proves(identity, one) for one in ("bot", "bot", "other", "bot", "bot")] == ["store"] * 5
        assert identity.known(bearer("bot"), NOW) is None
        assert identity.counts["store"] == 5


def test_credentials_are_rejected_while_the_sqlite_store_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    identity = front(ResilientStore(store), Issued())
    proves(identity, "bot")
    assert identity.known(bearer("bot"), NOW) is not None
    with store.step() as asked:
        asked.execute("DROP TABLE revocations")
    assert identity.known(bearer("bot"), NOW) is None
    assert proves(identity, "bot") == "store"


def test_the_cache_of_proved_credentials_is_bounded() -> None:
    issued = Issued()
    parts = CredentialChecks(issued, issued.reads, issued.binds, issued.presents)
    identity = CredentialAuthenticator(parts, MemoryMarks(), most_kept=3)
    for number in range(10):
        proves(identity, f"bot {number}")
    assert [identity.known(bearer(f"bot {number}"), NOW) is not None for number in (0, 6, 7, 9)] == [
        False, False, True, True,
    ]  # fmt: skip


def test_expired_credentials_are_evicted_from_the_cache() -> None:
    """Tokens that live for minutes come without end: as many are kept as hold at one time, and not as many as fit."""
    identity = front(open_store("memory:"), Issued())
    for number in range(2 * RECHECK_SECONDS):
        proves(identity, f"bot-{number}", NOW + number)
    assert len(identity._kept) == len(identity._tokens) == RECHECK_SECONDS
    identity.most_kept = 3
    proves(identity, "bot-0", NOW + 2 * RECHECK_SECONDS - 1)
    assert len(identity._kept) == len(identity._tokens) == 3


@pytest.mark.parametrize("backwards", [False, True])
def test_the_cache_never_mixes_up_combinations_of_tokens_and_certificates(backwards: bool) -> None:
    """Whatever came first, and whichever certificates come beside one token, or one certificate beside tokens."""
    identity = front(open_store("memory:"), Issued())
    tokens = [None, "Bearer a", "Bearer ab", "Bearer b", "Bearer abc"]
    certificates = [
        None,
        "a",
        "b",
        "c",
        "bc",
        "Bearer a",
        "l" * MAX_CERTIFICATE_LENGTH,
        "l" * MAX_CERTIFICATE_LENGTH + "m",
        "l" * MAX_CERTIFICATE_LENGTH + "n",
    ]
    sets = [(one, other) for one in tokens for other in certificates if one or other]
    proved = {}
    for token, certificate in reversed(sets) if backwards else sets:
        given = Credentials(authorization=token, client_certificate=certificate)
        proved[token, certificate] = identity.prove(given, GET, NOW)
    for (token, certificate), found in proved.items():
        both = {"authorization": token, "client_certificate": certificate}
        raw = {name: value for name, value in both.items() if value is not None}
        assert identity.known(raw, NOW) in (found, None)
        given = Credentials(authorization=token, client_certificate=certificate)
        assert identity.prove(given, GET, NOW) == found
        assert identity.known(raw, NOW) == found


@pytest.mark.parametrize("name", ["agent", "agent.id", "agent.groups", "user.id", "chain", "credential.scopes"])
def test_the_credential_provides_a_caller_fact_that_the_gateway_marks_pending(name: str) -> None:
    """When it is looked at, when that was done before, and when it was for several questions."""
    engine, raw = issuing.Door().engine, {"authorization": f"Bearer {issuing.token()}"}
    asked = {"request": {"method": "POST", "path": "/v1/invoices"}, "credentials": raw, "pending": [name]}
    found = [engine.decide(dict(asked)).outcome for _ in range(2)]
    assert [*found, engine.decide(dict(engine.prove(asked))).outcome] == [Outcome.ALLOW] * 3


@pytest.mark.parametrize(
    ("pending", "at_once"),
    [
        (["body", "request.headers.*", "context.risk", "args"], True),
        (["agent.groups"], False),
        (["body", "credential"], False),
        ("body", False),
        ([7], False),
    ],
)
def test_pending_request_facts_do_not_prevent_the_fast_path(pending: object, at_once: bool) -> None:
    engine, raw = issuing.Door().engine, {"authorization": f"Bearer {issuing.token()}"}
    assert engine.identity is not None
    asked = {"request": {"method": "POST", "path": "/v1/invoices"}, "credentials": raw}
    engine.decide(asked)
    found = engine.identity.at_once({**asked, "pending": pending}, NOW)
    assert (found is not None) is at_once
    assert found is None or (found["pending"], "credentials" in found) == (pending, False)


def test_proved_facts_are_removed_from_the_pending_facts() -> None:
    """A log that held both could not be read."""
    engine, raw = issuing.Door().engine, {"authorization": f"Bearer {issuing.token()}"}
    assert engine.identity is not None
    pending = ["agent.groups", "credential", "chain.hops", "user.roles", "body.*"]
    asked = {"request": {"method": "POST", "path": "/v1/invoices"}, "credentials": raw, "pending": pending}
    again = Question.from_mapping(
        to_raw_request(authenticate(engine.identity, engine_question.Question(dict(asked)), NOW).request)
    )
    assert again.pending == {"user.roles", "body.*"}
    assert again.fact("agent", "id") == "invoice-bot"


@pytest.mark.parametrize("raw", [
    {}, {"authorization": 7}, {"authorization": "Bearer é"}, {"authorization": "Bearer a", "dpop": "b"},
    {"dpop": "b"}, {"authorization": None, "client_certificate": "c"}, {"authorization": None},
    {"authorization": "Bearer a", "client_certificate": 7}, {"authorization": "Bearer a", "client_certificate": []},
    {"authorization": "Bearer a", "client_certificate": "l" * MAX_CERTIFICATE_LENGTH + "\ud800"},
    {"authorization": "Bearer \ud800"}, {"client_certificate": "é" * 2 * MAX_CERTIFICATE_LENGTH},
    {"client_certificate": None}, {"client_certificate": {}},
])  # fmt: skip
def test_malformed_credentials_are_never_known(raw: dict[str, object]) -> None:
    identity = front(open_store("memory:"), Issued())
    identity.prove(Credentials(authorization="Bearer a"), GET, NOW)
    identity.prove(Credentials(client_certificate="c"), GET, NOW)
    assert identity.known(raw, NOW) is None
