"""Blocks of agents: each decides by its own names, groups and constants."""

from __future__ import annotations

from typing import Any

import pytest

from policyengine.compiler.tree import tree_of
from policyengine.engine import Engine
from policyengine.engine.engine import compile_or_raise
from policyengine.runtime.decision import Gate
from policyengine.source import Source


def test_blocks_that_differ_only_in_a_constant_decide_by_their_own() -> None:
    blocks = "\n".join(
        f'agent "a{n}" {{ issued by acme  acts alone  may everything when context.depth <= {n} }}' for n in range(500)
    )
    engine = Engine.from_text(
        f"package p\nfacts {{ context.depth: int }}\nissuer acme {{}}\nscope everything {{ GET /x }}\n{blocks}"
    )
    ask = {"request": {"method": "GET", "path": "/x"}, "credential": {"scopes": ["everything"]}}
    for n in range(500):
        asked = {**ask, "agent": {"id": f"a{n}", "issuer": "acme"}, "context": {"depth": n}}
        assert engine.decide(asked).allowed
        assert not engine.decide({**asked, "context": {"depth": n + 1}}).allowed


@pytest.mark.parametrize("name", ['x"); import os; ("', "\\n    return True", "{0}", "C0", "é", "'''"])
def test_a_name_is_compared_as_it_is_whatever_characters_it_has(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    engine = Engine.from_text(f"""package p
issuer acme {{ scopes none }}
agent "{quoted}" {{ issued by acme  acts alone  may GET /x when request.query["{quoted}"] == "{quoted}" }}
""")
    asked: dict[str, Any] = {"request": {"method": "GET", "path": "/x", "query": {name: name}}}
    asked["agent"] = {"id": name, "issuer": "acme"}
    assert engine.decide(asked).allowed
    assert not engine.decide({**asked, "request": {**asked["request"], "query": {name: "other"}}}).allowed


@pytest.mark.parametrize("id", [None, "", 7, True, ["bot"], "e\u0301"])
def test_an_agent_without_a_name_gets_no_grants_of_its_groups(id: object) -> None:
    engine = Engine.from_text("""package p
issuer acme { scopes none }
agent group "night" { issued by acme  acts alone  may GET /x }
""")
    asked = {"request": {"method": "GET", "path": "/x"}, "agent": {"id": "bot", "issuer": "acme", "groups": ["night"]}}
    assert engine.decide(asked).allowed
    assert engine.decide({**asked, "agent": {**asked["agent"], "id": id}}).gate is Gate.IDENTITY


def test_a_chain_without_an_agent_that_received_it_is_unknown() -> None:
    engine = Engine.from_text(
        "package p\nusers unrestricted\nissuer acme { records chains  scopes none }\nuser any { may GET /x }"
    )
    hop = {"agent": "bot", "issuer": "acme", "scopes": ["x"]}
    asked = {"request": {"method": "GET", "path": "/x"}, "user": {"id": "ann"}, "credential": {"issuer": "acme"}}
    found = engine.decide({**asked, "chain": {"hops": [hop]}})
    assert engine.decide(asked).allowed
    assert found.gate is Gate.CHAIN
    assert [(one.fact, one.why) for one in found.unknown] == [("chain.hops", "no agent received a delegation")]


def test_the_tree_of_a_policy_is_the_same_in_any_order_of_its_files() -> None:
    first = "package shop\nentity order { owner: user }\nissuer acme {}\nscope read { GET /orders/{id: order} }\n"
    other = 'package shop\nuser any { may read }\nguard "own" on read { require user == resource.owner }\n'
    texts = [Source("first.policy", first), Source("other.policy", other)]
    one, two = (tree_of(compile_or_raise(sources, ())) for sources in (texts, texts[::-1]))
    assert one == two
