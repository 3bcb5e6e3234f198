"""The behavior that one process has learned, shared by the threads and the engines of the process.

With a folder, a thread saves the rows about every minute, and learns a new model once a day; a process that starts
later continues with both. Without a folder, everything is in memory.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Final

from policyengine.behavior.census import CallerCensus
from policyengine.behavior.events import Caller, Tagger
from policyengine.behavior.folder import RESTORE_HINT, BehaviorFolder, BehaviorFolderError, SavedRow, reason
from policyengine.behavior.group_search import find_groups_of
from policyengine.behavior.keeper_thread import KeeperThread
from policyengine.behavior.learn import learn_model
from policyengine.behavior.local_learner import LocalLearner
from policyengine.behavior.lockstep.search_process import PoolSearch
from policyengine.behavior.operator_files import load_releases, load_request, remove_requests, request_paths
from policyengine.behavior.recent_file import RecentFile
from policyengine.behavior.recent_requests import (
    RecentRequests,
    RequestsError,
    first_ready,
    packed_days,
)
from policyengine.behavior.releases import release_ends
from policyengine.behavior.row import BehaviorRow, pack_row, unpack_row
from policyengine.behavior.state import DAY, BehaviorState, CallerRow
from policyengine.plurals import pluralize

_LOG = logging.getLogger("policyengine")
KEY_BYTES: Final = 32
SAVE_SECONDS: Final = 60.0
CHUNK: Final = 256  # rows that are packed while decisions wait


class BehaviorTracker:
    """Reads facts of callers, and learns from decisions. `counts` are the alarms by fact, and `census` counts the
    callers by class."""

    def __init__(self, state: BehaviorState | None = None, folder: BehaviorFolder | None = None) -> None:
        self.state = state or BehaviorState(Tagger(secrets.token_bytes(KEY_BYTES)))
        self.folder = folder
        self.census = CallerCensus()
        self._failing = self._warned = False
        self._handled: frozenset[str] = frozenset()  # requests of operators
        self._refused = ""  # why planned changes were refused
        self._saved_model = self.state.model.content.serial
        self._saver, self._saves = KeeperThread(self, SAVE_SECONDS), -1
        self._pools = PoolSearch()
        self._recent: RecentFile | None = None
        self._recorded: dict[int, int] = {}  # the number of saved requests of each day
        self._keeping = Lock()
        self.learner = learner = LocalLearner(self.state, self._saver, saved=folder is not None)
        self.counts, self._lock = learner.counts, learner.lock
        # Bound here, so that decisions call the compiled steps directly.
        self.tag, self.read, self.peek, self.report = learner.tag, learner.read, learner.peek, learner.report
        self.charge, self.learn, self.note, self.finish = learner.charge, learner.learn, learner.note, learner.finish

    @classmethod
    def open(cls, path: Path | str, *, locks: bool = True) -> BehaviorTracker:
        """Continue with the content of the folder; create the folder if it does not exist. Raises
        BehaviorFolderError."""
        folder = BehaviorFolder(path)
        try:
            saves = folder.lock() if locks else -1  # first: no other process saves what is read here
        except OSError as error:
            raise BehaviorFolderError(
                f"the folder `{path}` cannot be locked: {reason(error)}", "make it writable"
            ) from None
        model = folder.latest_model()
        if model.content.tags not in ("", folder.key_id):
            raise BehaviorFolderError(f"the model in `{path}` was learned with another key", "restore its key")
        state = BehaviorState(folder.tagger, model=model, tags=folder.key_id)
        state.rows = folder.load_rows(model.content.serial)
        tracker = cls(state, folder)
        tracker._saves = saves
        tracker._load_recent(folder)
        tracker.follow_operators(folder)
        return tracker

    # ── Callers ─────────────────────────────────────────────────────────────────────────────────

    def forget(self, caller: Caller) -> bool:
        """Forget everything about a caller. Return whether anything was known."""
        with self._lock:
            self.learner.has_changed = True
            return self.state.forget(lambda known: known == caller) > 0

    def recent_callers(self, limit: int) -> list[tuple[Caller, CallerRow]]:
        """Return the callers that were active last, the latest first, with what is known about them."""
        with self._lock:
            return list(islice(reversed(self.state.rows.items()), limit))

    def describe(self) -> dict[str, Any]:
        """Return where learned behavior is kept, the number of the model, and the number of callers."""
        folder = {} if self.folder is None else {"folder": str(self.folder.path)}
        return {**folder, "model": self.state.model.content.serial, "callers": self.state.count}

    # ── Operators ─────────────────────────────────────────────────────────────────────────────

    def follow_operators(self, folder: BehaviorFolder) -> None:
        """Apply the files of operators in the folder: planned changes, and requests to forget callers. Files that
        cannot be used are ignored, and logged once. Raises OSError."""
        try:
            self.state.releases, self._refused = release_ends(load_releases(folder)), ""
        except BehaviorFolderError as error:
            self.state.releases = {}
            if self._refused != error.message:
                self._refused = error.message
                _LOG.error("planned changes are ignored: %s", error, extra={"event": "behavior_request"})
        paths = list(request_paths(folder))
        for path in paths:
            if path.name not in self._handled:
                self._follow_request(folder, path)
        self._handled = frozenset(path.name for path in paths)

    def _follow_request(self, folder: BehaviorFolder, path: Path) -> None:
        try:
            request = load_request(folder, path)
        except BehaviorFolderError as error:
            _LOG.error("%s", error, extra={"event": "behavior_request"})
            return
        with self._lock:
            count = self.state.forget(request.names)
            if request.everything and self.state.model.content.classes:
                self.state.forget_model()
            self.learner.has_changed = self.learner.has_changed or count > 0
        if count:
            _LOG.info(
                "forgot %s, as an operator asked", pluralize(count, "caller"), extra={"event": "behavior_forgotten"}
            )

    # ── The thread ────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the thread of this process. This process locks the folder, unless another process has locked it."""
        self._pools.restart()
        self._saver.start()

    def keep(self) -> None:
        """Learn a model if it is due, and save what changed. A failure is logged, and the work is tried again."""
        with self._keeping:
            self._keep()

    def _keep(self) -> None:
        try:
            if self.folder is not None:
                self.follow_operators(self.folder)
            self._forget_future_requests()
            self._learn_model()
            if self.folder is not None and self._may_save(self.folder):
                self._save(self.folder)
                self._save_recent(self.folder)
                remove_requests(self.folder, self._handled)
            self._search_groups()  # last, because it may take minutes
            if self.folder is not None and self._saves >= 0:
                self._save(self.folder)
            if self._failing:
                self._failing = False
                _LOG.warning("learned behavior is saved again", extra={"event": "behavior_saved"})
        except Exception as error:  # a defect must not end the thread
            self.learner.has_changed = True
            if not self._failing:
                self._failing = True
                path = None if self.folder is None else self.folder.path
                known = isinstance(error, OSError)
                _LOG.error(
                    "learned behavior cannot be saved in `%s`: %s", path,
                    reason(error) if isinstance(error, OSError) else error, exc_info=not known,
                    extra={"event": "behavior_fails"},
                )  # fmt: skip

    def _may_save(self, folder: BehaviorFolder) -> bool:
        """Return whether this process saves. While another process saves, everything that this process learns is lost
        when this process ends. Once the other process has ended, this process continues with what the other process
        saved. Raises OSError and BehaviorFolderError."""
        if self._saves < 0:
            self._saves = folder.lock()
            if self._saves >= 0:
                self._continue(folder)
            if self._saves < 0 and not self._warned:
                self._warned = True
                _LOG.warning(
                    "another process saves learned behavior in `%s`: what this process learns is lost when it ends",
                    folder.path, extra={"event": "behavior_not_saved"},
                )  # fmt: skip
        return self._saves >= 0

    def _continue(self, folder: BehaviorFolder) -> None:
        """Continue with what another process saved, and discard what this process learned in the meantime."""
        model = folder.latest_model()
        rows = folder.load_rows(model.content.serial)
        with self._lock:
            if rows or folder.has_rows:  # there are none if an operator asked to forget all callers
                self.state.rows, self.state.model = rows, model
            self.state.learned_day = self.state.model.content.made // DAY
            self._saved_model = model.content.serial
        self._load_recent(folder)

    def _save(self, folder: BehaviorFolder) -> None:
        """Save the model, if it is new, and the rows, if they changed. Raises OSError."""
        model = self.state.model
        if model.content.serial > self._saved_model:
            folder.save_model(model)
            self._saved_model, self.learner.has_changed = model.content.serial, True  # the rows name the model
        if self.learner.has_changed:
            self.learner.has_changed = False
            folder.save_rows(self._pack_rows(), self.state.count, model.content.serial)

    def _learn_model(self) -> None:
        """Learn a model from copies of the rows, if a day has begun since the last one."""
        state, settings_of = self.state, self.learner.settings_of
        with self._lock:
            last = max((found.row.level_at for found in islice(reversed(state.rows.values()), 1)), default=0)
        if state.learns or settings_of is None or not state.is_due(last):
            return
        before = state.model
        model = learn_model(self._copy_rows(), settings_of, last, before.content.serial + 1, state.tags, before)
        with self._lock:
            state.model, state.learned_day = model, last // DAY
        if state.on_model is not None:
            state.on_model(before, model, self._copy_rows, settings_of)

    def _copy_rows(self) -> Iterator[tuple[Caller, str, BehaviorRow]]:
        """Yield copies of the rows, each with its caller and its class."""
        return ((saved.caller, saved.group, unpack_row(saved.packed)) for saved in self._pack_rows())

    # ── Groups ────────────────────────────────────────────────────────────────────────────────

    def _forget_future_requests(self) -> None:
        """Forget requests that were dated later than the day after the latest decision, because the clock was wrong.
        Otherwise requests with the right date would count as too early."""
        latest = self.learner.latest
        if latest is not None:
            with self._lock:
                self.state.requests.forget_after(latest.at // DAY + 1)

    def _search_groups(self) -> None:
        """Search for groups in the requests of the last days, once a day."""
        state = self.state
        day = max(list(state.requests.days), default=0)
        if not day or not state.is_search_due(day * DAY):
            return
        ready, earlier = first_ready(self._ready_days()), state.model.content.groups
        found = find_groups_of(state.requests, earlier, ready, state.members, day, self._pools.find)
        with self._lock:
            is_current = state.model.content.groups == earlier  # otherwise an operator removed a member meanwhile
            if is_current:
                state.searched_day = day
            if is_current and found is not None:
                state.model = state.model.with_groups(found, day)

    def _ready_days(self) -> Iterator[tuple[Caller, int]]:
        """Yield each caller with the day on which it became ready."""
        with self._lock:
            callers = list(self.state.rows)
        for begin in range(0, len(callers), CHUNK):
            with self._lock:
                found = [(caller, self.state.rows.get(caller)) for caller in callers[begin : begin + CHUNK]]
            yield from ((caller, known.row.ready_day) for caller, known in found if known is not None)

    def _load_recent(self, folder: BehaviorFolder) -> None:
        """Continue with the requests that were saved. Raises BehaviorFolderError."""
        file, requests = RecentFile(folder), RecentRequests()
        try:
            for part in file.load():
                requests.merge(part)
        except RequestsError as error:
            raise BehaviorFolderError(f"the requests in `{folder.path}` are damaged: {error}", RESTORE_HINT) from None
        self._recorded = {day: each.count for day, each in requests.days.items()}
        with self._lock:
            self.state.requests = requests
        self._recent = file

    def _save_recent(self, folder: BehaviorFolder) -> None:
        """Save the requests that are not saved yet. On a new day, the file begins again, without old days. Raises
        OSError."""
        days, recorded = dict(self.state.requests.days), self._recorded
        file = self._recent or RecentFile(folder)
        if not days or all(recorded.get(day) == each.count for day, each in days.items()):
            return
        counts = {day: days[day].count for day in sorted(days)}
        if days.keys() == recorded.keys() and self._recent is not None:
            file.append(packed_days(days, recorded, counts))
        else:
            file.replace(folder, packed_days(days, {}, counts))
        self._recent, self._recorded = file, counts

    def _pack_rows(self) -> Iterator[SavedRow]:
        """Yield every row, packed as it is at some moment of the call. Decisions wait for at most one chunk."""
        with self._lock:
            callers = list(self.state.rows)
        for begin in range(0, len(callers), CHUNK):
            with self._lock:
                found = [(caller, self.state.rows.get(caller)) for caller in callers[begin : begin + CHUNK]]
                packed = [
                    SavedRow(caller, known.group, pack_row(known.row)) for caller, known in found if known is not None
                ]
            yield from packed

    def __del__(self) -> None:
        if getattr(self, "_saves", -1) >= 0:
            os.close(self._saves)
            self._saves = -1

    def close(self) -> None:
        """Stop the thread, and save what changed."""
        self._pools.stop()
        self._saver.close()
        self.keep()
        if self._saves >= 0:
            os.close(self._saves)
            self._saves = -1
