"""Who may ask over the network: bearer tokens from a file, compared so that the time taken tells nothing about them."""

from __future__ import annotations

import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

SHORTEST = 16
TOKEN = re.compile(r"[\x21-\x7e]+")
BEARER = re.compile(r"bearer +(?P<token>[\x21-\x7e]+) *", re.IGNORECASE)


class TokenError(Exception):
    """A token that cannot be used; the message never shows it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} ({hint})")


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens that are accepted; with none nobody gets in."""

    digests: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def of(cls, token: str | Collection[str]) -> Tokens:
        """Raises TokenError for a token that is too short or could not be sent."""
        given = (token,) if isinstance(token, str) else tuple(token)
        for number, one in enumerate(given, start=1):
            check_token(one, f"token {number}")
        return cls(tuple(digest(one) for one in given))

    def accept(self, authorization: str) -> bool:
        """Whether the value of an `Authorization` header carries one of the tokens."""
        bearer = BEARER.fullmatch(authorization)
        if bearer is None:
            return False
        asked = digest(bearer["token"])
        # Summed, as `any` would stop at the first that fits.
        return sum(compare_digest(asked, known) for known in self.digests) > 0


def digest(token: str) -> bytes:
    """Digests have one length, so that comparing does not tell how long a token is."""
    return sha256(token.encode()).digest()


def check_token(token: str, place: str) -> None:
    if len(token) < SHORTEST:
        raise TokenError(f"{place} is shorter than {SHORTEST} characters", "make one with `openssl rand -base64 32`")
    if not TOKEN.fullmatch(token):
        raise TokenError(f"{place} has a character that is no visible ASCII character", "one token per line")


@dataclass(frozen=True, slots=True)
class TokenFile:
    """What a token file holds; `warning` says when others on this machine can read it."""

    tokens: tuple[str, ...] = field(repr=False)
    warning: str | None = None


def read_token_file(path: Path | str) -> TokenFile:
    """One token per line, two or more while one replaces the other; empty lines do not count. Raises TokenError."""
    try:
        mode = Path(path).stat().st_mode
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise TokenError(f"cannot read the token file `{path}`: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise TokenError(f"the token file `{path}` is no text") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    for number, line in lines:
        if line:
            check_token(line, f"the token in line {number} of `{path}`")
    tokens = tuple(line for _, line in lines if line)
    if not tokens:
        raise TokenError(f"the token file `{path}` holds no token", "make one with `openssl rand -base64 32`")
    return TokenFile(tokens, world_readable(path) if mode & stat.S_IROTH else None)


def world_readable(path: Path | str) -> str:
    return f"everybody on this machine can read the token file `{path}`: `chmod 600 {path}` keeps it to you"
