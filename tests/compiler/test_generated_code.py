"""The code that is generated: the same for the same policy, made of our own words only, each line knowing its place."""

import logging
import os
import subprocess
import sys
from typing import Any

import pytest

from policyengine.compiler import reads
from policyengine.engine import Engine
from policyengine.runtime.decision import Gate, Outcome

POLICY = """
package shop
entity order { owner: user }
facts { context.depth: int   context.tenant: string }
issuer acme {}
scope orders.read as "read:orders" { GET /orders/{id: order} }
user any { may orders.read }
agent "bot" {
  issued by acme
  acts for any user
  may orders.read when context.depth <= 3 and context.tenant == "acme"
}
guard "own" on GET /orders/{id: order} { require user == resource.owner }
"""

SHOWN = """\
def rule(q, parts, agent, issuer, user, subject, scopes, moment, C0=None, C1=None, C2=None, C3=None, C4=None, C5=None, places=()):
    v1 = q.get("context", NOTHING)                                                        # policy.policy:11
    v2 = v1.get(C0)
    if type(v2) is str and v2 == C1:
        v3 = v1.get(C2)
        if type(v3) is int and -9223372036854775808 <= v3 <= C3:
            if issuer == C4:                                                              # policy.policy:9
                if user is not None and (subject is None or subject == agent or subject == user):  # policy.policy:10
                    if C5 in scopes: return True                                          # policy.policy:11
    return False
# C0 = 'tenant'
# C1 = 'acme'
# C2 = 'depth'
# C3 = 3
# C4 = 'acme'
# C5 = 'read:orders'
"""  # noqa: E501


@pytest.fixture
def shop() -> Engine:
    return Engine.from_text(POLICY)


def question(**members: Any) -> dict[str, Any]:
    return {
        "request": {"method": "GET", "path": "/orders/7"},
        "agent": {"id": "bot", "issuer": "acme"},
        "user": {"id": "alice"},
        "credential": {"scopes": ["read:orders"]},
        "context": {"depth": 1, "tenant": "acme"},
        **members,
    }


def test_the_generated_code_of_a_grant_tests_the_cheapest_conditions_first(shop: Engine) -> None:
    code = shop.generated_code()
    door = next(part for part in code.split("\n# Shape ") if "if issuer == C" in part and "scopes: return True" in part)
    assert door.partition("\n")[2].startswith(SHOWN)


def test_the_code_is_the_same_whatever_the_seed_of_hashes() -> None:
    script = f"from policyengine.engine.engine import Engine; print(Engine.from_text({POLICY!r}).generated_code())"
    shown = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(shown) == 1


def test_rules_of_one_shape_share_their_code() -> None:
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
    assert len(engine.decider.compiled.evaluator.leaves.shapes.codes) <= 4


@pytest.mark.parametrize("name", ['x"); import os; ("', "\\n    return True", "{0}", "C0", "é", "'''"])
def test_no_name_of_a_policy_becomes_code(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    engine = Engine.from_text(f"""package p
issuer acme {{ scopes none }}
agent "{quoted}" {{ issued by acme  acts alone  may GET /x when request.query["{quoted}"] == "{quoted}" }}
""")
    asked: dict[str, Any] = {"request": {"method": "GET", "path": "/x", "query": {name: name}}}
    asked["agent"] = {"id": name, "issuer": "acme"}
    assert engine.decide(asked).allowed
    assert not engine.decide({**asked, "request": {**asked["request"], "query": {name: "other"}}}).allowed
    code = "\n".join(line for line in engine.generated_code().splitlines() if not line.lstrip().startswith("#"))
    assert name in ("C0", "{0}") or name not in code


def test_a_failure_is_reported_with_the_line_of_the_policy(
    shop: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(reads.Column):
        def __missing__(self, key: object) -> object:
            raise OSError("the directory is gone")

    monkeypatch.setattr("policyengine.compiler.leaves.reads.Column", Broken)
    with caplog.at_level(logging.ERROR, logger="policyengine"):
        decision = shop.decide(question())
    assert (decision.outcome, decision.gate) == (Outcome.DENY, Gate.FAILURE)
    assert "at policy.policy:13" in caplog.records[0].getMessage()


def test_a_tree_of_one_policy_is_the_same_whatever_the_order_of_its_files() -> None:
    first, *rest = POLICY.strip().split("\nissuer", 1)
    other = "\nissuer" + rest[0]
    one, two = (Engine.from_text(text) for text in (first + other, first + other + "\n"))
    assert one.decider.compiled.evaluator.leaves.tree == two.decider.compiled.evaluator.leaves.tree


@pytest.mark.parametrize("id", [None, "", 7, True, ["bot"], "e\u0301"])
def test_an_agent_without_a_name_gets_no_grants_of_its_groups(id: object) -> None:
    engine = Engine.from_text("""package p
issuer acme { scopes none }
agent group "night" { issued by acme  acts alone  may GET /x }
""")
    asked = {"request": {"method": "GET", "path": "/x"}, "agent": {"id": "bot", "issuer": "acme", "groups": ["night"]}}
    assert engine.decide(asked).allowed
    assert engine.decide({**asked, "agent": {**asked["agent"], "id": id}}).gate is Gate.IDENTITY
