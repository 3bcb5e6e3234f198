"""Parses tests that are written at runtime, as in the REPL, with the names of a loaded policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from policyengine.check import CheckResult
from policyengine.checker import confusable_text
from policyengine.checker.names.program import Program
from policyengine.checker.names.symbols import Package
from policyengine.checker.reporter import Reporter
from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testcases import Case
from policyengine.testcases.fact_catalogue import FactCatalogue
from policyengine.testcases.lower import FixtureReader, lower_package


@dataclass(frozen=True, slots=True)
class AdhocTestReader:
    """Parses tests with the names of one package of a policy. Errors in the tests are not errors of the policy."""

    program: Program
    catalogue: FactCatalogue
    package: Package

    @classmethod
    def of(cls, checked: CheckResult, package: str) -> AdhocTestReader:
        program = replace(checked.program, report=Reporter())
        known = program.packages.get(package) or Package(package, (), {}, {})
        if package not in program.packages:
            program = replace(program, packages={**program.packages, package: known})
        return cls(program, FactCatalogue.of(program, checked.schema), known)

    def cases(self, source: Source) -> tuple[Sequence[Case], Sequence[Diagnostic]]:
        """Parse a text that contains tests; return its cases and its errors."""
        module, mistakes = parse(source)
        if module is None or mistakes:
            return (), mistakes
        self.program.report.found.clear()  # the checker reports a finding once, but a text may be parsed again
        found = list(lower_package(replace(self.package, modules=(module,)), FixtureReader(self.catalogue)))
        told = [*self.program.report.diagnostics, *confusable_text.find_confusable_text(module)]
        errors = [one for one in told if one.is_error]
        return [one for one in found if isinstance(one, Case)], errors
