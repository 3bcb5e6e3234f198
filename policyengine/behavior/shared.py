"""The behavior that several processes learn together in a shared store.

When a decision is committed, the store adds a numbered event to the caller, and returns the events that the process
does not know yet. Every process folds the same events in the same order, so all processes compute the same row. From
time to time, a process saves its row in the store, where the row replaces the events that it contains.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from threading import Lock
from time import monotonic
from typing import Any, Final, NamedTuple

from msgspec import MsgspecError, msgpack

from policyengine.behavior.events import ALLOWED, FAILED, HELD, Caller, Tagger
from policyengine.behavior.fold import (
    FAST_FACTOR,
    LEVEL_UNIT,
    MARGIN_UNIT,
    MAX_CEILINGS,
    PEAK_UNIT,
    SLOW_FACTOR,
    CallerFacts,
    ProfileSettings,
    advance,
    apply_decision,
    apply_failure,
    read_behavior,
    set_limits,
)
from policyengine.behavior.keeper_thread import KeeperThread
from policyengine.behavior.learn import learn_model
from policyengine.behavior.model import EMPTY_MODEL, BehaviorModel, ModelError, decode_content
from policyengine.behavior.row import (
    HOUR,
    HOURS_OF_DAY,
    MAX_LEVEL,
    ROW_VERSION,
    BehaviorRow,
    RowError,
    pack_row,
    unpack_row,
)
from policyengine.behavior.state import DAY, CallerSnapshot, SettingsOf, unversioned
from policyengine.runtime.behavior import BehaviorCharge, CallerCharge, CallerEvent, CallerHistory
from policyengine.stores.base import StoreError
from policyengine.stores.behavior import BehaviorStore

_LOG = logging.getLogger("policyengine")
KEY_BYTES: Final = 32
MAC_BYTES: Final = 32
MAX_CACHED_CALLERS: Final = 100_000
EVENTS_PER_ROW: Final = 16  # events after which a process saves the row
FRESH_SECONDS: Final = 60.0  # with an older answer of the store, new events of other processes cause a new decision
MODEL_SECONDS: Final = 10.0  # pause between two checks for a new model in the store
READY, NEW, BURST, RELEASED = 1, 2, 4, 8  # flags in the content of an event
NO_LIMIT: Final = 2 * MAX_LEVEL  # above every sum of two levels


class UnreadableBehaviorError(StoreError):
    """The error for a model or a row that cannot be used; learned facts are then unknown."""


class SavedCaller(NamedTuple):
    """The row of a caller in the store, with its class. `agent` is a keyed hash of the agent's name."""

    issuer: str
    agent: str
    group: str
    row: BehaviorRow


class CachedCaller:
    """The row of a caller after all events that this process knows. The row that is saved in the store contains the
    first `base` of these events. `synced` is the time of the store's latest answer about the caller."""

    __slots__ = ("base", "row", "synced")

    def __init__(self, row: BehaviorRow, base: int) -> None:
        self.row, self.base, self.synced = row, base, monotonic()


class SharedTracker:
    """Reads the learned facts of callers and learns from decisions, together with all processes that use the same
    store. `counts` has the number of alarms in this process, by fact."""

    def __init__(self, store: BehaviorStore) -> None:
        self.counts = {"burst": 0, "novelty": 0}
        self.model = EMPTY_MODEL
        self._store = store
        self._lock = Lock()
        self._callers: dict[str, CachedCaller] = {}
        self._tagger: Tagger | None = None
        self._key = self._caller_key = self._model_key = b""
        self._refused: UnreadableBehaviorError | None = None
        self._settings_of: SettingsOf | None = None
        self._last = 0  # the time of the latest decision
        self._thread = KeeperThread(self, MODEL_SECONDS)
        with suppress(StoreError):  # the first decision tries again
            self._open()

    def _open(self) -> Tagger:
        """Get the secret key and the latest model from the store, if this process does not have them yet. Raises
        StoreError."""
        tagger = self._tagger
        return self._use_key() if tagger is None else tagger

    def _use_key(self) -> Tagger:
        """Get the secret key from the store. If it has changed, the store has lost its data: forget everything. Raises
        StoreError."""
        key = self._store.shared_key(self._key or secrets.token_bytes(KEY_BYTES))
        tagger = self._tagger
        if tagger is None or key != self._key:
            tagger = Tagger(derive(key, b"tags"))
            with self._lock:
                self._key, self._caller_key, self._model_key = key, derive(key, b"callers"), derive(key, b"models")
                self.model, self._tagger = EMPTY_MODEL, None
                self._callers.clear()
            self.refresh_model()
            self._tagger = tagger
        return tagger

    def tag(self, text: str) -> int:
        """Return the tag of a text. Raises StoreError."""
        return self._open().tag(text)

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────

    def read(
        self, caller: Caller, group: str, endpoint: str, run: int, at: int, settings_of: SettingsOf
    ) -> CallerSnapshot:
        """Read the facts of a request. Raises StoreError."""
        self._settings_of = settings_of
        if not self._thread.is_running:
            self.start()
        settings = settings_of(group)
        row, model, tag, facts = self._read(caller, group, settings, endpoint, at)
        return CallerSnapshot(caller, group, settings, tag, run, at, row, row.serial, model, facts)

    def peek(self, caller: Caller, group: str, settings: ProfileSettings, endpoint: str, at: int) -> CallerFacts:
        """Return the facts of a request that consumes nothing and from which nothing is learned. Raises StoreError."""
        return self._read(caller, group, settings, endpoint, at)[-1]

    def _read(
        self, caller: Caller, group: str, settings: ProfileSettings, endpoint: str, at: int
    ) -> tuple[BehaviorRow, BehaviorModel, int, CallerFacts]:
        tag = self.tag(endpoint)
        if self._refused is not None:
            raise self._refused
        key = self.key_of(caller)
        known = self._callers.get(key)
        if known is None:
            known = self._merge(key, self._store.read(key, at * 1_000), -1, settings)
            if known is None and caller.version:
                known = self._begin_version(caller, key, at, settings)
        with self._lock:
            model = self.model
            row = BehaviorRow(at) if known is None else known.row
            if at // HOUR != row.hour:
                row = row.copy()  # the shared row must not advance, because other events of its hour may follow
                advance(row, at, settings)
            return row, model, tag, read_behavior(row, model.class_of((caller.issuer, group)), tag, at, settings)

    def _begin_version(self, caller: Caller, key: str, at: int, settings: ProfileSettings) -> CachedCaller | None:
        """Return the first row of a new version of a caller, derived from the most recently active version; None
        without an earlier version. Raises StoreError."""
        earlier = self._store.latest_version(self.key_of(unversioned(caller)), at * 1_000)
        found = None if earlier is None else fold_history(self._store.read(earlier, at * 1_000), settings)
        if found is None:
            return None
        with self._lock:
            return self._callers.setdefault(key, CachedCaller(found.row.successor(), 0))

    def key_of(self, caller: Caller) -> str:
        """Return the key of a caller in the store, which only holders of the secret key can compute."""
        text = "".join(f"{len(part)}:{part}" for part in caller)
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._caller_key).hexdigest()

    # ── Learning ──────────────────────────────────────────────────────────────────────────────

    def charge(self, reading: CallerSnapshot, outcome: int, settings_of: SettingsOf) -> BehaviorCharge:
        """Return the change that the commit of a decision makes to its caller. Raises StoreError."""
        facts, settings, at, key = reading.facts, reading.settings, reading.at, self.key_of(reading.caller)
        flags = READY * facts.ready | NEW * facts.is_new | BURST * facts.burst | RELEASED * settings.released
        content = reading.endpoint, reading.run, flags
        with self._lock:
            pace, limits, hour = reading.row.pace, level_limits(reading), at // HOUR
            known = self._callers.get(key)
            base = number = 0
            packed, strict = b"", False
            if known is not None:
                base, number, strict = known.base, known.row.serial, monotonic() - known.synced > FRESH_SECONDS
                if number - base >= EVENTS_PER_ROW or not number:
                    packed = encode_saved(*self._agent_of(reading.caller), reading.group, known.row)
        return BehaviorCharge(
            key, at, LEVEL_UNIT, MAX_LEVEL, (SLOW_FACTOR * pace, FAST_FACTOR * pace), limits,
            (hour - settings.learn_days * HOURS_OF_DAY) * HOUR, (hour + HOURS_OF_DAY + 1) * HOUR, facts.burst, strict,
            outcome, HELD if outcome == ALLOWED else outcome, content, base, number, packed,
            kept_milliseconds(settings), outcome == ALLOWED, level_caps(reading),
        )  # fmt: skip

    def _agent_of(self, caller: Caller) -> tuple[str, str]:
        """Return the issuer of a caller, and the keyed hash of its agent's name."""
        return caller.issuer, blake2b(caller.agent.encode(), digest_size=8, key=self._caller_key).hexdigest()

    def note(self, reading: CallerSnapshot, charge: CallerCharge) -> bool:
        """Fold the events that the store returned with a commit, whether or not the commit changed anything. Return
        False if the store did not answer."""
        if isinstance(charge, BehaviorCharge) and charge.history is not None:
            try:
                self._merge(charge.key, charge.history, charge.base, reading.settings)
            except StoreError:  # the row is unreadable, and the next decision reports that
                self._callers.pop(charge.key, None)
        return not (isinstance(charge, BehaviorCharge) and charge.unanswered)

    def finish(self, reading: CallerSnapshot, charge: CallerCharge, decision: str | None) -> int:
        """Fold the event of a committed decision and return its number; 0 if the store returned no event."""
        self.note(reading, charge)
        self._last = max(self._last, reading.at)
        if reading.facts.ready:
            with self._lock:
                self.counts["burst"] += reading.facts.burst
                self.counts["novelty"] += reading.facts.is_new
        if not isinstance(charge, BehaviorCharge) or charge.history is None:
            return 0
        number = charge.history.number
        if reading.caller.version and (charge.row or number == 1):
            with suppress(StoreError):
                family, lasts = self.key_of(unversioned(reading.caller)), kept_milliseconds(reading.settings)
                self._store.add_version(family, charge.key, lasts, reading.at * 1_000)
        return number

    def report(self, decision: str, failed: bool) -> None:
        """Learn once whether the request of a decision failed. Raises StoreError."""
        self._open()
        key = self._store.report(decision, FAILED if failed else None, self._last * 1_000)
        if failed and key is not None:
            with self._lock:
                self._callers.pop(key, None)  # the next decision reads the caller again, with the failure

    def forget(self, caller: Caller) -> bool:
        """Forget everything about a caller. Return whether anything was known. Raises StoreError."""
        self._open()
        key = self.key_of(caller)
        with self._lock:
            self._callers.pop(key, None)
        return self._store.forget(key)

    def describe(self) -> dict[str, Any]:
        """Return the number of the model. The numbers of callers are missing, because the store does not count them."""
        return {"shared": True, "model": self.model.content.serial}

    def _merge(self, key: str, history: CallerHistory, base: int, settings: ProfileSettings) -> CachedCaller | None:
        """Merge the store's answer into the cached row, and return the new cached row; None if nothing is known about
        the caller, or if the cached row was evicted in the meantime. `base` is the number of events in the saved row
        that this process knew when it asked; -1 if it knew none. Raises UnreadableBehaviorError."""
        with self._lock:
            known = self._callers.get(key)
            if history.row is not None and known is not None and known.base != base:
                return known  # another thread got a later answer
            if history.row is not None or (known is None and history.first == 1):
                known = fold_history(history, settings)
            elif known is not None and history.first <= known.row.serial + 1:
                for event in history.events[known.row.serial + 1 - history.first :]:
                    fold_event(known.row, event, settings)
                known.base = max(known.base, history.base)
            else:
                known = None  # evicted in the meantime: the next decision reads the caller again
            self._callers.pop(key, None)
            if known is not None:
                self._callers[key] = known
                known.synced = monotonic()
            if len(self._callers) > MAX_CACHED_CALLERS:
                del self._callers[next(iter(self._callers))]
            return known

    # ── The model ─────────────────────────────────────────────────────────────────────────────

    def keep(self) -> None:
        """Get the latest model. If a new day has begun since it was learned, and no other process has started to learn
        its successor, learn the successor. Raises StoreError."""
        self._use_key()
        self.refresh_model()
        settings_of, at, serial = self._settings_of, self._last, self.model.content.serial
        if self._refused is not None or settings_of is None or not is_due(at, self.model):
            return
        if serial and not self._store.start_learning(serial + 1, at * 1_000):
            return
        model = learn_model(self._teachers(settings_of), settings_of, at, serial + 1, "")
        self._store.save_model(model.content.serial, sign_model(model, self._model_key))
        self.refresh_model()

    def _teachers(self, settings_of: SettingsOf) -> Iterator[tuple[Caller, str, BehaviorRow]]:
        """Yield the callers from which models are learned, each with its class and its row. Their names are
        placeholders, because the store contains only hashes of names. Raises StoreError."""
        for history in self._store.callers(self._last * 1_000):
            with suppress(UnreadableBehaviorError):
                saved = decode_saved(history.row or b"")
                known = None if saved is None else fold_history(history, settings_of(saved.group))
                if saved is not None and known is not None:
                    yield Caller(saved.issuer, saved.agent), saved.group, known.row

    def refresh_model(self) -> None:
        """Get the latest model from the store. Raises StoreError."""
        known = self.model.content.serial
        number, raw = self._store.model(known)
        try:
            if number < known:
                self._restore_model(number)
            elif number > known:
                self.model = verify_model(raw, number, self._model_key)
        except ModelError as error:
            if self._refused is None:
                _LOG.error("the model in the store cannot be used: %s", error, extra={"event": "behavior_refused"})
            self._refused = UnreadableBehaviorError(f"the model in the store cannot be used: {error}")
        else:
            self._refused = None

    def _restore_model(self, number: int) -> None:
        """Save the model of this process, because the store has no model or an older one. Raises StoreError."""
        content = self.model.content
        self._store.save_model(content.serial, sign_model(self.model, self._model_key))
        _LOG.warning(
            "the store had lost model %d of learned behavior, and its latest model had number %d: the lost model was "
            "saved again", content.serial, number, extra={"event": "behavior_model_restored"},
        )  # fmt: skip

    def start(self) -> None:
        """Start the thread of this process."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. Everything that was learned is in the store."""
        self._thread.close()


def is_due(at: int, model: BehaviorModel) -> bool:
    """Return whether a new day has begun since a model was learned, or whether its time is more than a day in the
    future, because the clock was wrong."""
    day, learned = at // DAY, model.content.made // DAY
    return day > learned or day < learned - 1


# ── Rows ──────────────────────────────────────────────────────────────────────────────────────


def kept_milliseconds(settings: ProfileSettings) -> int:
    """Return how long a store keeps an inactive caller, in milliseconds."""
    return (settings.learn_days + 1) * DAY


def level_limits(reading: CallerSnapshot) -> tuple[int, int]:
    """Return the levels above which the request is a burst; unreachable levels unless the caller is ready."""
    model = reading.model.class_of((reading.caller.issuer, reading.group))
    if not (reading.facts.ready and model.has_margins) or reading.settings.released:
        return NO_LIMIT, NO_LIMIT
    row = reading.row
    return (
        min(row.ceiling_slow * PEAK_UNIT * model.margin_slow // MARGIN_UNIT, NO_LIMIT),
        min(row.ceiling_fast * PEAK_UNIT * model.margin_fast // MARGIN_UNIT, NO_LIMIT),
    )


def level_caps(reading: CallerSnapshot) -> tuple[int, int]:
    """Return the maximum levels after a burst."""
    if not reading.facts.ready:
        return MAX_LEVEL, MAX_LEVEL
    most = MAX_CEILINGS * PEAK_UNIT
    return most * reading.row.ceiling_slow, most * reading.row.ceiling_fast


def fold_event(row: BehaviorRow, event: CallerEvent, settings: ProfileSettings) -> None:
    """Fold an event into a row, with the levels from the store and the facts that the decision read."""
    if event.outcome == FAILED:
        apply_failure(row)
        return
    endpoint, run, flags = event.content
    if flags & RELEASED:
        settings = settings.release()
    advance(row, event.at, settings)
    if row.limits_hour != row.hour:
        set_limits(row, settings)
    reading = CallerFacts(
        ready=bool(flags & READY), trust=0, burst=bool(flags & BURST), novelty=0, error_rate=0,
        is_new=bool(flags & NEW), level_slow=event.slow, level_fast=event.fast, level_denied=event.denied,
    )  # fmt: skip
    apply_decision(row, reading, event.at, endpoint, run, event.outcome, event.clamped, settings)


def fold_history(history: CallerHistory, settings: ProfileSettings) -> CachedCaller | None:
    """Return the row of a caller after all of its events; None if the store knows nothing about it. If the saved row is
    lost, the row starts as that of a new caller. Raises UnreadableBehaviorError."""
    saved = decode_saved(history.row or b"")
    if saved is not None:
        row = saved.row
    elif history.events:
        row = BehaviorRow(history.events[0].at)
    else:
        return None
    row.serial = history.base
    for event in history.events:
        fold_event(row, event, settings)
    return CachedCaller(row, history.base)


def encode_saved(issuer: str, agent: str, group: str, row: BehaviorRow) -> bytes:
    return msgpack.encode((issuer, agent, group, pack_row(row)))


def decode_saved(raw: bytes) -> SavedCaller | None:
    """Decode a saved row; None if there is no row, or if its format has another version. Raises
    UnreadableBehaviorError."""
    if not raw:
        return None
    try:
        issuer, agent, group, packed = msgpack.decode(raw, type=tuple[str, str, str, bytes])
        return SavedCaller(issuer, agent, group, unpack_row(packed)) if packed[0] == ROW_VERSION else None
    except (MsgspecError, RowError, IndexError) as error:
        raise UnreadableBehaviorError(f"the row of a caller is damaged: {error}") from None


# ── Keys ──────────────────────────────────────────────────────────────────────────────────────


def derive(key: bytes, purpose: bytes) -> bytes:
    return blake2b(purpose, digest_size=KEY_BYTES, key=key).digest()


def model_digest(payload: bytes, key: bytes) -> bytes:
    return blake2b(payload, digest_size=MAC_BYTES, key=key).digest()


def sign_model(model: BehaviorModel, key: bytes) -> bytes:
    return model_digest(model.payload, key) + model.payload


def verify_model(raw: bytes, number: int, key: bytes) -> BehaviorModel:
    """Verify and decode the model with this number. Raises ModelError."""
    if not hmac.compare_digest(raw[:MAC_BYTES], model_digest(raw[MAC_BYTES:], key)):
        raise ModelError("it was not signed with this key")
    model = decode_content(raw[MAC_BYTES:])
    if model.content.serial != number:
        raise ModelError(f"it has number {model.content.serial} instead of {number}")
    return model
