"""Connections to one Redis server. A script call is one message and one answer, and its arguments are encoded once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from importlib.resources import files
from time import monotonic
from typing import Any, NamedTuple

import redis
from redis.exceptions import (
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from policyengine.stores.base import StoreError, StoreLossError, WriteRefusedError

MAX_IDLE_SECONDS = 1.0  # seconds after which the server may have closed an idle connection
SAFE_EVICTION_POLICY = "noeviction"
PROBE_TTL_MILLISECONDS = 60_000
# Errors of a server that refuses writes but answers reads: it is full, it is a replica, it cannot save, or it has too
# few replicas.
WRITE_REFUSAL_PREFIXES = ("OOM", "READONLY", "MISCONF", "NOREPLICAS")


def script_text(name: str) -> str:
    """Return a Lua script from the folder beside this module."""
    return files(__package__).joinpath("scripts", name).read_text(encoding="utf-8")


class RedisScript(NamedTuple):
    text: str
    sha: str

    @classmethod
    def of(cls, *names: str) -> RedisScript:
        return cls.from_text("".join(map(script_text, names)))

    @classmethod
    def from_text(cls, text: str) -> RedisScript:
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())

    def call(self, keys: Sequence[str], *arguments: str | bytes | int) -> bytes:
        """Return the encoded call of the script."""
        words = [self.sha, str(len(keys)), *keys, *arguments]
        return b"*%d\r\n$7\r\nEVALSHA\r\n%b" % (len(words) + 1, b"".join(map(encode_redis_argument, words)))


def encode_redis_argument(word: str | bytes | int) -> bytes:
    text = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
    return b"$%d\r\n%b\r\n" % (len(text), text)


PROBE = RedisScript.of("probe.lua")
FAILURES = (RedisError, RedisClusterException, OSError)


def to_store_error(error: Exception) -> StoreError:
    refuses = isinstance(error, OutOfMemoryError | ReadOnlyError) or str(error).startswith(WRITE_REFUSAL_PREFIXES)
    kind = WriteRefusedError if refuses else StoreError
    return kind(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


@contextmanager
def translate_errors() -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise to_store_error(error) from error


def find_eviction_risk(memory: Any) -> str | None:
    """Return why a server may evict entries that still count; None if it evicts nothing when its memory is full."""
    policy = memory.get("maxmemory_policy", SAFE_EVICTION_POLICY)
    if not memory.get("maxmemory") or policy == SAFE_EVICTION_POLICY:
        return None
    return f"the server has `maxmemory-policy {policy}`: evicted entries would no longer count"


def probe_server_time(run: Callable[..., Any], key: str) -> int:
    """Write to the server that has the key, and return its time (microseconds). Raises StoreError if the write fails or
    if the server may evict the key.
    """
    seconds, micros, most, rule = run(PROBE, [key], PROBE_TTL_MILLISECONDS)
    if forgets := find_eviction_risk(
        {"maxmemory": int(most), "maxmemory_policy": rule.decode() or SAFE_EVICTION_POLICY}
    ):
        raise StoreLossError(forgets)
    return int(seconds) * 1_000_000 + int(micros)


class ConnectionPool:
    """A pool of connections, one for each thread that calls at the same time. A call is never sent twice, because it is
    unknown whether the first call took effect. A new or restarted server is checked with `ping` before it gets the
    `scripts`.
    """

    def __init__(self, client: redis.Redis, scripts: Sequence[RedisScript], ping: Callable[[], None]) -> None:
        self._pool: Any = client.connection_pool
        self._scripts, self._ping = scripts, ping
        self._free: deque[tuple[Any, float]] = deque()
        self._process = os.getpid()

    def ask(self, call: bytes) -> Any:
        """Send a call and return its answer. Raises StoreError, also for an error that the server reports."""
        try:
            wire = self._wire()
            try:
                wire.send_packed_command((call,), check_health=False)
                answer = wire.read_response(disable_decoding=True)
            except ResponseError as error:
                answer = error
            except BaseException:
                self._drop(wire)
                raise
        except FAILURES as error:
            raise to_store_error(error) from error
        self._free.append((wire, monotonic()))
        if isinstance(answer, NoScriptError):
            (answer,) = self.ask_all([call])
        if isinstance(answer, Exception):
            raise to_store_error(answer) from answer
        return answer

    def ask_all(self, calls: Iterable[bytes]) -> list[Any]:
        """Send calls and return their answers in order, with an exception in place of the answer of a failed call.
        Raises StoreError. Each call is sent as soon as it is encoded, so that the server works while the next call is
        encoded."""
        sent: list[bytes] = []

        def sending() -> Iterator[bytes]:
            for call in calls:
                sent.append(call)
                yield call

        with translate_errors():
            wire = self._wire()
            answers = self._exchange(wire, sending(), sent)
            lost = [place for place, one in enumerate(answers) if isinstance(one, NoScriptError)]
            if lost:  # none of the calls took effect
                self._teach(wire)
                missed = [sent[place] for place in lost]
                again = self._exchange(wire, missed, missed)
                for place, answer in zip(lost, again, strict=True):
                    answers[place] = answer
            self._free.append((wire, monotonic()))
            return answers

    def close(self) -> None:
        while self._free:
            self._free.pop()[0].disconnect()

    def _wire(self) -> Any:
        if self._process != os.getpid():
            # Inherited connections belong to the parent process; closing them here would also close them there.
            self._inherited, self._free, self._process = self._free, deque(), os.getpid()
        try:
            wire, used = self._free.pop()
        except IndexError:
            return self._open_wire()
        if monotonic() - used > MAX_IDLE_SECONDS and self._is_gone(wire):
            self.close()
            return self._open_wire()
        return wire

    def _open_wire(self) -> Any:
        wire = self._pool.connection_class(**self._pool.connection_kwargs)
        wire.connect()
        return wire

    def _is_gone(self, wire: Any) -> bool:
        try:
            return bool(wire.can_read(0))  # an idle connection has data only if the server has closed it
        except (RedisError, OSError):
            return True

    def _exchange(self, wire: Any, calls: Iterable[bytes], sent: Sequence[bytes]) -> list[Any]:
        try:
            wire.send_packed_command(calls, check_health=False)
            return [self._answer(wire) for _ in sent]
        except BaseException:
            self._drop(wire)
            raise

    def _drop(self, wire: Any) -> None:
        """Drop a broken connection with its pending answer, and all others, because the server may have stopped."""
        wire.disconnect()
        self.close()

    def _answer(self, wire: Any) -> Any:
        try:
            return wire.read_response(disable_decoding=True)
        except ResponseError as error:
            return error

    def _teach(self, wire: Any) -> None:
        self._ping()
        loads = [b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n" + encode_redis_argument(one.text) for one in self._scripts]
        for answer in self._exchange(wire, loads, loads):
            if isinstance(answer, Exception):
                raise answer
