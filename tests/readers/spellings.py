"""The building blocks of generated bodies: ordinary words, and words that readers have read differently."""

from __future__ import annotations

VOCABULARY = ("to", "amount", "note", "role", "item")  # what models and structs of the servers declare
JSON_TYPES = (
    *("application/json",) * 3, "application/json; charset=utf-8", "Application/JSON;charset=UTF-8",
    "application/json; charset=utf8",
)  # fmt: skip
FORM_TYPES = (
    *("application/x-www-form-urlencoded",) * 4, 'application/x-www-form-urlencoded; charset="utf-8"',
    "application/x-www-form-urlencoded;charset=UTF8",
)  # fmt: skip
ODD_PARAMETERS = (
    ";", "; charset=utf-7", "; charset=utf-16le", "; charset=latin1", "; charset=utf-8; charset=utf-7",
    '; charset="utf-7"', "; charset=utf-7; charset=utf-8", "; version=2", "; charset=utf_8", ", text/plain",
    "; boundary=x", "; charset=", "; charset*=utf-8''utf-7", "; CHARSET=utf-7", "\t;charset=utf-8",
    "; charset=utf-8,application/json",
)  # fmt: skip
OTHER_TYPES = (
    "text/plain", "application/vnd.api+json", "application/merge-patch+json", "text/json", "multipart/form-data",
    "application/octet-stream", "", "json", "application/json+x", "application/x-www-form-urlencoded+json", "*/*",
)  # fmt: skip
NUMBERS = (
    "0", "1", "-1", "5", "900", "15000", "0.1", "0.10", "1.0", "1e2", "1E+2", "-0", "-0.0", "9007199254740991",
    "9007199254740993", "12345678901234567890", "1234567890123456789", "1e400", "-1e400", "1e-400", "1e308",
    "5e-324", "0.1000000000000000000001", "0.30000000000000004", "123456789.123456789", "1e23",
    "100000000000000000000000", "123456789012345678", "4.35", "2.675", "1234567890.12345678", "9999999999999999",
    "0.000001", "1e-7",
)  # fmt: skip
NO_NUMBERS = ("NaN", "Infinity", "-Infinity", "01", "+1", ".5", "5.", "0x10", "1_000", "true1", "undefined", "nul")
TEXTS = (
    "alice", "mallory", "", "a b", "é", "\U0001f600", "&to=mallory", "&to=mallory&y=", "https://x/?amount=5&to=b",
    "5", "null", ";to=mallory", "a&amp;b", "\x7f", "\u2028", "+", "%61", "a=b",
)  # fmt: skip
ESCAPES = (
    r"\ud800", r"\udc00\ud800", r"\u0000", r"\u0061", r"\/", r"\ud83d\ude00", r"\x41", "\t", "\x00", r"\u00",
    "\\\n",
)  # fmt: skip
NAMES = (
    *VOCABULARY, *VOCABULARY, "To", "AMOUNT", "Amount", "r\u014dle", "\u212aey", "note ", " to", "to\\u0000",
    "__proto__", "constructor", "toString", "t\\u006f", "a.b", "to[]", "", "0", "_method", "no\u017fe",
)  # fmt: skip
FIELD_NAMES = (
    *VOCABULARY * 4, "To", "to[]", "to[x]", "to[", "[to]", "to]", "to.x", ".method", "t.o", " to", "+to", "to+",
    "%74o", "to%00x", "%20to", "to%5B%5D", "a%2Eb", "", "__proto__", "constructor", "t%6", "to%zz", "\xe9",
    "to;note", "0", "_method", "to[[]", "to[]x", "t\\o", '"to"', "to%3Dx", "to%26x", "toString", "note%C3%A9",
    "a:b", "$top", "a/b", "a@b", "a-b",
)  # fmt: skip
FIELD_VALUES = (
    "alice", "mallory", "5", "5", "15000", "", "a+b", "%61", "a%20b", "a b", "%zz", "%", "%ff", "%C3%A9", "\xe9",
    "a=b", "a%3Db", "x]=y", "x%5D=y", "x]", "a;b", "a;to=mallory", "a%26to=b", "%00", "a,b", "{}", "null",
    "%EF%BB%BF", "%ED%A0%80", "a\tb", "a\nb", "+", "%2B", "&amp;", "%c0%ae", "ã", "~!*()'", "%u0061", "__proto__",
    "a#b", "a%23b",
)  # fmt: skip
ODD_PIECES = (
    "[", "]", "[]", ".", ";", "%00", "%", "%5B", "%5D", "%3D", "%26", "=", "+", "%20", "%0A", "\\", "'", '"', "%2E",
    "%ff", "%C3", "%E2%80%A8", "%u006f", "%7F", "]=", "%5D=", "[x]", "&", "%C2%A0", "%EF%BB%BF", "{", "}", "$", "*",
    "#", "%23",
)  # fmt: skip
# Of a part of `multipart`.
DISPOSITIONS = (
    'Content-Disposition: form-data; name="NAME"', "Content-Disposition: form-data; name=NAME",
    'content-disposition:form-data;name="NAME"', 'Content-Disposition: form-data; x="name=to"; name="NAME"',
    'Content-Type: text/plain\r\nContent-Disposition: form-data; name="NAME"',
    "Content-Disposition: form-data; name*=utf-8''NAME", 'Content-Disposition: form-data;\r\n name="NAME"',
    'Content-Disposition: form-data; NAME="NAME"', 'Content-Disposition: form-data; name = "NAME"',
    'Content-Disposition: form-data; name="to"; name="NAME"', 'Content-Disposition: form-data; name="NAME"; name="to"',
    "Content-Disposition: form-data; name='NAME'", 'Content-Disposition : form-data; name="NAME"',
    'Content-Disposition: form-data; filename="a"; name="NAME"', 'Content-Disposition: attachment; name="NAME"',
)  # fmt: skip
