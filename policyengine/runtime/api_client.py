"""The caller that a decision is made for: only the same caller reports how the request of that decision came out.

A caller is a client of the token file, the user at the other end of a Unix socket, or, without a name, this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from hashlib import blake2b

NO_CALLER = ""  # this process, or whoever reaches a listener that asks for no token
SEPARATOR = "\x1f"
_caller: ContextVar[str] = ContextVar("caller", default=NO_CALLER)


@contextmanager
def caller_scope(caller: str) -> Iterator[None]:
    """Every decision and every report inside is that caller's."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def enter_caller(caller: str) -> None:
    """The same for the rest of a task that serves one request."""
    _caller.set(caller)


def current_caller() -> str:
    return _caller.get()


def outcome_key(decision: str) -> str:
    """The key under which a store waits for the outcome of a decision: of each caller another one."""
    caller = _caller.get()
    return decision if not caller else f"{decision}{SEPARATOR}{_digest(caller)}"


@lru_cache(maxsize=256)
def _digest(caller: str) -> str:
    """Short, as stores keep it with every entry of a budget."""
    return blake2b(caller.encode(), digest_size=8).hexdigest()
