"""Files to what may decide next, or to why it may not: read once, checked, held to its own tests, compiled."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.compiler.bundle import contents, decode_bundle, write_bundle
from policyengine.diagnostics import PolicyError
from policyengine.directory.entities import Directory
from policyengine.directory.errors import EntitiesError
from policyengine.loading import load_sources
from policyengine.reloading.origin import Origin
from policyengine.semantics.check import Checked, check, compiled
from policyengine.semantics.kernel import Kernel
from policyengine.source import Source, is_test_file
from policyengine.syntax.parse import parse

if TYPE_CHECKING:
    from policyengine.testing.report import Tested

MOST_TOLD = 20  # findings, one by one
_LOG = logging.getLogger("policyengine")


class Refused(Exception):
    """What was read must not decide: why in short (`2 errors in the policies`), and everything that was found."""

    def __init__(self, why: str, findings: Sequence[str] = ()) -> None:
        super().__init__(why, tuple(findings))
        self.why, self.findings = why, tuple(findings)

    def __str__(self) -> str:
        more = len(self.findings) - MOST_TOLD
        told = [self.why, *self.findings[:MOST_TOLD], *([f"… and {more:,} more"] if more > 0 else [])]
        return "\n\n".join(told)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may decide next: policies as a bundle, and rows where there is a file of them. It can be sent to others."""

    bundle: bytes
    directory: Directory | None
    tests: int = 0


def prepared(origin: Origin) -> Candidate:
    """Raises Refused."""
    try:
        if origin.bundle is not None:
            data, kernel = signed(origin.bundle, origin.keys)
            return Candidate(data, origin.directory(kernel.entities))
        bundle, kernel, tests = of_sources(origin)
        return Candidate(bundle, origin.directory(kernel.entities), tests)
    except PolicyError as error:
        found = [one for one in error.diagnostics if one.is_error]
        raise Refused(f"{counted(len(found), 'error')} in the policies", [one.render() for one in found]) from None
    except EntitiesError as error:
        place = f" at `{error.member}`" if error.member else ""
        raise Refused("the entities cannot be used", [f"`{error.place}`{place}: {error.message}"]) from None


def signed(path: Path, keys: tuple[Path, ...] | None) -> tuple[bytes, Kernel]:
    """The bundle in a file, once one of the keys proved to have signed it. Raises BundleError."""
    data = contents(path)
    return data, decode_bundle(data, str(path), keys).kernel


def of_sources(origin: Origin) -> tuple[bytes, Kernel, int]:
    """The policies as a bundle, and how many tests they passed. Raises PolicyError, Refused."""
    sources, problems = load_sources(origin.paths, tests=False)
    kernel, found = compiled(sources, problems)
    if kernel is None:
        raise PolicyError(found)
    if not (kernel.agents or kernel.users or kernel.anyones):  # a file that was cut off, a folder that was emptied
        raise Refused("nothing in the policies allows anything")
    tests = tested(origin, sources) if origin.tested else 0
    return write_bundle(kernel, version("agent-policyengine")), kernel, tests


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
        raise Refused(f"{len(bad):,} of {counted(len(results), 'test request')} failed", [one.render() for one in bad])
    return len(results)


def outcomes(checked: Checked) -> Iterator[Tested]:
    from policyengine.testing.properties import EXAMPLES, NoHypothesis, try_properties
    from policyengine.testing.runner import results_of
    from policyengine.testing.selecting import collect, collect_properties

    assert checked.kernel is not None
    yield from results_of(collect(checked), checked.kernel)
    if claims := collect_properties(checked):
        try:
            yield from try_properties(claims, checked.kernel, 0, EXAMPLES)
        except NoHypothesis as error:
            _LOG.warning("%s were not tried: %s", counted(len(claims), "claim"), error)


def counted(many: int, what: str) -> str:
    return f"{many:,} {what}{'' if many == 1 else 's'}"
