"""Planned changes in a store that processes share: a signed, numbered document that operators replace.

The number is the time in milliseconds at which the document was written, or one more than that of the document before.
Every process remembers the latest document that it has read. If the store has an older one, because it lost the latest
one or an attacker restored an older one, the process saves the latest one again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import msgspec

from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.releases import (
    MAX_RELEASE,
    MAX_RELEASES_BYTES,
    ClassRelease,
    ReleaseError,
    check_releases,
    release_ends,
    sort_releases,
)
from policyengine.behavior.shared_keys import MAC_BYTES, sign_document, verify_document
from policyengine.stores.behavior import RELEASES, BehaviorStore

_LOG = logging.getLogger("policyengine")


class ReleaseDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All planned changes. `number` protects against an older document under a newer number."""

    number: int
    releases: tuple[ClassRelease, ...]


def sign_releases(number: int, releases: Iterable[ClassRelease], key: bytes) -> bytes:
    return sign_document(msgspec.json.encode(ReleaseDocument(number, sort_releases(releases))), key)


def verify_releases(raw: bytes, number: int, key: bytes) -> tuple[ClassRelease, ...]:
    """Verify and decode the document with this number. Raises ReleaseError."""
    payload = verify_document(raw, key) if len(raw) <= MAC_BYTES + MAX_RELEASES_BYTES else None
    if payload is None:
        raise ReleaseError("they were not signed with this key")
    try:
        document = msgspec.json.decode(payload, type=ReleaseDocument)
    except msgspec.MsgspecError as error:
        raise ReleaseError(f"they are damaged: {error}") from None
    if document.number != number:
        raise ReleaseError(f"their document has number {document.number} instead of {number}")
    check_releases(document.releases)
    return document.releases


class SharedReleases:
    """The planned changes that apply in this process. Each process reads the document at its start, and then from time
    to time. No change applies while the latest document cannot be used."""

    def __init__(self, store: BehaviorStore) -> None:
        self.ends: Mapping[str, int] = {}
        self._store = store
        self._number, self._raw, self._known = 0, b"", dict[str, int]()
        self._refused = ""

    def clear(self) -> None:
        """Forget all planned changes, because the store has another key."""
        self.ends, self._number, self._raw, self._known, self._refused = {}, 0, b"", {}, ""

    def settings_at(self, settings: ProfileSettings, group: str, at: int) -> ProfileSettings:
        """Return the settings of a class at a time, at which a planned change may apply. A change that ends later than
        MAX_RELEASE from this time was planned with a wrong clock, and does not apply yet."""
        if not self.ends:
            return settings
        end = self.ends.get(group, 0)
        return settings.release() if end - MAX_RELEASE <= at < end else settings

    def refresh(self, key: bytes) -> None:
        """Get the latest document from the store. Raises StoreError."""
        number, raw = self._store.document(RELEASES, self._number)
        if number < self._number:
            self._restore(number)
        elif number > self._number:
            try:
                self._known = dict(release_ends(verify_releases(raw, number, key)))
            except ReleaseError as error:
                self._refuse(str(error))
                return
            self._number, self._raw = number, raw
        self.ends, self._refused = self._known, ""

    def _refuse(self, why: str) -> None:
        self.ends = {}
        if self._refused != why:
            self._refused = why
            _LOG.error(
                "the planned changes in the store are ignored: %s", why, extra={"event": "behavior_releases_refused"}
            )

    def _restore(self, number: int) -> None:
        """Save the document of this process, because the store has no document or an older one. Raises StoreError."""
        if self._store.save_document(RELEASES, self._number, self._raw):
            _LOG.warning(
                "the store had lost the latest planned changes, and its document had number %d: the lost document "
                "was saved again", number, extra={"event": "behavior_releases_restored"},
            )  # fmt: skip
