"""The halts in a store, as one process reads and changes them.

Every process remembers the latest document that it has read. If the store has lost that document, the process saves the
document again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from msgspec import structs

from policyengine.halts.document import HaltDocument, decode_document, encode_document
from policyengine.halts.errors import HaltError, HaltsUnreadableError
from policyengine.runtime.halts import Halt
from policyengine.stores.halts import HaltStore

MAX_ATTEMPTS: Final = 64  # maximum attempts to replace a document that others replace, too
NOT_KNOWN: Final = -1  # a number that no document has
NOTHING: Final = HaltDocument(0)
_LOG = logging.getLogger("policyengine")


class StoreHalts:
    """The document of halts in a store. `latest` is the latest document that this process has read."""

    name = "the store"

    def __init__(self, store: HaltStore) -> None:
        self._store, self.latest = store, NOTHING

    def read(self) -> tuple[Halt, ...]:
        """Return the halts in the store. Raises StoreError and HaltsUnreadableError."""
        number, raw = self._store.load(self.latest.number)
        if number > self.latest.number:
            self.latest = decode_document(number, raw)
        elif number < self.latest.number:
            self._restore(number)
        return self.latest.halts

    def adopt(self, document: HaltDocument) -> None:
        """Save a document of another store. Raises StoreError."""
        if document is not NOTHING and self._store.save(document.number, encode_document(document), None):
            self.latest = document

    def change(self, change: Callable[[HaltDocument], HaltDocument]) -> None:
        """Replace the document with the one that `change` returns. Raises HaltError and StoreError."""
        for _ in range(MAX_ATTEMPTS):
            number, raw = self._store.load(NOT_KNOWN)
            made = change(self._merge(number, raw))
            if self._store.save(made.number, encode_document(made), number):
                self.latest = made
                return
        raise HaltError("the halts were changed by others at the same time", "try again")

    def _merge(self, number: int, raw: bytes) -> HaltDocument:
        """Return the stored document or, if the store has lost it or it is damaged, the latest document of this
        process. Raises HaltError.
        """
        latest = self.latest
        if number <= latest.number:
            return latest
        try:
            return decode_document(number, raw)
        except HaltsUnreadableError as error:
            if latest is NOTHING:
                hint = "halt through a server that has read the halts before, or remove them from the store"
                raise HaltError(str(error), hint) from None
            return structs.replace(latest, number=number)

    def _restore(self, number: int) -> None:
        """Save the latest document again, because the store has lost it. Raises StoreError."""
        if self._store.save(self.latest.number, encode_document(self.latest), number):
            _LOG.error(
                "the store had lost the latest halts, and its document had number %d: the halts were saved again",
                number, extra={"event": "halts_restored"},
            )  # fmt: skip
