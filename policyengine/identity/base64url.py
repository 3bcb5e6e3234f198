"""Base64url as in tokens, and the comparison of strings in constant time."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hmac import compare_digest


def encode_base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def equal_in_constant_time(one: str, other: str) -> bool:
    return compare_digest(one.encode(), other.encode())
