"""What Express, FastAPI, Django, Flask, Rack, PHP and Go read of a body or a query we read alike, or not at all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.readers import bodies
from tests.readers.law import body_differences, query_differences
from tests.readers.readers import FRAMEWORKS, Framework, Running, running

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
ORDINARY = ((JSON, b'{"to": "alice", "amount": 9.5}'), (FORM, b"to=alice&amount=9.5"))
PART = "multipart/form-data; boundary=x"
BODIES = (
    (FORM, b'{"x":"&to=alice&y=","to":"mallory"}'), (FORM, b"null&to=alice"), (FORM, b"to=alice&to=mallory"),
    (FORM, b"to=alice&to[]=mallory"), (FORM, b"to=alice;to=mallory"), (FORM, b"t%6=1&to=alice&to%00x=mallory"),
    (FORM, b"x=a]=&to=alice&to[x]=mallory&.to=b&%20to=c"), (FORM, b"to=&amount"), (FORM, b"to=%ff&amount=%zz"),
    (FORM, b"__proto__=x&toString=y&to=alice"), (f"{FORM}; charset=utf-7", b"+AHQAbw-=mallory&to=alice"),
    (f"{FORM}; charset=utf-16le", b"to=alice"), (FORM, b"_charset_=utf-7&to=alice"),
    (JSON, b'{"to":"alice","to":"mallory"}'), (JSON, b'{"to":"alice","To":"mallory"}'),
    (JSON, b'{"n":9007199254740993,"amount":1e400}'), (JSON, b'{"__proto__":{"to":"mallory"}}'),
    (JSON, b'{"to":"alice"} {"to":"mallory"}'), (JSON, b'{"to":"alice","x":"&to=mallory&"}'),
    (f"{JSON}; charset=utf-7", b'{"+AHQAbw-":"mallory","to":"alice"}'), (JSON, b'\xef\xbb\xbf{"to":"alice"}'),
    (JSON, '{"to":"alice"}'.encode("utf-16")), (JSON, b'{"to":"a\xff"}'), (f"{JSON}, {FORM}", b'{"to":"alice"}'),
    (FORM, b"_method=DELETE&to=alice"), (FORM, b".method=DELETE"), (FORM, b"x=1;_method=DELETE"),
    (PART, b'--x\r\nContent-Disposition: form-data; name="_method"\r\n\r\nPUT\r\n--x--\r\n'),
)  # fmt: skip
QUERIES = (
    "to=alice&to=mallory", "to=alice&to[]=mallory", "to=alice;to=mallory", "to[x]=1&.to=2&%20to=3",
    "t%6=%ff;note=x%5D=y",
    "to=%ff&amount=%zz", "amount&to=", "__proto__=1&toString=2", "to%00x=mallory", "x=]=&to=alice", "_method=PUT",
    "x=1#&to=alice", "to=mallory#", "#to=alice",
)  # fmt: skip


@pytest.fixture(params=FRAMEWORKS, ids=lambda framework: framework.name)
def reader(request: pytest.FixtureRequest) -> Iterator[Running]:
    framework: Framework = request.param
    if not framework.installed:
        pytest.skip(f"{framework.name} is missing: {framework.install}")
    with running(framework) as found:
        yield found


def test_no_framework_reads_a_known_body_or_query_differently(reader: Running) -> None:
    for type_, content in ORDINARY:
        read = [reader.body(way, (("Content-Type", type_),), content) for way in reader.framework.bodies]
        assert any(isinstance(one, dict) and one.get("to") == "alice" for one in read), type_
    assert reader.query(reader.framework.queries[0], "to=alice").get("to") == "alice"
    found = {
        (type_, content): list(body_differences(reader, (("Content-Type", type_),), content))
        for type_, content in (*ORDINARY, *BODIES)
    }
    found |= {("query", query): list(query_differences(reader, query)) for query in QUERIES}
    assert {asked: some for asked, some in found.items() if some} == {}


@pytest.mark.deep
def test_no_framework_reads_many_random_bodies_or_queries_differently(reader: Running) -> None:
    for seed in range(6_000):
        heads, content = bodies.body(seed)
        assert (seed, heads, content, list(body_differences(reader, heads, content))) == (seed, heads, content, [])
        query = bodies.query(seed)
        assert (seed, query, list(query_differences(reader, query))) == (seed, query, [])
