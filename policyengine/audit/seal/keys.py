"""The key that signs the checkpoints of a log. By default, it is created next to the log."""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
from contextlib import suppress
from pathlib import Path

from policyengine.audit.seal.notes import NoteError, Signer
from policyengine.trusted_files import UntrustedPathError, open_trusted

KEY_SUFFIX = ".key"
OWNER_ONLY = 0o600
MAX_KEY_BYTES = 4_096


class SealKeyError(Exception):
    """The error for a key that cannot be used; `hint` says how to correct that."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} ({hint})")
        self.message, self.hint = message, hint


def default_key_path(log: Path) -> Path:
    """Return the path of the key: next to the log, and not in the folder of the seal, which may be published."""
    return log.with_name(log.name + KEY_SUFFIX)


def default_origin(log: Path) -> str:
    """Return a unique name for a log, from the host, the name of the file, and a random number."""
    parts = (re.sub(r"[^A-Za-z0-9._-]", "-", part).strip("-.") for part in (socket.gethostname(), log.name))
    host, name = (part or "log" for part in parts)
    return f"{host}/{name}-{secrets.token_hex(4)}"


def load_or_create_key(path: Path, log: Path) -> Signer:
    """Load the key of a log, or create it if its file does not exist. Raises SealKeyError."""
    with suppress(FileNotFoundError):
        return load_key(path)
    try:
        write_new_key(path, Signer.generate(default_origin(log)))
    except FileExistsError:
        pass  # another process created it
    except OSError as error:
        hint = "make its folder writable, or name a key with `--log-key FILE`"
        raise SealKeyError(f"the key `{path}` of the log cannot be created: {reason(error)}", hint) from None
    try:
        return load_key(path)
    except FileNotFoundError:
        raise SealKeyError(f"the key `{path}` of the log was removed", "restore it") from None


def write_new_key(path: Path, signer: Signer) -> None:
    """Write a key to a new file, atomically. Raises FileExistsError if the file exists, and other OSErrors."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        write_key(new, signer)
        os.link(new, path)
    finally:
        new.unlink(missing_ok=True)


def write_key(path: Path, signer: Signer) -> None:
    """Write a key to a new file that only its owner may read, and force it to disk. Raises OSError."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
    with os.fdopen(opened, "wb") as file:
        file.write(f"{signer.encode()}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def load_key(path: Path) -> Signer:
    """Load a key. Raises SealKeyError, or FileNotFoundError if the file does not exist."""
    try:
        opened = open_trusted(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not stop the server
        with os.fdopen(opened, "rb") as file:
            found = os.fstat(file.fileno())
            mode = found.st_mode
            raw = file.read(MAX_KEY_BYTES)
    except FileNotFoundError:
        raise
    except UntrustedPathError as error:
        raise SealKeyError(error.message, error.hint) from None
    except OSError as error:
        raise SealKeyError(f"the key `{path}` of the log cannot be read: {reason(error)}", "make it readable") from None
    if not stat.S_ISREG(mode):
        raise SealKeyError(f"the key `{path}` of the log is not a regular file", "name a regular file")
    if found.st_uid not in (os.geteuid(), 0):
        raise SealKeyError(f"the key `{path}` of the log belongs to another user", "move it away, or `chown` it")
    if mode & 0o077:
        raise SealKeyError(f"other users can access the key `{path}` of the log", f"`chmod 600 {path}`")
    try:
        return Signer.parse(raw.decode())
    except (NoteError, UnicodeDecodeError) as error:
        problem = "it is not text" if isinstance(error, UnicodeDecodeError) else str(error)
        hint = "restore it from a backup, or move it and the folder of the seal away to begin a new seal"
        raise SealKeyError(f"the key `{path}` of the log is damaged: {problem}", hint) from None


def reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
