"""Every bound: what is just below passes, what is just above gets its own words and never an allow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import msgpack
import pytest

from policyengine.check import check_text
from policyengine.diagnostics.model import Diagnostic, PolicyError
from policyengine.engine import Engine
from policyengine.policy_files import load_sources
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import Request, RequestError
from policyengine.server import create_app

MEBIBYTE = 1024 * 1024
POLICY = """
facts on POST /x {
  body.text: string   body.tags: set<string>?   body.list: list<int>?   body.n: number   body.i: int
}
anyone { may GET /**   may POST /x, TOOL t }
guard "text" on POST /x { deny when (body.text else "") == "no" }
guard "tags" on POST /x { deny unless body.tags is absent or size(body.tags) >= 0 }
guard "list" on POST /x { deny unless body.list is absent or size(body.list) >= 0 }
guard "n" on POST /x { require (body.n else 0) >= 0 }
guard "i" on POST /x { require (body.i else 0) >= 0 }
"""
ENGINE = Engine.from_text(POLICY)


def errors(text: str) -> list[Diagnostic]:
    return [found for found in check_text(text) if found.is_error]


def post(path: str, content: bytes, form: str = "application/json") -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(ENGINE))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(path, content=content, headers={"content-type": form})

    return asyncio.run(run())


def asked(body: object) -> dict[str, object]:
    return {"request": {"method": "POST", "path": "/x"}, "body": body}


# ── A policy ──────────────────────────────────────────────────────────────────────────────────


def test_a_file_over_32_mebibytes_is_rejected() -> None:
    below = "anyone { may GET /x }\n".ljust(32 * MEBIBYTE, "#")
    assert errors(below) == []
    (found,) = errors(below + "#")
    assert (found.code, found.message) == ("E121", "this file has 33,554,433 characters; the limit is 33,554,432")


def test_a_file_larger_than_any_valid_text_is_not_read(tmp_path: Any) -> None:
    with (tmp_path / "large.policy").open("wb") as file:
        file.truncate(128 * MEBIBYTE + 1)
    _, problems = load_sources([tmp_path])
    assert [one.code for one in problems] == ["E153"]


def test_brackets_nested_over_64_levels_are_rejected() -> None:
    def nested(size: int) -> str:
        return "anyone { may GET /x }\ndefine c = " + "(" * size + "credential.bound" + ")" * size

    assert errors(nested(64)) == []
    (found,) = errors(nested(65))
    assert (found.code, found.message) == ("E122", "brackets nest more than 64 levels deep")


@pytest.mark.parametrize(
    "written",
    [
        lambda levels: "not " * levels + "credential.bound",
        lambda levels: "request.size" + " + 1" * levels + " > 0",
        lambda levels: "-" * levels + "request.size > 0",
    ],
)
def test_an_expression_nested_over_100_levels_is_rejected(written: Callable[[int], str]) -> None:
    def at(levels: int) -> list[Diagnostic]:
        return errors(f"define c = {written(levels)}\nanyone {{ may GET /x when c }}")

    deepest = max(levels for levels in range(90, 101) if not at(levels))
    (found, *_) = at(deepest + 1)
    assert (found.code, found.message) == ("E125", "this is nested more than 100 levels deep")
    assert deepest >= 95, "what holds the expression counts a few levels"


def test_an_engine_rejects_a_policy_above_a_bound() -> None:
    with pytest.raises(PolicyError):
        Engine.from_text("anyone { may GET /x when " + "not " * 200 + "credential.bound }")


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ('request.host matches "{}"'.format("x" * 1_000), None),
        ('request.host matches "{}"'.format("x" * 1_001), "E239"),
    ],
)
def test_a_regular_expression_over_a_thousand_characters_is_rejected(expression: str, code: str | None) -> None:
    found = errors(f"anyone {{ may GET /x when {expression} }}")
    assert [one.code for one in found] == ([code] if code else [])


# ── A request ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/decide", "/evaluate", "/explain"])
def test_a_body_is_limited_to_one_mebibyte(path: str) -> None:
    question = json.dumps({"request": {"method": "GET", "path": "/x"}}).encode()
    assert post(path, question.ljust(MEBIBYTE)).status_code == 200
    over = post(path, question.ljust(MEBIBYTE + 1))
    assert (over.status_code, over.json()["detail"]) == (413, "the body is larger than 1 MiB")


def nested(levels: int, container: type[list[Any]] | type[dict[str, Any]]) -> object:
    found: object = 0
    for _ in range(levels):
        found = [found] if container is list else {"a": found}
    return found


@pytest.mark.parametrize("container", [list, dict])
@pytest.mark.parametrize(
    "read",
    [
        lambda q: Request.from_json(json.dumps(q)),
        lambda q: Request.from_msgpack(msgpack.packb(q)),
        Request.from_mapping,
    ],
)
def test_a_request_nested_over_32_levels_is_rejected(container: Any, read: Callable[[Any], Request]) -> None:
    """The request itself is one, and so is its body."""
    assert read(asked({"deep": nested(30, container)}))
    with pytest.raises(RequestError, match="nested more than 32 levels deep"):
        read(asked({"deep": nested(31, container)}))


def test_extremely_deep_nesting_returns_400() -> None:
    for body in (b"[" * 500_000, b'{"a":' * 100_000):
        assert post("/decide", body).status_code == 400
    assert post("/decide", b"\x91" * 500_000, "application/msgpack").status_code == 400


FITS: list[tuple[str, object, object, str, str]] = [
    ("text", "x" * 65_536, "x" * 65_537, "body.text", "longer than 65,536 characters"),
    (
        "tags",
        [str(n) for n in range(10_000)],
        [str(n) for n in range(10_001)],
        "body.tags",
        "more than 10,000 elements",
    ),
    ("list", [1] * 10_000, [1] * 10_001, "body.list", "more than 10,000 elements"),
    ("i", 2**63 - 1, 2**63, "body.i", "beyond 64 bits"),
]


@pytest.mark.parametrize(("member", "below", "above", "fact", "why"), FITS, ids=lambda one: str(one)[:20])
def test_a_fact_above_a_bound_is_unknown(member: str, below: object, above: object, fact: str, why: str) -> None:
    assert ENGINE.decide(asked({member: below})).allowed
    decision = ENGINE.decide(asked({member: above}))
    assert [reason.rule for reason in decision.reasons] == [member]
    assert [(one.fact, one.why) for one in decision.unknown] == [(fact, why)]


@pytest.mark.parametrize(
    ("number", "why"),
    [
        ("9" * 34 + "e-10", None),
        ("1e6000", None),
        ("0." + "1" * 34, None),
        ("9" * 35 + "e-10", "beyond 34 digits"),
        ("0." + "1" * 35, "beyond 34 digits"),
        ("1e99999", "beyond 34 digits"),
        ("1e" + "9" * 400, "beyond 34 digits"),
        ("9" * 34, None),
        ("9" * 35, "beyond 34 digits"),
        ("1" + "0" * 6_144, None),
        ("1" + "0" * 6_145, "beyond 34 digits"),
        ("9" * 300_000, "beyond 34 digits"),
    ],
    ids=lambda one: str(one)[:20],
)
def test_a_number_over_34_digits_is_unknown(number: str, why: str | None) -> None:
    text = f'{{"request": {{"method": "POST", "path": "/x"}}, "body": {{"n": {number}}}}}'
    decision = ENGINE.decide(text)
    assert decision.allowed is (why is None)
    assert [one.why for one in decision.unknown] == ([why] if why else [])


def test_an_object_over_10_000_members_is_unknown() -> None:
    assert ENGINE.decide(asked({f"m{n}": 1 for n in range(10_000)})).allowed
    decision = ENGINE.decide(asked({f"m{n}": 1 for n in range(10_001)}))
    assert not decision.allowed
    assert {one.why for one in decision.unknown} == {"more than 10,000 members"}


@pytest.mark.parametrize(
    ("below", "above", "why"),
    [
        ("/" + "x" * 8_191, "/" + "x" * 8_192, "longer than 8,192 characters"),
        ("/x" * 128, "/x" * 129, "more than 128 segments"),
    ],
    ids=["length", "segments"],
)
def test_a_path_over_the_length_or_segment_limit_is_malformed(below: str, above: str, why: str) -> None:
    assert ENGINE.decide({"request": {"method": "GET", "path": below}}).allowed
    decision = ENGINE.decide({"request": {"method": "GET", "path": above}})
    assert (decision.allowed, str(decision.gate)) == (False, "malformed_path")
    assert why in decision.reasons[0].message


def test_a_batch_over_a_thousand_questions_returns_400() -> None:
    question = {"tool": {"name": "t"}}
    answer = post("/decide/batch", json.dumps({"requests": [question] * 1_000}).encode())
    assert [one["allowed"] for one in answer.json()["decisions"]] == [True] * 1_000
    over = post("/decide/batch", json.dumps({"requests": [question] * 1_001}).encode())
    assert (over.status_code, over.json()["detail"]) == (400, "a batch may hold at most 1,000 requests, got 1,001")


@pytest.mark.parametrize("member", ["approvals", "entities", "pending"])
def test_a_request_list_over_10_000_items_raises_a_request_error(member: str) -> None:
    items: dict[str, Callable[[int], object]] = {
        "approvals": lambda n: {"id": f"a{n}", "by": "alice"},
        "entities": lambda n: {"type": "user", "id": f"u{n}"},
        "pending": lambda n: f"context.f{n}",
    }
    question = {"tool": {"name": "t"}, member: [items[member](n) for n in range(10_000)]}
    assert ENGINE.decide(question).allowed
    question[member] = [items[member](n) for n in range(10_001)]
    with pytest.raises(RequestError, match="more than 10,000 elements"):
        ENGINE.decide(question)


def test_a_chain_over_32_hops_is_unknown() -> None:
    engine = Engine.from_text("""package p
issuer i { records chains  scopes none }
scope reading { GET /x }
agent "a" { issued by i  acts alone  may GET /x  may delegate reading to agent "a" }
""")

    def ask(hops: int) -> Decision:
        hop = {"agent": "a", "issuer": "i"}
        asked = {"request": {"method": "GET", "path": "/x"}, "agent": {"id": "a", "issuer": "i"}}
        return engine.decide({**asked, "chain": {"hops": [hop] * hops}})

    assert ask(32).allowed
    assert [one.why for one in ask(33).unknown] == ["more than 32 hops"]
    assert not ask(33).allowed
