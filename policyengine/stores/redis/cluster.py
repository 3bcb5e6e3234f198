"""The store in a Redis Cluster, where the keys of one decision are on several servers. Each server reserves its part;
if one refuses, the reserved parts are returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import redis
from msgspec import msgpack
from msgspec.structs import replace
from redis.crc import key_slot
from redis.exceptions import NoScriptError

from policyengine.runtime.behavior import BehaviorCharge
from policyengine.runtime.decision import Effects
from policyengine.runtime.history import History, OutcomeReport, ReportStatus, WindowKey
from policyengine.runtime.idempotency import IdempotencyClaim, IdempotencyRecord
from policyengine.runtime.limits import Charge, ChargeResult, ConcurrencyCharge, LimitState, RateCharge, deduct_prepaid
from policyengine.stores.base import CommitRequest, CommitResult, StoreError, StoreLossError, commit_individually
from policyengine.stores.clock_skew import MAX_SKEW_MICROSECONDS, ClockSkew
from policyengine.stores.history_rows import watch_key
from policyengine.stores.idempotency import decode_charge_result, encode_charge_result
from policyengine.stores.redis import cluster_history as slots
from policyengine.stores.redis.approvals import RedisApprovals
from policyengine.stores.redis.behavior import RedisBehavior
from policyengine.stores.redis.connection import RedisScript, find_eviction_risk, probe_server_time, translate_errors
from policyengine.stores.redis.credential_marks import RedisMarks
from policyengine.stores.redis.finish_decision import BACK, finish
from policyengine.stores.redis.halts import RedisHalts
from policyengine.stores.redis.history_cache import HistoryCache
from policyengine.stores.redis.idempotency import RedisIdempotencyKeys
from policyengine.stores.redis.step import (
    PREFIX,
    STEP,
    RedisKeys,
    approval_key,
    decode_limit_state,
    effect_keys,
    encode_step,
    receipts_key,
    shared_behavior,
    state_key,
)
from policyengine.stores.transition import digest_parts, receipt_name, reportable_until


class SlotEffects(NamedTuple):
    """The effects of a decision in one slot; `places` are the indexes of these limits among all limits of the
    decision."""

    effects: Effects
    places: tuple[int, ...]


class SlotResult(NamedTuple):
    """The answer of a slot: the states of its limits with and without the charge, and the changes that can be
    undone."""

    now: int
    admitted: bool
    stands: tuple[LimitState, ...]
    untouched: tuple[LimitState, ...]
    raw: tuple[SlotChange, ...]


class SlotChange(NamedTuple):
    """The change that one charge made: the state and the receipt, each before and after, and the tokens that were
    already paid. An empty value means that there is no state or receipt, or that the state did not change.
    """

    before: bytes
    after: bytes
    receipt: bytes
    new_receipt: bytes
    paid: int


class ClusterStore:
    """A store in a Redis Cluster.

    If one slot reserves its part of a decision and another refuses, other decisions may temporarily see the
    reservation, but they never miss a charge. Histories are locked during the commit, so that no decision relies on
    events of a decision that may still be refused. Each slot has its own clock, which never runs backwards for any key.
    If a process dies after it made a reservation in one slot and before it finished in all, the reservation remains.
    """

    def __init__(
        self, client: redis.RedisCluster, *, virtual: bool = False, max_skew: int = MAX_SKEW_MICROSECONDS
    ) -> None:
        self._client, self._virtual, self._latest = client, virtual, 0
        self.skew = ClockSkew(max_skew)
        self._claims = RedisIdempotencyKeys(
            self._run, lambda draft, settled: decode_charge_result(settled), virtual=virtual
        )
        self.marks = RedisMarks(self._run, self._timed, lambda: self.skew.clock())
        self.approvals = RedisApprovals(self._run, self._timed, lambda: self.skew.clock())
        self.behavior = RedisBehavior(client, self._run, virtual=virtual)
        self.halts = RedisHalts(client, self._run)
        self._begun: frozenset[str] = frozenset()
        self._following = HistoryCache()

    def ping(self) -> None:
        """Raise StoreError if a server does not answer, or might evict entries that still count."""
        with translate_errors():
            told: Any = self._client.info("memory", target_nodes=self._client.PRIMARIES)
        for memory in told.values() if "maxmemory" not in told else [told]:
            if forgets := find_eviction_risk(memory):
                raise StoreLossError(forgets)

    def probe(self) -> None:
        """Probe each server that has slots of this store, because decisions write to all of them. Raises StoreError."""
        keys = [f"{PREFIX}:probe:{{h{slot}}}" for slot in range(slots.SLOT_COUNT)]
        client: Any = self._client  # the client declares no type for this method
        with translate_errors():
            servers = {client.get_node_from_key(key).name: key for key in keys}
        for key in servers.values():
            before = self.skew.clock()
            self._timed(before, probe_server_time(self._run, key))

    def about(self) -> str:
        """Return the kind and version of the servers (`Redis 7.4.1`). Raises StoreError."""
        with translate_errors():
            told: Any = self._client.info("server", target_nodes=self._client.PRIMARIES)
        one = told if "redis_version" in told else next(iter(told.values()))
        return f"Valkey {one['valkey_version']}" if "valkey_version" in one else f"Redis {one['redis_version']}"

    def time(self, now: int) -> int:
        """Measure the skew and return the time, in microseconds, of the server whose clock differs most from the clock
        of this process. Raises StoreError.
        """
        before = self.skew.clock()
        with translate_errors():
            told: Any = self._client.time(target_nodes=self._client.PRIMARIES)
        times = [int(one[0]) * 1_000_000 + int(one[1]) for one in (told.values() if isinstance(told, dict) else [told])]
        furthest = max(times, key=lambda one: abs(one - before))
        if not self._virtual:
            self.skew.measure(before, furthest)
        return furthest

    def _timed(self, before: int, told: int) -> None:
        """Measure the skew from the time of one server."""
        if not self._virtual:
            self.skew.measure(before, told, of_all=False)

    def check(self, now: int) -> None:
        self.time(now)
        self.skew.check()

    def spent_among(self, approvals: Iterable[str]) -> frozenset[str]:
        with translate_errors():
            return frozenset(one for one in approvals if self._client.exists(approval_key(one)))

    def commit(self, effects: Effects, decision: str, now: int, *, peek: bool = False) -> ChargeResult | None:
        now = max(self._latest, now)
        self._latest = self._latest if peek else now
        if peek or not (effects.relied or effects.records):
            return self._commit_parts(effects, decision, now, peek, None)
        trying = slots.HistoryLock(self._run, effects, decision, self._given)
        try:
            if (effects.relied or len(trying.slots) > 1) and not trying.lock():
                return None
            return self._commit_parts(effects, decision, now, peek, trying)
        finally:
            with suppress(StoreError):  # remaining locks expire
                trying.free()

    def commit_many(self, asked: Sequence[CommitRequest], now: int) -> list[CommitResult]:
        return commit_individually(self, asked, now)

    def _commit_parts(
        self, effects: Effects, decision: str, now: int, peek: bool, trying: slots.HistoryLock | None
    ) -> ChargeResult | None:
        """Commit a decision part by part. The events of histories are recorded after the limits, because recording
        cannot be undone. Return None, after undoing all parts, if the decision must be made again.
        """
        done: list[tuple[SlotEffects, SlotResult]] = []
        behavior = shared_behavior(effects, peek=peek)
        try:
            refused = self._ask_parts(effects, decision, now, peek, done)
            if refused is None:
                self._give_back(done, decision, now, conflict=True)
                return None
            settled = merge_slot_results(effects, done, now)
            if behavior is not None and not self._add_event(behavior, settled, decision):
                self._give_back(() if refused else done, decision, now, conflict=True)
                return None
            if trying is not None and not peek and (effects.denied or not refused):
                self._note_awaited(effects, decision, now)
                if effects.records and not trying.keep():
                    self._give_back(done, decision, now, conflict=True)
                    return None
        except StoreError:
            self._release(done, decision, now, peek or effects.denied)
            raise
        taken = not (refused or peek or effects.denied or effects.opens)
        # If this raises, it is unknown whether the answer was kept; then the reservations remain.
        if effects.claim is not None and not self._claims.keep(effects.claim, encode_charge_result(settled), now):
            self._give_back(() if refused or peek or effects.denied else done, decision, now, conflict=True)
            return None
        if taken:
            self._note(effects, decision, now)
        return settled

    def _add_event(self, behavior: BehaviorCharge, settled: ChargeResult, decision: str) -> bool:
        """Add the event of the caller after all limits have answered, because the event contains the outcome. Return
        False if the decision must be made again."""
        added = self.behavior.add_event(behavior, admitted=settled.admitted, clamped=settled.clamped)
        if added and behavior.allowed and settled.admitted:
            self.behavior.remember_decision(behavior, decision)
        return added

    def _ask_parts(
        self, effects: Effects, decision: str, now: int, peek: bool, done: list[tuple[SlotEffects, SlotResult]]
    ) -> bool | None:
        """Send the parts in order; return whether one was refused, or None if one conflicts. Each answer is added to
        `done`, because a later part may fail."""
        refused = False
        for part in self._parts(effects):
            asked = replace(part.effects, denied=effects.denied or (refused and not peek))
            told = self._ask(asked, decision, now, peek=peek)
            if told is None:
                return None
            done.append((part, told))
            if not told.admitted and not refused:
                refused = True
                if not peek and not effects.denied:
                    self._give_back(done[:-1], decision, now)
        return refused

    def claim(self, claim: IdempotencyClaim, now: int) -> IdempotencyRecord | None:
        return self._claims.claim(claim, now)

    def release(self, claim: IdempotencyClaim, now: int) -> None:
        self._claims.release(claim, now)

    def finish(self, decision: str, now: int, *, refund: bool = False) -> ReportStatus | None:
        now = max(self._latest, now)
        lasts = (lambda until: until > now) if self._virtual else (lambda _: True)
        return finish(self._client, self._run, decision_key(decision), decision, lasts, refund=refund)

    def begin(self, watches: Iterable[str], now: int) -> None:
        self._begun |= frozenset(watches)
        self._latest = max(self._latest, now)
        slots.begin(self._run, self._begun, self._given)

    def end(self, watches: Iterable[str]) -> None:
        names = frozenset(watches)
        self._begun -= names
        with translate_errors():
            for begun in slots.begun_keys():
                self._client.hdel(begun, *map(watch_key, names))

    def fetch(self, keys: Iterable[WindowKey], now: int) -> Mapping[WindowKey, History]:
        self._latest, before = max(self._latest, now), self.skew.clock()
        found = slots.fetch(self._run, tuple(keys), self._begun, self._given, self._following)
        for told in {history.now for history in found.values()}:
            self._timed(before, told)
        return found

    def report(self, decision: str, report: OutcomeReport, now: int) -> ReportStatus | None:
        self._latest = max(self._latest, now)
        told = [self._report_slot(RedisKeys(one), decision, report) for one in self._find_awaiting_slots(decision)]
        return "first" if "first" in told else "again" if "again" in told else None

    def close(self) -> None:
        self._client.close()

    @property
    def _given(self) -> int | bool:
        return self._latest if self._virtual else False

    def _find_awaiting_slots(self, decision: str) -> list[str]:
        with translate_errors():
            raw: Any = self._client.get(slots.outcome_index_key(decision))
        return [] if raw is None else msgpack.decode(raw, type=list[str])

    def _report_slot(self, names: RedisKeys, decision: str, report: OutcomeReport) -> ReportStatus | None:
        with translate_errors():
            raw: Any = self._client.get(names.awaited(decision))
        return None if raw is None else slots.report(self._run, names, raw, decision, report, self._given)

    def _note_awaited(self, effects: Effects, decision: str, now: int) -> None:
        if (found := slots.encode_outcome_index(effects, now)) is not None:
            self._set(slots.outcome_index_key(decision), found[0], found[1] - now)

    # ── Parts ─────────────────────────────────────────────────────────────────────────────────

    def _parts(self, effects: Effects) -> list[SlotEffects]:
        """Return the parts of a decision. Approvals come first, so that a decision whose approval was already spent
        fails before it reserves anything.
        """
        spends = [SlotEffects(Effects(spends=(one,)), ()) for one in effects.spends]
        asked = Effects(opens=effects.opens, confirms=effects.confirms)
        slots: dict[int, list[int]] = {}
        for place, one in enumerate(effects.limits):
            slots.setdefault(key_slot(state_key(one.charge).encode()), []).append(place)
        limits = [
            SlotEffects(replace(asked, limits=tuple(effects.limits[place] for place in places)), tuple(places))
            for _, places in sorted(slots.items())
        ]
        return spends + limits

    def _ask(self, effects: Effects, decision: str, now: int, *, peek: bool) -> SlotResult | None:
        question = encode_step(effects, decision, now if self._virtual else None, peek=peek, clocked=False)
        before = self.skew.clock()
        answer = self._run(STEP, effect_keys(effects), question)
        if answer is None:
            return None
        at, admitted, found = msgpack.decode(answer[0])
        self._timed(before, at)
        charges = [one.charge for one in effects.limits]
        rows = list(zip(charges, found, strict=True))
        return SlotResult(
            at,
            admitted,
            tuple(decode_limit_state(one, passed, numbers) for one, (passed, numbers, _, _) in rows),
            tuple(decode_limit_state(one, True, numbers) for one, (_, _, numbers, _) in rows),
            tuple(SlotChange._make((*answer[4 * at + 1 : 4 * at + 5], row[3])) for at, row in enumerate(found)),
        )

    def _give_back(
        self, done: Sequence[tuple[SlotEffects, SlotResult]], decision: str, now: int, *, conflict: bool = False
    ) -> None:
        """Undo the reservations. Rates that count denials keep their charges, unless the decision is made again
        (`conflict`). Raises StoreError.
        """
        for part, told in done:
            for one, change in zip(part.effects.limits, told.raw, strict=True):
                if change.after and (conflict or not (isinstance(one.charge, RateCharge) and one.charge.counts)):
                    self._back(one.charge, decision, now, change)
                if change.receipt != change.new_receipt:
                    self._unreceive(one.charge, receipt_name(part.effects.confirms), now, change)
            for approval in part.effects.spends:
                with translate_errors():
                    self._client.delete(approval_key(approval))

    def _back(self, charge: Charge, decision: str, now: int, change: SlotChange) -> None:
        kind = (
            "rate" if isinstance(charge, RateCharge) else "place" if isinstance(charge, ConcurrencyCharge) else "entry"
        )
        # If the pace has changed, it is unknown how much of the charge has expired.
        units, tick = (
            (deduct_prepaid(charge, change.paid).cost * charge.token, charge.tick)
            if isinstance(charge, RateCharge) and charge.steady
            else (0, 1)
        )
        given = (now,) if self._virtual else ()
        self._run(BACK, [state_key(charge)], decision, kind, change.before, change.after, units, tick, *given)

    def _unreceive(self, charge: Charge, name: str, now: int, change: SlotChange) -> None:
        given = (now,) if self._virtual else ()
        self._run(BACK, [receipts_key(charge)], name, "receipt", change.receipt, change.new_receipt, 0, 1, *given)

    def _release(self, done: Sequence[tuple[SlotEffects, SlotResult]], decision: str, now: int, untaken: bool) -> None:
        """Undo the reservations one by one, until a server does not answer; the remaining reservations stay."""
        if untaken or not all(told.admitted for _, told in done):
            return
        try:
            self._give_back(done, decision, now, conflict=True)
        except StoreError:
            return

    # ── Single calls ──────────────────────────────────────────────────────────────────────────

    def _note(self, effects: Effects, decision: str, now: int) -> None:
        until, lasts = reportable_until([one.charge for one in effects.limits], now)
        if lasts:
            held = [(state_key(one), isinstance(one, ConcurrencyCharge)) for one in lasts]
            self._set(decision_key(decision), msgpack.encode((until, held)), until - now)

    def _set(self, key: str, value: str | bytes, lasts: int) -> None:
        with translate_errors():
            self._client.set(key, value, px=None if self._virtual else max(1, -(-lasts // 1_000)))

    def _run(self, script: RedisScript, keys: Sequence[str], *arguments: Any) -> Any:
        with translate_errors():
            try:
                return self._client.evalsha(script.sha, len(keys), *keys, *arguments)
            except NoScriptError:
                self.ping()
                return self._client.eval(script.text, len(keys), *keys, *arguments)


def decision_key(decision: str) -> str:
    return f"{PREFIX}:made:{digest_parts(decision)}"


def merge_slot_results(effects: Effects, done: Sequence[tuple[SlotEffects, SlotResult]], now: int) -> ChargeResult:
    """Merge the answers of all slots, in the order of the limits."""
    admitted = all(told.admitted for _, told in done)
    stands: dict[int, LimitState] = {}
    for part, told in done:
        for place, stand, rest in zip(part.places, told.stands, told.untouched, strict=True):
            stands[place] = stand if admitted or not stand.admitted else rest
    latest = max((told.now for _, told in done), default=now)
    return ChargeResult(tuple(stands[place] for place in range(len(effects.limits))), latest)
