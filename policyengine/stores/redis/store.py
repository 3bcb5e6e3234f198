"""The store in Redis or Valkey, shared by machines: each decision is one script call in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import redis
from msgspec import msgpack

from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, OutcomeReport, ReportStatus, WindowKey
from policyengine.runtime.idempotency import IdempotencyClaim, IdempotencyRecord
from policyengine.runtime.limits import ChargeResult
from policyengine.stores.base import CommitRequest, CommitResult, StoreLossError
from policyengine.stores.clock_skew import MAX_SKEW_MICROSECONDS, ClockSkew
from policyengine.stores.history_rows import encode_report, watch_key
from policyengine.stores.redis import rates
from policyengine.stores.redis.approvals import APPROVALS, RedisApprovals
from policyengine.stores.redis.behavior import (
    CALLER,
    SAVE_DOCUMENT,
    VERSION,
    RedisBehavior,
    caller_keys,
    decode_step,
    reportable_key,
)
from policyengine.stores.redis.connection import (
    PROBE,
    ConnectionPool,
    RedisScript,
    find_eviction_risk,
    probe_server_time,
    to_store_error,
    translate_errors,
)
from policyengine.stores.redis.credential_marks import MARK, RedisMarks
from policyengine.stores.redis.finish_decision import BACK, finish
from policyengine.stores.redis.halts import SAVE_HALTS, RedisHalts
from policyengine.stores.redis.history_cache import HistoryCache
from policyengine.stores.redis.idempotency import CLAIM, CLAIMED_STEP, RedisIdempotencyKeys
from policyengine.stores.redis.rates import MAX_DECISIONS_PER_CALL, RATES
from policyengine.stores.redis.step import (
    DEFAULT_KEYS,
    PREFIX,
    STEP,
    RedisKeys,
    approval_key,
    decode_charge_result,
    decode_draft_result,
    effect_keys,
    encode_step,
    record_key,
    shared_behavior,
)
from policyengine.stores.transition import digest_parts

FETCH, REPORT = RedisScript.of("past.lua", "fetch.lua"), RedisScript.of("past.lua", "report.lua")
SCRIPTS = (
    RATES,
    STEP,
    BACK,
    FETCH,
    REPORT,
    CLAIM,
    CLAIMED_STEP,
    MARK,
    APPROVALS,
    PROBE,
    CALLER,
    SAVE_DOCUMENT,
    VERSION,
    SAVE_HALTS,
)


class RedisStore:
    """A store on one server, or on the primary that Sentinel names. Times are the server's own, and never run
    backwards. With `virtual`, for tests, the store uses the given times, and nothing expires. `client` must limit the
    time of a call and must not retry, because it is unknown whether a failed call took effect."""

    def __init__(self, client: redis.Redis, *, virtual: bool = False, max_skew: int = MAX_SKEW_MICROSECONDS) -> None:
        self._client, self._virtual, self._latest = client, virtual, 0
        self.skew = ClockSkew(max_skew)
        self._begun: frozenset[str] = frozenset()
        self._following = HistoryCache()
        self._wires = ConnectionPool(client, SCRIPTS, self.ping)
        self._claims = RedisIdempotencyKeys(self._run, decode_draft_result, virtual=virtual)
        self.marks = RedisMarks(self._run, self._measure_time, lambda: self.skew.clock())
        self.approvals = RedisApprovals(self._run, self._measure_time, lambda: self.skew.clock())
        self.halts = RedisHalts(client, self._run)
        self.behavior = RedisBehavior(client, self._run, virtual=virtual)

    def ping(self) -> None:
        """Raise StoreError if the server does not answer, or may evict entries that still count."""
        with translate_errors():
            forgets = find_eviction_risk(self._client.info("memory"))
        if forgets:
            raise StoreLossError(forgets)

    def probe(self) -> None:
        before = self.skew.clock()
        self._measure_time(before, probe_server_time(self._run, f"{PREFIX}:probe"))

    def about(self) -> str:
        """Return the kind and version of the server (`Valkey 8.1.1`). Raises StoreError."""
        with translate_errors():
            told: Any = self._client.info("server")
        return f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {told['redis_version']}"

    def time(self, now: int) -> int:
        """Measure the skew and return the server's time in microseconds since 1970. Raises StoreError."""
        return int(self._begin_watches((), now)[0])

    def check(self, now: int) -> None:
        self.time(now)
        self.skew.check()

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        names = list(approvals)
        if not names:
            return frozenset()
        with translate_errors():
            found: Any = self._client.mget([approval_key(one) for one in names])
        return frozenset(name for name, spent in zip(names, found, strict=True) if spent is not None)

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        claim, before = effects.claim, self.skew.clock()
        behavior = shared_behavior(effects, peek=peek)
        if not peek and claim is None and rates.has_only_steady_rates(effects):
            asked = rates.RateBatch((effects.limits,), self._move_clock(now))
            [settled] = asked.settled(self._wires.ask(asked.words))
            return self._measure_skew(before, settled)
        if claim is None:
            answer = self._wires.ask(self._step(CommitRequest(effects, decision, peek), now))
        else:
            answer = self._claims.step(*self._encode_step(CommitRequest(effects, decision, peek), now), claim, now)
        if answer is not None and behavior is not None:
            answer = decode_step(behavior, answer)
        if answer is None:
            return None
        return self._measure_skew(before, decode_charge_result([one.charge for one in effects.limits], answer))

    def commit_many(self, asked: Sequence[CommitRequest], now: int) -> list[CommitResult]:
        """Commit several decisions in one round trip; consecutive steady rates share one script call."""
        calls: list[rates.RateBatch | CommitRequest] = []

        def words() -> Iterator[bytes]:
            for part in batch_requests(asked):
                if isinstance(part, CommitRequest):
                    calls.append(part)
                    yield self._step(part, now)
                else:
                    call = rates.RateBatch([one.effects.limits for one in part], self._move_clock(now))
                    calls.append(call)
                    yield call.words

        before = self.skew.clock()
        answers = self._wires.ask_all(words())
        found = [one for call, answer in zip(calls, answers, strict=True) for one in parse_answer(call, answer)]
        last = next((one for one in reversed(found) if isinstance(one, ChargeResult)), None)
        if last is not None:
            self._measure_skew(before, last)
        return found

    def _step(self, asked: CommitRequest, now: int) -> bytes:
        keys, arguments = self._encode_step(asked, now)
        return STEP.call(keys, *arguments)

    def _encode_step(self, asked: CommitRequest, now: int) -> tuple[list[str], list[bytes]]:
        """Return the keys and the arguments of a step."""
        effects, decision, peek = asked
        lines = [
            DEFAULT_KEYS.line(key) for key in (*(key for key, _ in effects.relied), *map(record_key, effects.records))
        ]
        made = f"{PREFIX}:made:{digest_parts(decision)}"
        behavior = shared_behavior(effects, peek=peek)
        if behavior is not None:
            lines += [*caller_keys(behavior.key), reportable_key(decision)]
        beside = made, DEFAULT_KEYS.awaited(decision), DEFAULT_KEYS.changes, DEFAULT_KEYS.begun, DEFAULT_KEYS.clock
        given = now if peek else self._move_clock(now)
        question = encode_step(effects, decision, given if self._virtual else None, peek=peek, clocked=True)
        rows = [] if behavior is None else [behavior.row]
        return [*effect_keys(effects), *lines, *beside], [question, *rows]

    def _move_clock(self, now: int) -> int | bool:
        """Remember the latest time of a caller. Return the time that scripts must use, or False for the server's own
        time."""
        self._latest = max(self._latest, now)
        return self._given

    def finish(self, decision: str, now: int, *, refund: bool = False) -> ReportStatus | None:
        key, lasts = f"{PREFIX}:made:{digest_parts(decision)}", lambda until: until > self._now(now)
        return finish(self._client, self._run, key, decision, lasts, refund=refund)

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        return self._claims.claim(claim, now)

    def release(self, claim: IdempotencyClaim, now: int) -> None:
        self._claims.release(claim, now)

    def begin(self, watches: Iterable[str], now: int) -> None:
        self._begun |= frozenset(watches)
        self._begin_watches([watch_key(one) for one in self._begun], now)

    def _begin_watches(self, begins: Sequence[str], now: int) -> Any:
        before = self.skew.clock()
        asked = msgpack.encode((self._move_clock(now), begins, (), ()))
        told = self._run(FETCH, [DEFAULT_KEYS.begun, DEFAULT_KEYS.clock], asked)
        self._measure_time(before, int(told[0]))
        return told

    def end(self, watches: Iterable[str]) -> None:
        names = frozenset(watches)
        self._begun -= names
        with translate_errors():
            self._client.hdel(DEFAULT_KEYS.begun, *map(watch_key, names))

    def fetch(self, keys: Iterable[WindowKey], now: int) -> Mapping[WindowKey, History]:
        before = self.skew.clock()
        found = fetch_histories(
            self._run, DEFAULT_KEYS, tuple(keys), self._begun, self._move_clock(now), self._following
        )
        for history in found.values():
            self._measure_time(before, history.now)
            break
        return found

    def report(self, decision: str, report: OutcomeReport, now: int) -> ReportStatus | None:
        given = self._move_clock(now)
        with translate_errors():
            raw: Any = self._client.get(DEFAULT_KEYS.awaited(decision))
        waiting = [] if raw is None else msgpack.decode(raw)[2]
        if not waiting:
            return None
        reports = [(number, encode_report(report, outputs)) for _, number, outputs in waiting]
        keys = [
            DEFAULT_KEYS.awaited(decision),
            DEFAULT_KEYS.changes,
            DEFAULT_KEYS.clock,
            *(line for line, _, _ in waiting),
        ]
        told = self._run(REPORT, keys, msgpack.encode((given, decision, reports)))
        return None if told is None else "again" if told else "first"

    def close(self) -> None:
        self._wires.close()
        self._client.close()

    @property
    def _given(self) -> int | bool:
        return self._latest if self._virtual else False

    def _measure_skew(self, before: int, settled: ChargeResult) -> ChargeResult:
        self._measure_time(before, settled.now)
        return settled

    def _measure_time(self, before: int, told: int) -> None:
        """Measure the skew from the server's time in an answer."""
        if not self._virtual:
            self.skew.measure(before, told)

    def _now(self, now: int) -> int:
        """Return the time of the store's clock in microseconds; if time is virtual, at least the given time. Raises
        StoreError.
        """
        with translate_errors():
            clock: Any = self._client.get(DEFAULT_KEYS.clock)
        return max(now if self._virtual else 0, int(clock or 0))

    def _run(self, script: RedisScript, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        return self._wires.ask(script.call(keys, *arguments))


def fetch_histories(
    run: Callable[..., Any],
    names: RedisKeys,
    keys: Sequence[WindowKey],
    begun: frozenset[str],
    given: int | bool,
    following: HistoryCache,
) -> dict[WindowKey, History]:
    """Fetch histories with one script call, which is repeated if a cached part was evicted in the meantime."""
    watches, lines = [watch for watch, _ in keys], [names.line(key) for key in keys]
    found: dict[WindowKey, History] = {}
    while len(found) < len(keys):
        begins = [watch_key(one) for one in begun.intersection(watches)]
        known = [following.known(line) for line in lines]
        asked = given, begins, [watch_key(one) for one in watches], known
        now, *answers = run(FETCH, [names.begun, names.clock, *lines], msgpack.encode(asked))
        for key, line, answer in zip(keys, lines, answers, strict=True):
            if (history := following.read(line, answer, int(now))) is not None:
                found[key] = history
    return found


def batch_requests(asked: Sequence[CommitRequest]) -> Iterator[CommitRequest | list[CommitRequest]]:
    """Yield consecutive requests that only charge steady rates as lists, and every other request alone."""
    plain: list[CommitRequest] = []
    for request in asked:
        is_plain = not request.peek and rates.has_only_steady_rates(request.effects)
        if plain and (not is_plain or len(plain) == MAX_DECISIONS_PER_CALL):
            yield plain
            plain = []
        if is_plain:
            plain.append(request)
        else:
            yield request
    if plain:
        yield plain


def parse_answer(call: rates.RateBatch | CommitRequest, answer: Any) -> Sequence[CommitResult]:
    many = len(call) if isinstance(call, rates.RateBatch) else 1
    if isinstance(answer, Exception):
        return [to_store_error(answer)] * many
    if isinstance(call, rates.RateBatch):
        return call.settled(answer)
    behavior = shared_behavior(call.effects, peek=call.peek)
    if answer is not None and behavior is not None:
        answer = decode_step(behavior, answer)
    return [None if answer is None else decode_charge_result([one.charge for one in call.effects.limits], answer)]
