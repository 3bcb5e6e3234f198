"""Attacks on signatures of messages and on API keys: each is refused by the front, with its own code, and counted.

The rows that are `proved` are the controls: the same credential, unattacked.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from policyengine.runtime.credentials import Credentials
from tests.identity.attacks import Attack, mtls, named
from tests.identity.bound_world import (
    API_KEY,
    COMPONENTS,
    NOW,
    Message,
    World,
    content_digest,
    digests,
    ec_key,
    ed_key,
    rsa_key,
)

# ── Signed messages ───────────────────────────────────────────────────────────────────────────


def message(key: Any = None, sent: dict[str, Any] | None = None, **fields: Any) -> Callable[[World], Credentials]:
    return lambda w: Message(**fields).credentials(key, **(sent or {}))


def elsewhere(**request: Any) -> Callable[[World], Credentials]:
    """Signed for one request, and sent with another."""
    return lambda w: replace(Message().credentials(), **request)


def under_two_labels(w: World) -> Credentials:
    one, other = Message().credentials(), Message(label="sig2", nonce="n-2").credentials()
    return replace(
        one,
        signature=f"{one.signature}, {other.signature}",
        signature_input=f"{one.signature_input}, {other.signature_input}",
    )


BODY = b'{"amount":90}'
POST: dict[str, Any] = {"method": "POST", "content": BODY, "components": COMPONENTS + ' "content-digest"'}
OTHER_DIGEST = content_digest(b'{"amount":9000}')
MESSAGES: list[Attack] = [
    ("control: by Ed25519", "proved", message()),
    ("control: by P-256", "proved", message(ec_key("signer"))),
    ("control: by P-384", "proved", message(ec_key("signer384", "P-384"))),
    ("control: by RSA", "proved", message(rsa_key())),
    ("control: with its algorithm", "proved", message(alg="ed25519")),
    ("control: with a body", "proved", message(**POST)),
    ("control: the agent in a dictionary", "proved",
     message(agent='sig1="https://crawler.example"', components=COMPONENTS + ';key="sig1"')),
    ("control: another signature beside", "proved", lambda w: beside()),
    ("another authority", "message_signature", elsewhere(url="https://evil.example/v1/invoices/42?full=yes")),
    ("another path", "message_signature", elsewhere(url="https://api.acme.example/v1/invoices/43?full=yes")),
    ("another query", "message_signature", elsewhere(url="https://api.acme.example/v1/invoices/42?full=no")),
    ("another method", "message_signature", elsewhere(method="DELETE")),
    ("a method in lower case", "message_components", elsewhere(method="get")),
    ("the method is not covered", "message_components",
     message(components='"@authority" "@target-uri" "signature-agent"')),
    ("the authority is not covered", "message_components",
     message(components='"@method" "@target-uri" "signature-agent"')),
    ("the URL is not covered", "message_components", message(components='"@method" "@authority" "signature-agent"')),
    ("whose it is is not covered", "message_components", message(components='"@method" "@authority" "@target-uri"')),
    ("nothing is covered", "message_components", message(components="")),
    ("a body that is not covered", "message_components", message(method="POST", content=BODY)),
    ("a body and no digest", "message_components",
     lambda w: replace(Message(method="POST").credentials(), digests=digests(BODY))),
    ("another body", "content_digest", message(sent={"digests": digests(b'{"amount":9000}')}, **POST)),
    ("another body and its digest", "message_signature",
     message(sent={"digests": digests(b'{"amount":9000}'), "content_digest": OTHER_DIGEST}, **POST)),
    ("the body was taken away", "content_digest", message(sent={"digests": digests(b"")}, **POST)),
    ("a body, of which only one digest is known, by another", "content_digest",
     message(sent={"digests": {"sha-512": digests(BODY)["sha-512"]}}, **POST)),
    ("a body of which nobody says whether it is there", "message_components", message(method="POST")),
    ("the body did not come along", "content_digest", message(sent={"digests": {}}, **POST)),
    ("a digest by an algorithm that is broken", "content_digest",
     message(digest="md5=:1B2M2Y8AsgTpgAmY7PhCfg==:", **POST)),
    ("a digest that is too short", "content_digest", message(digest="sha-256=:AAAA:", **POST)),
    ("expired", "message_time", message(expires=NOW, created=NOW - 60)),
    ("made too long ago", "message_time", message(created=NOW - 300, expires=NOW + 60)),
    ("of the future", "message_time", message(created=NOW + 31, expires=NOW + 60)),
    ("good for ever", "message_time", message(expires=NOW + 86_400)),
    ("ends before it begins", "message_time", message(created=NOW + 20, expires=NOW + 10)),
    ("does not say when it was made", "message_time", message(created=None)),
    ("does not say when it ends", "message_time", message(expires=None)),
    ("a time that is a text", "message_time", message(created=f'"{NOW}"')),
    ("no nonce", "message_replayed", message(nonce=None)),
    ("a nonce that fills the memory", "message_replayed", message(nonce="x" * 257)),
    ("another tag", "message_signature", message(tag="payments")),
    ("two signatures with the tag", "message_signature", under_two_labels),
    ("one label twice", "duplicate_member", lambda w: twice(Message().credentials())),
    ("another algorithm than the key's", "message_signature", message(alg="rsa-pss-sha512")),
    ("HMAC by the public key", "message_signature", message(alg="hmac-sha256")),
    ("a key that is unknown", "unknown_key", message(ec_key("thief"))),
    ("the id of a key by another key", "message_signature", message(ec_key("thief"), keyid=ed_key().thumbprint())),
    ("the id of a key that is a path", "unknown_key", message(keyid="../../etc/passwd")),
    ("no agent", "unknown_issuer", message(agent=None, components='"@method" "@authority" "@target-uri"')),
    ("an agent that no policy has", "unknown_issuer", message(agent='"https://evil.example"')),
    ("an agent that looks alike", "unknown_issuer", message(agent='"https://crawler.example."')),
    ("an agent with a path", "unknown_issuer", message(agent='"https://crawler.example/other"')),
    ("an agent over http", "unknown_issuer", message(agent='"http://crawler.example"')),
    ("another agent than was signed", "unknown_issuer", message(sent={"signature_agent": '"https://evil.example"'})),
    ("an agent that is no text", "message_signature", message(agent="https://crawler.example")),
    ("two agents", "message_signature", message(agent='"https://crawler.example", "https://evil.example"')),
    ("no signature", "message_signature", lambda w: replace(Message().credentials(), signature=None)),
    ("no description of it", "message_signature", lambda w: replace(Message().credentials(), signature_input=None)),
    ("a signature that is no bytes", "message_signature",
     lambda w: replace(Message().credentials(), signature='sig1="x"')),
    ("a signature of zeros", "message_signature",
     lambda w: replace(Message().credentials(), signature=f"sig1=:{b64encode(bytes(64)).decode()}:")),
    ("a description that is malformed", "message_signature",
     lambda w: replace(Message().credentials(), signature_input="sig1=(")),
    ("a signature and an API key", "two_credentials", message(sent={"api_key": API_KEY})),
]  # fmt: skip


def beside() -> Credentials:
    one, other = Message().credentials(), Message(label="sig2", tag="payments").credentials(ec_key("thief"))
    return replace(
        one,
        signature=f"{other.signature}, {one.signature}",
        signature_input=f"{other.signature_input}, {one.signature_input}",
    )


def twice(given: Credentials) -> Credentials:
    return replace(given, signature_input=f"{given.signature_input}, {given.signature_input}")


@named(MESSAGES)
def test_attacks_on_signed_messages_are_rejected_with_their_own_codes(
    world: World, code: str, given: Callable[[World], Credentials]
) -> None:
    assert world.refusal(given(world)) == code


def test_a_message_signature_is_accepted_only_once(world: World) -> None:
    again = Message(created=NOW - 4).credentials()
    assert [world.refusal(one) for one in (Message().credentials(), Message().credentials(), again)] == [
        "proved", "message_replayed", "message_replayed",
    ]  # fmt: skip


@pytest.mark.parametrize("headers", [{"content-length": "13"}, {"transfer-encoding": "chunked"}])
def test_a_message_signature_must_cover_a_body_announced_by_headers_or_size(
    world: World, headers: dict[str, str]
) -> None:
    assert world.refusal(Message(method="POST").credentials(), headers=headers) == "message_components"
    assert world.refusal(Message(method="POST", nonce="n-2").credentials(), size=13) == "message_components"
    assert world.refusal(Message(method="POST").credentials(), headers={"content-length": "0"}, size=0) == "proved"


def test_a_message_signature_is_rejected_if_signatures_are_not_configured(bound_files: Path) -> None:
    world = World(bound_files, {"signatures": None})
    assert world.refusal(Message().credentials()) == "message_signature"


# ── API keys ──────────────────────────────────────────────────────────────────────────────────

HASHED = f"sha256:{sha256(API_KEY.encode()).hexdigest()}"
KEYS: list[Attack] = [
    ("control: a key", "proved", lambda w: Credentials(api_key=API_KEY)),
    ("unknown", "api_key", lambda w: Credentials(api_key="k-" + "0" * 32)),
    ("one character off", "api_key", lambda w: Credentials(api_key=API_KEY[:-1] + "0")),
    ("one character less", "api_key", lambda w: Credentials(api_key=API_KEY[:-1])),
    ("one character more", "api_key", lambda w: Credentials(api_key=API_KEY + "f")),
    ("in another case", "api_key", lambda w: Credentials(api_key=API_KEY.upper())),
    ("with space around", "api_key", lambda w: Credentials(api_key=f" {API_KEY}")),
    ("its digest, out of the file", "api_key", lambda w: Credentials(api_key=HASHED)),
    ("empty", "api_key", lambda w: Credentials(api_key="")),
    ("the agent's name", "api_key", lambda w: Credentials(api_key="keys/legacy-bot")),
    ("with a token", "two_credentials", lambda w: replace(mtls(w), api_key=API_KEY)),
]  # fmt: skip


@named(KEYS)
def test_invalid_api_keys_are_rejected_with_their_own_codes(
    world: World, code: str, given: Callable[[World], Credentials]
) -> None:
    assert world.refusal(given(world)) == code
