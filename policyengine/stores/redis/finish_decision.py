"""How a decision came out, in Redis: what it held is given back, and that it was reported is noted."""

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
    """By what is kept under the key: until when the outcome can be reported, which `lasts` or not, and what is given
    back. That is done first, as it may be done twice, and then noted: a report that broke off is made again."""
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
