"""The document of halts in a store: all halts, the latest liftings, and a number that rises with each change."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct, structs

from policyengine.halts.errors import HaltError, HaltsFullError, HaltsUnreadableError, UnknownHaltError
from policyengine.halts.requests import check_halt
from policyengine.runtime.halts import Halt
from policyengine.runtime.structure_checks import quote_input
from policyengine.stores.halts import MAX_HALTS_BYTES, MAX_HALTS_NUMBER
from policyengine.time_formats import format_epoch_seconds

MAX_HALTS: Final = 256
MAX_HALTS_OF_EVERYTHING: Final = 16  # places that other halts cannot use up
RESERVED_BYTES: Final = 2**16  # bytes of the document that only halts of everything may use
MAX_LIFTINGS: Final = 64  # the latest liftings, so that every process can record them
ENDED_SECONDS: Final = 86_400  # seconds for which an ended halt is kept, because a clock may be set back


class HaltLift(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The end of a halt before its time. `at` is in seconds since 1970; `halt` is the halt itself, if there is room."""

    id: str
    reason: str
    at: int
    by: str = ""
    halt: Halt | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the lifting as plain data, with its time as RFC 3339."""
        by = {"by": self.by} if self.by else {}
        return {"id": self.id, "reason": self.reason, "at": format_epoch_seconds(self.at), **by}


class HaltDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the document. `number` repeats the number under which the store has the document, so that an older
    document under a newer number is refused."""

    number: int
    halts: tuple[Halt, ...] = ()
    lifted: tuple[HaltLift, ...] = ()

    def adding(self, halt: Halt, now: int) -> HaltDocument:
        """Return the next document, with a halt. Raises HaltsFullError."""
        document = self._next(now, (*self.halts, halt), self.lifted)
        if document.lacks_room(halt):  # only then, because the clock of this process may be wrong
            left = tuple(one for one in self.halts if one.until + ENDED_SECONDS > now)
            lifted = tuple(structs.replace(one, halt=None) for one in self.lifted)
            document = self._next(now, (*left, halt), lifted)
        if why := document.lacks_room(halt):
            raise HaltsFullError(why, "lift some of them, or halt everything")
        return document

    def lacks_room(self, halt: Halt) -> str | None:
        """Return why a halt that was added does not fit; None if it fits."""
        if sum(one.everything is halt.everything for one in self.halts) > most_halts(halt):
            return f"there are already {most_halts(halt)} such halts"
        room = MAX_HALTS_BYTES - (0 if halt.everything else RESERVED_BYTES)
        return "the halts are too long" if len(encode_document(self)) > room else None

    def lifting(self, lifting: HaltLift, now: int) -> HaltDocument:
        """Return the next document, without a halt. Raises UnknownHaltError."""
        left = tuple(one for one in self.halts if one.id != lifting.id)
        if len(left) == len(self.halts):
            raise unknown_halt(lifting.id, self.lifted)
        [halt] = (one for one in self.halts if one.id == lifting.id)
        liftings = (*self.lifted, structs.replace(lifting, halt=halt))
        return self._next(now, left, liftings[-MAX_LIFTINGS:])

    def _next(self, now: int, halts: tuple[Halt, ...], lifted: tuple[HaltLift, ...]) -> HaltDocument:
        """Return the next document. Its number is the time in milliseconds, or this number plus 1 if that is higher."""
        number = max(self.number + 1, now * 1_000)
        if number > MAX_HALTS_NUMBER:
            raise HaltError(
                "the version number of the halts in the store is too high", "remove the halts from the store"
            )
        return HaltDocument(number, halts, lifted)


def most_halts(halt: Halt) -> int:
    return MAX_HALTS_OF_EVERYTHING if halt.everything else MAX_HALTS


def unknown_halt(id: str, lifted: tuple[HaltLift, ...]) -> UnknownHaltError:
    before = next((one for one in lifted if one.id == id), None)
    if before is None:
        return UnknownHaltError(f"there is no halt `{quote_input(id)}`", "`policyengine halt list` shows all halts")
    by = f" by {before.by}" if before.by else ""
    return UnknownHaltError(f"the halt `{id}` was already lifted at {format_epoch_seconds(before.at)}{by}")


def encode_document(document: HaltDocument) -> bytes:
    return msgspec.json.encode(document)


def decode_document(number: int, raw: bytes) -> HaltDocument:
    """Decode and check the document with this number. Raises HaltsUnreadableError."""
    if len(raw) > MAX_HALTS_BYTES:
        raise HaltsUnreadableError(f"the halts have more than {MAX_HALTS_BYTES:,} bytes")
    try:
        document = msgspec.json.decode(raw, type=HaltDocument)
        if document.number != number:
            raise HaltsUnreadableError(f"the document has number {document.number} instead of {number}")
        for halt in document.halts:
            check_halt(halt)
    except (msgspec.MsgspecError, HaltError, ValueError) as error:
        raise HaltsUnreadableError(f"the halts in the store are damaged: {error}") from None
    return document
