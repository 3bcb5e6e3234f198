"""Packages whose name is probably another one's, misspelled: told once, without all that follows from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from policyengine.checker.names.program import Program
from policyengine.checker.names.symbols import Package
from policyengine.diagnostics.model import Diagnostic, RelatedLocation, suggest
from policyengine.source import Source

UNKNOWN_NAMES = frozenset({"E202", "E205", "E207"})
MAX_NAMES_LISTED = 3


def merge_misspelled_packages(
    found: Iterable[Diagnostic], program: Program, following: Collection[str]
) -> list[Diagnostic]:
    """The findings; those with codes of `following` are one in a package that lacks what its namesake declares."""
    kept = list(found)
    for package in program.packages.values():
        meant = namesake(package, program)
        inside = {module.span.source for module in package.modules}
        lacking = [] if meant is None else missing_names(kept, inside, meant)
        if meant is not None and lacking:
            follows = {*following, *UNKNOWN_NAMES}
            kept = [one for one in kept if one.span.source not in inside or one.code not in follows]
            kept.append(misspelled_package(package, meant, lacking))
    return kept


def namesake(package: Package, program: Program) -> Package | None:
    """Another package of nearly the same name, that neither imports the other."""
    tied = {one.package for one in package.imports.values()}
    tied |= {one.name for one in program.packages.values() if package.name in imported_by(one)}
    others = {name for name in program.packages if name != package.name} - tied
    written = any(module.package is not None for module in package.modules)
    meant = suggest(package.name, others) if written and others else None
    return None if meant is None else program.packages[meant]


def imported_by(package: Package) -> set[str]:
    return {one.package for one in package.imports.values()}


def missing_names(found: Iterable[Diagnostic], inside: Collection[Source], meant: Package) -> list[str]:
    """Names that are unknown there and known here."""
    declared = {name for _, name in meant.symbols}
    unknown = (one.span.text for one in found if one.code in UNKNOWN_NAMES and one.span.source in inside)
    return [name for name in dict.fromkeys(unknown) if name in declared]


def misspelled_package(package: Package, meant: Package, lacking: list[str]) -> Diagnostic:
    named = next(module.package for module in package.modules if module.package is not None)
    words = ", ".join(f"`{name}`" for name in islice(lacking, MAX_NAMES_LISTED)) + (
        " …" if len(lacking) > MAX_NAMES_LISTED else ""
    )
    message = f"package `{package.name}` declares no {words}, and `{meant.name}` does: was `{meant.name}` meant?"
    hint = f"write `package {meant.name}`; a package of its own says `import {meant.name}`, for what that exports"
    other = next((module.package for module in meant.modules if module.package is not None), None)
    related = () if other is None else (RelatedLocation("the other package", other.span),)
    return Diagnostic("E257", message, named.span, hint, related)
