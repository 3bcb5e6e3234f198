"""Every diagnostic, documented: one table for `explain-code`, the editor and the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from policyengine.codes import (
    allowances,
    bundles,
    directory,
    doors,
    files,
    guards,
    later,
    logic,
    maps,
    names,
    opinions,
    places,
    syntax,
    tests,
)
from policyengine.codes.code import Code

__all__ = ["CODES", "RULES", "Code", "rule"]

_PARTS = (
    syntax,
    files,
    bundles,
    directory,
    names,
    places,
    doors,
    guards,
    tests,
    logic,
    maps,
    later,
    allowances,
    opinions,
)

CODES: Mapping[str, Code] = MappingProxyType({code.code: code for part in _PARTS for code in part.CODES})

# The warnings by their short names: what an allowance may name, and `policyengine.toml` select and ignore.
RULES: Mapping[str, Code] = MappingProxyType({code.name: code for code in CODES.values() if code.name})


def rule(word: str) -> Code | None:
    """The diagnostic that a code or a short name means, in upper or lower case."""
    return RULES.get(word.lower()) or CODES.get(word.upper())
