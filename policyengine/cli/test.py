"""`policyengine test`: do policies decide as their `test` blocks say?"""

from __future__ import annotations

from policyengine.cli.options import Policies, TextOrJson
from policyengine.cli.terminal import Format


def run_tests(paths: Policies, format: TextOrJson = Format.TEXT) -> int:
    """x"""
    raise NotImplementedError
