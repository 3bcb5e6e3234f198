"""Approvals in Redis, Valkey or a Redis Cluster, shared by machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from policyengine.stores.approvals import (
    MAX_LISTED_ROWS,
    AdmissionResult,
    ApprovalQuota,
    ApprovalRow,
    decode_row,
)
from policyengine.stores.redis.connection import RedisScript

APPROVALS = RedisScript.of("approvals.lua")
BASE = "policyengine:{approvals}"  # all keys are in one slot, because people answer few requests


class RedisApprovals:
    """Approvals in Redis. Each call is one script in one round trip; `run` calls a script with keys and arguments. Ends
    are compared with the clock of the caller. Each answer contains the server's time; if the caller's clock differs too
    much from it, the approvals are not used (`resilient_store.py`).
    """

    def __init__(self, run: Callable[..., Any], timed: Callable[[int, int], None], clock: Callable[[], int]) -> None:
        """Create the store. `timed` is called with the time of the call, by the `clock` of this process, and the time
        in the server's answer."""
        self._call, self._timed, self._clock = run, timed, clock

    def _run(self, operation: str, now: int, *arguments: str | bytes | int) -> Any:
        before = self._clock()
        told, seconds, micros = self._call(APPROVALS, [BASE], operation, now, *arguments)
        self._timed(before, int(seconds) * 1_000_000 + int(micros))
        return told

    def open(self, row: ApprovalRow, quotas: Sequence[ApprovalQuota], now: int, replaces: str = "") -> AdmissionResult:
        bounds: list[str | int] = [word for quota in quotas for word in (quota.name, quota.most)]
        told = self._run("open", now, replaces, len(quotas), *bounds, *row_arguments(row))
        match told[0]:
            case b"new":
                return AdmissionResult(row)
            case b"known":
                return AdmissionResult(decode_row(told[1]))
            case _:
                return AdmissionResult(None, told[1].decode())

    def save(self, row: ApprovalRow, before: ApprovalRow, now: int) -> bool:
        counted: list[str | bytes | int] = [before.encode(), len(before.counts), *before.counts]
        return bool(self._run("save", now, *counted, *row_arguments(row)))

    def find(self, id: str, now: int) -> ApprovalRow | None:
        found = self._rows(now, self._run("find", now, id))
        return found[0] if found else None

    def bound(self, bindings: Sequence[str], now: int) -> list[ApprovalRow]:
        return self._rows(now, self._run("bound", now, *dict.fromkeys(bindings)))

    def rows(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        return self._rows(now, self._run("rows", now, name, skip, MAX_LISTED_ROWS))

    def ended(self, name: str, now: int, skip: int = 0) -> list[ApprovalRow]:
        return self._rows(now, self._run("ended", now, name, skip, MAX_LISTED_ROWS))

    @staticmethod
    def _rows(now: int, told: Sequence[bytes]) -> list[ApprovalRow]:
        """Return the rows of an answer that have not ended: the server deletes ended rows by its own clock."""
        return [row for row in map(decode_row, told) if row.until > now]


def row_arguments(row: ApprovalRow) -> tuple[str | bytes | int, ...]:
    return row.binding, row.id, row.encode(), row.live, row.until, *row.counts
