"""What is printed for a claim that does not hold is a test that fails in the same way, whatever the policy."""

from __future__ import annotations

from random import Random

import pytest

from policyengine.testcases import Case
from policyengine.testing import ResultStatus, collect, run
from tests.generate import checked_policy
from tests.testing.properties.trials import checked, tried

EXPECTED = ("not allow", "allow", "deny", "not confirm", "deny by default", "not allow by default")
# Of the later ones those that draw what no other draws: captures, chains, addresses.
SEEDS = (*range(4), 10, 11, 19, 20, 22)
CLAIMS = "\n".join(f'test "{one}" {{ forall request => {one} }}' for one in EXPECTED)


def asked(case: Case) -> tuple[object, ...]:
    """Everything that a decision may depend on, and what it should be."""
    approvals = [(one.rule, one.by, one.issuer, one.age) for one in case.approvals]
    return case.question, dict(case.rows), dict(case.attributes), approvals, case.now, case.expected


@pytest.mark.parametrize(
    "seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.deep) for seed in range(24) if seed not in SEEDS)]
)
def test_a_pasted_counterexample_makes_the_generated_request_and_fails_again(seed: int) -> None:
    texts = checked_policy(Random(seed)).texts
    head = texts[0].partition("\n")[0] + "\n"
    assert head.startswith("package ")
    head += "".join(f"{line}\n" for line in texts[0].splitlines()[1:4] if line.startswith("import "))
    broken = [one for one in tried(texts, head + CLAIMS, seed, examples=20) if one.text is not None]
    assert broken  # some of the claims contradict each other
    pasted = checked(*texts, head + "\n".join(str(one.text) for one in broken))
    assert pasted.kernel is not None
    again = run(collect(pasted), pasted.kernel).results
    assert [one.status for one in again] == [ResultStatus.FAILED] * len(broken)
    for one, result in zip(broken, again, strict=True):
        assert one.counterexample is not None
        assert asked(result.case) == asked(one.counterexample)
