"""Bearer tokens from a file, compared in constant time. They identify the callers that may send questions over the
network.

A line is a token or its digest, so that the file need not contain the token; the caller's name may precede it: `edge:
TOKEN`, `edge: sha256:…`.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from policyengine.bounded_files import MAX_SETTINGS_BYTES, read_stream
from policyengine.trusted_files import UntrustedPathError, open_trusted, write_problem

MIN_TOKEN_LENGTH = 16
TOKEN_HINT = "create a token with `openssl rand -base64 32`"
TOKEN = re.compile(r"[\x21-\x7e]+")
LINE = re.compile(r"(?:(?P<name>[a-z0-9][a-z0-9._-]{0,63}):[ \t]+)?(?P<token>.*)", re.DOTALL)
TOKEN_DIGEST = re.compile(r"sha256:(?P<digest>[0-9a-f]{64})")
BEARER = re.compile(r"bearer +(?P<token>[\x21-\x7e]+) *", re.IGNORECASE)


EVERY_CALLER = "*"  # every caller, in `[authzen] consume`
NAMED_CALLER_PREFIX = "name "  # prefix of callers that have a name in the token file


class BearerTokenError(Exception):
    """The error for a token that cannot be used; the message never contains the token."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} ({hint})")


@dataclass(frozen=True, slots=True)
class BearerTokens:
    """The accepted tokens and their callers; an empty set accepts nothing."""

    digests: tuple[bytes, ...] = field(repr=False)
    gateways: tuple[str, ...]

    @classmethod
    def of(cls, token: str | Collection[str]) -> BearerTokens:
        """Parse tokens written as in a token file. Raises BearerTokenError for a token that is too short or cannot be
        sent."""
        given = (token,) if isinstance(token, str) else tuple(token)
        known = [parse_token_line(one, f"token {number}") for number, one in enumerate(given, start=1)]
        return cls(tuple(digest for digest, _ in known), tuple(gateway for _, gateway in known))

    def accept(self, authorization: str) -> bool:
        """Return whether the value of an `Authorization` header contains an accepted token."""
        return self.gateway(authorization) is not None

    def gateway(self, authorization: str) -> str | None:
        """Return the caller whose token the value of an `Authorization` header contains, or None if no accepted token
        matches.
        """
        bearer = BEARER.fullmatch(authorization)
        if bearer is None:
            return None
        asked, found = token_digest(bearer["token"]), None
        # Compare all tokens, so that the time is constant.
        for known, gateway in zip(self.digests, self.gateways, strict=True):
            found = gateway if compare_digest(asked, known) else found
        return found


def check_consumers(consume: Collection[str], tokens: BearerTokens | None) -> None:
    """Check that each caller in `[authzen] consume` has a token. Raises BearerTokenError."""
    known = {EVERY_CALLER, *(one.removeprefix(NAMED_CALLER_PREFIX) for one in (tokens.gateways if tokens else ()))}
    for name in sorted(set(consume) - known):
        hint = f"write `{name}: TOKEN` in the token file, or `*` for every caller"
        raise BearerTokenError(f"`[authzen] consume` names the caller `{name}`, but no token has that name", hint)


def check_operators(operators: Collection[str], tokens: BearerTokens | None) -> None:
    """Check that each operator in `[halt] operators` has a token with its name. Raises BearerTokenError."""
    known = () if tokens is None else tokens.gateways
    for name in operators:
        if f"{NAMED_CALLER_PREFIX}{name}" not in known:
            hint = f"write `{name}: TOKEN` in the file that `--token-file` names"
            raise BearerTokenError(f"`[halt] operators` names `{name}`, but no token has that name", hint)


def parse_token_line(line: str, place: str) -> tuple[bytes, str]:
    """Return the digest of a token and its caller; without a name in the line, the digest names the caller. Raises
    BearerTokenError.
    """
    found = LINE.fullmatch(line)
    assert found is not None  # the pattern matches every line
    hashed = TOKEN_DIGEST.fullmatch(found["token"])
    if hashed is None:
        check_token(found["token"], place)
    known = token_digest(found["token"]) if hashed is None else bytes.fromhex(hashed["digest"])
    return known, f"token {known.hex()}" if found["name"] is None else f"{NAMED_CALLER_PREFIX}{found['name']}"


def token_digest(token: str) -> bytes:
    """Return the digest of a token. Digests have equal length, so that comparing them does not reveal the length of a
    token."""
    return sha256(token.encode()).digest()


def check_token(token: str, place: str) -> None:
    if len(token) < MIN_TOKEN_LENGTH:
        raise BearerTokenError(f"{place} is shorter than {MIN_TOKEN_LENGTH} characters", TOKEN_HINT)
    if not TOKEN.fullmatch(token):
        raise BearerTokenError(f"{place} has a character that is not visible ASCII", "one token per line")


@dataclass(frozen=True, slots=True)
class TokenFile:
    """The tokens of a file; `warning` is set if other users of this machine can read it."""

    tokens: tuple[str, ...] = field(repr=False)
    warning: str | None = None


def read_token_file(path: Path | str) -> TokenFile:
    """Read one token per line. A caller has two tokens while one replaces the other; empty lines are ignored.

    Raises BearerTokenError.
    """
    try:
        with os.fdopen(open_trusted(path), "rb") as file:
            found, text = os.fstat(file.fileno()), read_stream(file, MAX_SETTINGS_BYTES).decode()
    except UntrustedPathError as error:
        raise BearerTokenError(f"cannot read the token file `{path}`: {error.message}", error.hint) from None
    except OSError as error:
        why, hint = (error.strerror or str(error)).lower(), TOKEN_HINT if isinstance(error, FileNotFoundError) else None
        raise BearerTokenError(f"cannot read the token file `{path}`: {why}", hint) from None
    except UnicodeDecodeError:
        raise BearerTokenError(f"the token file `{path}` is not UTF-8 text") from None
    problem = write_problem(path, found)
    if problem is not None:
        hint = f"chown {os.geteuid()} {shlex.quote(str(path))}; chmod 600 {shlex.quote(str(path))}"
        raise BearerTokenError(f"{problem}: a user who can write the file can add a token", hint)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    for number, line in lines:
        if line:
            parse_token_line(line, f"the token in line {number} of `{path}`")
    tokens = tuple(line for _, line in lines if line)
    if not tokens:
        raise BearerTokenError(f"the token file `{path}` holds no token", TOKEN_HINT)
    return TokenFile(tokens, world_readable_warning(path) if found.st_mode & stat.S_IROTH else None)


def world_readable_warning(path: Path | str) -> str:
    return f"every user on this machine can read the token file `{path}`: `chmod 600 {path}` restricts it to you"
