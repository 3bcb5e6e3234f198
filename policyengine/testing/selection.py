"""Which tests are asked: by name, by the rule they are about, by package. A test is asked whole or not at all."""

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
    """`name` is text that the names of tests hold, in upper or lower case; `rule` the name of a guard, in full.

    A test is about a guard when an expectation names it, or when the guard covers one of its requests.
    """

    name: str | None = None
    rule: str | None = None
    package: str | None = None

    def keeps(self, example: Case | Property) -> bool:
        """Whether name and package fit."""
        fits = self.name is None or self.name.casefold() in example.test.casefold()
        return fits and self.package in (None, example.package)

    def about(self, checked: CheckResult) -> frozenset[TestName]:
        """The tests that are about the rule."""
        guards = [guard for guard in checked.kernel.guards if guard.name == self.rule] if checked.kernel else []
        return frozenset((case.package, case.test) for case in checked.cases if concerns_guard(case, self.rule, guards))


def collect(checked: CheckResult, selection: Selection = Selection()) -> tuple[Case, ...]:
    """The requests of the tests that are selected, in the order of the text; none of a policy with errors."""
    return tuple(select_examples(checked.cases, checked, selection))


def collect_properties(checked: CheckResult, selection: Selection = Selection()) -> tuple[Property, ...]:
    """What the tests that are selected claim for all requests, in the order of the text."""
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
