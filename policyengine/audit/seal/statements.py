"""Statements about a seal: signed notes in lines of the log, which only the holder of the log's key can write.

A statement is valid for one log: its text contains the origin of the log and one JSON object, whose member `event` is
the kind of the statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from policyengine.audit.seal.notes import ED25519, Note, NoteError, Signer, Verifier
from policyengine.audit.seal.options import SealStatement

STATEMENT_START = "policyengine log statement\n"


def sign_statement(signer: Signer, origin: str, event: SealStatement, members: Mapping[str, object]) -> str:
    """Return a signed note that states what happened to the log: the event, and its details in `members`."""
    text = msgspec.json.encode({"event": event.value, **members}).decode()
    return signer.sign(f"{STATEMENT_START}{origin}\n{text}\n")


def read_statement(written: object, origin: str, keys: Sequence[Verifier]) -> dict[str, Any] | None:
    """Return the members of a statement, or None if it is malformed, belongs to another log, or is not signed by a key
    of this log."""
    try:
        note = Note.parse(written) if isinstance(written, str) else None
        if note is None or not note.text.startswith(f"{STATEMENT_START}{origin}\n"):
            return None
        if not note.verified_by([key for key in keys if key.kind == ED25519 and key.name == origin]):
            return None
        found = msgspec.json.decode(note.text.removeprefix(f"{STATEMENT_START}{origin}\n"))
    except (NoteError, msgspec.DecodeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and is_well_formed(found) else None


def is_well_formed(statement: Mapping[str, Any]) -> bool:
    """Return whether a statement has the members that its event requires."""
    match statement:
        case {"event": SealStatement.LATE_LINES, "size": int(), "digests": list(digests)}:
            return all(isinstance(each, str) for each in digests)
        case {"event": SealStatement.FILE_DELETED, "lines": int(), "digest": str()}:
            return True
        case _:
            return False


def digest_lines(digests: Iterable[bytes]) -> str:
    """Return the digest of consecutive lines, computed from the digests of the lines."""
    whole = sha256()
    for each in digests:
        whole.update(each)
    return whole.hexdigest()
