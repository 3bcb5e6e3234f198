"""What every store of idempotency keys needs: the encoding of charge results, and a log of keys evicted early."""

from __future__ import annotations

import logging
from threading import Lock

from msgspec import msgpack

from policyengine.log_throttle import LogThrottle
from policyengine.runtime.idempotency import KEEP_MICROSECONDS
from policyengine.runtime.limits import ChargeResult, LimitState

_LOG = logging.getLogger("policyengine")


class EvictionLog:
    """Tells the operator of answers that were forgotten before their time, now and then."""

    def __init__(self) -> None:
        self.keys = 0  # since the beginning
        self._lock, self._throttle = Lock(), LogThrottle.every()

    def tell(self, many: int) -> None:
        if not many:
            return
        with self._lock:
            self.keys += many
        if (unsaid := self._throttle.admit(events=many)) is None:
            return
        _LOG.warning(
            "%d answers were forgotten within %d s of being given, as more keys came than are kept: who asks again by "
            "one of those is decided, and pays, a second time",
            unsaid,
            KEEP_MICROSECONDS // 1_000_000,
        )


def encode_charge_result(settled: ChargeResult) -> bytes:
    return msgpack.encode((settled.now, settled.standings))


def decode_charge_result(raw: bytes) -> ChargeResult:
    now, standings = msgpack.decode(raw)
    return ChargeResult(tuple(LimitState(*one) for one in standings), now)
