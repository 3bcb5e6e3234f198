"""The cookies of the console: the id of a session, and the sealed state of a sign-in in progress.

The state of a sign-in is kept in the browser that started it, so that sign-ins that are never completed take no memory
of the server, and no browser completes the sign-in of another browser.
"""

from __future__ import annotations

import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.responses import Response

MAX_COOKIE_BYTES = 8_192  # maximum size of all cookies of a request together
NONCE_BYTES = 12
SEPARATOR = ";"


@dataclass(frozen=True, slots=True)
class CookieNames:
    """The names of the cookies. Over HTTPS, browsers accept the prefix `__Host-` only from this host, with `Secure`,
    for all paths. Without HTTPS, the port is in the name, because other ports of a machine share its cookies.
    """

    secure: bool
    port: int

    def name(self, purpose: str) -> str:
        return f"__Host-policyengine-{purpose}" if self.secure else f"policyengine-{purpose}-{self.port}"

    def put(self, response: Response, purpose: str, value: str, seconds: int | None = None) -> None:
        """Set a cookie that no script can read and that other sites send only by following a link."""
        response.set_cookie(
            self.name(purpose), value, max_age=seconds, path="/", secure=self.secure, httponly=True, samesite="lax"
        )

    def drop(self, response: Response, purpose: str) -> None:
        response.delete_cookie(self.name(purpose), path="/", secure=self.secure, httponly=True, samesite="lax")

    def read(self, header: str, purpose: str) -> str | None:
        """Return the value of a cookie; None if it is missing, or if there are several, because another site of the
        domain may have set one of them."""
        wanted = self.name(purpose)
        pairs = (part.strip().partition("=") for part in header.split(SEPARATOR))
        values = [value for name, _, value in pairs if name == wanted]
        return values[0] if len(values) == 1 else None


@dataclass(frozen=True, slots=True)
class CookieSeal:
    """Encrypts and authenticates values with a key that only this process knows. `clock` returns seconds since 1970."""

    key: bytes = field(default_factory=lambda: AESGCM.generate_key(256), repr=False)
    clock: Callable[[], float] = time

    def seal(self, purpose: str, values: Mapping[str, str], seconds: int) -> str:
        """Return the values as a text that this process can open for `seconds`."""
        nonce, expires = secrets.token_bytes(NONCE_BYTES), int(self.clock()) + seconds
        text = json.dumps({**values, "exp": str(expires)}).encode()
        return urlsafe_b64encode(nonce + AESGCM(self.key).encrypt(nonce, text, purpose.encode())).decode("ascii")

    def open(self, purpose: str, sealed: str | None) -> dict[str, str] | None:
        """Return the values; None if they were not sealed by this process for this purpose. The value `exp` is the time
        when the values expire."""
        if sealed is None:
            return None
        try:
            raw = urlsafe_b64decode(sealed.encode("ascii"))
            text = AESGCM(self.key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], purpose.encode())
        except (InvalidTag, ValueError):
            return None
        values: dict[str, str] = json.loads(text)
        return values

    def is_over(self, values: Mapping[str, str]) -> bool:
        return self.clock() >= int(values["exp"])
