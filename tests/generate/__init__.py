"""Policies and questions by chance, for holding an engine to the specification.

`cases(seed)` gives a policy that checks, a directory and questions near its vocabulary: known names and strangers,
right values, wrong ones, none and pending ones, chains and approvals. Everything takes a seed or a `random.Random`, so
that a failure is repeated by its seed; `shrunk(case, fails)` then makes it small.

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
