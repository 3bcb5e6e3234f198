"""`policyengine check`: report the mistakes in policies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.errors import CommandError
from policyengine.cli.options.common import EntitySources, Policies
from policyengine.cli.output.terminal import Screen, print_json, show_progress
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.check import CheckResult
    from policyengine.checker.approval_times import DefaultApprovalTime
    from policyengine.checker.memory_estimate import MemoryEstimate
    from policyengine.diagnostics.model import Diagnostic
    from policyengine.entities.store import EntityStore


MAX_RULES_LISTED = 5


class CheckFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


def check(
    paths: Policies,
    entities: EntitySources = None,
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")] = False,
    format: Annotated[
        CheckFormat, typer.Option("--format", help="Output format; `sarif` is for code scanning.")
    ] = CheckFormat.TEXT,
) -> int:
    """Check policies and report every mistake in one run.

    If a file has syntax errors, unknown names are not reported, because the faulty declarations may declare them.

    With --entities, also report the attributes that the policies read but no row, claim or map supplies: such
    attributes are always unknown.

    Exit code 0: no errors (warnings are possible); 1: errors, or warnings with --strict.

    \b
    Example:
      policyengine check payments/
      policyengine check payments/ --entities entities.json
      policyengine check --strict --format sarif payments/ > policies.sarif
    """
    from policyengine.diagnostics.model import sort_diagnostics

    sets = list(check_policy_sets(paths))
    beside = list(check_entities(sets, paths, entities)) if entities else []
    found = sort_diagnostics([*(diagnostic for checked, _ in sets for diagnostic in checked.diagnostics), *beside])
    files = sum(files for _, files in sets)
    if format is CheckFormat.TEXT:
        print_findings(found, files)
        print_footprints(collect_footprints(sets))
        print_approval_times(collect_approval_times(sets))
    elif format is CheckFormat.JSON:
        notes = {
            "history": [one._asdict() for one in collect_footprints(sets)],
            "default_approval_times": [one._asdict() for one in collect_approval_times(sets)],
        }
        told = {
            "files": files,
            **count_severities(found),
            "diagnostics": [diagnostic.to_dict() for diagnostic in found],
        }
        print_json({**told, **{name: several for name, several in notes.items() if several}})
    else:
        from policyengine.cli.output.sarif import sarif_document

        print_json(sarif_document(found))
    return int(any(diagnostic.is_error or strict for diagnostic in found))


def check_policy_sets(paths: Sequence[Path]) -> Iterator[tuple[CheckResult, int]]:
    """Check each set of policies separately (see `.policyroot`); yield the result and the number of files."""
    from policyengine.policy_files import policy_sets

    for several_paths in policy_sets(paths):
        yield check_files(several_paths)


def check_entities(
    sets: Sequence[tuple[CheckResult, int]], paths: Sequence[Path], entities: Sequence[str]
) -> Iterator[Diagnostic]:
    """Yield the attributes of entities that the policies read but nothing supplies; yield nothing if the policies have
    errors. Raises CommandError."""
    from policyengine.cli.load_engine import load_directory

    if len(sets) != 1:
        hint = "pass one set of policies: each set has its own entities"
        raise CommandError("usage", "`--entities` needs exactly one set of policies", hint, code=2)
    [(checked, _)] = sets
    if checked.kernel is None:
        return
    yield from find_unsupplied(checked, load_directory(paths, entities, checked.kernel))


def find_unsupplied(checked: CheckResult, directory: EntityStore) -> list[Diagnostic]:
    """Return the attributes of entities that the policies read but the entity store lacks, and the confirms for which
    it lacks approvers, except those that a comment allows."""
    from policyengine.cli.approver_warnings import find_lacking_approvers
    from policyengine.lint import allow_comments
    from policyengine.lint.attribute_supply import unsupplied_attributes

    assert checked.kernel is not None
    looked_up = {} if directory.lookups is None else directory.lookups.attributes
    modules = [module for package in checked.program.packages.values() for module in package.modules]
    found = (
        *unsupplied_attributes(checked.kernel, directory, looked_up),
        *find_lacking_approvers(checked.kernel, directory),
    )
    return allow_comments.drop_allowed(found, modules)


def check_files(paths: Sequence[Path]) -> tuple[CheckResult, int]:
    """Check all policies under the paths, together with their imports. Return the result and the number of files.
    Raises CommandError if there are no policies.
    """
    from policyengine.check import check
    from policyengine.policy_files import load_sources
    from policyengine.syntax.parse import parse

    with show_progress("reading the policies"):
        sources, problems = load_sources(paths)
    if not sources and not problems:
        raise no_policies_error(paths)
    with show_progress(f"checking {pluralize(len(sources), 'file')}"):
        parsed = [parse(source) for source in sources]
        modules = [module for module, _ in parsed if module is not None]
        return check(modules, [*problems, *(found for _, several in parsed for found in several)]), len(sources)


def no_policies_error(paths: Iterable[Path]) -> CommandError:
    named = ", ".join(f"`{path}`" for path in paths)
    return CommandError("file", f"no policies in {named}", "policies are files that end in `.policy`")


def count_severities(found: Iterable[Diagnostic]) -> dict[str, int]:
    severities = [diagnostic.is_error for diagnostic in found]
    return {"errors": severities.count(True), "warnings": severities.count(False)}


def print_findings(found: Sequence[Diagnostic], files: int) -> None:
    from policyengine.policy_files import other_file_hint

    screen = Screen()
    for diagnostic in found:
        screen.findings(diagnostic.render())
        screen.line()
    if hint := other_file_hint(found):
        screen.line(f"hint: {hint}")
    number = count_severities(found)
    style = "bold red" if number["errors"] else "bold yellow" if number["warnings"] else "bold green"
    says = ", ".join(pluralize(count, what[:-1]) for what, count in number.items() if count) or "no mistakes"
    screen.line((says, style), f" in {pluralize(files, 'file')}" if files else "")


def collect_footprints(sets: Iterable[tuple[CheckResult, int]]) -> list[MemoryEstimate]:
    """Return how much memory each key of a history needs at most, in order of position. Policies with errors are
    skipped.
    """
    from policyengine.checker.memory_estimate import estimate_memory

    found = (one for checked, _ in sets if checked.kernel is not None for one in estimate_memory(checked.kernel))
    return sorted(set(found), key=lambda one: (one.at, one.event))


def print_footprints(found: Iterable[MemoryEstimate]) -> None:
    from policyengine.checker.memory_estimate import format_bytes

    screen = Screen()
    for footprint in found:
        size = format_bytes(footprint.bytes)
        screen.line(f"history of `{footprint.event}`, {footprint.within} ({footprint.at}): at most {size} per key")


def collect_approval_times(sets: Iterable[tuple[CheckResult, int]]) -> list[DefaultApprovalTime]:
    """Return the confirms without `within`, in order of position. Policies with errors are skipped."""
    from policyengine.checker.approval_times import default_approval_times

    found = (one for checked, _ in sets if checked.kernel is not None for one in default_approval_times(checked.kernel))
    return sorted(set(found), key=lambda one: (one.file, one.line))


def print_approval_times(found: Sequence[DefaultApprovalTime]) -> None:
    """Print one line for all confirms without `within`."""
    if not found:
        return
    listed = ", ".join(f"`{one.rule}` ({one.at})" for one in found[:MAX_RULES_LISTED])
    more = f" and {pluralize(len(found) - MAX_RULES_LISTED, 'other rule')}" if len(found) > MAX_RULES_LISTED else ""
    Screen().line(f"approvals without `within` count for {found[0].within}: {listed}{more}")
