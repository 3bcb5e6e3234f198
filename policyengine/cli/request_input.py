"""Requests from a file or stdin: one JSON document, or one per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from policyengine.bounded_files import read_lines, read_stream
from policyengine.cli.errors import CommandError, file_error

STDIN = "-"
LINES_SUFFIXES = (".jsonl", ".ndjson")
MAX_REQUEST_BYTES = 2**24  # maximum bytes of one request, including its entity rows


@dataclass(frozen=True, slots=True)
class RequestDocument:
    """The bytes of one request, with its line number if the file has several requests."""

    data: bytes
    file: str
    line: int | None = None


def read_requests(name: str) -> Iterator[RequestDocument]:
    """Yield each request as it arrives, without waiting for the end of a stream. Raises CommandError, also if there is
    no request."""
    empty = True
    try:
        for question in _from_stdin() if name == STDIN else _from_file(name):
            empty = False
            yield question
    except OSError as error:
        raise file_error(name, error) from None
    if empty:
        raise CommandError("request", f"no request in {describe_place(name)}", facts=(("file", name),))


def read_single_request(name: str) -> RequestDocument:
    """Return the only request in the file. Raises CommandError."""
    questions = read_requests(name)
    first = next(questions)
    if next(questions, None) is not None:
        hint = "`policyengine decide` accepts several"
        raise CommandError("request", f"more than one request in {describe_place(name)}", hint, (("file", name),))
    return first


def _from_file(name: str) -> Iterator[RequestDocument]:
    if name.endswith(LINES_SUFFIXES):
        with open(name, "rb") as lines:
            yield from _from_lines(read_lines(lines, MAX_REQUEST_BYTES), name)
    else:
        with open(name, "rb") as file:
            data = read_stream(file, MAX_REQUEST_BYTES)
        yield from _from_whole(data, name)


def _from_stdin() -> Iterator[RequestDocument]:
    """Yield the requests of stdin, one per line if its first line is a complete document. Raises OSError."""
    stream: BinaryIO = sys.stdin.buffer
    numbered = read_lines(stream, MAX_REQUEST_BYTES)
    first = next(((number, line) for number, line in numbered if line.strip()), (1, b""))
    if _count_documents(first[1]):
        yield from _from_lines(chain([first], numbered), STDIN)
    else:
        yield from _from_whole(first[1] + read_stream(stream, MAX_REQUEST_BYTES - len(first[1])), STDIN)


def _from_lines(lines: Iterable[tuple[int, bytes]], file: str) -> Iterator[RequestDocument]:
    return (RequestDocument(line.strip(), file, number) for number, line in lines if line.strip())


def _from_whole(data: bytes, file: str) -> Iterator[RequestDocument]:
    if _count_documents(data) > 1:
        hint = "write each request on its own line, in a file that ends in `.jsonl`"
        raise CommandError("request", f"more than one document in {describe_place(file)}", hint, (("file", file),))
    if data.strip():
        yield RequestDocument(data, file)


def _count_documents(data: bytes) -> int:
    """Return the number of JSON documents at the start of `data`: 0, 1, or 2 for more. Errors in them are reported
    later.
    """
    try:
        text = data.decode().strip()
        decoder = json.JSONDecoder()
        end = decoder.raw_decode(text)[1]
        return 2 if text[end:].lstrip().startswith("{") else int(end == len(text))
    except (ValueError, RecursionError):
        return 0


def describe_place(name: str, line: int | None = None) -> str:
    """Return the name of a place in a request file, for messages."""
    at = "" if line is None else f":{line}"
    return f"stdin{at}" if name == STDIN else f"`{name}{at}`"
