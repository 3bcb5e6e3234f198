"""URIs of MCP resources in the one spelling that policies compare, or malformed.

Templates of servers decode what they capture: `notes://%73ecret/x` is the note `x` of the box `secret`. So the URI is
decoded once here, too, and what two servers could read differently is malformed, as it is of paths.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias
from unicodedata import is_normalized
from urllib.parse import quote

from policyengine.runtime.paths import (
    BAD_ESCAPE,
    LONGEST_PATH,
    MOST_SEGMENTS,
    Malformed,
    decoded,
    disguise,
    hazard,
    odd_characters,
)

URI: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?P<slashes>//)?(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?")
# Of letters, digits and `-._~`: whoever writes one wants two readers to read two things.
NEEDLESS: Final = re.compile(r"%(?:2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])", re.IGNORECASE)
EXPRESSION: Final = re.compile(r"(\{[^{}]*\})")
# Schemes whose hosts usual readers write in lower case, without the port that goes without saying.
PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}
HOST: Final = re.compile(r"(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]*))?")
SPECIAL: Final = frozenset({*PORTS, "file"})
KEPT_IN_QUERY: Final = "!$'()*,/:?@[]|^`{}\"<> "  # beside letters, digits and `-._~`: all that separates nothing there
Spelling: TypeAlias = str | Malformed


def canonical_uri(uri: str) -> Spelling:
    """The one spelling of a URI: the scheme in lower case, all else decoded once but what separates in a query."""
    parts = URI.fullmatch(uri)
    why = unusable(uri)
    if why or parts is None:
        return Malformed(why or "no URI")
    scheme, query = parts["scheme"].lower(), parts["query"]
    if scheme in SPECIAL and not parts["slashes"]:
        return Malformed("no host")
    found = [f"{scheme}:{parts['slashes'] or ''}"]
    for one in (located(parts["path"], scheme, bool(parts["slashes"])), "" if query is None else queried(query)):
        if isinstance(one, Malformed):
            return one
        found.append(one)
    return "".join(found)


def canonical_template(template: str) -> Spelling:
    """The same for a template, whose expressions stand as they are: a list is about no single resource."""
    if "{" not in template:
        return canonical_uri(template)
    if BAD_ESCAPE.search(template) or NEEDLESS.search(template):
        return Malformed("an escape that is none, or that is not needed")
    literals = [part if at % 2 else decoded(part) for at, part in enumerate(EXPRESSION.split(template))]
    return Malformed("invalid UTF-8") if None in literals else "".join(filter(None, literals))


def unusable(uri: str) -> str | None:
    """What is wrong with the URI as a whole, before it is taken apart."""
    if len(uri) > LONGEST_PATH:
        return f"longer than {LONGEST_PATH:,} characters"
    if "#" in uri:
        return "a `#`"
    if uri != uri.strip() or odd_characters(uri):
        return "a control character, or white space at its edge"
    if BAD_ESCAPE.search(uri):
        return "a `%` that begins no escape"
    return "an escape of a character that needs none" if NEEDLESS.search(uri) else None


def located(path: str, scheme: str, has_authority: bool) -> Spelling:
    """Authority and path. An empty segment is allowed at the end, and where a host is none."""
    segments, found = path.split("/"), []
    if len(segments) > MOST_SEGMENTS:
        return Malformed(f"more than {MOST_SEGMENTS} segments")
    for at, part in enumerate(segments):
        is_host = at == 0 and has_authority
        if is_host and scheme in SPECIAL:
            segment = host_of(part, scheme)
        else:
            segment = "" if part == "" and at in (0, len(segments) - 1) else segment_of(part, is_host=is_host)
        if isinstance(segment, Malformed):
            return segment
        found.append(segment)
    return "/".join(found)


def host_of(authority: str, scheme: str) -> Spelling:
    """Of a scheme whose hosts have no case. A file is on this machine, which has many names."""
    if scheme == "file":
        return Malformed("a file on a host") if authority else ""
    host = HOST.fullmatch(authority.lower())
    if host is None or host["port"] == PORTS[scheme]:
        return Malformed("a host that is not written as hosts are")
    return host[0]


def segment_of(part: str, *, is_host: bool) -> Spelling:
    segment = decoded(part)
    if segment is None:
        return Malformed("invalid UTF-8")
    if is_host and "@" in segment:
        return Malformed("a user in front of the host")
    why = hazard(segment)
    return segment if why is None else Malformed(why)


def queried(query: str) -> Spelling:
    """With its `?`. What separates is written as an escape where it separates nothing."""
    if "+" in query or ";" in query:
        return Malformed("a `+` or `;` in the query, which some servers read otherwise")
    found = []
    for field in query.split("&"):
        words = [word_of(one) for one in field.split("=", 1)]
        for one in words:
            if isinstance(one, Malformed):
                return one
        found.append("=".join(map(str, words)))
    return "?" + "&".join(found)


def word_of(escaped: str) -> Spelling:
    """Only what would separate, or begin an escape, is one."""
    word = decoded(escaped)
    if word is None or not is_normalized("NFC", word):
        return Malformed("invalid UTF-8, or not in Unicode NFC")
    why = odd_characters(word) or disguise(word)
    return (
        Malformed(why)
        if why
        else "".join(char if not char.isascii() or char in KEPT_IN_QUERY else quote(char, safe="") for char in word)
    )
