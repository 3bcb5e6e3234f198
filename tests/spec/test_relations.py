"""Relations: each row means what the specification says, and unknown on either side is unknown."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

import pytest

from policyengine import kernel as k
from policyengine.analysis.diff.specialize import EMPTY_FACTS
from policyengine.checker.types.operators import OPERATORS
from policyengine.runtime.values import Unknown
from policyengine.source import Source, Span
from policyengine.spec.evaluate import evaluate
from policyengine.syntax.parse_table import GRAMMAR
from policyengine.typesystem import Scalar, SetType, Type

NOWHERE = Span(Source("", ""), 0, 0)
INT, STRING, STRINGS = Scalar.INT, Scalar.STRING, SetType(Scalar.STRING)
ABSENT = k.Fact(("context", "nothing"), STRING, optional=True, span=NOWHERE)
# By operator the types of both sides, a pair for which it holds, and one for which it does not.
CASES: dict[str, tuple[Type, Type, tuple[object, object], tuple[object, object]]] = {
    "==": (INT, INT, (1, 1), (1, 2)),
    "!=": (INT, INT, (1, 2), (1, 1)),
    "<": (INT, INT, (1, 2), (2, 2)),
    "<=": (INT, INT, (2, 2), (3, 2)),
    ">": (INT, INT, (3, 2), (2, 2)),
    ">=": (INT, INT, (2, 2), (1, 2)),
    "has": (STRINGS, STRING, (("a", "b"), "a"), (("a", "b"), "c")),
    "holds": (STRINGS, STRING, (("a", "b"), "a"), (("a", "b"), "c")),
    "within": (
        Scalar.IP, Scalar.CIDR, (ip_address("10.0.0.1"), ip_network("10.0.0.0/8")),
        (ip_address("11.0.0.1"), ip_network("10.0.0.0/8")),
    ),
    "like": (STRING, STRING, ("acme-1", "acme-*"), ("evil", "acme-*")),
    "matches": (STRING, STRING, ("a1", "[a-z][0-9]"), ("11", "[a-z][0-9]")),
    "overlaps": (STRINGS, STRINGS, (("a", "b"), ("b", "c")), (("a",), ("b",))),
    "subset of": (STRINGS, STRINGS, (("a",), ("a", "b")), (("a", "c"), ("a", "b"))),
}  # fmt: skip
BY_DIRECTORY = {"in", "below", "child of"}  # see test_reference_entities.py


def constant(value: object, type_: Type) -> k.Constant:
    return k.Constant(value, type_, span=NOWHERE)  # type: ignore[arg-type]  # a value of any type


def relation(operator: str, left: k.Expr, right: k.Expr) -> object:
    return evaluate(k.Relation(operator, left, right, span=NOWHERE), EMPTY_FACTS.looked_at_anew)


def test_every_relation_has_a_case() -> None:
    assert set(CASES) | BY_DIRECTORY == set(k.RELATIONS)


@pytest.mark.parametrize("operator", CASES)
def test_a_relation_evaluates_as_its_table_row_defines(operator: str) -> None:
    left, right, true, false = CASES[operator]
    for pair, expected in ((true, True), (false, False)):
        assert relation(operator, constant(pair[0], left), constant(pair[1], right)) is expected
        assert k.RELATIONS[operator].holds(*pair) is expected


@pytest.mark.parametrize("operator", CASES)
def test_a_relation_is_unknown_if_its_left_side_is_unknown(operator: str) -> None:
    _, right, true, _ = CASES[operator]
    assert isinstance(relation(operator, ABSENT, constant(true[1], right)), Unknown)


@pytest.mark.parametrize("operator", [one for one in CASES if k.RELATIONS[one].operands is not k.Operands.PATTERN])
def test_a_relation_is_unknown_if_its_right_side_is_unknown(operator: str) -> None:
    left, _, true, _ = CASES[operator]
    assert isinstance(relation(operator, constant(true[0], left), ABSENT), Unknown)


@pytest.mark.parametrize("operator", [one for one, row in k.RELATIONS.items() if row.operands.are_texts])
def test_at_least_one_sample_of_a_text_relation_holds(operator: str) -> None:
    row, pattern = k.RELATIONS[operator], str(CASES[operator][2][1])
    assert any(row.holds(sample, pattern) for sample in row.samples(pattern))


def test_every_operator_of_the_grammar_is_lowered() -> None:
    rule = re.search(r"^!comparison:(.*?)^\?sum", GRAMMAR.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert rule is not None
    words = [" ".join(re.findall(r'"([a-z]+)"', choice)) for choice in rule[1].split("|")]
    assert {word for word in words if word} <= {*OPERATORS, *k.RELATIONS}
