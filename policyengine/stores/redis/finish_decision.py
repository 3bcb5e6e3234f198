"""Finishes decisions in Redis: returns their concurrency places and budget entries, and records the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import msgpack

from policyengine.runtime.history import ReportStatus
from policyengine.stores.redis.connection import RedisScript, translate_errors

BACK = RedisScript.of("back.lua")


def finish(
    client: Any, run: Callable[..., Any], key: str, decision: str, lasts: Callable[[int], bool], *, refund: bool
) -> ReportStatus | None:
    """Finish a decision by its stored record, which contains the time until which its outcome can be reported (checked
    by `lasts`) and the charges to return.

    Return None if there is no record, or if that time has passed. The charges are returned first, because returning
    them twice has no further effect. The report is recorded afterwards, so that an interrupted report can be sent
    again. Raises StoreError.
    """
    with translate_errors():
        made = client.get(key)
    if made is None:
        return None
    until, charges = msgpack.decode(made)
    if not lasts(until):
        return None
    for state, held in charges:
        if held or refund:
            run(BACK, [state], decision, "place" if held else "entry", "", "", 0, 1)
    with translate_errors():
        before = client.set(key, msgpack.encode((until, ())), xx=True, keepttl=True, get=True)
    return "first" if before == made and charges else "again"
