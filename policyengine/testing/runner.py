"""Asks the cases of tests, each in a world of its own, of the executable specification."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from policyengine.directory.entities import Directory
from policyengine.kinds import EntityRef, Ref
from policyengine.runtime.decision import Decision
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Approval, Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.semantics import kernel as k
from policyengine.semantics.check import Checked
from policyengine.semantics.examples import Case, Expected, GivenApproval
from policyengine.semantics.explain import explain
from policyengine.semantics.facts import Facts
from policyengine.semantics.meaning import facts_of
from policyengine.semantics.reference import conclude, walk
from policyengine.semantics.walk import Walk
from policyengine.testing.report import Report, Result, Status

_LOG = logging.getLogger("policyengine")


class CannotAsk(Exception):
    """A case whose world does not fit together, such as attributes of a user where there is no user."""


def collect(checked: Checked, only: str | None = None) -> tuple[Case, ...]:
    """Every request of the tests of a policy without errors, in the order of the text.

    `only` leaves out tests whose name does not hold that text, in upper or lower case.
    """
    wanted = (only or "").casefold()
    return tuple(case for case in checked.cases if checked.ok and wanted in case.test.casefold())


def run(cases: Iterable[Case], kernel: k.Kernel) -> Report:
    """Asks the cases in their order; nothing of one test reaches another."""
    return Report(tuple(_results(cases, kernel)), kernel.revision)


def _results(cases: Iterable[Case], kernel: k.Kernel) -> Iterator[Result]:
    runner = Runner(kernel)
    for case in cases:
        if case.skip is not None:
            yield Result(case, Status.SKIPPED)
            continue
        try:
            yield runner.result(case)
        except (CannotAsk, RequestError) as error:
            yield Result(case, Status.ERRORED, problem=str(error))
        except Exception as error:
            # As in the engine: told, and no reason to leave the other tests unasked.
            _LOG.exception("a test could not be decided")
            yield Result(case, Status.ERRORED, problem=f"deciding failed: {type(error).__name__}: {error}")


@dataclass(slots=True)
class Runner:
    """Remembers what the cases before have spent, and the last directory: most cases of a test share theirs."""

    kernel: k.Kernel
    spent: dict[tuple[str, str, int], frozenset[str]] = field(default_factory=dict)
    rows: Mapping[EntityRef, EntityData] = field(default_factory=dict)
    directory: Directory = field(default_factory=Directory)

    def result(self, case: Case) -> Result:
        sequence = (case.package, case.test, case.sequence)
        spent = self.spent.get(sequence, frozenset())
        request = Request.from_mapping(case.question)
        snapshot = Snapshot(self.directory_of(case, request), spent)
        facts = facts_of(self.kernel, request, snapshot, case.now)
        seen = walk(facts, snapshot)
        approvals = tuple(approved(case, seen))
        if approvals:
            facts = facts_of(self.kernel, replace(request, approvals=approvals), snapshot, case.now)
            seen = walk(facts, snapshot)
        decision, effects = conclude(facts, seen)
        if effects.spends:
            self.spent[sequence] = spent.union(effects.spends)
        if meets(case.expected, decision):
            return Result(case, Status.PASSED, decision)
        return Result(case, Status.FAILED, decision, explain(decision, facts, seen))

    def directory_of(self, case: Case, request: Request) -> Directory:
        """The rows of the case, and the attributes it gives of whatever the roots turn out to be."""
        if case.rows is not self.rows:
            self.rows, self.directory = case.rows, Directory(case.rows.values())
        if not case.attributes:
            return self.directory
        facts = facts_of(self.kernel, request, Snapshot(self.directory), case.now)
        rows = dict(case.rows)
        for (root, name), value in case.attributes.items():
            ref = holder(root, name, facts)
            row = rows.get(ref, EntityData(ref, {}))
            rows[ref] = replace(row, attributes={**row.attributes, name: value})
        return Directory(rows.values())


def holder(root: str, name: str, facts: Facts) -> EntityRef:
    """The entity that `user`, `agent`, `tool` or `resource` is in this request."""
    every = frozenset(facts.kernel.entities)
    found = facts.read((root,), Ref(every if root == "resource" else frozenset({root})))
    if not isinstance(found, EntityRef):
        why = "nothing binds `resource` at this endpoint" if root == "resource" else f"there is no {root}"
        raise CannotAsk(f"`{root}.{name}` is given, but {why}")
    return found


def approved(case: Case, seen: Walk) -> Iterator[Approval]:
    """The given approvals, each bound to exactly what this request needs approved by its rule."""
    for given in case.approvals:
        bindings = [
            effect.approval.binding
            for guard in seen.guards
            if guard.guard.name == given.rule
            for effect in guard.effects
            if effect.triggered and effect.approval is not None
        ]
        for number, binding in enumerate(bindings):
            yield approval_for(given, number, binding, case)


def approval_for(given: GivenApproval, number: int, binding: str, case: Case) -> Approval:
    return Approval(f"{given.id}/{number}", given.by, case.now - given.age, binding, given.rule)


def meets(expected: Expected, decision: Decision) -> bool:
    """The outcome, and among the reasons for just that outcome the rule or gate that is named."""
    if (decision.outcome is expected.outcome) == expected.negated:
        return False
    reasons = [reason for reason in decision.reasons if reason.outcome is decision.outcome]
    if expected.rule is not None:
        return any(reason.rule == expected.rule for reason in reasons)
    return expected.gate is None or any(reason.gate is expected.gate for reason in reasons)
