"""Fields of a query string or a form (`a=1&b=2`): those that every reader reads alike, the others as unknown.

`a[]=1`, `a.b=1` and ` a=1` are lists, objects or other names to PHP, Rack and Express; of `a=1&a=2` some take the
first, some the last, some both; `;` parts fields for some; a broken escape is text, an error, or no field at all. So a
field counts where there is one way to read it. Every name that some reader may give another field is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from policyengine.http.forwarded_parts import GIVEN_TWICE, UNREADABLE
from policyengine.runtime.values import Invalid

MAX_NAME_LENGTH = 1_000  # that a policy could ask for
MAX_FIELDS = 1_000  # what stands after them PHP and Express leave out
MAX_PIECES = 4 * MAX_FIELDS  # of a text that is no form, in which names are looked for
BROKEN = Invalid("a `%` that begins no escape")
OTHER_NAME = Invalid("a field whose name some servers read otherwise")
WITH_SEMICOLON = Invalid("a field with a `;` in it")
WITH_BRACKET_EQUALS = Invalid("a value with `]=` in it")
NO_VALUE = Invalid("a field without `=`")
EMPTY = Invalid("an empty field of a form")
# What makes a query no question.
TOO_MANY = Invalid(f"more than {MAX_FIELDS:,} parameters")
FRAGMENT = Invalid("a `#`, where some servers end it")

BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Anything else in a name is a list, an object, another name or none to some reader.
PLAIN_NAME = re.compile(r"""[^\x00-\x20\x7f."%&'+;=\[\\\]]+""")
RAW = re.compile(r"[\x20-\x7e]*")  # bytes beyond ASCII that are not escaped are Latin-1 to some
BRACKET_EQUALS = re.compile(r"(?:\]|%5[Dd])=")
BRACKETS = re.compile(r"[\[\]]+")
OPENING = ("[", "%5B", "%5b")  # with one of these before it, a field is an element of a list to Express
ESCAPED_BRACKET = re.compile(r"%5[BDbd]")
# Names that all objects of JavaScript have: Express leaves such fields out.
OBJECT_MEMBER_NAMES = frozenset(
    "__proto__ __defineGetter__ __defineSetter__ __lookupGetter__ __lookupSetter__ constructor hasOwnProperty"
    " isPrototypeOf propertyIsEnumerable toLocaleString toString valueOf".split()
)
Field = str | Invalid


def query_fields(text: str) -> dict[str, Field] | Invalid:
    """The parameters of a query as it stood in the request line, or why it is not read."""
    if "#" in text:
        return FRAGMENT
    found = form_fields(text)
    return TOO_MANY if found is None else found


def form_fields(text: str, *, of_body: bool = False) -> dict[str, Field] | None:
    """By name; None where there are too many to read. `text` is as it came, its escapes in it; `of_body`: of a form,
    where an empty field is none to some."""
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
    """The names that may stand after the first `&` of a text that is no form; None where there are too many to look
    at. Every one costs the time of a form's field: so they are counted before they are looked at."""
    pieces = frozenset(text.split("&")[1:])
    if sum(len(frozenset(piece.split(";"))) for piece in pieces) > MAX_PIECES:
        return None
    return {name for piece in pieces for name, _ in field_readings(piece)}


def field_readings(piece: str, of_body: bool = False) -> Iterator[tuple[str, Field]]:
    """One field, by each name that it might have: a value only where there is but one."""
    raw, equals, value = piece.partition("=")
    bracket = BRACKET_EQUALS.search(value)
    if bracket:  # there the name ends to Express
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
    """The name of a field, if there is but one way to read it."""
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
    """Every name that some reader takes from what stands before `=`."""
    found: set[str] = set()
    for raw in frozenset(raws):
        for text in (raw, unescape_brackets(raw), *byte_readings(raw), *text_readings(unescape_field(raw))):
            ended = text.partition("\0")[0]  # to readers in C
            parts = [part for part in BRACKETS.split(ended) if part][:1]
            before = (ended.partition("[")[0], ended[:1] + ended[1:].partition("[")[0], ended.partition(".")[0])
            found |= {text, text.strip(), ended, *before, *parts, bracketed_name(text)}
    return found | {php_variable_name(one) for one in found}


def bracketed_name(text: str) -> str:
    """What the brackets at its start enclose, others within them included, as Express names a field; else all of it."""
    depth = 0
    for place, char in enumerate(text[:MAX_NAME_LENGTH]):
        depth += (char == "[") - (char == "]")
        if depth == 0:
            return text[1:place] if place else text
    return text


def text_readings(content: bytes) -> Iterator[str]:
    """What is no UTF-8 stands as it is, replaced, or escaped as Flask leaves it."""
    text = content.decode("utf-8", "surrogateescape")
    yield text
    if not text.isascii():
        yield content.decode("utf-8", "replace")
        yield "".join(f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in text)


def unescape_brackets(raw: str) -> str:
    """As Express names a field whose escapes are broken: only its brackets are unescaped."""
    return ESCAPED_BRACKET.sub(lambda found: "[" if found[0] in "%5b%5B" else "]", raw.replace("+", " "))


def byte_readings(raw: str) -> Iterator[str]:
    """Bytes beyond ASCII are characters of Latin-1 to some, and UTF-8 to others."""
    for here, there in (("latin-1", "utf-8"), ("utf-8", "latin-1")):
        try:
            yield raw.encode(here).decode(there)
        except UnicodeError:
            continue


def php_variable_name(name: str) -> str:
    """As PHP names variables."""
    return re.sub(r"[ .\[]", "_", name.lstrip(" "))
