"""Learned behavior in Redis, Valkey or a Redis Cluster, shared by machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import MsgspecError, msgpack
from redis.exceptions import ResponseError

from policyengine.runtime.behavior import BehaviorCharge, CallerEvent, CallerHistory
from policyengine.stores.behavior import (
    EVENTS_PER_GENERATION,
    LEARNER_SECONDS,
    MAX_DOCUMENT_NUMBER,
    MAX_WAITING_FAILURES,
    REPORTABLE_SECONDS,
    REQUEST_DAYS,
    UNREADABLE_NUMBER,
    UnreadableBehaviorError,
    damaged_state,
    report_place,
)
from policyengine.stores.redis.connection import RedisScript, translate_errors

CALLER = RedisScript.of("behavior.lua", "caller.lua")
VERSION = RedisScript.of("version.lua")
PREFIX = "policyengine:behavior"
SHARED_KEY, LEARNER = f"{PREFIX}:key", f"{PREFIX}:learner"
CALLERS_AT_ONCE = 1_000
SECONDS_PER_DAY = 86_400
DAMAGED = -1  # the answer of a script about a caller whose state is damaged
KEPT_MILLISECONDS = (
    30 * 86_400_000
)  # time for which the number of a forgotten caller is kept if its damaged key had no expiry
WRONG_TYPE = "WRONGTYPE"
HISTORY_DECODER = msgpack.Decoder(tuple[int, bool, int, tuple[CallerEvent, ...]])
SAVE_DOCUMENT = RedisScript.from_text(
    "-- KEYS[1]: a document. ARGV: its name, its number, the document, the number that it must replace or ''.\n"
    "local known = tonumber(redis.call('HGET', KEYS[1], 'number') or 0) or 0\n"
    "if known >= tonumber(ARGV[2]) or known ~= (tonumber(ARGV[4]) or known) then return 0 end\n"
    "redis.call('HSET', KEYS[1], 'number', ARGV[2], ARGV[1], ARGV[3])\n"
    "return 1\n"
)


class RedisBehavior:
    """Learned behavior in Redis. `run` calls a script with keys and arguments; with `virtual` time, nothing expires."""

    def __init__(self, client: Any, run: Callable[..., Any], *, virtual: bool) -> None:
        self._client, self._run, self._virtual = client, run, virtual

    def read(self, key: str, now: int) -> CallerHistory:
        done, history, row = self._run(CALLER, caller_keys(key), "read")
        if done == DAMAGED:
            raise damaged_state("it has another format")
        return decode_history(history, row)

    def add_event(self, charge: BehaviorCharge, *, admitted: bool, clamped: bool) -> bool:
        """Add an event in a step of its own. Return False if the decision must be made again."""
        flags = int(admitted), int(clamped), charge.row, int(self._virtual)
        done, history, row = self._run(
            CALLER, caller_keys(charge.key), "event", msgpack.encode(charge_members(charge)), *flags
        )
        note_history(charge, history, row, done=done > 0)
        return bool(done > 0)

    def remember_decision(self, charge: BehaviorCharge, decision: str) -> None:
        """Remember the caller of a reportable decision. Raises StoreError."""
        seconds = None if self._virtual else REPORTABLE_SECONDS
        with translate_errors():
            self._client.set(reportable_key(decision), encode_reportable(charge, decision), ex=seconds)

    def report(self, decision: str, outcome: int | None, now: int) -> str | None:
        place = reportable_key(decision)
        with translate_errors():
            raw = self._client.get(place)
            if raw is None:
                return None
            key, _, known = raw.decode("utf-8", "surrogatepass").partition(" ")
            if known != decision or not self._client.delete(place):
                return None
        if outcome is not None:
            self._run(CALLER, caller_keys(key), "failure", outcome, MAX_WAITING_FAILURES)
        return str(key)

    def forget(self, key: str) -> bool:
        done, _, _ = self._run(CALLER, caller_keys(key), "forget", EVENTS_PER_GENERATION, KEPT_MILLISECONDS)
        return bool(done)

    def versions(self, family: str, most: int) -> list[str]:
        """Return at most `most` versions, the latest first. Versions under a key of another type are lost:
        `add_version` replaces the key. Raises StoreError.
        """
        with translate_errors():
            try:
                found: list[bytes] = self._client.zrevrange(versions_key(family), 0, most - 1)
            except ResponseError as error:
                if str(error).startswith(WRONG_TYPE):
                    return []
                raise
            return [raw.decode("utf-8", "replace") for raw in found]

    def add_version(self, family: str, version: str, lasts: int, now: int) -> None:
        self._run(VERSION, [versions_key(family)], version, lasts, now // 1_000 if self._virtual else "")

    def keys(self) -> Iterator[str]:
        with translate_errors():
            for name in self._client.scan_iter(match=f"{PREFIX}:{{*}}", count=CALLERS_AT_ONCE):
                yield name.decode("utf-8", "replace").partition("{")[2][:-1]

    def callers(self, now: int) -> Iterator[tuple[str, CallerHistory | None]]:
        for key in self.keys():
            try:
                history = self.read(key, now)
            except UnreadableBehaviorError:
                yield key, None
                continue
            if history.row:
                yield key, history

    def known_key(self) -> bytes | None:
        with translate_errors():
            raw = self._client.get(SHARED_KEY)
            return None if raw is None else bytes(raw)

    def shared_key(self, proposed: bytes) -> bytes:
        with translate_errors():
            self._client.set(SHARED_KEY, proposed, nx=True)
            return bytes(self._client.get(SHARED_KEY))

    def document(self, name: str, known: int) -> tuple[int, bytes]:
        with translate_errors():
            number = document_number(self._client.hget(document_key(name), "number"))
            if number in (known, 0):
                return number, b""
            raw, value = self._client.hmget(document_key(name), "number", name)
            return document_number(raw), bytes(value or b"")

    def save_document(self, name: str, number: int, value: bytes, after: int | None = None) -> bool:
        expected = "" if after is None else after
        return bool(self._run(SAVE_DOCUMENT, [document_key(name)], name, number, value, expected))

    def add_requests(self, day: int, part: bytes, now: int) -> None:
        with translate_errors():
            self._client.rpush(requests_key(day), part)
            if not self._virtual:
                self._client.expire(requests_key(day), REQUEST_DAYS * SECONDS_PER_DAY)

    def requests(self, day: int) -> Iterator[bytes]:
        place = 0
        while True:
            with translate_errors():
                part = self._client.lindex(requests_key(day), place)
            if part is None:
                return
            place += 1
            yield bytes(part)

    def start_learning(self, number: int, now: int) -> bool:
        with translate_errors():
            return bool(self._client.set(f"{LEARNER}:{number}", b"", nx=True, ex=LEARNER_SECONDS))


def caller_keys(key: str) -> list[str]:
    """Return the keys of a caller and of its row, in one slot."""
    return [f"{PREFIX}:{{{key}}}", f"{PREFIX}:row:{{{key}}}"]


def requests_key(day: int) -> str:
    return f"{PREFIX}:requests:{day}"


def document_key(name: str) -> str:
    return f"{PREFIX}:{name}"


def document_number(raw: bytes | None) -> int:
    """Return the number of a stored document, which another program may have written; 0 without a document."""
    if raw is None:
        return 0
    text = raw.decode("utf-8", "replace")
    readable = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_DOCUMENT_NUMBER))
    return min(int(text), UNREADABLE_NUMBER) if readable else UNREADABLE_NUMBER


def versions_key(family: str) -> str:
    return f"{PREFIX}:versions:{family}"


def reportable_key(decision: str) -> str:
    return f"{PREFIX}:reportable:{report_place(decision)}"


def encode_reportable(charge: BehaviorCharge, decision: str) -> str:
    return f"{charge.key} {decision}"


def charge_members(charge: BehaviorCharge) -> tuple[object, ...]:
    return (
        charge.at, charge.unit, charge.top, charge.falls, charge.ceilings, charge.since, charge.until, charge.burst,
        charge.strict, charge.outcome, charge.refused, charge.allowed, charge.content, charge.base, charge.number,
        charge.lasts, charge.caps,
    )  # fmt: skip


def decode_history(raw: bytes, row: bytes) -> CallerHistory:
    """Decode the answer of a script about a caller. Raises UnreadableBehaviorError."""
    try:
        base, replaced, first, events = HISTORY_DECODER.decode(raw)
    except MsgspecError as error:
        raise damaged_state(error) from None
    return CallerHistory(base, row if replaced else None, first, events)


def note_history(charge: BehaviorCharge, raw: bytes, row: bytes, *, done: bool) -> None:
    """Put the history of the caller into a charge that was committed, or that must be decided again."""
    try:
        charge.history = decode_history(raw, row)
    except UnreadableBehaviorError:
        charge.history, charge.unanswered, charge.damaged = None, not done, True


def decode_step(charge: BehaviorCharge, answer: Sequence[bytes]) -> bytes | None:
    """Return the part of the answer of `step.lua` about the limits, and put the history of the caller into the charge;
    None if the decision must be made again."""
    settled, history, row = answer
    note_history(charge, history, row, done=bool(settled))
    return settled or None
