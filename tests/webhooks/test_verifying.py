"""What a receiver accepts: nothing that is forged, changed, old or repeated."""

from __future__ import annotations

from typing import Any

import pytest

from policyengine.http.webhook_signature import signature_headers, signature_key
from policyengine.webhooks import WebhookForgedError, WebhookRepeatedError, verify_webhook
from tests.webhooks.sending import NOW, SECRET

CONTENT = b'{"type":"approval.opened"}'
OTHER = "whsec_" + "QkJC" * 11


def signed(*secrets: str, content: bytes = CONTENT, seconds: float = NOW) -> dict[str, str]:
    return signature_headers([signature_key(one) for one in secrets], "msg_1", int(seconds), content)


def verify(headers: dict[str, str], content: bytes = CONTENT, **more: Any) -> str:
    return verify_webhook(content, headers, more.pop("secrets", SECRET), now=NOW, **more)


def test_a_message_signed_with_the_secret_is_accepted() -> None:
    assert verify(signed(SECRET)) == "msg_1"
    assert verify({name.title(): value for name, value in signed(SECRET).items()}) == "msg_1"


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of the Standard Webhooks specification."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }  # fmt: skip
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert verify_webhook(b'{"test": 2432232314}', headers, secret, now=1_614_265_330.0)


def test_while_secrets_change_old_and_new_ones_are_accepted() -> None:
    both = signed(SECRET, OTHER)
    assert verify(both, secrets=SECRET) == verify(both, secrets=OTHER) == "msg_1"
    assert verify(signed(OTHER), secrets=[SECRET, OTHER]) == "msg_1"


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (signed(OTHER), "no secret matches"),
        ({**signed(SECRET), "webhook-id": "msg_2"}, "no secret matches"),
        ({**signed(SECRET), "webhook-timestamp": str(int(NOW) + 1)}, "no secret matches"),
        ({**signed(SECRET), "webhook-signature": signed(SECRET)["webhook-signature"][:-4]}, "no secret matches"),
        ({**signed(SECRET), "webhook-signature": "v1,"}, "no secret matches"),
        ({**signed(SECRET), "webhook-signature": "v1a,é \x00"}, "no secret matches"),
        ({**signed(SECRET), "webhook-signature": "v2" + signed(SECRET)["webhook-signature"][2:]}, "no secret matches"),
        ({**signed(SECRET), "webhook-signature": "v1,x " * 20 + signed(SECRET)["webhook-signature"]}, "no secret"),
        ({**signed(SECRET), "webhook-signature": ""}, "no signature"),
        ({}, "no ID"),
        ({**signed(SECRET), "webhook-timestamp": "now"}, "malformed"),
        ({**signed(SECRET), "webhook-timestamp": "٣"}, "malformed"),
        ({**signed(SECRET), "webhook-timestamp": "9" * 5_000}, "malformed"),
        ({**signed(SECRET), "webhook-timestamp": "-1"}, "malformed"),
    ],
)
def test_a_forged_signature_is_refused(headers: dict[str, str], why: str) -> None:
    with pytest.raises(WebhookForgedError, match=why):
        verify(headers)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"\n", b"", CONTENT.replace(b"opened", b"denied")])
def test_a_changed_or_truncated_body_is_refused(content: bytes) -> None:
    with pytest.raises(WebhookForgedError, match="no secret matches"):
        verify(signed(SECRET), content)


@pytest.mark.parametrize("seconds", [NOW - 301, NOW + 301, 0])
def test_an_old_message_and_one_of_the_future_are_refused(seconds: float) -> None:
    with pytest.raises(WebhookForgedError, match="too old"):
        verify(signed(SECRET, seconds=seconds))


def test_a_repeated_message_is_refused() -> None:
    received = set[str]()
    assert verify(signed(SECRET), received=received) == "msg_1"
    with pytest.raises(WebhookRepeatedError, match="before"):
        verify(signed(SECRET, seconds=NOW + 5), received=received)


def test_a_forged_message_does_not_use_up_the_id_of_a_real_one() -> None:
    received = set[str]()
    for headers in (signed(OTHER), signed(SECRET, seconds=NOW - 1_000)):
        with pytest.raises(WebhookForgedError):
            verify(headers, received=received)
    assert verify(signed(SECRET), received=received) == "msg_1"


@pytest.mark.parametrize("secrets", ["", ["whsec_"], ["whsec_%"], [SECRET, ""]])
def test_an_empty_or_malformed_secret_proves_nothing(secrets: Any) -> None:
    with pytest.raises(ValueError, match="secret") as caught:
        verify(signed(SECRET), secrets=secrets)
    assert not isinstance(caught.value, WebhookForgedError)


def test_without_secrets_nothing_is_accepted() -> None:
    with pytest.raises(WebhookForgedError):
        verify(signed(SECRET), secrets=[])
