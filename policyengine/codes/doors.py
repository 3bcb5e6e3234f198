"""E4xx: doors, identity, delegation."""

from policyengine.codes.code import Code

CODES: tuple[Code, ...] = ()
