"""The behavior that several processes learn together in a shared store.

When a decision is committed, the store adds a numbered event to the caller, and returns the events that the process
does not know yet. Every process folds the same events in the same order, so all processes compute the same row. From
time to time, a process saves its row in the store, where the row replaces the events that it contains.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Any, Final

from policyengine.behavior.damaged_callers import DamagedCallers
from policyengine.behavior.events import ALLOWED, FAILED, HELD, Caller, RequestTags, Tagger
from policyengine.behavior.fold import (
    ALARM_FACTS,
    FAST_FACTOR,
    FLAGGED,
    LEVEL_UNIT,
    SLOW_FACTOR,
    CallerFacts,
    ProfileSettings,
    advance,
    read_behavior,
)
from policyengine.behavior.group_search import find_groups_of
from policyengine.behavior.keeper_thread import KeeperThread
from policyengine.behavior.learn import learn_model
from policyengine.behavior.lockstep.search_process import PoolSearch
from policyengine.behavior.model import EMPTY_MODEL, BehaviorModel, ModelError
from policyengine.behavior.model_watch import ModelWatch
from policyengine.behavior.recent_requests import FirstReady
from policyengine.behavior.row import HOUR, HOURS_OF_DAY, MAX_LEVEL, BehaviorRow
from policyengine.behavior.shared_keys import KEY_BYTES, SharedKeys, sign_model, verify_model
from policyengine.behavior.shared_levels import kept_milliseconds, level_caps, level_limits
from policyengine.behavior.shared_releases import SharedReleases
from policyengine.behavior.shared_requests import StoredRequests
from policyengine.behavior.shared_rows import (
    BURST,
    DEVIATES,
    NEW,
    READY,
    RELEASED,
    CachedCaller,
    encode_saved,
    end_release,
    fold_event,
    fold_history,
    load_callers,
)
from policyengine.behavior.state import DAY, CallerSnapshot, SettingsOf, put_group, unversioned
from policyengine.runtime.behavior import BehaviorCharge, CallerCharge, CallerHistory
from policyengine.stores.base import StoreError
from policyengine.stores.behavior import MODEL, BehaviorStore, UnreadableBehaviorError

_LOG = logging.getLogger("policyengine")
MAX_CACHED_CALLERS: Final = 100_000
EVENTS_PER_ROW: Final = 16  # events after which a process saves the row
FRESH_SECONDS: Final = (
    60.0  # if the last answer of the store is older, a decision is made again if the store has new events
)
LOOK_SECONDS: Final = 10.0  # pause between two checks for a new model and planned changes in the store


class SharedTracker:
    """Reads the learned facts of callers and learns from decisions, together with all processes that use the same
    store. `counts` has the number of alarms in this process, by fact, and `damaged` the damaged callers that it found.
    """

    def __init__(self, store: BehaviorStore) -> None:
        self.counts = dict.fromkeys(ALARM_FACTS, 0)
        self.damaged = DamagedCallers()
        self.model = EMPTY_MODEL
        self._store = store
        self._lock = Lock()
        self._callers: OrderedDict[str, CachedCaller] = OrderedDict()  # the last used caller last
        self._tagger: Tagger | None = None
        self._keys = SharedKeys(b"")
        self._releases = SharedReleases(store)
        self._requests, self._pools = StoredRequests(store), PoolSearch()
        self._refused: UnreadableBehaviorError | None = None
        self._settings_of: SettingsOf | None = None
        self._last = 0  # the time of the latest decision
        self._watch = ModelWatch()
        self._thread = KeeperThread(self, LOOK_SECONDS)
        with suppress(StoreError):  # the first decision tries again
            self._open()

    def _open(self) -> Tagger:
        """Get the secret key, the latest model and the planned changes from the store, if this process does not have
        them yet. Raises StoreError."""
        tagger = self._tagger
        return self._use_key() if tagger is None else tagger

    def _use_key(self) -> Tagger:
        """Get the secret key from the store. If it has changed, the store has lost its data: forget everything. Raises
        StoreError."""
        secret = self._store.shared_key(self._keys.secret or secrets.token_bytes(KEY_BYTES))
        tagger = self._tagger
        if tagger is None or secret != self._keys.secret:
            if self._keys.secret not in (b"", secret):
                _LOG.error(
                    "the key of learned behavior in the store has changed: all callers are new",
                    extra={"event": "behavior_key_changed"},
                )  # fmt: skip
            keys = SharedKeys(secret)
            with self._lock:
                self._keys, self.model, self._tagger = keys, EMPTY_MODEL, None
                self._callers.clear()
                self._releases.clear()
            self.refresh_model()
            self._releases.refresh(keys.releases)
            self._tagger = tagger = keys.tagger
        return tagger

    def tag(self, text: str) -> int:
        """Return the tag of a text. Raises StoreError."""
        return self._open().tag(text)

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────

    def read(
        self, caller: Caller, group: str, tags: RequestTags, at: int, settings: ProfileSettings, settings_of: SettingsOf
    ) -> CallerSnapshot:
        """Read the facts of a request. `settings` are those of the class. Raises StoreError."""
        self._settings_of = settings_of
        if not self._thread.is_running:
            self.start()
        settings = self._releases.settings_at(settings, group, at)
        row, serial, model, facts = self._read(caller, group, settings, tags, at)
        return CallerSnapshot(caller, group, settings, tags, at, row, serial, model, facts)

    def peek(self, caller: Caller, group: str, settings: ProfileSettings, tags: RequestTags, at: int) -> CallerSnapshot:
        """Read the facts of a request that consumes nothing and from which nothing is learned. Raises StoreError."""
        settings = self._releases.settings_at(settings, group, at)
        row, serial, model, facts = self._read(caller, group, settings, tags, at)
        return CallerSnapshot(caller, group, settings, tags, at, row, serial, model, facts)

    def _read(
        self, caller: Caller, group: str, settings: ProfileSettings, tags: RequestTags, at: int
    ) -> tuple[BehaviorRow, int, BehaviorModel, CallerFacts]:
        self._open()
        if self._refused is not None:
            raise self._refused
        key = self.key_of(caller)
        known = self._callers.get(key)
        if known is None or not known.row.serial:
            known = self._load(caller, key, at, end_release(settings))
        with self._lock:
            model = self.model
            row = BehaviorRow(at) if known is None else known.row
            if at // HOUR != row.hour:
                row = row.copy()  # the shared row must not advance, because other events of its hour may follow
                advance(row, at, settings)
            facts = read_behavior(row, model.class_of((caller.issuer, group)), tags, at, settings)
            if settings.groups and model.has_groups:
                put_group(facts, model.group_of(self._keys.members.of(caller.issuer, caller.agent)))
            return row, row.serial, model, facts

    def _load(self, caller: Caller, key: str, at: int, settings: ProfileSettings) -> CachedCaller | None:
        """Read a caller about which this process knows no event. Raises StoreError."""
        try:
            history = self._store.read(key, at * 1_000)
            if not caller.version or history.row or history.events:
                known = self._merge(key, history, -1, settings)
                self.damaged.discard(key)
                return known
        except UnreadableBehaviorError:
            self.damaged.add(key)
            raise
        return self._begin_version(caller, key, at, settings)

    def _begin_version(self, caller: Caller, key: str, at: int, settings: ProfileSettings) -> CachedCaller | None:
        """Return the first row of a new version of a caller, derived from the most recently active version; None
        without an earlier version. Raises StoreError."""
        found = None
        for version in self._store.versions(self.key_of(unversioned(caller)), 1):
            earlier = self.key_of(caller._replace(version=version))
            try:
                found = fold_history(self._store.read(earlier, at * 1_000), settings)
            except UnreadableBehaviorError:
                self.damaged.add(earlier)
                raise
        with self._lock:
            known = self._callers.get(key)
            if known is not None and known.row.serial:
                return known  # another thread committed the first event
            if found is None:
                self._callers.pop(key, None)
                return None
            self._callers[key] = known = CachedCaller(found.row.successor(), 0)
            return known

    def key_of(self, caller: Caller) -> str:
        """Return the key of a caller in the store, which only holders of the secret key can compute."""
        return self._keys.key_of(caller)

    # ── Learning ──────────────────────────────────────────────────────────────────────────────

    def charge(self, reading: CallerSnapshot, outcome: int, settings_of: SettingsOf) -> BehaviorCharge:
        """Return the change that the commit of a decision makes to its caller. Raises StoreError."""
        facts, settings, at, key = reading.facts, reading.settings, reading.at, self.key_of(reading.caller)
        flags = READY * facts.ready | NEW * facts.is_new | BURST * facts.burst | RELEASED * settings.released
        flags |= DEVIATES * (facts.deviation >= FLAGGED)
        tags = reading.tags
        content = tags.endpoint, tags.run, flags, tags.shape, tags.letter, facts.surprise
        with self._lock:
            pace, limits, hour = reading.row.pace, level_limits(reading), at // HOUR
            known = self._callers.get(key)
            base = number = 0
            packed, strict = b"", False
            is_ordered = (
                settings.automaton is not None and reading.serial > 0
            )  # the state of the order depends on every earlier call
            if is_ordered and (known is None or known.row.serial != reading.serial):
                number, strict = reading.serial, True
            elif known is not None:
                base, number = known.base, known.row.serial
                strict = is_ordered or monotonic() - known.synced > FRESH_SECONDS
                if number - base >= EVENTS_PER_ROW or not number:
                    packed = encode_saved(
                        reading.caller.issuer, self._keys.hash_agent(reading.caller.agent), reading.group, known.row
                    )
        return BehaviorCharge(
            key, at, LEVEL_UNIT, MAX_LEVEL, (SLOW_FACTOR * pace, FAST_FACTOR * pace), limits,
            (hour - settings.learn_days * HOURS_OF_DAY) * HOUR, (hour + HOURS_OF_DAY + 1) * HOUR, facts.burst, strict,
            outcome, HELD if outcome == ALLOWED else outcome, content, base, number, packed,
            kept_milliseconds(settings), outcome == ALLOWED, level_caps(reading),
        )  # fmt: skip

    def note(self, reading: CallerSnapshot, charge: CallerCharge) -> bool:
        """Fold the events that the store returned with a commit, whether or not the commit changed anything. Return
        False if the store did not answer, or if the caller is damaged."""
        if not isinstance(charge, BehaviorCharge):
            return True
        damaged = charge.damaged
        if charge.history is not None:
            try:
                self._merge(charge.key, charge.history, charge.base, end_release(reading.settings))
            except UnreadableBehaviorError:
                damaged = True
        if damaged:  # the next decision reads the caller, and finds the same
            self.damaged.add(charge.key)
            with self._lock:
                self._callers.pop(charge.key, None)
        return not charge.unanswered

    def finish(self, reading: CallerSnapshot, charge: CallerCharge, decision: str | None) -> int:
        """Fold the event of a committed decision and return its number; 0 if the store returned no event."""
        self.note(reading, charge)
        self._last = max(self._last, reading.at)
        if reading.facts.ready:
            with self._lock:
                self.counts["burst"] += reading.facts.burst
                self.counts["novelty"] += reading.facts.is_new
                self.counts["deviation"] += reading.facts.deviation > FLAGGED
        if not isinstance(charge, BehaviorCharge) or charge.history is None:
            return 0
        number = charge.history.number
        if reading.settings.groups:
            caller, tags = reading.caller, reading.tags
            hashed = self._keys.hash_agent(caller.agent)
            self._requests.add(reading.at, caller, hashed, tags.endpoint, tags.run, charge.outcome)
        if reading.caller.version and (charge.row or not charge.number):
            with suppress(StoreError):
                family, lasts = self.key_of(unversioned(reading.caller)), kept_milliseconds(reading.settings)
                self._store.add_version(family, reading.caller.version, lasts, reading.at * 1_000)
        return number

    def report(self, decision: str, failed: bool) -> bool:
        """Learn once whether the request of a decision failed. Return whether the outcome was awaited. Raises
        StoreError."""
        self._open()
        key = self._store.report(decision, FAILED if failed else None, self._last * 1_000)
        if failed and key is not None:
            with self._lock:
                self._callers.pop(key, None)  # the next decision reads the caller again, with the failure
        return key is not None

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
            if history.row is not None and known is not None and known.base != base and known.row.serial:
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
                self._callers.popitem(last=False)
            return known

    # ── The model ─────────────────────────────────────────────────────────────────────────────

    def keep(self) -> None:
        """Get the latest model and planned changes. If a new day has begun since the model was learned, and no other
        process has started to learn its successor, learn the successor. Raises StoreError."""
        self._use_key()
        self._releases.refresh(self._keys.releases)
        self._requests.send(self._keys, self._last * 1_000)
        self.refresh_model()
        settings_of, at, serial = self._settings_of, self._last, self.model.content.serial
        if self._refused is not None or settings_of is None or not is_due(at, self.model):
            return
        if serial and not self._store.start_learning(serial + 1, at * 1_000):
            return
        ready = FirstReady()
        model = learn_model(
            ready.note_all(self._teachers(settings_of)), settings_of, at, serial + 1, "", self.model
        )  # fmt: skip
        model = self._search_groups(model, ready.times(), at // DAY)
        self._watch.look(self.model, model, list, settings_of)
        self._store.save_document(MODEL, model.content.serial, sign_model(model, self._keys.models))
        self.refresh_model()

    def _search_groups(self, model: BehaviorModel, ready: Mapping[tuple[str, str], int], day: int) -> BehaviorModel:
        """Return the model with the groups that are found in the requests before a day. Raises StoreError."""
        keys = self._keys
        found = find_groups_of(
            self._requests.load(keys, day), model.content.groups, ready, keys.members, day, self._pools.find,
            keys.members.of_hash,
        )  # fmt: skip
        return model if found is None else model.replace_groups(found, day)

    def _teachers(self, settings_of: SettingsOf) -> Iterator[tuple[Caller, str, BehaviorRow]]:
        """Yield the callers from which models are learned, each with its class and its row. Their names are
        placeholders, because the store contains only hashes of names. Damaged callers are left out. Raises
        StoreError."""
        damaged = set()
        for key, saved in load_callers(self._store.callers(self._last * 1_000), settings_of):
            if saved is None:
                damaged.add(key)
            else:
                yield Caller(saved.issuer, saved.agent), saved.group, saved.row
        self.damaged.replace(damaged)

    def refresh_model(self) -> None:
        """Get the latest model from the store. Raises StoreError."""
        known = self.model.content.serial
        number, raw = self._store.document(MODEL, known)
        try:
            if number < known:
                self._restore_model(number)
            elif number > known:
                self.model = verify_model(raw, number, self._keys.models)
        except ModelError as error:
            if self._refused is None:
                _LOG.error("the model in the store cannot be used: %s", error, extra={"event": "behavior_refused"})
            self._refused = UnreadableBehaviorError(f"the model in the store cannot be used: {error}")
        else:
            self._refused = None

    def _restore_model(self, number: int) -> None:
        """Save the model of this process, because the store has no model or an older one. Raises StoreError."""
        content = self.model.content
        self._store.save_document(MODEL, content.serial, sign_model(self.model, self._keys.models))
        _LOG.warning(
            "the store had lost model %d of learned behavior, and its latest model had number %d: the lost model was "
            "saved again", content.serial, number, extra={"event": "behavior_model_restored"},
        )  # fmt: skip

    def start(self) -> None:
        """Start the thread of this process."""
        self._pools.restart()
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. Everything that was learned is in the store, and the last requests are sent to it."""
        self._pools.stop()
        self._thread.close()
        with suppress(StoreError):
            self._requests.send(self._keys, self._last * 1_000)


def is_due(at: int, model: BehaviorModel) -> bool:
    """Return whether a new day has begun since a model was learned, or whether its time is more than a day in the
    future, because the clock was wrong."""
    day, learned = at // DAY, model.content.made // DAY
    return day > learned or day < learned - 1
