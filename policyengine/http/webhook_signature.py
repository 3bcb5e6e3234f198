"""Signatures of webhooks as in the Standard Webhooks specification: HMAC-SHA256 over the ID, the time and the body.

Sinks of the decision log and webhooks about approvals are signed in this way.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence

ID_HEADER, TIME_HEADER, SIGNATURE_HEADER = "webhook-id", "webhook-timestamp", "webhook-signature"
SECRET_PREFIX = "whsec_"  # marks a secret in base64
VERSION_PREFIX = "v1,"


def signature_key(secret: str) -> bytes:
    """Return the signature key of a secret: the bytes that the base64 after the prefix `whsec_` encodes or, without the
    prefix, the text itself. Raises ValueError."""
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        raise ValueError("the secret for signatures begins with `whsec_`, but is not base64") from None


def webhook_signature(key: bytes, id: str, seconds: str, content: bytes) -> str:
    """Return the signature of a webhook by one key."""
    digest = hmac.digest(key, f"{id}.{seconds}.".encode() + content, "sha256")
    return f"{VERSION_PREFIX}{base64.b64encode(digest).decode()}"


def signature_headers(keys: Sequence[bytes], id: str, seconds: int, content: bytes) -> dict[str, str]:
    """Return the headers with the ID, the time and a signature by each key; without keys, without a signature."""
    found = {ID_HEADER: id, TIME_HEADER: str(seconds)}
    if keys:
        found[SIGNATURE_HEADER] = " ".join(webhook_signature(key, id, str(seconds), content) for key in keys)
    return found
