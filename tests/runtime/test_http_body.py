"""Bodies as bytes: what every usual reader reads alike is read, and all else is unknown.

Each row was a difference between two readers: of Express, FastAPI, Django, Flask, Rack, PHP and Go. `tests/readers`
asks them, where they are installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest

from policyengine.engine import Engine
from policyengine.http import body_method_override
from policyengine.http import query_fields as form_fields_module
from policyengine.http.body_facts import body_members
from policyengine.http.body_method_override import MAX_NAMES, MAX_PARTS, names_method
from policyengine.http.query_fields import FRAGMENT, MAX_PIECES, form_fields, query_fields
from policyengine.runtime.paths import find_override
from policyengine.runtime.values import Invalid

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
PART = "multipart/form-data; boundary=x"


def read(content: bytes | str, *types: str, codings: tuple[str, ...] = ()) -> Mapping[str, Any] | None:
    """Members, None for one that has no value; None where the body is not read."""
    found = body_members(types, codings, content.encode() if isinstance(content, str) else content)
    return None if isinstance(found, Invalid) else {name: known(value) for name, value in found.items()}


def known(value: Any) -> Any:
    match value:
        case Invalid():
            return None
        case dict():
            return {name: known(one) for name, one in value.items()}
        case tuple():
            return tuple(map(known, value))
        case _:
            return value


# ── Ordinary bodies ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "media",
    [
        JSON,
        f"{JSON}; charset=utf-8",
        f"{JSON};charset=UTF-8",
        f'{JSON}; charset="utf-8"',
        f"{JSON}; charset=utf8",
        "Application/JSON",
    ],
)
def test_a_json_object_body_is_read(media: str) -> None:
    content = (
        '{"to": "alice", "amount": 9.5, "n": 7, "big": 9007199254740992, "ok": true, "in": [{"a": "é"}], "no": {}}'
    )
    assert read(content, media) == {
        "to": "alice", "amount": Decimal("9.5"), "n": 7, "big": 2**53, "ok": True, "in": ({"a": "é"},), "no": {},
    }  # fmt: skip


@pytest.mark.parametrize("media", [FORM, f"{FORM}; charset=utf-8", f"{FORM};charset=UTF8"])
def test_a_form_body_is_read(media: str) -> None:
    assert read("to=alice&note=a+b%20c%C3%A9&cursor=abc==&user-id=7&x=a%26b", media) == {
        "to": "alice", "note": "a b cé", "cursor": "abc==", "user-id": "7", "x": "a&b",
    }  # fmt: skip


@pytest.mark.parametrize(
    "number", ["0.1", "0.10", "1e2", "-0", "4.35", "123456.789", "1e-7", "1e23", "15000", "5e-324"]
)
def test_an_ordinary_json_number_keeps_its_value(number: str) -> None:
    assert read(f'{{"n": {number}}}', JSON) == {"n": Decimal(number)}


# ── What is not read ──────────────────────────────────────────────────────────────────────────

HEADS = {
    "no content type": (),
    "two content types": (JSON, JSON),
    "two content types that differ": (JSON, "text/plain"),
    "two content types in one": (f"{JSON}, {FORM}",),
    "another type": ("text/plain",),
    "a type that looks like JSON": ("text/json",),
    "a type that Express leaves alone, of JSON by its suffix": ("application/vnd.api+json",),
    "no type at all": ("",),
    "utf-7, which Express decodes": (f"{JSON}; charset=utf-7",),
    "utf-16": (f"{JSON}; charset=utf-16le",),
    "latin-1": (f"{JSON}; charset=iso-8859-1",),
    "two character sets": (f"{JSON}; charset=utf-8; charset=utf-7",),
    "two character sets, the other way": (f"{JSON}; charset=utf-7; charset=utf-8",),
    "a quoted character set": (f'{JSON}; charset="utf-7"',),
    "a character set that was continued": (f"{JSON}; charset*=utf-8''utf-7",),
    "no character set": (f"{JSON}; charset=",),
    "another parameter": (f"{JSON}; version=2",),
    "a boundary": (f"{JSON}; boundary=x",),
    "no parameter after a semicolon": (f"{JSON};",),
    "a tab, after which Express 4 reads nothing": (f"{JSON}\t; charset=utf-8",),
}


@pytest.mark.parametrize("types", HEADS.values(), ids=HEADS)
def test_an_ambiguous_content_type_makes_the_body_unknown(types: tuple[str, ...]) -> None:
    assert read('{"to": "alice"}', *types) is None
    forms = [one.replace(JSON, FORM) for one in types]
    assert read("to=alice", *forms) is None


@pytest.mark.parametrize("coding", ["gzip", "identity", "", "x"])
def test_a_body_with_a_content_encoding_is_not_read(coding: str) -> None:
    assert read('{"to": "alice"}', JSON, codings=(coding,)) is None


UNREAD_JSON = {
    "utf-7, as Express decodes it": b"+AHsAIgBhAG0AbwB1AG4AdAAiADoAMQB9-",
    "utf-16, as Python finds it": '{"to": "alice"}'.encode("utf-16-le"),
    "utf-16 with a mark": '{"to": "alice"}'.encode("utf-16"),
    "utf-32": '{"to": "alice"}'.encode("utf-32-be"),
    "a byte order mark, which Express drops": b'\xef\xbb\xbf{"to": "alice"}',
    "bytes that Go replaces": b'{"to": "alice\xff"}',
    "an overlong letter": b'{"t\xc1\xaf": "alice"}',
    "what stands behind, which Go leaves unread": b'{"to": "alice"} {"to": "mallory"}',
    "garbage behind": b'{"to": "alice"}x',
    "a comment, which Ruby skips": b'/**/{"to": "alice"}',
    "a comma at the end": b'{"to": "alice",}',
    "a list": b'[{"to": "alice"}]',
    "a text": b'"to"',
    "null": b"null",
    "cut off": b'{"to": "ali',
    "33 levels deep": b'{"a":' * 33 + b"1" + b"}" * 33,
    "white space that is none in JSON": b'\x0b{"to": "alice"}',
    "a prototype, which JavaScript makes one of": b'{"__proto__": {"to": "mallory"}}',
    "a prototype in other letters": b'{"\\u005f_proto__": {"to": "mallory"}}',
    "the prototype of a constructor": b'{"constructor": {"prototype": {"to": "mallory"}}}',
    "a name of half a character": b'{"\\ud800": 1}',
    "nothing": b"",
    "spaces": b"  ",
    "more fields than a form has": ('{"x": "' + "".join(f"&n{i}=" for i in range(1_001)) + '"}').encode(),
}


@pytest.mark.parametrize("content", UNREAD_JSON.values(), ids=UNREAD_JSON)
def test_json_that_parsers_read_differently_is_not_read(content: bytes) -> None:
    assert read(content, JSON) is None


UNREAD_FORMS = {
    "JSON, as `request.json()` reads it": b'{"x":"&to=alice&y=","to":"mallory"}',
    "a list in JSON": b'["&to=alice&"]',
    "a text in JSON": b'"&to=alice&"',
    "JSON after spaces": b'  {"x":"&to=alice&y=","to":"mallory"}',
    "what Go takes for JSON until it ends": b'{"to":"mallory"}&to=alice',
    "what Go takes for nothing at all": b"null&to=alice",
    "a comment, which Ruby skips": b'/*&to=alice&*/{"to":"mallory"}',
    "a number in JSON": b"5",
    "a truth in JSON": b"true",
    "a byte order mark before JSON": b'\xef\xbb\xbf{"x":"&to=alice&","to":"mallory"}',
    "utf-16, as Python finds it": '{"x":"&to=alice&","to":"mallory"}'.encode("utf-16-be"),
    "bytes that are Latin-1 to Starlette": b"to=\xc3\xa9",
    "a NUL, which ends names of PHP": b"to\x00x=alice",
    "a line end": b"to=alice\n",
    "a tab": b"to=alice\t",
    "a character set of its own": b"_charset_=utf-7&to=alice",
    "more fields than PHP and Express look at": b"&" * 1_000 + b"to=alice",
    "nothing": b"",
}


@pytest.mark.parametrize("content", UNREAD_FORMS.values(), ids=UNREAD_FORMS)
def test_a_form_that_parsers_read_differently_is_not_read(content: bytes) -> None:
    assert read(content, FORM) is None


# ── Members that have no value ────────────────────────────────────────────────────────────────

NO_VALUE_IN_JSON = {
    "a name that is there twice": '"to": "alice", "to": "mallory"',
    "a name that is there twice, once escaped": '"to": "alice", "\\u0074o": "mallory"',
    "a name in another case, which Go takes": '"to": "alice", "To": "mallory"',
    "a name with a long s": '"users": 1, "to": "alice", "u\\u017fers": 2',
    "a whole number that no double holds": '"to": 9007199254740993',
    "twenty digits": '"to": 12345678901234567890',
    "a fraction that no double holds": '"to": 0.1000000000000000000001',
    "a number that is infinite to JavaScript": '"to": 1e400',
    "a number that is nothing to JavaScript": '"to": 1e-400',
    "NaN, which Python reads": '"to": NaN',
    "an infinity, which Python reads": '"to": -Infinity',
    "half a character": '"to": "\\ud800"',
    "an object with a prototype": '"to": {"__proto__": {"a": 1}}',
    "a field of a form in another text": '"to": "mallory", "x": "&to=alice&"',
    "a field of a form in a URL": '"to": "mallory", "x": "https://x.example/?a=1&to=alice"',
    "a field of a form after a semicolon": '"to": "mallory", "x": "&a;to=alice"',
    "a field of a form in pieces": '"to": "mallory", "x": "&t%6F[]=alice"',
}


@pytest.mark.parametrize("members", NO_VALUE_IN_JSON.values(), ids=NO_VALUE_IN_JSON)
def test_an_ambiguous_json_member_is_unknown_and_others_keep_their_values(members: str) -> None:
    found = read(f'{{"ok": true, {members}}}', JSON)
    assert found is not None
    assert found["ok"] is True
    spoilt = "users" if "users" in members else "to"
    assert found[spoilt] is None or found[spoilt] == {"a": None}


NO_VALUE_IN_FORMS = {
    "a name that is there twice": "to=alice&to=mallory",
    "a name that is there twice, once escaped": "to=alice&%74o=mallory",
    "a list of PHP, Rack and Express": "to=alice&to[]=mallory",
    "a list in escapes": "to=alice&to%5B%5D=mallory",
    "an object": "to[x]=mallory",
    "an object with dots": "to.x=mallory",
    "a name in brackets": "[to]=mallory",
    "a bracket that nobody closes": "to[=mallory",
    "a bracket that nobody opened": "to]=mallory",
    "a name after a space, which PHP drops": "+to=mallory",
    "a name that ends in C": "to%00x=mallory",
    "no value, which Rack has as none": "to",
    "an empty value, which FastAPI takes for none": "to=",
    "an escape that is none": "to=%zz",
    "half an escape": "to=a%",
    "bytes that are no UTF-8": "to=%ff",
    "an overlong letter": "to=%c1%af",
    "half a character": "to=%ED%A0%80",
    "a value with a semicolon, which Go drops": "to=a;b",
    "a field after a semicolon": "x=a;to=mallory",
    "a bracket before the sign, where names end to Express": "to=x]=y",
    "the same in escapes": "to=x%5D=y",
}


@pytest.mark.parametrize("fields", NO_VALUE_IN_FORMS.values(), ids=NO_VALUE_IN_FORMS)
def test_an_ambiguous_form_field_is_unknown_and_others_keep_their_values(fields: str) -> None:
    found = read(f"ok=1&{fields}&note=2", FORM)
    assert found is not None
    assert (found["ok"], found["note"]) == ("1", "2")
    assert "to" in found
    assert found["to"] is None
    query = form_fields(f"ok=1&{fields}&note=2")
    assert query is not None
    assert (query["ok"], isinstance(query["to"], Invalid)) == ("1", fields != "to=")


@pytest.mark.parametrize("name", ["a.b", "a%20b", "a+b", "a[b"])
def test_a_form_name_that_php_rewrites_is_unknown(name: str) -> None:
    found = read(f"{name}=1", FORM)
    assert found is not None
    assert found["a_b"] is None


@pytest.mark.parametrize("name", ["__proto__", "constructor", "toString", "hasOwnProperty", "valueOf"])
def test_a_form_name_that_express_omits_is_unknown(name: str) -> None:
    assert read(f"{name}=1&to=alice", FORM) == {name: None, "to": "alice"}


@pytest.mark.parametrize("query", ["#", "#to=alice", "to=alice#", "x=1#&to=alice", "to=alice&#", "x=1;#"])
def test_a_query_with_a_hash_is_not_read(query: str) -> None:
    """Express ends it there, FastAPI and Go go on."""
    assert query_fields(query) == FRAGMENT
    assert query_fields(query.replace("#", "%23")) != FRAGMENT


def test_a_query_with_too_many_parameters_is_not_read() -> None:
    assert form_fields("&" * 999 + "to=alice") is not None
    assert form_fields("&" * 1_000 + "to=alice") is None
    assert form_fields("".join(f"n{i}=1;" for i in range(1_001))) is None


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("t%6=%ff;note=x%5D=y", "t%6=%ff;note=x]"), ("[x]to[x]=1", "[x]to"), ("[[x]to]=1", "[x]to"), ("[]=1", "0"),
        ("a%ff=1", "a\ufffd"), ("a%ff=1", "a%FF"),
    ],
)  # fmt: skip
def test_a_form_name_that_one_framework_rewrites_is_unknown(field: str, name: str) -> None:
    found = form_fields(f"{field}&page=7")
    assert found is not None
    assert isinstance(found[name], Invalid)
    assert found["page"] == "7"


@pytest.mark.parametrize("raw", ["é=1", "Ã©=1"])
def test_a_non_ascii_form_name_is_unknown(raw: str) -> None:
    found = form_fields(raw)
    assert found is not None
    assert isinstance(found["é"], Invalid)


def test_a_one_megabyte_body_is_read_like_a_small_one() -> None:
    """Names that may be fields of a form are looked for in all of it."""
    content = json.dumps({"x": "&amp;a=1&nbsp;" * 70_000, "to": "alice"})
    assert read(content, JSON) == {"x": None, "to": "alice", "a": None, "amp": None, "nbsp": None}
    assert read("a=" + "%41" * 300_000, FORM) == {"a": "A" * 300_000}
    twins = {f"{letter}{number}": 1 for number in range(4_000) for letter in "nN"}
    assert read(json.dumps(twins), JSON) == dict.fromkeys(twins)


# ── Another method ────────────────────────────────────────────────────────────────────────────


def part(line: str) -> str:
    return f"--x\r\n{line}\r\n\r\nDELETE\r\n--x--\r\n"


OVERRIDES = {
    "in a form": ("_method=DELETE", FORM),
    "in escapes": ("a=1&%5Fmethod=DELETE", FORM),
    "as PHP names it": ("a=1&.method=DELETE", FORM),
    "after a space, which PHP drops": ("+_method=DELETE", FORM),
    "as a list": ("_method[]=DELETE", FORM),
    "without a value": ("_method", FORM),
    "after a semicolon": ("a=1;_method=DELETE", FORM),
    "in a form that is not read": ("a=é&_METHOD=DELETE", FORM),
    "in a form of which Go takes the beginning for JSON": ("{&_method=DELETE", FORM),
    "in a form of too many fields": ("&" * 2_000 + "_method=DELETE", FORM),
    "in a form without a content type, as Rack reads it": ("_method=DELETE",),
    "in a form of two types": ("_method=DELETE", FORM, "text/plain"),
    "in a form of two types in one": ("a=1&_method=DELETE", f"{FORM}, text/plain"),
    "in a form in another character set": ("_method=DELETE", f"{FORM}; charset=iso-8859-1"),
    "in a form that calls itself text": ("_method=DELETE", "text/plain"),
    "in JSON": ('{"_method": "DELETE"}', JSON),
    "in JSON that is not read": ('{"\\u005fmethod": "DELETE"} x', JSON),
    "in JSON that calls itself text": ('{"a": 1, "_method": "DELETE"}', "text/plain"),
    "in JSON after a comment, as Ruby has them": ('/**/{"a": 1, "_method": "DELETE"}', "text/plain"),
    "in JSON of an own kind": ('{"_method": "DELETE"}', "application/vnd.api+json"),
    "in a part": (part('Content-Disposition: form-data; name="_method"'), PART),
    "in a part without quotes": (part("content-disposition:form-data;NAME=_method"), PART),
    "in a part in single quotes, as PHP has them": (part("Content-Disposition: form-data; name='_method'"), PART),
    "in a part on two lines": (part('Content-Disposition: form-data;\r\n name="_method"'), PART),
    "in a part in escapes": (part("Content-Disposition: form-data; name*=utf-8''%5fmethod"), PART),
    "in a part in pieces": (part("Content-Disposition: form-data; name*0=_me; name*1=thod"), PART),
    "in a part with a backslash": (part('Content-Disposition: form-data; name="_meth\\od"'), PART),
    "in a part as PHP names it": (part('Content-Disposition: form-data; name=".method"'), PART),
    "in a part of bare lines": ('--x\nContent-Disposition: form-data; name="_method"\n\nDELETE', PART),
    "in a part of another kind of parts": (part('Content-Disposition: form-data; name="_method"'), "multipart/mixed"),
    "in a part, among types": (part('Content-Disposition: form-data; name="_method"'), f"{PART}, text/plain"),
}  # fmt: skip


@pytest.mark.parametrize("case", OVERRIDES.values(), ids=OVERRIDES)
def test_a_method_override_in_a_body_is_detected_even_if_the_body_is_not_read(case: tuple[str, ...]) -> None:
    content, *types = case
    found = body_members(types, (), content.encode())
    assert not isinstance(found, Invalid)
    assert find_override({}, {}, found)


def test_a_method_override_in_utf_16_is_detected() -> None:
    assert names_method([f"{JSON}; charset=utf-16"], '{"_method": "DELETE"}'.encode("utf-16"))


NO_OVERRIDES = {
    "a part of another name": (part('Content-Disposition: form-data; name="method"'), PART),
    "a file of that name": (part('Content-Disposition: form-data; name="file"; filename="_method"'), PART),
    "a page in a part": (part('Content-Disposition: form-data; name="a"') + '<input name="_method">', PART),
    "a text that speaks of it": ("use ; _method = 3 & so on", "text/plain"),
    "a text that shows it": ('write {"_method": "DELETE"} there', "text/markdown"),
    "bytes": ("\0\1 &_method=\r\n", "application/octet-stream"),
    "other names": ("a_method=1&method=2&_methods=3",),
    "null in JSON": ('{"_method": null}', JSON),
}


@pytest.mark.parametrize("case", NO_OVERRIDES.values(), ids=NO_OVERRIDES)
def test_a_body_that_no_server_reads_as_a_method_override_is_accepted(case: tuple[str, ...]) -> None:
    content, *types = case
    found = body_members(types, (), content.encode())
    assert isinstance(found, Invalid) or not find_override({}, {}, found)


NAMED_PART = "Content-Disposition: form-data; name=a{}\r\n"
MANY_NAMES = {
    "parts": NAMED_PART * (MAX_PARTS + 1),
    "names in a part": "Content-Disposition: form-data" + "; name=a" * MAX_NAMES,
    "pieces of a name": "Content-Disposition: form-data" + "; name*1*=a" * MAX_NAMES,
}


@pytest.mark.parametrize("content", MANY_NAMES.values(), ids=MANY_NAMES)
def test_too_many_part_names_count_as_a_method_override_without_a_search(
    content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of those at the end may name a method; and to look at all takes seconds."""
    looked_at: list[str] = []
    monkeypatch.setattr(body_method_override, "possible_names", lambda raw: looked_at.append(raw) or set())
    assert names_method([PART], content.encode())
    assert looked_at == []


@pytest.mark.parametrize("pieces", ["&[{}", ";{}"])
def test_json_text_with_too_many_form_names_is_not_read(pieces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at all of those in a small body takes seconds, and none of them is a name that policies ask for."""
    looked_at: list[str] = []
    monkeypatch.setattr(form_fields_module, "possible_names", lambda *raws: looked_at.extend(raws) or set())
    text = "&" + "".join(map(pieces.format, range(MAX_PIECES + 1)))
    assert read(f'{{"x": "{text}"}}', JSON) is None
    assert looked_at == []


def test_a_long_json_text_that_repeats_one_piece_is_read() -> None:
    text = "a&nbsp;b" + "&nbsp;" * 50_000 + ";;" * 50_000
    assert read(f'{{"x": 1, "y": ["{text[:60_000]}", "{text[-60_000:]}"]}}', JSON) is not None


def test_the_maximum_number_of_parts_is_searched_for_a_method_override() -> None:
    parts = "".join(NAMED_PART.format(number) for number in range(MAX_PARTS - 1))
    assert not names_method([PART], parts.encode())
    assert names_method([PART], (parts + 'Content-Disposition: form-data; name="_method"\r\n').encode())


@pytest.mark.parametrize(("ampersand", "is_read"), [("&", False), (r"\u0026", True)])
def test_a_url_in_json_with_escaped_ampersands_is_not_read_as_form_fields(ampersand: str, is_read: bool) -> None:
    """As docs/in-process.md tells who sends one."""
    text = f'{{"note": "https://x.example/?a=1{ampersand}to=b{ampersand}_method=DELETE", "to": "alice"}}'
    found = body_members(["application/json"], [], text.encode())
    assert isinstance(found, Mapping)
    assert (found["to"] == "alice", "_method" not in found) == (is_read, is_read)


@pytest.mark.parametrize(
    ("type_", "text", "is_known"),
    [("number", "5", False), ("int", "5", False), ("bool", "true", False), ("set<string>", "a", False),
     ("string", "5", True), ("duration", "5m", True), ("time", "2027-01-04T12:00:00Z", True), ("ip", "::1", True)],
)  # fmt: skip
def test_a_form_field_is_a_string_and_unknown_as_number_bool_or_set(type_: str, text: str, is_known: bool) -> None:
    """As docs/in-process.md and docs/gateways.md say."""
    policy = f"facts on POST /x {{ body.a: {type_} }}\nanyone {{ may POST /x when body.a == body.a }}"
    body = body_members(["application/x-www-form-urlencoded"], [], f"a={quote(text)}".encode())
    question = {"request": {"method": "POST", "path": "/x"}, "body": body}
    assert Engine.from_text(policy).decide(question).allowed is is_known
