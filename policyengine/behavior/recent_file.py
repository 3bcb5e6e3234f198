"""The file in a folder of learned behavior with the requests of the last days, in which groups are searched for."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Iterator
from typing import IO, Final

from policyengine.behavior.folder import (
    DIGEST_BYTES,
    FILE_MODE,
    LENGTH_BYTES,
    RESTORE_HINT,
    BehaviorFolder,
    BehaviorFolderError,
    reason,
)
from policyengine.bounded_files import open_regular

MAX_PART_BYTES: Final = 2**26


class RecentFile:
    """The file with the requests in which groups are searched for. Parts are appended; each has a keyed digest of
    itself and of the parts before it. A part that was not written completely is ignored, and replaced by the next
    one."""

    def __init__(self, folder: BehaviorFolder) -> None:
        self._path, self._digest = folder.path / "recent", folder.digest_of(b"recent")
        self._size = 0  # of the complete parts, in bytes

    def load(self) -> Iterator[bytes]:
        """Yield the parts, and continue after the last of them. Raises BehaviorFolderError."""
        try:
            with os.fdopen(open_regular(self._path), "rb") as file:
                while len(head := file.read(LENGTH_BYTES)) == LENGTH_BYTES:
                    part = file.read(min(int.from_bytes(head), MAX_PART_BYTES))
                    digest = self._digest.copy()
                    digest.update(head + part)
                    if not hmac.compare_digest(digest.digest(), file.read(DIGEST_BYTES)):
                        return
                    self._digest, self._size = digest, file.tell()
                    yield part
        except FileNotFoundError:
            return
        except OSError as error:
            message = f"the requests `{self._path}` cannot be read: {reason(error)}"
            raise BehaviorFolderError(message, RESTORE_HINT) from None

    def append(self, parts: Iterable[bytes]) -> None:
        """Append parts. Raises OSError; then no part was appended."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self._path, flags, FILE_MODE), "wb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            written = self._write(file, parts, self._digest.copy())
        self._digest, self._size = written

    def replace(self, folder: BehaviorFolder, parts: Iterable[bytes]) -> None:
        """Replace the file. Raises OSError; then it was not replaced."""
        new = self._path.with_name(f".recent.{os.getpid()}.new")
        try:
            new.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(new, flags, FILE_MODE), "wb") as file:
                written = self._write(file, parts, folder.digest_of(b"recent"))
            new.rename(self._path)
            self._digest, self._size = written
        finally:
            new.unlink(missing_ok=True)

    @staticmethod
    def _write(file: IO[bytes], parts: Iterable[bytes], digest: hmac.HMAC) -> tuple[hmac.HMAC, int]:
        """Write parts after the parts that `digest` covers. Return the digest of all parts, and the size of the file in
        bytes."""
        for part in parts:
            framed = len(part).to_bytes(LENGTH_BYTES) + part
            digest.update(framed)
            file.write(framed + digest.digest())
        file.flush()
        os.fsync(file.fileno())
        return digest, file.tell()
