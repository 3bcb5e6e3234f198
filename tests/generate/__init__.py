"""Random policies and questions, for comparing an engine with the specification. `cases(seed)` gives a policy that
checks, entities, and questions near its vocabulary: known and unknown names; right, wrong, missing and pending values;
chains and approvals. Everything takes a seed or a `random.Random`, so that a failure can be repeated by its seed;
`shrunk(case, fails)` then reduces it.

    for case in cases(seed=7):
        assert tree.decide(case.request, case.snapshot, case.now) == case.decide()
"""

from tests.generate.cases import Case, cases, checked_policy, kernel_of, shrunk
from tests.generate.policies import File, Policy, policy
from tests.generate.requests import NOW, approved, directory, question, rows

__all__ = [
    "NOW", "Case", "File", "Policy", "approved", "cases", "checked_policy", "directory", "kernel_of", "policy",
    "question", "rows", "shrunk",
]  # fmt: skip
