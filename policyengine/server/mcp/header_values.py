"""The headers of MCP over HTTP that repeat parts of the message: `Mcp-Method`, `Mcp-Name` and the protocol version.

A value is read only if every server reads it in the same way.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from policyengine.http.gateway_headers import header_error
from policyengine.http.gateway_omissions import ForwardedParts, HeaderValues
from policyengine.runtime.header_names import ReservedNames, spelling_error
from policyengine.runtime.request import RequestError

VERSION_HEADER, METHOD_HEADER, NAME_HEADER = "mcp-protocol-version", "mcp-method", "mcp-name"
SESSION_HEADER = "mcp-session-id"
MCP_HEADERS = frozenset({VERSION_HEADER, METHOD_HEADER, NAME_HEADER, SESSION_HEADER})
RESERVED = ReservedNames.of(MCP_HEADERS)
# Versions in which servers must refuse a request whose headers and body differ. Older servers ignore these headers.
VALIDATING_VERSIONS = frozenset({"2026-07-28"})
ENCODED = re.compile(r"=\?base64\?(?P<payload>.*)\?=")
VISIBLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")  # visible ASCII, without white space at the edges
HAND_ON = "the gateway must forward it: see docs/gateways.md, “MCP servers”"
OLD_CLIENT = "is missing: requests of versions before 2026-07-28 cannot be decided by their headers"


def decode_name(value: str) -> str | None:
    """Return the name in a value of `Mcp-Name`, or None if some server may read another name or no name.

    Base64 must be in the one form that encoders write. A value that only resembles an encoded value is refused,
    although the specification treats it as a plain name.
    """
    found = ENCODED.fullmatch(value)
    if found is None:
        resembles = value.startswith("=?") and value.endswith("?=")
        return value if VISIBLE.fullmatch(value) and not resembles else None
    try:
        content = base64.b64decode(found["payload"], validate=True)
        text = content.decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return text if base64.b64encode(content).decode("ascii") == found["payload"] else None


@dataclass(frozen=True, slots=True)
class McpHeaders:
    """The headers of a request; None for a header that did not arrive. `has_session` means that the request belongs, or
    may belong, to a session, which only older versions have.
    """

    version: str | None
    method: str | None
    name: str | None
    has_session: bool

    @classmethod
    def read(cls, given: HeaderValues, forwarded: ForwardedParts) -> McpHeaders:
        """Read the headers. Raises RequestError for a header that is repeated, respelled or malformed."""
        for name in given:
            if RESERVED.has_spelling(name):
                raise spelling_error(name)
        session = given.get(SESSION_HEADER)
        raw = read_value(given, NAME_HEADER)
        return cls(
            read_value(given, VERSION_HEADER),
            read_value(given, METHOD_HEADER),
            None if raw is None else read_name(raw, forwarded),
            session is not None or not forwarded.shows_absence(SESSION_HEADER),
        )

    @property
    def is_validated(self) -> bool:
        """Whether servers of this version must compare the headers with the body."""
        return self.version in VALIDATING_VERSIONS


def read_value(given: HeaderValues, name: str) -> str | None:
    """Return the value of a header; None if it did not arrive, or is empty. Raises RequestError."""
    values = given.get(name, ())
    if len(values) > 1:
        raise header_error(name, "is repeated")
    value = values[0] if values else ""
    if value and not VISIBLE.fullmatch(value):
        raise header_error(name, "has characters that a header of MCP cannot have")
    return value or None


def read_name(value: str, forwarded: ForwardedParts) -> str:
    """Return the name. Raises RequestError."""
    if forwarded.joins and "," in value:
        raise header_error(NAME_HEADER, "contains a comma, as if it were repeated", "send the name in Base64")
    name = decode_name(value)
    if name is None:
        raise header_error(NAME_HEADER, "is malformed: some servers may read another name")
    return name


def missing_header(name: str) -> RequestError:
    return header_error(name, OLD_CLIENT if name == VERSION_HEADER else "is missing", HAND_ON)
