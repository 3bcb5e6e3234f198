"""E3xx: places, scopes, endpoints."""

from policyengine.codes.code import Code

CODES: tuple[Code, ...] = ()
