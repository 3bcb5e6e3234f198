"""Paths that two servers could read differently, their treatment, and how a careless server could read them. `READ` has
the accepted paths with their canonical form; `MALFORMED` has the refused ones with the reason."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote_to_bytes

# Accepted paths: the path as sent, and its canonical form.
READ: dict[str, str] = {
    "/": "/",
    "/public": "/public",
    "/public/": "/public",
    "/public/x": "/public/x",
    "/public/x/": "/public/x",
    "/p%75blic/x": "/public/x",
    "/%70%75%62%6C%69%63/x": "/public/x",
    "/public/admin": "/public/admin",
    "/public/admin/": "/public/admin",
    "/public/admin/users": "/public/admin/users",
    "/public/%61dmin": "/public/admin",
    "/public/%61%64%6d%69%6E/users": "/public/admin/users",
    "/public/adm%69n/": "/public/admin",
    "/Public/x": "/Public/x",
    "/PUBLIC/x": "/PUBLIC/x",
    "/admin": "/admin",
    "/publicity": "/publicity",
    "/public-admin": "/public-admin",
    "/public/administrator": "/public/administrator",
    "/public/x/admin": "/public/x/admin",
    "/public/..x": "/public/..x",
    "/public/.hidden": "/public/.hidden",
    "/public/x:y": "/public/x:y",
    "/public/a+b": "/public/a+b",
    "/public/a%20b": "/public/a b",
    "/public/a&b=c": "/public/a&b=c",
    "/public/caf%C3%A9": "/public/café",
    "/public/@admin": "/public/@admin",
    "/public/admin,x": "/public/admin,x",
    "/public/~admin": "/public/~admin",
    "/public/*": "/public/*",
    "/*": "/*",
    "/public/x" + "/y" * 100: "/public/x" + "/y" * 100,
}

DOTS, SLASH, BACK, EMPTY = "a dot segment", "an encoded slash", "a backslash", "an empty segment"
UTF8, TWICE, NUL = "invalid UTF-8", "an escape that changes under a second decoding", "a NUL character"
CONTROL, ESCAPE, START = "a control character", "a `%` that does not begin an escape", "no slash at the start"
EDGE, DOT_END, NFC = (
    "a segment that begins or ends with white space",
    "a segment that ends in a dot",
    "not in Unicode NFC",
)
INVISIBLE, LOOKS = "an invisible character", "a character that some systems read as another"

MALFORMED: dict[str, str] = {
    # dots, plain and encoded
    "/public/../admin": DOTS,
    "/public/./admin": DOTS,
    "/public/x/../admin": DOTS,
    "/public/..": DOTS,
    "/public/.": DOTS,
    "/./public/admin": DOTS,
    "/../public/x": DOTS,
    "/public/%2e%2e/secret": DOTS,
    "/public/%2E%2e/secret": DOTS,
    "/public/.%2e/secret": DOTS,
    "/public/%2e./secret": DOTS,
    "/public/%2e/admin": DOTS,
    "/public/x/%2e%2e/admin/users": DOTS,
    "/public/.../admin": DOTS,
    "/public/\u2024\u2024/secret": DOTS,
    "/public/%EF%BC%8E%EF%BC%8E/secret": DOTS,
    # slashes
    "//public/x": EMPTY,
    "/public//admin": EMPTY,
    "/public//x": EMPTY,
    "/public/x//": EMPTY,
    "//evil.example/public/x": EMPTY,
    "/public%2fadmin": SLASH,
    "/public/x%2f..%2fadmin": SLASH,
    "/public/%2Fadmin": SLASH,
    "/public/x%2F%2e%2e%2Fadmin": SLASH,
    "/public/x\u2215..": DOT_END,
    "/public/\uff0fadmin": SLASH,
    "/public/..%c0%afadmin": UTF8,
    # backslashes
    "/public\\admin": BACK,
    "/public/x\\..\\admin": BACK,
    "/public/%5cadmin": BACK,
    "/public/x%5C..%5Cadmin": BACK,
    "/\\public/x": BACK,
    "/public/\uff3cadmin": BACK,
    # parameters of segments, queries and fragments
    "/public;a=b/admin": "a `;`",
    "/public/admin;a=b": "a `;`",
    "/public/;/admin": "a `;`",
    "/public/..;/admin": "a `;`",
    "/public/admin;": "a `;`",
    "/public/admin%3bx": "a `;`",
    "/public/admin?x=1": "a `?`",
    "/public/x?/../admin": "a `?`",
    "/public/admin%3fx": "a `?`",
    "/public/admin#x": "a `#`",
    "/public/x#/../admin": "a `#`",
    "/public/admin%23": "a `#`",
    # NUL and other control characters
    "/public/admin\0": NUL,
    "/public/admin%00": NUL,
    "/public/admin%00.png": NUL,
    "/public/x%00/../admin": NUL,
    "/public/admin%0a": CONTROL,
    "/public/admin%0d%0a": CONTROL,
    "/public/ad\tmin": CONTROL,
    "/public/admin%7f": CONTROL,
    "/public/admin%C2%85": CONTROL,
    "/public/admin%E2%80%A8": CONTROL,
    # overlong and otherwise invalid UTF-8
    "/public/%c0%ae%c0%ae/secret": UTF8,
    "/public/%e0%80%ae/secret": UTF8,
    "/public/%f0%80%80%ae/secret": UTF8,
    "/public%c0%afadmin": UTF8,
    "/public%c1%9cadmin": UTF8,
    "/public/%c1%a1dmin": UTF8,
    "/public/admin%ff": UTF8,
    "/public/admin%80": UTF8,
    "/public/admin%ed%a0%80": UTF8,
    "/public/admin\ud800": "a lone surrogate",
    "/public/%f8%80%80%80%af": UTF8,
    # double encoding, and invalid escapes
    "/public/%252e%252e/secret": TWICE,
    "/public/x%252f..%252fadmin": TWICE,
    "/public/%2561dmin": TWICE,
    "/public/%25%36%31dmin": TWICE,
    "/public/%252561dmin": TWICE,
    "/public/\uff05%36%31dmin": TWICE,
    "/public/%": ESCAPE,
    "/public/%6": ESCAPE,
    "/public/%u0061dmin": ESCAPE,
    "/public/%%36%31dmin": ESCAPE,
    "/public/admin%": ESCAPE,
    "/public/%\uff16\uff11dmin": ESCAPE,
    # edges that file systems drop
    "/public/admin.": DOT_END,
    "/public/admin%2e": DOT_END,
    "/public/admin./users": DOT_END,
    "/public/admin...": DOT_END,
    "/public/admin ": EDGE,
    "/public/admin%20": EDGE,
    "/public/%20admin": EDGE,
    "/public/admin%20/users": EDGE,
    "/public/admin%C2%A0": EDGE,
    "/public/admin%E3%80%80": EDGE,
    # look-alike letters
    "/public/admi\u0300n": NFC,
    "/public/%E2%84%AB": NFC,
    "/public/ad\u00admin": INVISIBLE,
    "/public/ad%E2%80%8Bmin": INVISIBLE,
    "/public/ad\u200cmin": INVISIBLE,
    "/public/admin%EF%BB%BF": INVISIBLE,
    "/public/\u202eadmin": INVISIBLE,
    "/public/\uff41\uff44\uff4d\uff49\uff4e": LOOKS,
    "/public/%EF%BD%81dmin": LOOKS,
    "/public/\U0001d41admin": LOOKS,
    "/public/\u24d0dmin": LOOKS,
    # other forms of a target
    "": START,
    "*": START,
    "public/x": START,
    "http://gateway.example/public/x": START,
    "HTTP://gateway.example/public/admin": START,
    "gateway.example:443": START,
    "/http://gateway.example/public/x": EMPTY,
    " /public/x": START,
    "%2fpublic/x": START,
    "\ufeff/public/x": START,
    "./public/x": START,
    "?": START,
    # long
    "/public/" + "x" * 8_192: "longer than 8,192 characters",
    "/public/" + "x" * 65_537: "longer than 65,536 characters",
    "/public/" + "%61" * 3_000: "longer than 8,192 characters",
    "/public" + "/x" * 128: "more than 128 segments",
    "/public/" + "../" * 100 + "admin": DOTS,
}  # fmt: skip


# ── How a careless server could read a path ───────────────────────────────────────────────────


def decode(path: str) -> str:
    return unquote_to_bytes(path.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")


def lenient(path: str) -> str:
    """Decode overlong forms of ASCII, as old decoders do."""
    raw = unquote_to_bytes(path.encode("utf-8", "surrogatepass")).decode("latin-1")
    return re.sub("[\xc0\xc1]([\x80-\xbf])", lambda m: chr((ord(m[0][0]) & 1) << 6 | ord(m[1]) & 0x3F), raw)


def collapsed(path: str) -> str:
    """Resolve empty and dot segments, as file systems and proxies do."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept)


def stripped(path: str) -> str:
    return "/".join(segment.strip().rstrip(". ") or segment for segment in path.split("/"))


STEPS: tuple[Callable[[str], str], ...] = (
    decode,
    lenient,
    collapsed,
    stripped,
    lambda path: path.replace("\\", "/"),
    lambda path: re.sub(r";[^/]*", "", path),
    lambda path: re.split("[?#\0]", path)[0],
    lambda path: re.sub("[\\x00-\\x1f\\x7f\u00ad\u200b-\u200f\u2028-\u202e\ufeff]", "", path),
    lambda path: unicodedata.normalize("NFKC", path),
    lambda path: re.sub("^[a-z]+://[^/]*", "", path, flags=re.IGNORECASE),
)


def readings(path: str, steps: int = 3) -> Iterator[str]:
    """Yield the fully decoded texts that a server could read from the path by some of these steps, in any order."""
    seen = {path}
    pending = {path}
    for _ in range(steps):
        pending = {step(one) for one in pending for step in STEPS} - seen
        seen |= pending
    yield from (one for one in seen if "%" not in one)
