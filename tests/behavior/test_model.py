"""Models: signed files with a name of their own content. What cannot be verified is refused."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from policyengine.behavior.events import Tagger
from policyengine.behavior.model import (
    EMPTY_MODEL,
    FORMAT,
    MODEL_VERSION,
    NO_CLASS,
    BehaviorModel,
    ClassModel,
    ModelContent,
    ModelError,
    decode_model,
)
from policyengine.behavior.state import BehaviorState
from tests.behavior.callers import DAY, GROUP, ISSUER, START, class_model

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
MODEL = class_model(endpoints=["GET /a", "GET /b", "GET /c"])


def signed(payload: bytes) -> bytes:
    found = BehaviorModel(MODEL.content)
    found.payload = payload
    return found.sign(KEY)


def test_a_signed_model_comes_back():
    found = decode_model(MODEL.sign(KEY), KEY.public_key())
    assert (found.content, found.digest) == (MODEL.content, MODEL.digest)
    assert found.class_of((ISSUER, GROUP)) == MODEL.content.classes[0]
    assert found.class_of((ISSUER, "other")) is NO_CLASS


def test_the_digest_names_the_content():
    assert MODEL.digest == class_model(endpoints=["GET /c", "GET /b", "GET /a"]).digest
    assert MODEL.digest != class_model(margin=2, endpoints=["GET /a", "GET /b", "GET /c"]).digest


def test_the_signature_of_another_key_is_refused():
    with pytest.raises(ModelError, match="it was not signed with this key"):
        decode_model(MODEL.sign(OTHER), KEY.public_key())


def test_any_changed_byte_is_refused():
    raw = MODEL.sign(KEY)
    for place in range(len(raw.rstrip())):
        changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        with pytest.raises(ModelError):
            decode_model(changed, KEY.public_key())


@pytest.mark.parametrize("raw", [b"", b"\n", b"{}", b"{}\n????\n", MODEL.payload, MODEL.sign(KEY)[:-20]])
def test_a_file_without_a_signature_is_refused(raw):
    with pytest.raises(ModelError, match="it was not signed with this key"):
        decode_model(raw, KEY.public_key())


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"format":1}', MODEL.payload.replace(b'"serial"', b'"other"')]
)
def test_a_signed_text_that_is_no_model_is_refused(payload):
    with pytest.raises(ModelError, match="its content is not a model"):
        decode_model(signed(payload), KEY.public_key())


@pytest.mark.parametrize("change", [{"version": MODEL_VERSION + 1}, {"format": "another"}])
def test_a_model_of_another_version_is_refused(change):
    payload = json.dumps({**json.loads(MODEL.payload), **change}).encode()
    with pytest.raises(ModelError, match=r"it has version \d, but this program reads version 3"):
        decode_model(signed(payload), KEY.public_key())


def test_a_model_of_the_first_version_is_read_without_scores():
    (known,) = MODEL.content.classes
    scored = structs.replace(known, class_tails=(1,) * 48, own_tails=(1,) * 144)
    first = BehaviorModel(structs.replace(MODEL.content, version=1, classes=(scored,)))
    found = decode_model(signed(first.payload), KEY.public_key())
    assert found.content == structs.replace(MODEL.content, made=MODEL.content.made - DAY)
    assert found.class_of((ISSUER, GROUP)).deviations.highest(0) == 0


def test_a_model_of_the_second_version_has_its_margins_until_a_model_is_learned_at_once():
    second = BehaviorModel(structs.replace(MODEL.content, version=2))
    found = decode_model(signed(second.payload), KEY.public_key())
    assert found.content.classes == MODEL.content.classes
    assert not BehaviorState(Tagger(b"key"), model=MODEL).is_due(START)
    assert BehaviorState(Tagger(b"key"), model=found).is_due(START)


# ── Attack 30: a file that is swapped or rolled back ──────────────────────────────────────────


def test_attack_30_a_swapped_model_is_refused_by_its_signature():
    wide = class_model(margin=64)
    signature = MODEL.sign(KEY).split(b"\n")[1]
    with pytest.raises(ModelError, match="it was not signed with this key"):
        decode_model(wide.payload + b"\n" + signature + b"\n", KEY.public_key())


def test_attack_30_a_rolled_back_model_has_its_lower_number_under_the_signature():
    raw = MODEL.sign(KEY)
    assert decode_model(raw, KEY.public_key()).content.serial == 1
    with pytest.raises(ModelError, match="it was not signed with this key"):
        decode_model(raw.replace(b'"serial":1', b'"serial":2'), KEY.public_key())


def test_a_class_of_thousands_of_endpoints_is_a_small_file():
    found = ClassModel(ISSUER, GROUP, 1, 1, frozenset(range(2**32 - 10_000, 2**32)))
    content = ModelContent(FORMAT, MODEL_VERSION, 1, START, "", (found,))
    assert len(BehaviorModel(content).sign(KEY)) < 128 * 1_024


def test_the_empty_model_knows_nothing():
    assert EMPTY_MODEL.class_of((ISSUER, GROUP)) is NO_CLASS
    assert (NO_CLASS.is_ready, NO_CLASS.has_margins) == (False, False)
