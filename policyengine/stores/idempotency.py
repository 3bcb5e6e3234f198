"""Shared parts of the stores of idempotency keys: the encoding of charge results, and a log of keys evicted early."""

from __future__ import annotations

import logging
from threading import Lock

from msgspec import msgpack

from policyengine.log_throttle import LogThrottle
from policyengine.runtime.idempotency import KEEP_MICROSECONDS
from policyengine.runtime.limits import ChargeResult, LimitState

_LOG = logging.getLogger("policyengine")


class EvictionLog:
    """Logs that keys were evicted before they expired, at most once per interval."""

    def __init__(self) -> None:
        self.keys = 0  # number of evicted keys since the start
        self._lock, self._throttle = Lock(), LogThrottle.every()

    def tell(self, many: int) -> None:
        if not many:
            return
        with self._lock:
            self.keys += many
        if (unsaid := self._throttle.admit(events=many)) is None:
            return
        _LOG.warning(
            "%d idempotency keys were evicted less than %d s after their answer, because too many are in use: a "
            "question with one of them is decided and charged again",
            unsaid,
            KEEP_MICROSECONDS // 1_000_000,
        )


def encode_charge_result(settled: ChargeResult) -> bytes:
    return msgpack.encode((settled.now, settled.standings))


def decode_charge_result(raw: bytes) -> ChargeResult:
    now, standings = msgpack.decode(raw)
    return ChargeResult(tuple(LimitState(*one) for one in standings), now)
