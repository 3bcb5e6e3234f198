"""The learned behavior in a store that processes share, as operators read and change it.

The store contains no names: the key of a caller is computed from its name. Reading creates nothing in the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from policyengine.behavior.events import Caller
from policyengine.behavior.model import (
    EMPTY_MODEL,
    FORMAT,
    MODEL_VERSION,
    BehaviorModel,
    ModelContent,
    ModelError,
)
from policyengine.behavior.releases import ClassRelease, ReleaseError
from policyengine.behavior.row import BehaviorRow
from policyengine.behavior.shared_keys import SharedKeys, sign_model, verify_model
from policyengine.behavior.shared_releases import sign_releases, verify_releases
from policyengine.behavior.shared_rows import decode_rows, decode_saved, fold_history, load_callers
from policyengine.behavior.state import BehaviorState, CallerRow, SettingsOf
from policyengine.stores.behavior import (
    MAX_DOCUMENT_NUMBER,
    MODEL,
    RELEASES,
    BehaviorStore,
    UnreadableBehaviorError,
)

MAX_VERSIONS: Final = 100_000  # versions of a caller that are shown or forgotten
MAX_ATTEMPTS: Final = 8  # attempts to replace a document that other processes replace too


class NoLearnedBehaviorError(Exception):
    """The error for a store in which nothing was learned yet."""


class DocumentConflictError(Exception):
    """The error for a document that cannot be replaced; the text names it."""


class StoredVersion(NamedTuple):
    """The row of a version of a caller. `group` is its class; None before the store has a saved row, because only saved
    rows have the class."""

    caller: Caller
    group: str | None
    row: BehaviorRow


class StoredReleases(NamedTuple):
    """The planned changes in a store, and the number of their document. `refused` says why they are ignored."""

    number: int
    releases: tuple[ClassRelease, ...]
    refused: str = ""


class StoredBehavior:
    """The learned behavior in a store. Each method may raise StoreError."""

    def __init__(self, store: BehaviorStore) -> None:
        """Load the secret key of the store. Raises NoLearnedBehaviorError."""
        secret = store.known_key()
        if secret is None:
            raise NoLearnedBehaviorError
        self.keys, self._store = SharedKeys(secret), store

    # ── Reading ───────────────────────────────────────────────────────────────────────────────

    def load_model(self) -> BehaviorModel:
        """Load the latest model; an empty one if no model was saved. Raises ModelError."""
        number, raw = self._store.document(MODEL, 0)
        return verify_model(raw, number, self.keys.models) if number else EMPTY_MODEL

    def load_state(self, model: BehaviorModel, settings_of: SettingsOf) -> tuple[BehaviorState, list[str]]:
        """Load all callers with a saved row, whose names are placeholders. Also return the keys of damaged callers."""
        rows, damaged = dict[Caller, CallerRow](), list[str]()
        for key, saved in load_callers(self._store.callers(0), settings_of):
            if saved is None:
                damaged.append(key)
            else:
                rows[Caller(saved.issuer, saved.agent, str(len(rows)))] = CallerRow(saved.group, saved.row)
        return self.state_of(model, rows), sorted(damaged)

    def state_of(self, model: BehaviorModel, rows: dict[Caller, CallerRow]) -> BehaviorState:
        state = BehaviorState(self.keys.tagger, model=model, learns=False)
        state.rows, state.members = rows, self.keys.members
        return state

    def issuers(self, model: BehaviorModel) -> set[str]:
        """Return the issuers of the classes of the model or, before the first model, of the saved rows."""
        found = {one.issuer for one in model.content.classes}
        return found or {saved.issuer for saved in decode_rows(self._store.callers(0))}

    def groups(self) -> set[str]:
        """Return the classes of the saved rows."""
        return {saved.group for saved in decode_rows(self._store.callers(0))}

    def knows(self, caller: Caller) -> bool:
        """Return whether anything is known about a caller in any version, even if it is damaged."""
        return any(self.has_key(self.keys.key_of(version)) for version in self._versions(caller))

    def has_key(self, key: str) -> bool:
        """Return whether anything is known about the caller with this key, even if it is damaged."""
        try:
            history = self._store.read(key, 0)
        except UnreadableBehaviorError:
            return True
        return bool(history.events or history.row)

    def find(self, caller: Caller, settings_of: SettingsOf) -> list[StoredVersion]:
        """Return the known versions of a caller, the most recently active one first."""
        found = (self._find_version(version, settings_of) for version in self._versions(caller))
        return sorted((one for one in found if one is not None), key=lambda one: one.row.level_at, reverse=True)

    def _find_version(self, caller: Caller, settings_of: SettingsOf) -> StoredVersion | None:
        history = self._store.read(self.keys.key_of(caller), 0)
        saved = decode_saved(history.row or b"")
        known = fold_history(history, settings_of("" if saved is None else saved.group))
        return None if known is None else StoredVersion(caller, None if saved is None else saved.group, known.row)

    def _versions(self, caller: Caller) -> Iterator[Caller]:
        """Yield the caller without a version, and then the caller in each version that the store remembers."""
        yield caller
        for version in self._store.versions(self.keys.key_of(caller), MAX_VERSIONS):
            yield caller._replace(version=version)

    # ── Forgetting ────────────────────────────────────────────────────────────────────────────

    def forget(self, caller: Caller) -> int:
        """Forget a caller in all its versions, and remove it from its group. Return the number of versions that were
        known. Raises DocumentConflictError."""
        self._leave_group(caller)
        return sum(self._store.forget(self.keys.key_of(version)) for version in self._versions(caller))

    def _leave_group(self, caller: Caller) -> None:
        """Replace the model with one in which the caller is in no group."""
        for _ in range(MAX_ATTEMPTS):
            number, raw = self._store.document(MODEL, 0)
            try:
                model = verify_model(raw, number, self.keys.models)
            except ModelError:  # it does not exist, or decisions do not use it
                return
            left = model.without_members({self.keys.members.of(caller.issuer, caller.agent)})
            if left is model or self._store.save_document(MODEL, number + 1, sign_model(left, self.keys.models)):
                return
        raise DocumentConflictError("the model")

    def forget_key(self, key: str) -> int:
        """Forget the caller with this key. Return 1 if it was known, else 0."""
        return int(self._store.forget(key))

    def forget_all(self) -> int:
        """Forget all callers and classes. Return the number of callers. Raises DocumentConflictError."""
        count = sum(map(self._store.forget, self._store.keys()))
        self._forget_model()
        return count

    def _forget_model(self) -> None:
        """Replace the model with one without classes, whose number is higher than that of a model that a process may be
        learning from the forgotten callers."""
        for _ in range(MAX_ATTEMPTS):
            number, raw = self._store.document(MODEL, 0)
            if not number:
                return
            if number >= MAX_DOCUMENT_NUMBER:
                break
            try:
                made = verify_model(raw, number, self.keys.models).content.made
            except ModelError:
                made = 0
            empty = BehaviorModel(ModelContent(FORMAT, MODEL_VERSION, number + 1, made, "", ()))
            if self._store.save_document(MODEL, number + 1, sign_model(empty, self.keys.models)):
                return
        raise DocumentConflictError("the model")

    # ── Planned changes ───────────────────────────────────────────────────────────────────────

    def load_releases(self) -> StoredReleases:
        """Load all planned changes, including those that have ended."""
        number, raw = self._store.document(RELEASES, 0)
        try:
            return StoredReleases(number, verify_releases(raw, number, self.keys.releases) if number else ())
        except ReleaseError as error:
            return StoredReleases(number, (), str(error))

    def save_releases(self, known: StoredReleases, releases: Iterable[ClassRelease], now: int) -> bool:
        """Replace the planned changes, unless others replaced them after `known` was loaded, or their number is too
        high. `now` is in milliseconds since 1970. Return whether they were replaced."""
        number = max(known.number + 1, now)
        if number > MAX_DOCUMENT_NUMBER:
            return False
        document = sign_releases(number, releases, self.keys.releases)
        return self._store.save_document(RELEASES, number, document, known.number)
