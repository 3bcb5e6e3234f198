"""Verifies webhooks at their receiver; `verify_webhook` needs only the standard library."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, MutableSet, Sequence
from time import time

from policyengine.http.webhook_signature import (
    ID_HEADER,
    SIGNATURE_HEADER,
    TIME_HEADER,
    signature_key,
    webhook_signature,
)

TOLERANCE_SECONDS = 300
MAX_SIGNATURES = 20  # more signatures in a header are not compared


class WebhookForgedError(ValueError):
    """The error for a webhook whose signature matches no secret, or that is too old."""


class WebhookRepeatedError(WebhookForgedError):
    """The error for a webhook that was received before: a replay, or a message whose acceptance the sender missed."""


def verify_webhook(
    content: bytes,
    headers: Mapping[str, str],
    secrets: str | Sequence[str],
    *,
    tolerance: int = TOLERANCE_SECONDS,
    now: float | None = None,
    received: MutableSet[str] | None = None,
) -> str:
    """Return the ID of a webhook that was signed with one of the secrets.

    `content` is the body exactly as it was received, and `headers` its headers, whose names may have any case. A
    webhook whose time differs from `now` by more than `tolerance` seconds is refused. With `received`, an ID that it
    contains is refused, too, and a verified ID is added; the caller may remove an ID from it after the tolerance.
    Raises WebhookForgedError, its subclass WebhookRepeatedError for such an ID, and ValueError for a secret that is
    empty or not base64.
    """
    keys = [signature_key(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    if not all(keys):
        raise ValueError("a secret is empty")
    found = {name.lower(): value for name, value in headers.items()}
    id, seconds, signatures = (found.get(name, "") for name in (ID_HEADER, TIME_HEADER, SIGNATURE_HEADER))
    if not id or not signatures:
        raise WebhookForgedError("the webhook has no ID or no signature")
    if not (seconds.isascii() and seconds.isdecimal() and len(seconds) <= 12):
        raise WebhookForgedError("the time of the webhook is malformed")
    given = [one.encode("utf-8", "replace") for one in signatures.split(" ")[:MAX_SIGNATURES]]
    expected = [webhook_signature(key, id, seconds, content).encode() for key in keys]
    # Every pair is compared, so that the duration does not depend on which one matches.
    if not sum(hmac.compare_digest(one, other) for one in given for other in expected):
        raise WebhookForgedError("no secret matches the signature of the webhook")
    if abs((time() if now is None else now) - int(seconds)) > tolerance:
        raise WebhookForgedError("the webhook is too old, or the clocks differ too much")
    if received is not None:
        if id in received:
            raise WebhookRepeatedError("the webhook was received before")
        received.add(id)
    return id
