"""Computes the digests of the lines of a log file, with little memory even for long lines."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from policyengine.audit.files import open_log_file
from policyengine.audit.seal.options import SEAL_MEMBER

READ_BYTES = 1 << 18  # small enough for the cache of a processor
SEAL_MARK = b'"%b":{' % SEAL_MEMBER.encode()
# The maximum bytes of a line that are kept in memory; a longer line is hashed in pieces.
MAX_KEPT_BYTES = 1 << 26


@dataclass(slots=True)
class LineBatch:
    """The digests of consecutive lines of a file. `number` is the number of the first line, from 1. `about_seal` has
    the lines that may be about the seal, each with its index in the batch. `torn` is whether the batch is the
    incomplete last line of the file. `read` is the number of bytes that were read for the batch.
    """

    number: int
    digests: list[bytes]
    about_seal: list[tuple[int, bytes]] = field(default_factory=list)
    torn: bool = False
    read: int = 0


class UnreadableFileError(Exception):
    """The error for a compressed file that cannot be unpacked; the message says why."""


def line_batches(path: Path) -> Iterator[LineBatch]:
    """Yield the lines of a file, which may be compressed, in batches. Raises OSError, UnreadableFileError."""
    try:
        with open_log_file(path) as file:
            yield from read_batches(file.read)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UnreadableFileError(f"it cannot be unpacked: {error}") from None


def read_batches(read: Callable[[int], bytes]) -> Iterator[LineBatch]:
    number, begun, kept, after = 1, list[bytes](), 0, b""  # the pieces of a line and their length
    while chunk := after or read(READ_BYTES):
        length, after = 0 if after else len(chunk), b""
        cut = chunk.rfind(b"\n")
        begun.append(chunk if cut < 0 else chunk[:cut])
        kept += len(begun[-1])
        if cut >= 0:
            batch = complete_lines(number, b"".join(begun), length)
            yield batch
            number += len(batch.digests)
            begun, kept = [chunk[cut + 1 :]], len(chunk) - cut - 1
        elif kept > MAX_KEPT_BYTES:
            digest, found, more = skip_long_line(read, b"".join(begun))
            yield LineBatch(number, [digest], torn=found is None, read=length + more)
            number, begun, kept, after = number + 1, [], 0, found or b""
    rest = b"".join(begun)
    if rest:
        yield LineBatch(number, [sha256(rest).digest()], torn=True)


def complete_lines(number: int, text: bytes, length: int) -> LineBatch:
    """Return the batch of the lines in `text`, which lacks its last newline."""
    lines, about_seal = text.split(b"\n"), list[tuple[int, bytes]]()
    if text.rfind(SEAL_MARK) >= 0:  # three times faster than `in`, which does not skip bytes that the mark lacks
        about_seal = [(place, line) for place, line in enumerate(lines) if SEAL_MARK in line]
    return LineBatch(number, [sha256(line).digest() for line in lines], about_seal, read=length)


def skip_long_line(read: Callable[[int], bytes], begun: bytes) -> tuple[bytes, bytes | None, int]:
    """Read the rest of a line that begins with `begun`. Return the digest of the line, the bytes that were read after
    the line (None if the file ends without a newline), and the number of bytes that were read.
    """
    digest, length = sha256(begun), 0
    while chunk := read(READ_BYTES):
        length += len(chunk)
        cut = chunk.find(b"\n")
        digest.update(chunk if cut < 0 else chunk[:cut])
        if cut >= 0:
            return digest.digest(), chunk[cut + 1 :], length
    return digest.digest(), None, length


def summarize_lines(path: Path) -> tuple[int, str]:
    """Return the number of lines of a file, and the digest of their digests. The last line may be incomplete. Raises
    OSError."""
    count, whole = 0, sha256()
    with suppress(UnreadableFileError):
        for batch in line_batches(path):
            count += len(batch.digests)
            whole.update(b"".join(batch.digests))
    return count, whole.hexdigest()
