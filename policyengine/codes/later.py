"""E9xx: what the language has and the engine does not enforce yet, and other bounds."""

from policyengine.codes.code import Code

CODES: tuple[Code, ...] = ()
