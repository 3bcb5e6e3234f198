"""Random bodies, headers and queries: mostly ordinary, with parts that two readers may read differently."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.readers.spellings import (
    DISPOSITIONS,
    ESCAPES,
    FIELD_NAMES,
    FIELD_VALUES,
    FORM_TYPES,
    JSON_TYPES,
    NAMES,
    NO_NUMBERS,
    NUMBERS,
    ODD_PARAMETERS,
    ODD_PIECES,
    OTHER_TYPES,
    TEXTS,
)

Heads = tuple[tuple[str, str], ...]
BOUNDARY = "x7"


def body(seed: int) -> tuple[Heads, bytes]:
    chance = random.Random(seed)
    kind = chance.choice(("json",) * 5 + ("form",) * 5 + ("form as json", "json as form", "multipart"))
    if kind == "multipart":
        return (("Content-Type", f"multipart/form-data; boundary={BOUNDARY}"),), multipart(chance)
    text = json_text(chance).encode("utf-8", "surrogatepass") if kind.startswith("json") else form(chance)
    return heads(chance, JSON_TYPES if kind.endswith("json") else FORM_TYPES), odd(chance, text)


def heads(chance: random.Random, types: tuple[str, ...]) -> Heads:
    type_ = chance.choice(types)
    match chance.randrange(30):
        case 0 | 5:
            return (("Content-Type", type_ + chance.choice(ODD_PARAMETERS)),)
        case 1:
            return (("Content-Type", chance.choice(OTHER_TYPES)),)
        case 2:
            both = [("Content-Type", type_), ("Content-Type", chance.choice((*JSON_TYPES, *FORM_TYPES, *OTHER_TYPES)))]
            chance.shuffle(both)
            return tuple(both)
        case 3:
            return ()
        case 4:
            return (("Content-Type", type_), ("Content-Encoding", chance.choice(("identity", "gzip", "", "x"))))
        case _:
            return (("Content-Type", type_),)


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────


def json_text(chance: random.Random) -> str:
    start = chance.choice(("",) * 40 + ("\ufeff", " ", "\n", "\x0b", "null ", "[1]", "//x\n", "/**/"))
    end = chance.choice(("",) * 40 + (" ", "\n", " x", "{}", '{"to":"mallory"}', "\0", "&to=mallory", "//x", ","))
    whole = members(chance, 0) if chance.randrange(20) else value(chance, 0)
    return start + whole + end


def members(chance: random.Random, depth: int) -> str:
    names = [chance.choice(NAMES) for _ in range(chance.randrange(5))]
    pairs = [f"{spelled(chance, name)}{chance.choice((':', ': ', ' :'))}{value(chance, depth)}" for name in names]
    return "{" + chance.choice((",", ", ", ",\n")).join(pairs) + ("," if not chance.randrange(80) else "") + "}"


def spelled(chance: random.Random, name: str) -> str:
    quote = "'" if not chance.randrange(150) else '"'
    return f"{quote}{name}{quote}"


def value(chance: random.Random, depth: int) -> str:
    match chance.randrange(14):
        case 0 | 1 | 2 | 3:
            return chance.choice(NUMBERS)
        case 4:
            return chance.choice((*NO_NUMBERS, *NUMBERS * 5))
        case 5 if depth < 3:
            return members(chance, depth + 1)
        case 6 if depth < 3:
            return "[" + ",".join(value(chance, depth + 1) for _ in range(chance.randrange(3))) + "]"
        case 7:
            return chance.choice(("true", "false", "null"))
        case 8 if not chance.randrange(3):
            return f'"{chance.choice(ESCAPES)}"'
        case _:
            text = chance.choice(TEXTS)
            return f'"{text}"'


# ── Forms and queries ─────────────────────────────────────────────────────────────────────────

SEPARATORS = ("&",) * 20 + (";", "&&", "& ", "&amp;", ",", "\n")


def form(chance: random.Random) -> bytes:
    start = chance.choice(
        ("",) * 60 + ("&", "=", "{", "[", '"', "null=1&", "null&", " ", "\xef\xbb\xbf", "?", "1&", "true", "{}&")
    )
    return (start + fields(chance)).encode("latin-1", "replace")


def query(seed: int) -> str:
    """Return a query of bytes that may occur in the request line, each as a character."""
    found = fields(random.Random(seed)).encode("latin-1", "replace").decode("latin-1")
    return "".join(char for char in found if char > " " and char != "\x7f")


def fields(chance: random.Random) -> str:
    found = ""
    for _ in range(chance.randrange(1, 5)):
        name, value = spoiled(chance, chance.choice(FIELD_NAMES)), spoiled(chance, chance.choice(FIELD_VALUES))
        piece = name if not chance.randrange(15) else f"{name}={value}"
        found += (chance.choice(SEPARATORS) if found else "") + piece
    return found


def spoiled(chance: random.Random, text: str) -> str:
    """Sometimes insert something odd."""
    if chance.randrange(12):
        return text
    place = chance.randrange(len(text) + 1)
    return text[:place] + chance.choice(ODD_PIECES) + text[place:]


def multipart(chance: random.Random) -> bytes:
    """Return a multipart body, of which we read only a method override."""
    parts = [part(chance) for _ in range(chance.randrange(1, 3))]
    return "".join([*parts, f"--{BOUNDARY}--\r\n"]).encode("latin-1", "replace")


def part(chance: random.Random) -> str:
    name = spoiled(chance, chance.choice(("to", "_method", "_method", "_METHOD", ".method", "note")))
    head = chance.choice(DISPOSITIONS).replace("NAME", name)
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n{chance.choice(FIELD_VALUES)}\r\n"


# ── What comes over anything ──────────────────────────────────────────────────────────────────

ODD: tuple[Callable[[bytes], bytes], ...] = (
    lambda content: content.decode("utf-8", "replace").encode("utf-16"),
    lambda content: content.decode("utf-8", "replace").encode("utf-16-le"),
    lambda content: content.decode("utf-8", "replace").encode("utf-32-be"),
    lambda content: content.decode("utf-8", "replace").encode("utf-7"),
    lambda content: content + b"\xff",
    lambda content: content[: len(content) // 2],
    lambda content: b"\xef\xbb\xbf" + content,
    lambda content: b"\x1f\x8b" + content,
    lambda content: content.replace(b"o", b"\xc1\xaf"),
    lambda content: b"",
)


def odd(chance: random.Random, content: bytes) -> bytes:
    return chance.choice(ODD)(content) if not chance.randrange(30) else content
