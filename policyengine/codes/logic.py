"""Wxxx: what can be read and decided, and probably was not meant."""

from policyengine.codes.code import Code

CODES: tuple[Code, ...] = ()
