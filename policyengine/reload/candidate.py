"""Candidates of a reload: policy files are read once, checked, tested and compiled, or refused with the reason."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine import __version__
from policyengine.check import CheckResult, check, compile_sources
from policyengine.compiler.bundle.file import decode_bundle, read_file, write_bundle
from policyengine.diagnostics.model import PolicyError
from policyengine.entities.errors import EntitiesError
from policyengine.entities.store import EntityStore
from policyengine.kernel import Kernel
from policyengine.plurals import pluralize
from policyengine.policy_files import load_sources
from policyengine.reload.policy_inventory import PolicyInventory
from policyengine.reload.source import ReloadSource
from policyengine.source import Source, is_test_file
from policyengine.syntax.parse import parse

if TYPE_CHECKING:
    from policyengine.testing.report import ExampleResult

MAX_LISTED_FINDINGS = 20  # maximum number of listed findings
_LOG = logging.getLogger("policyengine")


class RefusalKind(StrEnum):
    """The reason why a reload was refused, as metrics name it."""

    POLICIES = "policies"  # errors, or unreadable files
    TESTS = "tests"
    ENTITIES = "entities"
    REMOVED = "removed"  # a rule, a file or rows were removed, or a file was cut off, without permission
    WIDENING = "widening"
    UNPROVED = "unproved"
    FAILURE = "failure"  # an internal error


class ReloadRefusedError(Exception):
    """The error for a candidate that must not be used: a short reason (`2 errors in the policies`), all findings, and a
    hint."""

    def __init__(
        self,
        why: str,
        findings: Sequence[str] = (),
        reason: RefusalKind = RefusalKind.POLICIES,
        hint: str | None = None,
    ) -> None:
        super().__init__(why, tuple(findings), reason, hint)
        self.why, self.findings, self.reason, self.hint = why, tuple(findings), reason, hint

    def __str__(self) -> str:
        more = len(self.findings) - MAX_LISTED_FINDINGS
        told = [self.why, *self.findings[:MAX_LISTED_FINDINGS], *([f"… and {more:,} more"] if more > 0 else [])]
        return "\n\n".join([*told, *([f"hint: {self.hint}"] if self.hint else [])])


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate for the next engine: policies as a bundle, entities if they have sources, and the `inventory` of
    named items. It can be sent to other processes."""

    bundle: bytes
    directory: EntityStore | None
    inventory: PolicyInventory
    tests: int = 0


def prepare_candidate(origin: ReloadSource) -> Candidate:
    """Read a candidate. Raises ReloadRefusedError, also if a file changed while it was read, because the candidate may
    then mix two versions.
    """
    look = origin.look()
    found = read_candidate(origin)
    if origin.look() != look:
        raise ReloadRefusedError("the files changed while they were being read")
    return found


def read_candidate(origin: ReloadSource) -> Candidate:
    """Read a candidate. Raises ReloadRefusedError."""
    try:
        if origin.bundle is not None:
            data, kernel = read_signed_bundle(origin.bundle, origin.keys)
            return Candidate(data, origin.directory(kernel.entities), PolicyInventory.of(kernel))
        return candidate_from_sources(origin)
    except PolicyError as error:
        found = [one for one in error.diagnostics if one.is_error]
        raise ReloadRefusedError(
            f"{pluralize(len(found), 'error')} in the policies", [one.render() for one in found]
        ) from None
    except EntitiesError as error:
        raise refuse_entities(error) from None


def refuse_entities(error: EntitiesError) -> ReloadRefusedError:
    place = f" at `{error.member}`" if error.member else ""
    told = f"`{error.place}`{place}: {error.message}"
    return ReloadRefusedError("the entities cannot be used", [told], RefusalKind.ENTITIES)


def read_signed_bundle(path: Path, keys: tuple[Path, ...] | None) -> tuple[bytes, Kernel]:
    """Return the bundle of a file if one of the keys signed it. Raises BundleError."""
    data = read_file(path)
    return data, decode_bundle(data, str(path), keys).kernel


def candidate_from_sources(origin: ReloadSource) -> Candidate:
    """Build a candidate from policy files. Raises PolicyError, EntitiesError, ReloadRefusedError."""
    sources, problems = load_sources(origin.paths, tests=False)
    kernel, found = compile_sources(sources, problems)
    if kernel is None:
        raise PolicyError(found)
    if not (kernel.agents or kernel.users or kernel.anyones):  # a truncated file or an emptied folder
        raise ReloadRefusedError("the policies allow nothing")
    tests = run_policy_tests(origin, sources) if origin.tested else 0
    bundle = write_bundle(kernel, __version__)
    return Candidate(bundle, origin.directory(kernel.entities), PolicyInventory.of(kernel, sources), tests)


def run_policy_tests(origin: ReloadSource, sources: Sequence[Source]) -> int:
    """Run the policies' own tests, and return their number. Raises PolicyError, and ReloadRefusedError if one fails."""
    from policyengine.testing.report import FAILURE_STATUSES

    every, problems = load_sources(origin.paths)
    texts = {source.name: source.text for source in every if not is_test_file(source.name)}
    if any(texts.get(source.name) != source.text for source in sources):
        raise ReloadRefusedError("the policies changed while they were being read")
    parsed = [parse(source) for source in every]
    modules = [module for module, _ in parsed if module is not None]
    checked = check(modules, [*problems, *chain.from_iterable(found for _, found in parsed)])
    if checked.kernel is None:
        raise PolicyError(checked.diagnostics)
    results = list(run_cases(checked))
    bad = [one for one in results if one.status in FAILURE_STATUSES]
    if bad:
        why = f"{len(bad):,} of {pluralize(len(results), 'test request')} failed"
        raise ReloadRefusedError(why, [one.render() for one in bad], RefusalKind.TESTS)
    return len(results)


def run_cases(checked: CheckResult) -> Iterator[ExampleResult]:
    from policyengine.testing.properties import DEFAULT_EXAMPLES, HypothesisMissingError, try_properties
    from policyengine.testing.runner import case_results
    from policyengine.testing.selection import collect, collect_properties

    assert checked.kernel is not None
    yield from case_results(collect(checked), checked.kernel)
    if claims := collect_properties(checked):
        try:
            yield from try_properties(claims, checked.kernel, 0, DEFAULT_EXAMPLES)
        except HypothesisMissingError as error:
            _LOG.warning("%s were not tested: %s", pluralize(len(claims), "claim"), error)
