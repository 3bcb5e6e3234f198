"""Parses a query string or a form (`a=1&b=2`): a field that every parser reads in the same way has a value, and all
others are unknown.

PHP, Rack and Express read `a[]=1`, `a.b=1` and ` a=1` as lists, objects or other names. Of `a=1&a=2`, some parsers take
the first value, some the last, some both. Some split at `;`. Depending on the parser, a broken escape is text, an
error, or no field. Therefore a field has a value only if there is exactly one way to read it, and every name that some
parser may give to another field is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from policyengine.http.gateway_omissions import GIVEN_TWICE, UNREADABLE
from policyengine.runtime.values import Invalid

MAX_NAME_LENGTH = 1_000  # maximum characters of a name that a policy could use
MAX_FIELDS = 1_000  # maximum fields; PHP and Express drop further fields
MAX_PIECES = 4 * MAX_FIELDS  # maximum number of pieces, in text other than a form, that are searched for names
BROKEN = Invalid("a `%` that does not begin an escape")
OTHER_NAME = Invalid("a field whose name servers read differently")
WITH_SEMICOLON = Invalid("a field that contains `;`")
WITH_BRACKET_EQUALS = Invalid("a value that contains `]=`")
NO_VALUE = Invalid("a field without `=`")
EMPTY = Invalid("an empty field of a form")
# Reasons not to read the whole query.
TOO_MANY = Invalid(f"more than {MAX_FIELDS:,} parameters")
FRAGMENT = Invalid("a `#`, where some servers end the query")

BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Names that every parser reads in the same way. For every other name, some parser reads a list, an object, another name
# or no field.
PLAIN_NAME = re.compile(r"""[^\x00-\x20\x7f."%&'+;=\[\\\]]+""")
RAW = re.compile(r"[\x20-\x7e]*")  # ASCII only, because some parsers read other unescaped bytes as Latin-1
BRACKET_EQUALS = re.compile(r"(?:\]|%5[Dd])=")
BRACKETS = re.compile(r"[\[\]]+")
OPENING = ("[", "%5B", "%5b")  # Express reads a field with this prefix as a list element
ESCAPED_BRACKET = re.compile(r"%5[BDbd]")
# Names that all JavaScript objects have: Express drops such fields.
OBJECT_MEMBER_NAMES = frozenset(
    "__proto__ __defineGetter__ __defineSetter__ __lookupGetter__ __lookupSetter__ constructor hasOwnProperty"
    " isPrototypeOf propertyIsEnumerable toLocaleString toString valueOf".split()
)
Field = str | Invalid


def query_fields(text: str) -> dict[str, Field] | Invalid:
    """Return the parameters of a query, spelled as in the request line, or Invalid with the reason why the query is not
    read.
    """
    if "#" in text:
        return FRAGMENT
    found = form_fields(text)
    return TOO_MANY if found is None else found


def form_fields(text: str, *, of_body: bool = False) -> dict[str, Field] | None:
    """Return the fields by name, or None if there are too many. `text` still has its escapes; `of_body` means that the
    text is a form, in which some parsers drop empty fields.
    """
    pieces = text.split("&")
    if len(pieces) + text.count(";") > MAX_FIELDS:
        return None
    found: dict[str, Field] = {}
    for piece in filter(None, pieces):
        for name, value in field_readings(piece, of_body):
            found[name] = GIVEN_TWICE if name in found else value
    lists = sum(piece.startswith(OPENING) for piece in pieces)
    return {**found, **{str(place): OTHER_NAME for place in range(lists)}}


def possible_fields(text: str) -> set[str] | None:
    """Return the names that a text other than a form may have as fields after the first `&`. Return None if there are
    too many pieces; they are counted first, because reading each takes time.
    """
    pieces = frozenset(text.split("&")[1:])
    if sum(len(frozenset(piece.split(";"))) for piece in pieces) > MAX_PIECES:
        return None
    return {name for piece in pieces for name, _ in field_readings(piece)}


def field_readings(piece: str, of_body: bool = False) -> Iterator[tuple[str, Field]]:
    """Yield one field under each name that a parser may give it, with a value only if there is one name."""
    raw, equals, value = piece.partition("=")
    bracket = BRACKET_EQUALS.search(value)
    if bracket:  # Express ends the name here
        yield from ((one, WITH_BRACKET_EQUALS) for one in possible_names(f"{raw}={value[: bracket.end() - 1]}"))
    name = unambiguous_name(raw)
    if ";" in piece:
        yield from (
            (one, WITH_SEMICOLON) for one in possible_names(raw, *(part.partition("=")[0] for part in piece.split(";")))
        )
    elif name is None:
        yield from ((one, OTHER_NAME) for one in possible_names(raw))
    else:
        yield name, WITH_BRACKET_EQUALS if bracket else field_value(value, equals, of_body)


def unambiguous_name(raw: str) -> str | None:
    """Return the name of a field, or None if there is more than one way to read it."""
    if BAD_ESCAPE.search(raw) or not RAW.fullmatch(raw):
        return None
    try:
        name = unescape_field(raw).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return name if PLAIN_NAME.fullmatch(name) and name not in OBJECT_MEMBER_NAMES else None


def field_value(raw: str, equals: str, of_body: bool) -> Field:
    if not equals:
        return NO_VALUE
    if not RAW.fullmatch(raw):
        return UNREADABLE
    if BAD_ESCAPE.search(raw):
        return BROKEN
    if not raw and of_body:
        return EMPTY
    try:
        return unescape_field(raw).decode("utf-8")
    except UnicodeDecodeError:
        return UNREADABLE


def unescape_field(raw: str) -> bytes:
    return unquote_to_bytes(raw.replace("+", " ").encode("utf-8", "surrogateescape"))


def possible_names(*raws: str) -> set[str]:
    """Return every name that some parser reads from the text before `=`."""
    found: set[str] = set()
    for raw in frozenset(raws):
        for text in (raw, unescape_brackets(raw), *byte_readings(raw), *text_readings(unescape_field(raw))):
            ended = text.partition("\0")[0]  # as parsers in C read it: up to the first NUL
            parts = [part for part in BRACKETS.split(ended) if part][:1]
            before = (ended.partition("[")[0], ended[:1] + ended[1:].partition("[")[0], ended.partition(".")[0])
            found |= {text, text.strip(), ended, *before, *parts, bracketed_name(text)}
    return found | {php_variable_name(one) for one in found}


def bracketed_name(text: str) -> str:
    """Return the content of the leading brackets, including nested brackets, which Express takes as the name of a
    field; without brackets, the whole text.
    """
    depth = 0
    for place, char in enumerate(text[:MAX_NAME_LENGTH]):
        depth += (char == "[") - (char == "]")
        if depth == 0:
            return text[1:place] if place else text
    return text


def text_readings(content: bytes) -> Iterator[str]:
    """Yield the text with invalid UTF-8 kept, with it replaced, and with it escaped as Flask does."""
    text = content.decode("utf-8", "surrogateescape")
    yield text
    if not text.isascii():
        yield content.decode("utf-8", "replace")
        yield "".join(f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in text)


def unescape_brackets(raw: str) -> str:
    """Return the name that Express gives to a field with broken escapes: it unescapes only the brackets."""
    return ESCAPED_BRACKET.sub(lambda found: "[" if found[0] in "%5b%5B" else "]", raw.replace("+", " "))


def byte_readings(raw: str) -> Iterator[str]:
    """Yield the text with non-ASCII bytes read as Latin-1 or as UTF-8."""
    for here, there in (("latin-1", "utf-8"), ("utf-8", "latin-1")):
        try:
            yield raw.encode(here).decode(there)
        except UnicodeError:
            continue


def php_variable_name(name: str) -> str:
    """Return the name that PHP gives to the variable."""
    return re.sub(r"[ .\[]", "_", name.lstrip(" "))
