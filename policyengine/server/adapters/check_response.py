"""Writes the answers of Envoy's `ext_authz` over gRPC as bytes: `CheckResponse` of `envoy.service.auth.v3`.

Building and serializing a protobuf message would take several times as long. Fields are written in the order of their
numbers, and default values are left out, as every serializer does.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from policyengine.http.gateway_headers import OWN_HEADERS
from policyengine.server.adapters.responses import PROBLEM_MEDIA_TYPE, WOULD_BE_HEADER, HttpVerdict

GRPC_PERMISSION_DENIED = 7  # a gRPC status; the HTTP status for the client is in the response
METADATA_NAMES = {name: name.replace("-", "_").encode() for name in ("x-decision-id", "x-decision", WOULD_BE_HEADER)}
UPSTREAM_HEADERS = frozenset((*OWN_HEADERS, "x-decision-id", WOULD_BE_HEADER))
PRIVATE_HEADERS = frozenset((*OWN_HEADERS, WOULD_BE_HEADER))  # not sent to Envoy's clients

# Tags of fields, in the order of their numbers.
KEY, VALUE = b"\x0a", b"\x12"  # tags of a header, and of an entry of a map
HEADER, OVERWRITE = b"\x0a", b"\x18\x02"  # tag of a header option: replace the header, or add it
# Templates of a short header option and a short metadata entry, and the maximum bytes for which each of their lengths
# fits into one byte.
OPTION = b"%b%c" + HEADER + b"%c" + KEY + b"%c%b" + VALUE + b"%c%b" + OVERWRITE
ENTRY = b"\x0a%c" + KEY + b"%c%b" + VALUE + b"%c\x1a%c%b"
MAX_SHORT_OPTION, MAX_SHORT_TEXT = 124, 100
OK_HEADERS, OK_REMOVED, OK_RESPONSE_HEADERS = b"\x12", b"\x2a", b"\x32"
DENIED_STATUS, DENIED_HEADERS, DENIED_BODY, CODE = b"\x0a", b"\x12", b"\x1a", b"\x08"
STATUS, DENIED, PASSED, METADATA = b"\x0a", b"\x12", b"\x1a", b"\x22"
METADATA_ENTRY, TEXT = b"\x0a", b"\x1a"
STATUS_OK = b"\x0a\x00"
STATUS_DENIED = b"\x0a\x02\x08%c" % GRPC_PERMISSION_DENIED


def encode_check_response(verdict: HttpVerdict, gone: tuple[str, ...]) -> bytes:
    """Return the answer; `gone` are the headers that Envoy removes from a request that passes."""
    headers = verdict.headers
    metadata = b"".join([metadata_entry(name, value) for name, value in headers if name in METADATA_NAMES])
    public = [pair for pair in headers if pair[0] not in PRIVATE_HEADERS]
    if verdict.status != 200:
        shown = header_options(DENIED_HEADERS, (*public, ("content-type", PROBLEM_MEDIA_TYPE)))
        status = field(DENIED_STATUS, CODE + varint(verdict.status))
        body = field(DENIED_BODY, verdict.problem) if verdict.problem else b""
        denied = b"%b%b%b" % (status, shown, body)
        return b"%b%b%b" % (STATUS_DENIED, field(DENIED, denied), field(METADATA, metadata))
    behind = {WOULD_BE_HEADER: "", **{name: value for name, value in headers if name in UPSTREAM_HEADERS}}.items()
    removed = removed_names(gone, tuple([name for name, value in behind if not value]))
    passed = header_options(OK_HEADERS, [pair for pair in behind if pair[1]])
    content = b"%b%b%b" % (passed, removed, header_options(OK_RESPONSE_HEADERS, public))
    return b"%b%b%b" % (STATUS_OK, field(PASSED, content), field(METADATA, metadata))


def header_options(tag: bytes, pairs: Iterable[tuple[str, str]]) -> bytes:
    return b"".join([header_option(tag, name, value) for name, value in pairs])


def header_option(tag: bytes, name: str, value: str) -> bytes:
    """Return a header option that replaces other headers of its name."""
    text = value.encode()
    length = len(text) + len(name) + 4  # with two tags and two lengths
    if text and length < MAX_SHORT_OPTION:
        return OPTION % (tag, length + 4, length, len(name), name.encode(), len(text), text)
    header = named(name) + field(VALUE, text) if text else named(name)
    return field(tag, b"%b%b" % (field(HEADER, header), OVERWRITE))


def metadata_entry(name: str, value: str) -> bytes:
    """Return a text in the metadata for Envoy's log, where names contain underscores."""
    text, key = value.encode(), METADATA_NAMES[name]
    length = len(text)
    if length < MAX_SHORT_TEXT:
        return ENTRY % (length + len(key) + 6, len(key), key, length + 2, length, text)
    return field(METADATA_ENTRY, field(KEY, key) + field(VALUE, field(TEXT, text)))


def named(name: str) -> bytes:
    return field(KEY, name.encode())


@lru_cache(maxsize=64)
def removed_names(gone: tuple[str, ...], empty: tuple[str, ...]) -> bytes:
    return b"".join([field(OK_REMOVED, name.encode()) for name in (*gone, *empty)])


def field(tag: bytes, content: bytes) -> bytes:
    """Return a field that contains a message or a text, with its length."""
    length = len(content)
    return b"%b%c%b" % (tag, length, content) if length < 128 else b"%b%b%b" % (tag, varint(length), content)


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
