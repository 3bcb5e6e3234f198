"""Mutation testing: puts small faults into a policy and runs the tests that each fault may affect. A mutant that
survives shows a gap in the tests.
"""

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
