"""The caller of a decision: only this caller may report the outcome of the request.

A caller is a client in the token file, the user at the other end of a Unix socket, or this process, which has no name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from hashlib import blake2b

NO_CALLER = ""  # this process, or any client of a listener without tokens
SEPARATOR = "\x1f"
LABEL_CHARACTERS = 8  # of the digest of a token without a name
_caller: ContextVar[str] = ContextVar("caller", default=NO_CALLER)


@contextmanager
def caller_scope(caller: str) -> Iterator[None]:
    """Attribute every decision and report inside the context to this caller."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def enter_caller(caller: str) -> None:
    """Attribute the rest of the current task, which serves one request, to this caller."""
    _caller.set(caller)


def current_caller() -> str:
    return _caller.get()


def caller_label() -> str | None:
    """Return the name of the caller for records: the name of its token, `user 1000` for a socket, or the beginning of
    the digest of a token without a name; None for this process, or any client of a listener without tokens."""
    caller = _caller.get()
    if caller == NO_CALLER:
        return None
    kind, _, name = caller.partition(" ")
    match kind:
        case "":
            return None
        case "name":
            return name
        case "token":
            return f"token {name[:LABEL_CHARACTERS]}"
        case _:
            return caller


def outcome_key(decision: str) -> str:
    """Return the store key for the outcome of a decision; it is different for each caller."""
    caller = _caller.get()
    return decision if not caller else f"{decision}{SEPARATOR}{_digest(caller)}"


@lru_cache(maxsize=256)
def _digest(caller: str) -> str:
    """Return a digest of 8 bytes: stores keep the digest with every entry of a budget."""
    return blake2b(caller.encode(), digest_size=8).hexdigest()
