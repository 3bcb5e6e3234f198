"""The steps that hops of a chain take: for each hop those of the blocks that may be about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from policyengine.engine import Engine
from policyengine.runtime.decision import Gate
from policyengine.runtime.request import Request
from policyengine.spec import work
from tests.spec.deciding import NOW, bot, chain, decide, hop, question, spending
from tests.spec.test_work import counted

HEAD = """
facts { body.text: string? }
users unrestricted
scope s { POST /x }
scope t { POST /y }
issuer acme { records chains }
"""
WHO, REST = 4 * 2, 4 * 5  # a condition of two parts; a block, two requirements, an opening and what is handed on


def block(who: str, scope: str = "s", to: str = "next") -> str:
    return f'agent {who} {{ issued by acme  acts for any user  may {scope}  may delegate {scope} to agent "{to}" }}\n'


def asked(*names: object, **body: object) -> dict[str, object]:
    hops = [{**hop("", "s"), "agent": name} for name in names]
    return question("POST /x", **bot(scopes=["s"]), chain=chain(*hops), body=body)


def steps(blocks: str, *names: object, **body: object) -> int:
    return counted(HEAD + blocks, asked(*names, **body))


def many(count: int, scope: str = "s") -> str:
    return "".join(block(f'where agent.model matches "m{n}"', scope) for n in range(count))


@pytest.mark.parametrize(
    ("blocks", "names", "expected"),
    [
        (many(3), (), 0),
        (many(3), ("a",), 3 * (WHO + REST)),
        (many(3), ("a", "b"), 2 * 3 * (WHO + REST)),
        (many(3, "t"), ("a", "b"), 2 * 3 * WHO),
        (block('where agent.id == "a"'), ("a", "b", "c"), 3 * (WHO + 4) + REST),
        (many(3), (None,), 3 * REST),
        (many(3, "t"), (None,), 0),
        (block('"a"') + block('"b"') + block('"c"'), ("a", "b"), 2 * REST),
        (block('"a*"') + block('"b*"'), ("a", "b"), 2 * REST),
        (block('"a"') + block('"b"'), (None,), 2 * REST),
        (block('group "g"') + block('"a"'), ("a",), REST + REST),
    ],
)
def test_each_hop_counts_the_steps_of_the_blocks_that_may_match_it(
    blocks: str, names: tuple[object, ...], expected: int
) -> None:
    assert steps(blocks, *names) == expected


def test_steps_that_read_text_in_a_block_count_for_each_hop() -> None:
    reading = 'agent "a*" { issued by acme  acts for any user  may s when body.text like "b*" }'
    assert steps(reading, "a1", "a2", text="b" * 640) == 2 * (4 * (4 + 2) + 640 // 64)


def test_blocks_of_other_names_take_no_steps() -> None:
    names = [f"h{n}" for n in range(400)]
    blocks = "".join(block(f'"{name}"', to=then) for name, then in zip(names, [*names[1:], "nobody"], strict=True))
    found = asked(*names[-32:-1])
    found["agent"] = {"id": names[-1], "issuer": "acme"}
    assert steps(blocks, *names[-32:-1]) == 31 * REST
    assert decide(HEAD + blocks, found).allowed


def test_the_operator_learns_the_block_of_a_chain_with_too_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MAX_STEPS", 500)
    assert decide(HEAD + many(8), asked("a", "b")).gate is Gate.IDENTITY
    found, effects = spending(HEAD + block('"bot"') + many(10), asked("a", "b"))
    assert (found.gate, "`agent where" in effects.excess) == (Gate.FAILURE, True)


def test_a_long_chain_through_many_conditional_blocks_is_denied() -> None:
    engine = Engine.from_text(HEAD + many(300), clock=lambda: NOW)
    long = asked(*[f"h{n}" for n in range(31)])
    assert engine.forecast.takes_long(long)
    assert engine.decide(long).gate is Gate.FAILURE


@pytest.mark.parametrize(("count", "hops", "long"), [(100, 2, True), (1, 2, False), (1, 0, False), (60, 0, False)])
def test_the_forecast_of_a_chain_is_long_if_many_blocks_may_match_its_hops(count: int, hops: int, long: bool) -> None:
    engine = Engine.from_text(HEAD + many(count), clock=lambda: NOW)
    assert engine.forecast.takes_long(asked(*[f"h{n}" for n in range(hops)])) is long
    assert engine.forecast.takes_long(Request.from_mapping(asked(*[f"h{n}" for n in range(hops)]))) is long


@pytest.mark.parametrize(("count", "expected"), [(1, False), (20, True)])
def test_the_forecast_reports_whether_chains_may_be_slow(count: int, expected: bool) -> None:
    assert Engine.from_text(HEAD + many(count)).forecast.has_loops is expected


def test_the_forecast_ignores_chains_that_no_issuer_records() -> None:
    assert not Engine.from_text(HEAD.replace("records chains", "") + many(20)).forecast.has_loops


@pytest.mark.parametrize("known", [True, False])
def test_the_forecast_uses_the_chain_of_a_known_token_and_else_awaits_the_issuer(
    known: bool,
) -> None:
    told = asked(*[f"h{n}" for n in range(31)])
    facts = {name: told.pop(name) for name in ("chain", "agent", "user", "credential")}
    engine = Engine.from_text(HEAD + many(300), clock=lambda: NOW)
    proof = SimpleNamespace(facts=facts) if known else None
    identity: Any = SimpleNamespace(
        only_proved=True, of_who=frozenset(), known=lambda *_: proof, known_of=lambda *_: proof
    )
    engine.use_identity(identity)
    brought = {**told, "credentials": {"authorization": "Bearer a-token"}}
    for one in (brought, Request.from_mapping(brought)):
        assert (engine.forecast.awaits_issuer(one), engine.forecast.takes_long(one)) == (not known, known)
