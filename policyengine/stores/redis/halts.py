"""Halts in Redis, Valkey or a Redis Cluster, shared by machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from policyengine.stores.base import StoreError
from policyengine.stores.redis.connection import RedisScript, translate_errors

KEY: Final = "policyengine:halts"
SAVE_HALTS: Final = RedisScript.from_text(
    "-- KEYS[1]: the halts. ARGV: the number, the document, the number that it must replace or ''.\n"
    "local known = tonumber(redis.call('HGET', KEYS[1], 'number') or 0) or 0\n"
    "if known >= tonumber(ARGV[1]) or known ~= (tonumber(ARGV[3]) or known) then return 0 end\n"
    "redis.call('HSET', KEYS[1], 'number', ARGV[1], 'document', ARGV[2])\n"
    "return 1\n"
)


class RedisHalts:
    """The document of halts under one key, which never expires. `run` calls a script with keys and arguments."""

    is_shared = True

    def __init__(self, client: Any, run: Callable[..., Any]) -> None:
        self._client, self._run = client, run

    def load(self, known: int) -> tuple[int, bytes]:
        with translate_errors():
            if self._client.hget(KEY, "number") == str(known).encode():
                return known, b""
            number, document = self._client.hmget(KEY, "number", "document")
        if number is None:
            return 0, b""
        if not number.isdigit() or document is None:
            raise StoreError(f"the halts under `{KEY}` are damaged")
        return int(number), bytes(document)

    def save(self, number: int, document: bytes, after: int | None) -> bool:
        return bool(self._run(SAVE_HALTS, [KEY], number, document, "" if after is None else after))
