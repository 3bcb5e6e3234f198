"""Every diagnostic, documented: one table for `explain-code`, the editor and the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from policyengine.codes import bundles, doors, files, guards, later, logic, names, places, syntax, tests
from policyengine.codes.code import Code

__all__ = ["CODES", "Code"]

_PARTS = (syntax, files, bundles, names, places, doors, guards, tests, logic, later)

CODES: Mapping[str, Code] = MappingProxyType({code.code: code for part in _PARTS for code in part.CODES})
