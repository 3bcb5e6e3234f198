"""E6xx: fixtures and tests."""

from policyengine.codes.code import Code

CODES: tuple[Code, ...] = ()
