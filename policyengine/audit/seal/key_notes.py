"""Signed notes in which a key of a log names its successor. The notes are in the log and in the folder of the seal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from policyengine.audit.seal.notes import ED25519, Note, NoteError, Signer, Verifier
from policyengine.audit.seal.tiles import read_file, write_file

KEY_NOTE_START = "policyengine log key\n"
FOLDER = "keys"
MAX_KEY_NOTES = 10_000


def announce_key(old: Signer, new: Verifier) -> str:
    """Return the note in which the old key names the new key."""
    return old.sign(f"{KEY_NOTE_START}{new}\n{old.verifier}\n")


def announced_key(text: str, trusted: Sequence[Verifier]) -> Verifier | None:
    """Return the key that a note names, or None if no trusted key signed the note. Raises NoteError."""
    note = Note.parse(text)
    if not note.text.startswith(KEY_NOTE_START):
        return None
    new = Verifier.parse(note.text.removeprefix(KEY_NOTE_START).partition("\n")[0])
    signers = note.verified_by([key for key in trusted if key.kind == ED25519 and key.name == new.name])
    return new if signers and new.kind == ED25519 else None


def follow_announcements(notes: Iterable[str], trusted: Sequence[Verifier]) -> list[Verifier]:
    """Return the trusted keys and all their successors, direct and indirect. A malformed note is ignored."""
    by_signer: dict[tuple[str, bytes], list[str]] = {}
    for text in islice((text for text in notes if text.startswith(KEY_NOTE_START)), MAX_KEY_NOTES):
        with suppress(NoteError):
            for each in Note.parse(text).signatures:
                by_signer.setdefault((each.name, each.id), []).append(text)
    found = list(dict.fromkeys(trusted))
    for key in found:  # grows during iteration
        named = (try_announced_key(text, [key]) for text in by_signer.pop((key.name, key.id), ()))
        found += [each for each in dict.fromkeys(named) if each is not None and each not in found]
    return found


def leads_to(notes: Sequence[str], old: Verifier, new: Verifier) -> bool:
    """Return whether the new key equals the old key or is a direct or indirect successor of the old key."""
    return old == new or new in follow_announcements(notes, [old])


def announcing_keys(notes: Iterable[str]) -> list[Verifier]:
    """Return the keys that name a successor in the notes. The signatures are not verified."""
    found = []
    for text in notes:
        with suppress(NoteError):
            lines = Note.parse(text).text.removeprefix(KEY_NOTE_START).split("\n")
            found.append(Verifier.parse(lines[1]))
    return found


def try_announced_key(text: str, trusted: Sequence[Verifier]) -> Verifier | None:
    try:
        return announced_key(text, trusted)
    except NoteError:
        return None


def write_announcement(folder: Path, new: Verifier, note: str) -> None:
    """Write the note that names the key `new` into the folder of the seal. Raises OSError."""
    write_file(folder / FOLDER / new.id.hex(), note.encode())


def read_announcements(folder: Path) -> list[str]:
    """Return the notes in the folder of the seal, at most 10,000. Raises OSError."""
    try:
        files = sorted((folder / FOLDER).iterdir())[:MAX_KEY_NOTES]
    except FileNotFoundError:
        return []
    return [read_file(file).decode(errors="replace") for file in files if not file.name.startswith(".")]
