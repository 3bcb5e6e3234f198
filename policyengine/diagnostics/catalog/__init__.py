"""Documentation of every diagnostic, in one table for `explain-code`, the editor and the docs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from policyengine.diagnostics.catalog import (
    allow_comments,
    authzen_maps,
    bundles,
    dead_rules,
    endpoints,
    entities,
    files,
    grants,
    guards,
    lint_rules,
    names_and_types,
    profiles,
    syntax,
    tests,
    unsupported,
)
from policyengine.diagnostics.catalog.entry import DiagnosticDoc

__all__ = ["CODES", "CODES_BY_NAME", "DiagnosticDoc", "find_code"]

_PARTS = (
    syntax,
    files,
    bundles,
    entities,
    names_and_types,
    endpoints,
    grants,
    guards,
    tests,
    dead_rules,
    authzen_maps,
    unsupported,
    profiles,
    allow_comments,
    lint_rules,
)

CODES: Mapping[str, DiagnosticDoc] = MappingProxyType({code.code: code for part in _PARTS for code in part.CODES})

# Warnings by short name, as allowances and `select` and `ignore` in `policyengine.toml` use them.
CODES_BY_NAME: Mapping[str, DiagnosticDoc] = MappingProxyType({code.name: code for code in CODES.values() if code.name})


def find_code(word: str) -> DiagnosticDoc | None:
    """Return the documentation for a code or short name, ignoring case; None for an unknown code."""
    return CODES_BY_NAME.get(word.lower()) or CODES.get(word.upper())
