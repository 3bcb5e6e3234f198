"""One spelling of every method and path; whatever two servers could read differently is malformed."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.runtime.paths import CanonicalPath, MalformedPath, canonical_method, canonical_path, find_override

DOT = "a dot segment"
EMPTY = "an empty segment"
SLASH = "an encoded slash"
BACKSLASH = "a backslash"
UTF8 = "invalid UTF-8"
TWICE = "an escape that changes under a second decoding"
CONTROL = "a control character"
ESCAPE = "a `%` that does not begin an escape"
NO_SLASH = "no slash at the start"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", NO_SLASH),
        ("*", NO_SLASH),
        ("v1/invoices", NO_SLASH),
        ("http://evil.example/v1", NO_SLASH),
        (" /v1", NO_SLASH),
        ("%2Fv1", NO_SLASH),
        ("\\v1", NO_SLASH),
        ("//", EMPTY),
        ("//v1", EMPTY),
        ("/v1//invoices", EMPTY),
        ("/v1/invoices//", EMPTY),
        ("/.", DOT),
        ("/..", DOT),
        ("/v1/./invoices", DOT),
        ("/v1/../admin", DOT),
        ("/v1/..", DOT),
        ("/v1/../", DOT),
        ("/v1/.../x", DOT),
        ("/v1/%2e%2e/admin", DOT),
        ("/v1/.%2e/admin", DOT),
        ("/v1/%2E./admin", DOT),
        ("/v1/%2e", DOT),
        ("/v1/\uff0e\uff0e/admin", DOT),
        ("/v1/\u2025/admin", DOT),
        ("/v1/%E2%80%A5/admin", DOT),
        ("/v1/..;/admin", "a `;`"),
        ("/v1;x=1/admin", "a `;`"),
        ("/v1%3Bx/admin", "a `;`"),
        ("/v1\uff1bx", "a `;`"),
        ("/v1%2Fadmin", SLASH),
        ("/v1%2fadmin", SLASH),
        ("/v1/..%2Fadmin", SLASH),
        ("/v1/\uff0fadmin", SLASH),
        ("/v1/\u2100", SLASH),
        ("/v1\\admin", BACKSLASH),
        ("/v1%5Cadmin", BACKSLASH),
        ("/v1/..%5c..%5cadmin", BACKSLASH),
        ("/v1\uff3cadmin", BACKSLASH),
        ("/v1%00.json", "a NUL character"),
        ("/v1\0", "a NUL character"),
        ("/v1%0d%0aX: y", CONTROL),
        ("/v1%09", CONTROL),
        ("/v1\x7f", CONTROL),
        ("/v1%C2%85", CONTROL),
        ("/v1%E2%80%A8x", CONTROL),
        ("/v1/%252e%252e/admin", TWICE),
        ("/v1%252Fadmin", TWICE),
        ("/v1/100%25", TWICE),
        ("/v1/\uff05%32e", TWICE),
        ("/v1/%", ESCAPE),
        ("/v1/%2", ESCAPE),
        ("/v1/%zz", ESCAPE),
        ("/v1/%u002e", ESCAPE),
        ("/v1/%c0%ae%c0%ae/admin", UTF8),
        ("/v1/%c0%af", UTF8),
        ("/v1/%e0%80%af", UTF8),
        ("/v1/%ff", UTF8),
        ("/v1/%ed%a0%80", UTF8),
        ("/v1/%f4%90%80%80", UTF8),
        ("/v1/\ud800", UTF8),
        ("/v1/caf%C3", UTF8),
        ("/v1?admin=1", "a `?`"),
        ("/v1%3Fadmin=1", "a `?`"),
        ("/v1#admin", "a `#`"),
        ("/v1%23admin", "a `#`"),
        ("/v1/e\u0301", "not in Unicode NFC"),
        ("/v1/e%CC%81", "not in Unicode NFC"),
        ("/admin.", "a segment that ends in a dot"),
        ("/admin%2e", "a segment that ends in a dot"),
        ("/admin.../x", "a segment that ends in a dot"),
        ("/admin ", "a segment that begins or ends with white space"),
        ("/admin%20", "a segment that begins or ends with white space"),
        ("/%20admin/x", "a segment that begins or ends with white space"),
        ("/admin%C2%A0", "a segment that begins or ends with white space"),
        ("/ad\u00admin", "an invisible character"),
        ("/admin%E2%80%8B", "an invisible character"),
        ("/\uff41dmin", "a character that some systems read as another"),
        ("/%C2%BD", "a character that some systems read as another"),
        ("/" + "x" * 8_192, "longer than 8,192 characters"),
        ("/x" * 129, "more than 128 segments"),
    ],
)
def test_an_ambiguous_path_is_malformed(path, why):
    assert canonical_path(path) == MalformedPath(why)


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/", ()),
        ("/v1", ("v1",)),
        ("/v1/", ("v1",)),
        ("/v1/invoices/42", ("v1", "invoices", "42")),
        ("/V1", ("V1",)),
        ("/%41", ("A",)),
        ("/%7euser", ("~user",)),
        ("/caf%C3%A9", ("café",)),
        ("/caf%c3%a9", ("café",)),
        ("/café", ("café",)),
        ("/a%20b", ("a b",)),
        ("/a b", ("a b",)),
        ("/a+b", ("a+b",)),
        ("/.well-known/jwks.json", (".well-known", "jwks.json")),
        ("/a..b", ("a..b",)),
        ("/v1/x:cancel", ("v1", "x:cancel")),
        ("/*", ("*",)),
        ("/{id}", ("{id}",)),
        ("/x" * 128, ("x",) * 128),
    ],
)
def test_a_canonical_path_has_its_decoded_segments(path, segments):
    assert canonical_path(path) == CanonicalPath("/" + "/".join(segments), segments)


def test_decoded_and_escaped_spellings_give_the_same_path():
    assert canonical_path("/caf%C3%A9/%2Bx/") == canonical_path("/café/+x")


ANY_PATH = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="/.%2eEfF5cC;\\ aä0\0", max_size=20).map(lambda text: "/" + text),
    st.lists(st.text(max_size=8), max_size=5).map(lambda parts: "/" + "/".join(parts)),
)


@given(ANY_PATH)
def test_canonicalizing_a_canonical_path_changes_nothing(path):
    found = canonical_path(path)
    assert isinstance(found, MalformedPath) or canonical_path(found.path) == found


@given(ANY_PATH)
def test_segments_of_a_canonical_path_contain_no_hazard(path):
    found = canonical_path(path)
    for segment in found.segments if isinstance(found, CanonicalPath) else ():
        assert segment not in {"", ".", ".."}
        assert not set(segment) & set("/\\\0;%?#")


@given(st.lists(st.text(alphabet="abcäöü0-_~:+ ", min_size=1, max_size=8), max_size=5))
def test_escaping_every_character_gives_the_same_canonical_path(parts):
    plain = canonical_path("/" + "/".join(parts))
    assert canonical_path("/" + "/".join(quote(part, safe="") for part in parts)) == plain


@pytest.mark.parametrize(("text", "method"), [("GET", "GET"), ("HEAD", "GET"), ("PURGE", "PURGE")])
def test_the_canonical_method_of_head_is_get(text, method):
    assert canonical_method(text) == method


@pytest.mark.parametrize("text", ["", "get", "Get", "GET ", "GET\n", "M-SEARCH", "A" * 17, "GÉT", "GET2"])
def test_a_method_that_is_not_an_upper_case_word_is_malformed(text):
    assert isinstance(canonical_method(text), MalformedPath)


@pytest.mark.parametrize(
    ("headers", "query", "body"),
    [
        ({"x-http-method-override": "DELETE"}, {}, {}),
        ({"X-HTTP-Method": "DELETE"}, {}, {}),
        ({"x-method-override": "DELETE"}, {}, {}),
        ({"x_http_method_override": "DELETE"}, {}, {}),
        ({"x.http.method.override": "DELETE"}, {}, {}),
        ({"x-http-method-override ": "DELETE"}, {}, {}),
        ({"x-http-method-override": 7}, {}, {}),
        ({"x-http-method-override": ""}, {}, {}),
        ({}, {"_method": "DELETE"}, {}),
        ({}, {"_METHOD": "DELETE"}, {}),
        ({}, {"x-http-method-override": "DELETE"}, {}),
        ({}, {"X-HTTP-Method-Override": "DELETE"}, {}),
        ({}, {}, {"_method": "DELETE"}),
    ],
)
def test_a_method_override_is_detected_in_every_spelling(headers, query, body):
    assert find_override(headers, query, body)


@pytest.mark.parametrize(
    ("headers", "query", "body"),
    [
        ({"x-http-method-override": None}, {}, {}),
        ({"x-method": "visa"}, {"method": "visa"}, {"method": "visa"}),
        ({}, {}, {"x-http-method-override": "DELETE"}),
    ],
)
def test_other_names_are_not_method_overrides(headers, query, body):
    assert not find_override(headers, query, body)
