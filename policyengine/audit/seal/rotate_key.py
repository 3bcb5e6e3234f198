"""Replaces the key of a log: first, the old key signs a line of the log that names the new key, and then the new key
replaces the old key in the file.
"""

from __future__ import annotations

import os
import secrets
from math import inf
from pathlib import Path

from policyengine.audit.log import DecisionLog
from policyengine.audit.log_file import DecisionLogError
from policyengine.audit.rotation import rotation_lock
from policyengine.audit.seal.key_notes import announce_key, write_announcement
from policyengine.audit.seal.keys import load_key, write_key
from policyengine.audit.seal.notes import Signer, Verifier
from policyengine.audit.seal.options import SealOptions, SealStatement
from policyengine.audit.seal.sealed_files import default_folder
from policyengine.audit.seal.tiles import write_file


def rotate_log_key(log: Path, key: Path, folder: Path | None) -> Verifier:
    """Replace the key in the file `key` and return the new public key. Servers may write to the log in the meantime.
    Only one process at a time replaces the key. Raises SealKeyError, DecisionLogError, FileNotFoundError if the file of
    the key does not exist, and other OSErrors.
    """
    place = folder or default_folder(log)
    load_key(key)
    if not (place / "checkpoint").exists():
        raise DecisionLogError(f"`{log}` is not sealed yet", "name the folder of its seal: `--seal FOLDER`")
    with rotation_lock(place / "checkpoint", inf):
        return replace_key(log, key, folder, place)


def replace_key(log: Path, key: Path, folder: Path | None, place: Path) -> Verifier:
    old = load_key(key)
    new = Signer.generate(old.name)
    note = announce_key(old, new.verifier)
    beside = key.with_name(f".{key.name}.{os.getpid()}.{secrets.token_hex(4)}")
    writer = DecisionLog(log, seal=SealOptions(key, folder))
    try:
        write_key(beside, new)
        write_announcement(place, new.verifier, note)
        if not writer.note_seal({"event": SealStatement.KEY, "note": note}):
            raise DecisionLogError(f"`{log}` cannot be written", "the key was not replaced")
        writer.seal()
        beside.rename(key)
        write_file(place / "vkey", f"{new.verifier}\n".encode())
        writer.seal()
    except OSError as error:
        if error.filename == str(beside):
            error.filename = str(key)  # the user does not know the temporary file
        raise
    finally:
        beside.unlink(missing_ok=True)
        writer.close()
    return new.verifier
