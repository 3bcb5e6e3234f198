"""Policies with faults: the shared part of the mutation tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

from policyengine import kernel as k
from policyengine.check import CheckResult, check, check_unordered
from policyengine.source import Source, is_test_file
from policyengine.syntax.parse import parse
from policyengine.testing.mutation.faults import Fault
from policyengine.testing.mutation.lowering_cache import without_tests
from policyengine.testing.mutation.operators import find_faults
from tests.pages import EXAMPLES

EXAMPLE_NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir())
WORDS = ("words", "label", "revision")  # how something is written


def checked(*texts: str) -> CheckResult:
    """Return the checked policies of texts; the files are called `0.policy`, `1.policy`."""
    return checked_sources(Source(f"{number}.policy", text) for number, text in enumerate(texts))


def checked_sources(sources: Iterator[Source]) -> CheckResult:
    parsed = [parse(source) for source in sources]
    found = check([module for module, _ in parsed if module], [one for _, some in parsed for one in some])
    assert found.kernel is not None, [one.render() for one in found.diagnostics if one.is_error]
    return found


@cache
def example(name: str) -> CheckResult:
    files = sorted((EXAMPLES / name).rglob("*.policy"))
    return checked_sources(Source(str(file), file.read_text(encoding="utf-8")) for file in files)


def faults(policy: str) -> tuple[Fault, ...]:
    return find_faults(checked(policy).program)


def lines_with(policy: str, operator: str) -> list[str]:
    """Return the line that each fault of an operator produces or removes."""
    return [fault.lines.telling for fault in faults(policy) if fault.operator == operator]


def kernel_of_text(policy: CheckResult, fault: Fault) -> k.Kernel | None:
    """Return the kernel of the files, read again with the fault in one of them; None if they do not check."""
    modules, found = [], []
    for package in policy.program.packages.values():
        for module in package.modules:
            if is_test_file(module.span.source.name):
                continue
            if module.span.source is fault.source:
                again, found = parse(Source(fault.source.name, fault.text))
                assert again is not None
                module = again
            modules.append(without_tests(module))
    assert policy.kernel is not None
    kernel = check_unordered(modules, found, False).kernel
    return kernel and replace(kernel, package=policy.kernel.package)


def meaning(part: Any) -> Any:
    """Return a part of a kernel without its places and without words that only quote its source."""
    if isinstance(part, tuple):
        return tuple(map(meaning, part))
    if isinstance(part, dict):
        return {key: meaning(one) for key, one in part.items()}
    if not is_dataclass(part) or isinstance(part, type):
        return part
    if isinstance(part, k.DefinitionRef):
        return meaning(part.expression)
    members = [item.name for item in fields(part) if item.name not in (*WORDS, "span")]
    return (type(part).__name__, *(meaning(getattr(part, name)) for name in members))


def normal(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
