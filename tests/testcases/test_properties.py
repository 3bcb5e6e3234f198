"""What a test claims of all requests, `forall request where … => …`: the condition, the world, the outcome."""

import pytest

from policyengine import kernel as k
from policyengine.check import check
from policyengine.runtime.decision import Gate, Outcome
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testcases import Property
from policyengine.typesystem import RefType, Scalar, UnresolvedType

WORLD = """
enum plan = free < team
entity user { tenant: string  plan: plan }
entity invoice { tenant: string }
entity folder { name: string }
facts on POST /a { body.amount: number }
facts on POST /b { body.amount: number  body.note: string }
define foreign = user.tenant != resource.tenant
anyone { may POST /a, POST /b, GET /i/{id: invoice}, GET /f/{name}, GET /x/{any: invoice}, GET /y/{any: folder} }
guard "islands" on /i/{id} { deny when foreign }
"""


def properties(inside: str) -> tuple[Property, ...]:
    module, findings = parse(Source("p.policy", f'{WORLD}\ntest "t" {{\n{inside}\n}}'))
    assert module
    assert not findings
    checked = check([module])
    assert checked.ok, [finding.render() for finding in checked.diagnostics]
    assert not checked.cases
    return checked.properties


def test_a_property_without_a_condition_applies_to_all_requests() -> None:
    [found] = properties("forall request => not throttle")
    assert (found.where, found.expected.outcome, found.expected.negated) == (None, Outcome.THROTTLE, True)


def test_properties_are_numbered_and_see_the_givens_before_them() -> None:
    first, second = properties('given user.plan team forall request => deny given agent "x" forall request => deny')
    assert (first.number, second.number) == (1, 2)
    assert first.world.attributes == second.world.attributes == {("user", "plan"): "team"}
    assert ("agent" in first.world.facts, "agent" in second.world.facts) == (False, True)


def test_a_property_can_name_the_rule_or_the_gate() -> None:
    rule, gate = properties('forall request => deny by "islands" forall request => not allow by default')
    assert (rule.expected.rule, gate.expected.gate) == ("islands", Gate.DEFAULT)


def test_a_skipped_property_keeps_its_reason() -> None:
    assert [found.skip for found in properties('skip "later" forall request => allow')] == ["later"]


@pytest.mark.parametrize(
    "where",
    [
        "foreign",
        "user.tenant != resource.tenant",
        "body.amount > 500 and body.note is present",
        'params.id == invoice "42" or params.name like "x*"',
        'approval.granted or chain.depth > 3 or request.headers["x-id"] == "1"',
        "credential.lifetime > 15m and time > 2027-01-01",
        'resource == invoice "42" and user.plan >= team',
        'any agent_ in chain.agents: agent_ == "x"',
    ],
)
def test_a_property_condition_can_read_any_fact_with_a_resolved_type(where: str) -> None:
    [found] = properties(f"forall request where {where} => not allow")
    assert found.where is not None
    facts = [part for part in k.walk(found.where) if isinstance(part, k.Fact | k.Attribute)]
    assert facts
    assert not any(isinstance(part.type, UnresolvedType) for part in facts)


def test_a_capture_is_a_reference_if_all_paths_give_it_a_type() -> None:
    [by_id] = properties('forall request where params.id == invoice "1" => deny')
    [by_any] = properties('forall request where params.any == "1" => deny')
    types = {part.path[1]: part.type for one in (by_id, by_any) if one.where is not None
             for part in k.walk(one.where) if isinstance(part, k.Fact)}  # fmt: skip
    assert types == {"id": RefType(frozenset({"invoice"})), "any": Scalar.STRING}
