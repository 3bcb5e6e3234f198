"""Files to what may decide next, or to why it may not: read once, checked, held to its own tests, compiled."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.check import Checked, check, compiled
from policyengine.compiler.bundle.file import contents, decode_bundle, write_bundle
from policyengine.diagnostics.model import PolicyError
from policyengine.entities.errors import EntitiesError
from policyengine.entities.store import Directory
from policyengine.kernel import Kernel
from policyengine.policy_files import load_sources
from policyengine.reload.inventory import Inventory
from policyengine.reload.origin import Origin
from policyengine.source import Source, is_test_file
from policyengine.syntax.parse import parse

if TYPE_CHECKING:
    from policyengine.testing.report import Tested

MOST_TOLD = 20  # findings, one by one
_LOG = logging.getLogger("policyengine")


class RefusalKind(StrEnum):
    """Why policies were refused, as metrics count it."""

    POLICIES = "policies"  # they have errors, or could not be read
    TESTS = "tests"
    ENTITIES = "entities"
    REMOVED = "removed"  # something is gone that no rule of reloading allows to go
    WIDENING = "widening"
    UNPROVED = "unproved"
    FAILURE = "failure"  # of ours


class Refused(Exception):
    """What was read must not decide: why in short (`2 errors in the policies`), all that was found, what to do."""

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
        more = len(self.findings) - MOST_TOLD
        told = [self.why, *self.findings[:MOST_TOLD], *([f"… and {more:,} more"] if more > 0 else [])]
        return "\n\n".join([*told, *([f"hint: {self.hint}"] if self.hint else [])])


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may decide next: policies as a bundle, and rows where there is a file of them. It can be sent to others.

    `inventory` is what they hold, by name.
    """

    bundle: bytes
    directory: Directory | None
    inventory: Inventory
    tests: int = 0


def prepared(origin: Origin) -> Candidate:
    """Raises Refused, also where somebody wrote meanwhile: what was read may be a part of each."""
    look = origin.look()
    found = read(origin)
    if origin.look() != look:
        raise Refused("the files changed while they were read")
    return found


def read(origin: Origin) -> Candidate:
    """Raises Refused."""
    try:
        if origin.bundle is not None:
            data, kernel = signed(origin.bundle, origin.keys)
            return Candidate(data, origin.directory(kernel.entities), Inventory.of(kernel))
        return of_sources(origin)
    except PolicyError as error:
        found = [one for one in error.diagnostics if one.is_error]
        raise Refused(f"{counted(len(found), 'error')} in the policies", [one.render() for one in found]) from None
    except EntitiesError as error:
        place = f" at `{error.member}`" if error.member else ""
        told = f"`{error.place}`{place}: {error.message}"
        raise Refused("the entities cannot be used", [told], RefusalKind.ENTITIES) from None


def signed(path: Path, keys: tuple[Path, ...] | None) -> tuple[bytes, Kernel]:
    """The bundle in a file, once one of the keys proved to have signed it. Raises BundleError."""
    data = contents(path)
    return data, decode_bundle(data, str(path), keys).kernel


def of_sources(origin: Origin) -> Candidate:
    """Raises PolicyError, EntitiesError, Refused."""
    sources, problems = load_sources(origin.paths, tests=False)
    kernel, found = compiled(sources, problems)
    if kernel is None:
        raise PolicyError(found)
    if not (kernel.agents or kernel.users or kernel.anyones):  # a file that was cut off, a folder that was emptied
        raise Refused("nothing in the policies allows anything")
    tests = tested(origin, sources) if origin.tested else 0
    bundle = write_bundle(kernel, version("agent-policyengine"))
    return Candidate(bundle, origin.directory(kernel.entities), Inventory.of(kernel, sources), tests)


def tested(origin: Origin, sources: Sequence[Source]) -> int:
    """How many examples the policies' own tests hold, all of which pass. Raises PolicyError, Refused."""
    from policyengine.testing.report import BAD

    every, problems = load_sources(origin.paths)
    texts = {source.name: source.text for source in every if not is_test_file(source.name)}
    if any(texts.get(source.name) != source.text for source in sources):
        raise Refused("the policies changed while they were read")
    parsed = [parse(source) for source in every]
    modules = [module for module, _ in parsed if module is not None]
    checked = check(modules, [*problems, *chain.from_iterable(found for _, found in parsed)])
    if checked.kernel is None:
        raise PolicyError(checked.diagnostics)
    results = list(outcomes(checked))
    bad = [one for one in results if one.status in BAD]
    if bad:
        why = f"{len(bad):,} of {counted(len(results), 'test request')} failed"
        raise Refused(why, [one.render() for one in bad], RefusalKind.TESTS)
    return len(results)


def outcomes(checked: Checked) -> Iterator[Tested]:
    from policyengine.testing.properties import EXAMPLES, NoHypothesis, try_properties
    from policyengine.testing.runner import results_of
    from policyengine.testing.selection import collect, collect_properties

    assert checked.kernel is not None
    yield from results_of(collect(checked), checked.kernel)
    if claims := collect_properties(checked):
        try:
            yield from try_properties(claims, checked.kernel, 0, EXAMPLES)
        except NoHypothesis as error:
            _LOG.warning("%s were not tried: %s", counted(len(claims), "claim"), error)


def counted(many: int, what: str) -> str:
    return f"{many:,} {what}{'' if many == 1 else 's'}"
