"""State in Redis or Valkey, shared by machines: all that a decision asks is one script, in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, assert_never

import redis
from msgspec import msgpack

from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, Record, Report, Reported, WindowKey
from policyengine.runtime.idempotency_key import Claim, Found
from policyengine.runtime.idempotent_decision import charges_of
from policyengine.runtime.limits import MICRO, Add, Charge, Hold, Settled, Standing, Take
from policyengine.stores.base import Asked, Committed, StoreLossError
from policyengine.stores.clock_skew import MAX_SKEW, ClockSkew
from policyengine.stores.history_rows import facts_of, line_of, told_of, watch_of
from policyengine.stores.redis import rates
from policyengine.stores.redis.connection import PROBE, Script, Wires, answering, failure, forgetting, probed
from policyengine.stores.redis.credential_marks import MARK, RedisMarks
from policyengine.stores.redis.history_cache import Following
from policyengine.stores.redis.idempotency import CLAIM, ONCE, Claims
from policyengine.stores.redis.outcomes import BACK, finish
from policyengine.stores.redis.rates import AT_ONCE, MOST, RATES
from policyengine.stores.transition import digest, digest_of, name_of, open_for

PREFIX = "policyengine"
RATE, BUDGET, HOLD = 1, 2, 3
STEP = Script.of("past.lua", "step.lua")
FETCH, REPORT = Script.of("past.lua", "fetch.lua"), Script.of("past.lua", "report.lua")
SCRIPTS = (RATES, STEP, BACK, FETCH, REPORT, CLAIM, ONCE, MARK, PROBE)


class Names(NamedTuple):
    """What histories that are kept together are kept under."""

    prefix: str = PREFIX

    @property
    def begun(self) -> str:
        return f"{self.prefix}:begun"

    @property
    def changes(self) -> str:
        return f"{self.prefix}:changes"

    @property
    def clock(self) -> str:
        """What never runs back, whatever the clock of the server does."""
        return f"{self.prefix}:clock"

    def line(self, key: WindowKey) -> str:
        return f"{self.prefix}:line:{line_of(key)}"

    def awaited(self, decision: str) -> str:
        return f"{self.prefix}:awaited:{digest_of(decision)}"


NAMES = Names()


class RedisStore:
    """One server, or the primary that Sentinel names. Times are the server's own, and never run back.

    `virtual` believes the times that it is given, for tests; nothing is forgotten then. `client` bounds how long a call
    may take, and must not try again by itself: nobody knows whether what was sent was done.
    """

    def __init__(self, client: redis.Redis, *, virtual: bool = False, max_skew: int = MAX_SKEW) -> None:
        self._client, self._virtual, self._latest = client, virtual, 0
        self.skew = ClockSkew(max_skew)
        self._begun: frozenset[str] = frozenset()
        self._following = Following()
        self._wires = Wires(client, SCRIPTS, self.ping)
        self._claims = Claims(self._run, stood, virtual=virtual)
        self.marks = RedisMarks(self._run, self._timed, lambda: self.skew.clock())

    def ping(self) -> None:
        """Raises StoreError where it does not answer, and where it may forget what still counts."""
        with answering():
            forgets = forgetting(self._client.info("memory"))
        if forgets:
            raise StoreLossError(forgets)

    def probe(self) -> None:
        before = self.skew.clock()
        self._timed(before, probed(self._run, f"{PREFIX}:probe"))

    def about(self) -> str:
        """Which server it is (`Valkey 8.1.1`). Raises StoreError."""
        with answering():
            told: Any = self._client.info("server")
        return f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {told['redis_version']}"

    def time(self, now: int) -> int:
        """By the clock that it decides by, in microseconds since 1970; it is measured. Raises StoreError."""
        return int(self._fetching((), now)[0])

    def check(self, now: int) -> None:
        self.time(now)
        self.skew.check()

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        names = list(approvals)
        if not names:
            return frozenset()
        with answering():
            found: Any = self._client.mget([approval_key(one) for one in names])
        return frozenset(name for name, spent in zip(names, found, strict=True) if spent is not None)

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> Settled | None:
        claim, before = effects.claim, self.skew.clock()
        if not peek and claim is None and rates.plain(effects):
            asked = rates.Call((effects.limits,), self._moved(now))
            [settled] = asked.settled(self._wires.ask(asked.words))
            return self._measured(before, settled)
        if claim is None:
            answer = self._wires.ask(self._step(Asked(effects, decision, peek), now))
        else:
            answer = self._claims.step(*self._asking(Asked(effects, decision, peek), now), claim, now)
        if answer is None:
            return None
        return self._measured(before, settled_of([one.charge for one in effects.limits], answer))

    def commit_many(self, asked: Sequence[Asked], now: int) -> list[Committed]:
        """In one round trip. Plain rates that follow each other are one script."""
        calls: list[rates.Call | Asked] = []

        def words() -> Iterator[bytes]:
            for part in together(asked):
                if isinstance(part, Asked):
                    calls.append(part)
                    yield self._step(part, now)
                else:
                    call = rates.Call([one.effects.limits for one in part], self._moved(now))
                    calls.append(call)
                    yield call.words

        before = self.skew.clock()
        answers = self._wires.ask_all(words())
        found = [one for call, answer in zip(calls, answers, strict=True) for one in told(call, answer)]
        last = next((one for one in reversed(found) if isinstance(one, Settled)), None)
        if last is not None:
            self._measured(before, last)
        return found

    def _step(self, asked: Asked, now: int) -> bytes:
        return STEP.call(*self._asking(asked, now))

    def _asking(self, asked: Asked, now: int) -> tuple[list[str], bytes]:
        """The keys of a step, and its question."""
        effects, decision, peek = asked
        lines = [NAMES.line(key) for key in (*(key for key, _ in effects.relied), *map(key_of, effects.records))]
        made = f"{PREFIX}:made:{digest_of(decision)}"
        beside = made, NAMES.awaited(decision), NAMES.changes, NAMES.begun, NAMES.clock
        given = now if peek else self._moved(now)
        question = asking(effects, decision, given if self._virtual else None, peek=peek, clocked=True)
        return [*keys_of(effects), *lines, *beside], question

    def _moved(self, now: int) -> int | bool:
        """The time to be believed, if one is."""
        self._latest = max(self._latest, now)
        return self._given

    def finish(self, decision: str, now: int, *, refund: bool = False) -> Reported | None:
        key, lasts = f"{PREFIX}:made:{digest_of(decision)}", lambda until: until > self._now(now)
        return finish(self._client, self._run, key, decision, lasts, refund=refund)

    def claim(self, claim: Claim, now: int) -> Found | None:
        return self._claims.claim(claim, now)

    def release(self, claim: Claim, now: int) -> None:
        self._claims.release(claim, now)

    def begin(self, watches: Iterable[str], now: int) -> None:
        self._begun |= frozenset(watches)
        self._fetching([watch_of(one) for one in self._begun], now)

    def _fetching(self, begins: Sequence[str], now: int) -> Any:
        before = self.skew.clock()
        asked = msgpack.encode((self._moved(now), begins, (), ()))
        told = self._run(FETCH, [NAMES.begun, NAMES.clock], asked)
        self._timed(before, int(told[0]))
        return told

    def end(self, watches: Iterable[str]) -> None:
        names = frozenset(watches)
        self._begun -= names
        with answering():
            self._client.hdel(NAMES.begun, *map(watch_of, names))

    def fetch(self, keys: Iterable[WindowKey], now: int) -> Mapping[WindowKey, History]:
        before = self.skew.clock()
        found = fetched(self._run, NAMES, tuple(keys), self._begun, self._moved(now), self._following)
        for history in found.values():
            self._timed(before, history.now)
            break
        return found

    def report(self, decision: str, report: Report, now: int) -> Reported | None:
        with answering():
            raw: Any = self._client.get(NAMES.awaited(decision))
        waiting = [] if raw is None else msgpack.decode(raw)[2]
        if not waiting:
            return None
        reports = [(number, told_of(report, outputs)) for _, number, outputs in waiting]
        keys = [NAMES.awaited(decision), NAMES.changes, NAMES.clock, *(line for line, _, _ in waiting)]
        told = self._run(REPORT, keys, msgpack.encode((self._moved(now), decision, reports)))
        return None if told is None else "again" if told else "first"

    def close(self) -> None:
        self._wires.close()
        self._client.close()

    @property
    def _given(self) -> int | bool:
        return self._latest if self._virtual else False

    def _measured(self, before: int, settled: Settled) -> Settled:
        self._timed(before, settled.now)
        return settled

    def _timed(self, before: int, told: int) -> None:
        """What it told as its time, by answers to what was asked at a time of ours."""
        if not self._virtual:
            self.skew.measure(before, told)

    def _now(self, now: int) -> int:
        """By the clock of the server, unless a test has its own."""
        with answering():
            clock: Any = self._client.get(NAMES.clock)
        return max(now if self._virtual else 0, int(clock or 0))

    def _run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        return self._wires.ask(script.call(keys, *arguments))


def fetched(
    run: Callable[..., Any],
    names: Names,
    keys: Sequence[WindowKey],
    begun: frozenset[str],
    given: int | bool,
    following: Following,
) -> dict[WindowKey, History]:
    """By one script, if others do not forget meanwhile what was read before."""
    watches, lines = [watch for watch, _ in keys], [names.line(key) for key in keys]
    found: dict[WindowKey, History] = {}
    while len(found) < len(keys):
        begins = [watch_of(one) for one in begun.intersection(watches)]
        known = [following.known(line) for line in lines]
        asked = given, begins, [watch_of(one) for one in watches], known
        now, *answers = run(FETCH, [names.begun, names.clock, *lines], msgpack.encode(asked))
        for key, line, answer in zip(keys, lines, answers, strict=True):
            if (history := following.read(line, answer, int(now))) is not None:
                found[key] = history
    return found


def together(asked: Sequence[Asked]) -> Iterator[Asked | list[Asked]]:
    """Plain rates that follow each other, and each of the others."""
    plain: list[Asked] = []
    for one in asked:
        is_plain = not one.peek and rates.plain(one.effects)
        if plain and (not is_plain or len(plain) == AT_ONCE):
            yield plain
            plain = []
        if is_plain:
            plain.append(one)
        else:
            yield one
    if plain:
        yield plain


def told(call: rates.Call | Asked, answer: Any) -> Sequence[Committed]:
    many = len(call) if isinstance(call, rates.Call) else 1
    if isinstance(answer, Exception):
        return [failure(answer)] * many
    if isinstance(call, rates.Call):
        return call.settled(answer)
    return [None if answer is None else settled_of([one.charge for one in call.effects.limits], answer)]


# ── What is asked ─────────────────────────────────────────────────────────────────────────────


def keys_of(effects: Effects) -> list[str]:
    return [
        *(state_key(one.charge) for one in effects.limits),
        *map(approval_key, effects.spends),
        *(receipts_key(one.charge) for one in effects.limits if effects.confirms),
    ]


def state_key(charge: Charge) -> str:
    return f"{PREFIX}:state:{digest(charge)}"


def approval_key(approval: str) -> str:
    return f"{PREFIX}:spent:{digest_of(approval)}"


def receipts_key(charge: Charge) -> str:
    """In the slot of the state, so that a Cluster changes both in one step."""
    return f"{PREFIX}:receipts:{{{state_key(charge)}}}"


def asking(effects: Effects, decision: str, now: int | None, *, peek: bool, clocked: bool) -> bytes:
    """The argument of `step.lua`."""
    charges = [charge_of(one.charge) for one in effects.limits]
    name = name_of(effects.confirms) or False
    opens = open_for(effects.opens) if effects.opens else False
    given = False if now is None else now
    versions = [version for _, version in effects.relied]
    records = [recording(one) for one in effects.records]
    how = given, decision, peek, effects.denied, clocked
    return msgpack.encode((*how, charges, len(effects.spends), name, opens, versions, records))


def recording(record: Record) -> tuple[object, ...]:
    outputs = record.outputs if record.awaits else False
    return watch_of(record.watch), record.within, record.latest, facts_of(record), outputs


def key_of(record: Record) -> WindowKey:
    return record.watch, record.key


def charge_of(charge: Charge) -> tuple[object, ...]:
    match charge:
        case Take():
            need, cost = min(charge.cost * charge.token, MOST), min(charge.cost, MOST)
            clamps = [(one.flow.most, one.flow.drain, one.acts, one.lasts) for one in charge.clamps]
            most, drain = charge.flow
            counted = charge.counts, charge.latching
            return RATE, need, cost, charge.token, most, drain, charge.tick, *counted, clamps
        case Add():
            value = False if charge.value is None else charge.value
            return BUDGET, charge.bound, charge.within, min(charge.amount, MOST), value
        case Hold():
            return HOLD, charge.most, charge.lease
        case _:
            assert_never(charge)


# ── What is answered ──────────────────────────────────────────────────────────────────────────


def settled_of(charges: Sequence[Charge], answer: bytes) -> Settled:
    now, admitted, found = msgpack.decode(answer)
    stands = [
        standing(charge, passed, numbers if admitted or not passed else untouched)
        for charge, (passed, numbers, untouched, _) in zip(charges, found, strict=True)
    ]
    return Settled(tuple(stands), now)


def stood(draft: bytes, answer: bytes) -> Settled:
    """The same, of a decision whose draft was kept."""
    return settled_of(charges_of(draft), answer)


def standing(charge: Charge, admitted: bool, numbers: Sequence[int]) -> Standing:
    match charge:
        case Take():
            most, left, reset, retry, drain = numbers
            pace = drain / charge.flow.drain
            return Standing(admitted, most, left, reset * charge.tick, ticks(retry, charge.tick), pace)
        case Add():
            total, reset, retry, _, _ = numbers
            left = max(0, charge.bound - total) // MICRO
            return Standing(admitted, charge.bound // MICRO, left, reset, ticks(retry))
        case Hold():
            left, reset, retry, _, _ = numbers
            return Standing(admitted, charge.most, left, reset, retry)
        case _:
            assert_never(charge)


def ticks(many: int, tick: int = 1) -> int | None:
    return None if many < 0 else many * tick
