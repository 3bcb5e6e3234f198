"""Writes the lines of a log as JSON Lines that DuckDB can always read: each line as text, beside its record. A
malformed line has no record; a blank line, or a line that is too long, has no text either."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from policyengine.audit.encoder import encode
from policyengine.audit.files import open_log_file
from policyengine.audit.query.extract import MalformedLineError
from policyengine.audit.query.extract_sql import RAW_LINE, RAW_RECORD
from policyengine.audit.query.stream import SkippedLines, parse_or_salvage, read_numbered_lines

READ_BYTES = 1 << 20
NOT_TEXT = "not UTF-8: "  # prefix of the text of a line that is not UTF-8, so that the copy is malformed, too
EMPTY = b"{}\n"


def write_raw_lines(path: Path, to: Path, skipped: SkippedLines) -> int:
    """Write the lines of a file, and return the length of the longest written line. Raises OSError."""
    longest, before = len(EMPTY), 0
    with to.open("wb") as file:
        for number, line in read_numbered_lines(path, skipped):
            for _ in range(number - before - 1):
                file.write(EMPTY)
            longest, before = max(longest, file.write(raw_line(path, line, skipped))), number
    return longest


def raw_line(path: Path, line: bytes, skipped: SkippedLines) -> bytes:
    """Return a line as JSON. A valid line loses its newline; a malformed line is kept exactly."""
    try:
        tree, _, cut = parse_or_salvage(line)
    except MalformedLineError:
        skipped.add(path)
        return encode({RAW_LINE: raw_text(line)}) + b"\n"
    if cut:
        skipped.add(path)
    skipped.valid.add(path)
    return encode({RAW_RECORD: tree, RAW_LINE: raw_text(line.rstrip(b"\r\n"))}) + b"\n"


def raw_text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return NOT_TEXT + line.decode(errors="backslashreplace")


def count_lines(path: Path) -> int:
    """Return the number of lines of a file, which may be compressed; -1 if the file cannot be unpacked. The last line
    may lack its newline. Raises OSError."""
    count, last = 0, b"\n"
    with open_log_file(path) as file:
        try:
            while piece := file.read(READ_BYTES):
                count, last = count + piece.count(b"\n"), piece[-1:]
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return -1
    return count + (last != b"\n")
