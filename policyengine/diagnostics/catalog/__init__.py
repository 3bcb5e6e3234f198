"""Every diagnostic, documented: one table for `explain-code`, the editor and the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from policyengine.diagnostics.catalog import (
    allow_comments,
    bundles,
    dead_rules,
    endpoints,
    entities,
    files,
    grants,
    guards,
    lint_rules,
    maps,
    names_and_types,
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
    maps,
    unsupported,
    allow_comments,
    lint_rules,
)

CODES: Mapping[str, DiagnosticDoc] = MappingProxyType({code.code: code for part in _PARTS for code in part.CODES})

# The warnings by their short names: what an allowance may name, and `policyengine.toml` select and ignore.
CODES_BY_NAME: Mapping[str, DiagnosticDoc] = MappingProxyType({code.name: code for code in CODES.values() if code.name})


def find_code(word: str) -> DiagnosticDoc | None:
    """The diagnostic that a code or a short name means, in upper or lower case."""
    return CODES_BY_NAME.get(word.lower()) or CODES.get(word.upper())
