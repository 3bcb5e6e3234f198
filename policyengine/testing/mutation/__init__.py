"""Would a test notice? Makes small faults in a policy and asks each the tests that touch it: who survives is a hole."""

from policyengine.testing.mutation.lowering_cache import Mutant
from policyengine.testing.mutation.report import MutantResult, MutantStatus, MutationReport
from policyengine.testing.mutation.run import mutants, mutate, sample
from policyengine.testing.mutation.run_mutants import FailingTestError

__all__ = [
    "FailingTestError",
    "Mutant",
    "MutantResult",
    "MutantStatus",
    "MutationReport",
    "mutants",
    "mutate",
    "sample",
]
