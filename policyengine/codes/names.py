"""E2xx: names and types."""

from policyengine.codes.code import Code

CODES: tuple[Code, ...] = ()
