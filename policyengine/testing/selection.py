"""Selects tests by name, by rule or by package. A test runs completely or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from policyengine import kernel as k
from policyengine.check import CheckResult
from policyengine.runtime.request import Request, RequestError
from policyengine.spec.match_endpoint import place_covers
from policyengine.testcases import Case, Property

TestName: TypeAlias = tuple[str, str]  # package and test


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of tests. `name` is a part of the test's name, in any letter case; `rule` is the full name of a
    guard. A test concerns a guard if an expectation names the guard, or if the guard covers a request of the test.
    """

    name: str | None = None
    rule: str | None = None
    package: str | None = None

    def keeps(self, example: Case | Property) -> bool:
        """Return whether name and package match."""
        fits = self.name is None or self.name.casefold() in example.test.casefold()
        return fits and self.package in (None, example.package)

    def about(self, checked: CheckResult) -> frozenset[TestName]:
        """Return the tests that concern the rule."""
        guards = [guard for guard in checked.kernel.guards if guard.name == self.rule] if checked.kernel else []
        return frozenset((case.package, case.test) for case in checked.cases if concerns_guard(case, self.rule, guards))


def collect(checked: CheckResult, selection: Selection = Selection()) -> tuple[Case, ...]:
    """Return the requests of selected tests in source order; none if the policy has errors."""
    return tuple(select_examples(checked.cases, checked, selection))


def collect_properties(checked: CheckResult, selection: Selection = Selection()) -> tuple[Property, ...]:
    """Return the claims of selected tests in source order."""
    return tuple(select_examples(checked.properties, checked, selection))


Example = TypeVar("Example", Case, Property)


def select_examples(examples: Iterable[Example], checked: CheckResult, selection: Selection) -> Iterable[Example]:
    about = None if selection.rule is None else selection.about(checked)
    kept = (one for one in examples if checked.ok and selection.keeps(one))
    return kept if about is None else (one for one in kept if (one.package, one.test) in about)


def concerns_guard(case: Case, rule: str | None, guards: Iterable[k.Guard]) -> bool:
    if case.expected.rule == rule:
        return True
    try:
        endpoint = Request.from_mapping(case.question).endpoint
    except RequestError:
        return False
    return any(place_covers(guard.place, endpoint) for guard in guards)
