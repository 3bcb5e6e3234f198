"""Detects a method override (`_method=DELETE`) in a body that is not read as facts.

It searches everything that a server could parse as a form, as JSON, or as parts of `multipart`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from urllib.parse import unquote

from policyengine.http.query_fields import MAX_FIELDS, MAX_NAME_LENGTH, possible_names
from policyengine.runtime.paths import OVERRIDE_FIELD, override_name

IN_FORM = re.compile(r"(?:^|[&;])[\s\[\]]*[_\-. \[]method[\s\]]*(?=$|[=&;\[\0])", re.IGNORECASE)
IN_JSON = re.compile(r'"\s*[_-]method\s*"\s*:', re.IGNORECASE)
ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})")
DISPOSITION = re.compile(r"(?:^|[\r\n])[ \t]*content-disposition[ \t]*:((?:[^\r\n]++|\r?\n[ \t])*+)", re.IGNORECASE)
NAME = r"(?<![a-z0-9])name(\*?\d*\*?)\s*=\s*"
NAMED = (  # two ways to read a name: quoted with `"` only, or with `"` or `'`
    re.compile(NAME + r"""("(?:\\.|[^"\\]++)*+"?|[^;\s]*)""", re.IGNORECASE),
    re.compile(NAME + r"""("(?:\\.|[^"\\]++)*+"?|'(?:\\.|[^'\\]++)*+'?|[^;\s]*)""", re.IGNORECASE),
)
# Types that no server parses as a form or as JSON, without surrounding whitespace.
OTHER_TYPE = re.compile(
    r"(?:multipart/[\w.+-]+|(?!.*(?:form|json|multipart))[a-z]+/[\w.+-]+)[ \t]*(?:;[^,]*)?", re.IGNORECASE
)
BYTE_ORDER_MARKS = "\xef\xbb\xbf\xfe\xff"  # byte order marks of UTF-8 and UTF-16
MAX_PARTS, MAX_NAMES = MAX_FIELDS, 20 * MAX_FIELDS  # maximum numbers in one body; a part may have several names
COMMENTS = ("/*", "//")  # comments, which some parsers accept in JSON


def names_method(types: Sequence[str], content: bytes) -> bool:
    """Return whether the body contains a method override. `types` are the content types as sent. Zero bytes are
    ignored, because UTF-16 and UTF-32 have them between ASCII letters.
    """
    text = content.replace(b"\0", b"").decode("latin-1")
    if "multipart" in "".join(types).lower() and in_parts(text):
        return True
    if len(types) == 1 and OTHER_TYPE.fullmatch(types[0].strip(" \t")) and not is_whole(text):
        return False
    return in_form(text) or in_json(text)


def is_whole(text: str) -> bool:
    """Return whether the whole text could be JSON or a form, rather than prose that mentions a method override."""
    bare = text.lstrip(BYTE_ORDER_MARKS).strip()
    return bare.startswith(("{", *COMMENTS)) or len(bare.split(maxsplit=1)) < 2


def in_form(text: str) -> bool:
    return IN_FORM.search(text) is not None or IN_FORM.search(unquote(text.replace("+", " "), "latin-1")) is not None


def in_json(text: str) -> bool:
    return IN_JSON.search(ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)) is not None


def in_parts(text: str) -> bool:
    """Return whether a part is named like an override. If there are more parts or names than the limits, the rest is
    not searched, and the result is true.
    """
    dispositions = list(islice(DISPOSITION.finditer(text), MAX_PARTS + 1))
    names = list(islice((name for one in dispositions for name in part_names(one[1])), MAX_NAMES + 1))
    if len(dispositions) > MAX_PARTS or len(names) > MAX_NAMES:
        return True
    meant = {raw for raw in names if "method" in unquote(raw, "latin-1").lower()}
    return any(override_name(name) == OVERRIDE_FIELD for raw in meant for name in possible_names(raw))


def part_names(disposition: str) -> Iterator[str]:
    """Yield the names of a part, read in each of the ways in which they can be written."""
    for pattern in NAMED:
        found = islice(pattern.finditer(disposition), MAX_NAMES)
        values = [(one[1], one[2].strip("\"'")[:MAX_NAME_LENGTH]) for one in found]
        whole = "".join(value for extended, value in values if extended)
        for value in (*(value for _, value in values), whole):
            bare = re.sub(r"\\(.)", r"\1", value)
            yield from (value, bare, value.rpartition("'")[2])
