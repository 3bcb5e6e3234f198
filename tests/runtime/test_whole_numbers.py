"""Whole numbers are exact up to 34 significant digits, whichever way they come in."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.audit.log import DecisionLog
from policyengine.audit.reader import read_records
from policyengine.audit.replay import replay_decision
from policyengine.check import check
from policyengine.client.socket import NUMBER_EXTENSION, encode_question
from policyengine.engine import Engine
from policyengine.entities.sources import EntitySources
from policyengine.runtime.arithmetic import equal
from policyengine.runtime.request import Request
from policyengine.runtime.values import DECIMAL_CONTEXT, Unknown, Value, coerce
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing import collect, run
from policyengine.typesystem import Scalar

LONG = "12345678901234567890"
DIGITS = 34


def bits(number: int) -> str:
    return f"{number.bit_length()} bits"


def significant(number: int) -> bool:
    return len(str(abs(number)).rstrip("0")) <= DIGITS


def read(request: Request) -> Value:
    return coerce(request.fact("body", "n"), Scalar.NUMBER, "body.n")


def asked(written: Any) -> dict[str, Any]:
    return {"tool": {"name": "t"}, "body": {"n": written}}


def as_json(number: int) -> Request:
    return Request.from_json(json.dumps(asked("N")).replace('"N"', str(number)))


ENTRANCES = {
    "json": as_json,
    "python": lambda number: Request.from_mapping(asked(number)),
    "decimal": lambda number: Request.from_mapping(asked(Decimal(number))),
    "our clients": lambda number: Request.from_msgpack(encode_question(asked(number))),
    "an extension": lambda number: Request.from_msgpack(
        msgpack.packb(asked(msgpack.ExtType(NUMBER_EXTENSION, str(number).encode())))
    ),
}
LARGE = st.integers(-(10**36), 10**36) | st.builds(
    lambda n, zeros: n * 10**zeros, st.integers(-99, 99), st.integers(0, 60)
)


@pytest.mark.parametrize("entrance", ENTRANCES)
@given(number=LARGE)
def test_a_whole_number_is_exact_or_unknown_in_every_input_format(entrance: str, number: int) -> None:
    found = read(ENTRANCES[entrance](number))
    assert found == number if significant(number) else isinstance(found, Unknown)


@given(number=st.decimals(allow_nan=False, allow_infinity=False))
def test_decimals_sent_by_our_clients_are_exact(number: Decimal) -> None:
    found = read(Request.from_msgpack(encode_question(asked(number))))
    exact = read(Request.from_mapping(asked(number)))
    assert isinstance(found, Unknown) if isinstance(exact, Unknown) else equal(found, exact) is True  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [b"", b"0x10", b"1_0", b" 1", b"1e999999", b"NaN", b"9" * 20_000, b"1e6145", b"\xff"])
def test_an_invalid_number_extension_is_unknown(text: bytes) -> None:
    packed = msgpack.packb(asked(msgpack.ExtType(NUMBER_EXTENSION, text)))
    assert isinstance(read(Request.from_msgpack(packed)), Unknown)


# ── In policies, tests, directories, records ──────────────────────────────────────────────────

POLICY = f"""
language 1
package shop
entity user {{ quota: number }}
facts on POST /pay {{ body.n: number }}
issuer acme {{ scopes none }}
user any {{ may POST /pay }}
guard "not that one" on POST /pay {{ deny when body.n == {LONG} }}
guard "no more than the quota" on POST /pay {{ deny when body.n * 10 > user.quota }}
"""
TESTS = f"""
test "exactly" {{
  given user "alice"
  given credential {{ issuer: acme }}
  given user.quota 999_999_999_999_999_999_999
  POST /pay {{ body.n: {LONG} }}     => deny by "not that one"
  POST /pay {{ body.n: 12345678901234567891 }} => allow
  POST /pay {{ body.n: 99_999_999_999_999_999_999 }} => allow
  POST /pay {{ body.n: 100_000_000_000_000_000_000 }} => deny by "no more than the quota"
}}
"""


def test_policies_and_policy_tests_support_20_digit_numbers() -> None:
    module, problems = parse(Source("shop.policy", POLICY + TESTS))
    assert module is not None
    checked = check([module], problems)
    assert checked.kernel is not None, checked.diagnostics
    assert [str(one.status) for one in run(collect(checked), checked.kernel).results] == ["passed"] * 4


TABLES = {
    "users.json": f'{{"entities": [{{"type": "user", "id": "alice", "attributes": {{"quota": {LONG}0}}}}]}}',
    "user.csv": f"id,quota\nalice,{LONG}0\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_entity_sources_support_20_digit_numbers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TABLES[name])
    engine = Engine.from_text(POLICY)
    engine.replace_directory(EntitySources.of(tmp_path / name).read(engine.kernel.entities))
    for number, allowed in ((int(LONG) - 1, True), (int(LONG) + 1, False)):
        question = {"user": {"id": "alice"}, "credential": {"issuer": "acme"}, "body": {"n": number}}
        assert engine.decide({**question, "request": {"method": "POST", "path": "/pay"}}).allowed is allowed


@pytest.mark.parametrize(
    "number", [int(LONG), 2**63, -(2**63) - 1, 10**33 + 1, 10**40, 10**6144, int("1" * 35)], ids=bits
)
def test_replay_of_records_with_large_numbers_gives_the_same_decision(tmp_path: Path, number: int) -> None:
    path = tmp_path / "decisions.jsonl"
    engine = Engine.from_text(POLICY, log=DecisionLog(path))
    question = {"user": {"id": "alice"}, "credential": {"issuer": "acme"}, "body": {"n": number}}
    for asked_with in (question, {**question, "options": {"obligations_supported": ["none"]}}):
        engine.decide({**asked_with, "request": {"method": "POST", "path": "/pay"}})
    records = list(read_records(path))
    assert len(records) == 2
    for record in records:
        again = replay_decision(record, engine.kernel)
        assert again.same
        assert read(record.question) == read(Request.from_mapping(asked(number)))


# ── In arithmetic ─────────────────────────────────────────────────────────────────────────────


@given(LARGE, LARGE)
def test_sums_of_large_numbers_are_exact_or_unknown(one: int, other: int) -> None:
    policy = "facts { body.n: number  body.m: number  body.sum: number }\nanyone { may GET /x }\n"
    engine = Engine.from_text(policy + 'guard "g" { require body.n + body.m == body.sum }')
    body = f'"n": {one}, "m": {other}, "sum": {one + other}'
    text = f'{{"request": {{"method": "GET", "path": "/x"}}, "body": {{{body}}}}}'
    assert engine.decide(text).allowed is all(map(significant, (one, other, one + other)))
    assert DECIMAL_CONTEXT.prec == DIGITS
