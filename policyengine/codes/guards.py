"""E5xx: guards, messages, approvals."""

from policyengine.codes.code import Code

CODES: tuple[Code, ...] = ()
