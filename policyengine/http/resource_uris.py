"""Canonical URIs of MCP resources, in the one spelling that policies compare.

The templates of servers decode the text that they capture: `notes://%73ecret/x` is the same resource as
`notes://secret/x`. Therefore the URI is also decoded once here, and a URI that two servers could read differently is
malformed, as with paths.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias
from unicodedata import is_normalized
from urllib.parse import quote

from policyengine.runtime.paths import (
    BAD_ESCAPE,
    MAX_PATH_LENGTH,
    MAX_SEGMENTS,
    MalformedPath,
    decode_segment,
    find_control_characters,
    find_disguised_name,
    find_segment_hazard,
)

URI: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?P<slashes>//)?(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?")
# Escapes of letters, digits and `-._~`, whose only effect is that two parsers disagree.
NEEDLESS_ESCAPE: Final = re.compile(r"%(?:2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])", re.IGNORECASE)
EXPRESSION: Final = re.compile(r"(\{[^{}]*\})")
EMPTY_EXPRESSION: Final = re.compile(r"\{[#;][^{}]*\}")  # a value would make the URI malformed
QUERY_EXPRESSION: Final = re.compile(r"\{[?&][^{}]*\}")
SCHEME: Final = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*:")
# Schemes whose hosts are usually normalized to lower case, without the default port.
PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}
HOST: Final = re.compile(r"(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]*))?")
SPECIAL: Final = frozenset({*PORTS, "file"})
QUERY_SAFE_CHARACTERS: Final = (
    # Together with letters, digits and `-._~`, the characters that do not separate in a query.
    "!$'()*,/:?@[]|^`{}\"<> "
)
TOO_LONG: Final = f"longer than {MAX_PATH_LENGTH:,} characters"
Spelling: TypeAlias = str | MalformedPath


def canonical_uri(uri: str) -> Spelling:
    """Return the canonical spelling: the scheme in lower case, the rest decoded once except separators in a query."""
    parts = URI.fullmatch(uri)
    why = find_uri_problem(uri)
    if why or parts is None:
        return MalformedPath(why or "not a URI")
    scheme, query = parts["scheme"].lower(), parts["query"]
    if scheme in SPECIAL and not parts["slashes"]:
        return MalformedPath("no host")
    found = [f"{scheme}:{parts['slashes'] or ''}"]
    for part in (
        canonical_location(parts["path"], scheme, bool(parts["slashes"])),
        "" if query is None else canonical_query(query),
    ):
        if isinstance(part, MalformedPath):
            return part
        found.append(part)
    return "".join(found)


def canonical_template(template: str) -> Spelling:
    """Return the canonical spelling of a template. A query that is an expression is left out; other expressions are not
    changed. A template is malformed if its URIs are."""
    if "{" not in template:
        return canonical_uri(template)
    if len(template) > MAX_PATH_LENGTH:
        return MalformedPath(TOO_LONG)
    if BAD_ESCAPE.search(template) or NEEDLESS_ESCAPE.search(template):
        return MalformedPath("a malformed or unnecessary `%` escape")
    path = QUERY_EXPRESSION.sub("", template)
    filled = canonical_uri(EXPRESSION.sub(fill_expression, path))
    if "{" not in path or isinstance(filled, MalformedPath):
        return filled
    literals = [part if at % 2 else decode_segment(part) for at, part in enumerate(EXPRESSION.split(path))]
    if None in literals:
        return MalformedPath("invalid UTF-8")
    return SCHEME.sub(lambda found: found[0].lower(), "".join(filter(None, literals)))


def template_glob(template: str) -> Spelling:
    """Return a glob that matches the canonical spelling of every URI of a template. A template is malformed if all of
    its URIs are."""
    if "{" not in template:
        return canonical_uri(template)
    if len(template) > MAX_PATH_LENGTH:
        return MalformedPath(TOO_LONG)
    rest = EMPTY_EXPRESSION.sub("", template)
    if rest.startswith("{"):
        return "*"
    zeros = unused_zeros(rest)
    filled = canonical_uri(EXPRESSION.sub(lambda found: mark_expression(found[0][1], zeros), rest))
    if isinstance(filled, MalformedPath):
        return filled
    return re.sub(f"[./]2{zeros}|1{zeros}", "*", filled)


def mark_expression(operator: str, zeros: str) -> str:
    """Return a number to put in place of an expression; the number could also be a port. A number that begins with 2
    marks a value that may be missing together with its prefix.
    """
    return f"{operator}2{zeros}" if operator in "./" else f"1{zeros}"


def unused_zeros(text: str) -> str:
    """Return a run of zeros that is longer than every run of zeros in the text."""
    zeros = "0"
    while zeros in text:
        zeros += "0"
    return zeros


def fill_expression(expression: re.Match[str]) -> str:
    """Return a value to put in place of an expression. `#` and `;` are kept, so that the URI is malformed."""
    operator = expression[0][1]
    if expression.start() == 0:
        return "x" if expression.string.startswith(":", expression.end()) else "x:1"
    return f"{operator}1" if operator in "./#;" else "1"  # a port can be 1


def find_uri_problem(uri: str) -> str | None:
    """Return the problem of the whole URI, before it is split; None if there is no problem."""
    if len(uri) > MAX_PATH_LENGTH:
        return TOO_LONG
    if "#" in uri:
        return "a `#`"
    if uri != uri.strip() or find_control_characters(uri):
        return "a control character, or white space at its edge"
    if BAD_ESCAPE.search(uri):
        return "a `%` that does not begin an escape"
    return "an unnecessary `%` escape" if NEEDLESS_ESCAPE.search(uri) else None


def canonical_location(path: str, scheme: str, has_authority: bool) -> Spelling:
    """Canonicalize authority and path. An empty segment is allowed at the end, and as an empty host."""
    segments, found = path.split("/"), []
    if len(segments) > MAX_SEGMENTS:
        return MalformedPath(f"more than {MAX_SEGMENTS} segments")
    for at, part in enumerate(segments):
        is_host = at == 0 and has_authority
        if is_host and scheme in SPECIAL:
            segment = canonical_host(part, scheme)
        else:
            segment = "" if part == "" and at in (0, len(segments) - 1) else canonical_segment(part, is_host=is_host)
        if isinstance(segment, MalformedPath):
            return segment
        found.append(segment)
    return "/".join(found)


def canonical_host(authority: str, scheme: str) -> Spelling:
    """Canonicalize a host of a scheme with case-insensitive hosts. A `file` URI must have no host."""
    if scheme == "file":
        return MalformedPath("a `file` URI with a host") if authority else ""
    host = HOST.fullmatch(authority.lower())
    if host is None or host["port"] == PORTS[scheme]:
        return MalformedPath("an invalid host, or a default port")
    return host[0]


def canonical_segment(part: str, *, is_host: bool) -> Spelling:
    segment = decode_segment(part)
    if segment is None:
        return MalformedPath("invalid UTF-8")
    if is_host and "@" in segment:
        return MalformedPath("a user in front of the host")
    why = find_segment_hazard(segment)
    return segment if why is None else MalformedPath(why)


def canonical_query(query: str) -> Spelling:
    """Return the query with its `?`; separators within a word stay escaped."""
    if "+" in query or ";" in query:
        return MalformedPath("a `+` or `;` in the query, which servers read differently")
    found = []
    for field in query.split("&"):
        words = [canonical_query_word(one) for one in field.split("=", 1)]
        for word in words:
            if isinstance(word, MalformedPath):
                return word
        found.append("=".join(map(str, words)))
    return "?" + "&".join(found)


def canonical_query_word(escaped: str) -> Spelling:
    """Return a word in which only separators and `%` are escaped."""
    word = decode_segment(escaped)
    if word is None or not is_normalized("NFC", word):
        return MalformedPath("invalid UTF-8, or not in Unicode NFC")
    why = find_control_characters(word) or find_disguised_name(word)
    return (
        MalformedPath(why)
        if why
        else "".join(
            char if not char.isascii() or char in QUERY_SAFE_CHARACTERS else quote(char, safe="") for char in word
        )
    )
