"""Reasons that do not depend on the policy, shared by the specification and the evaluator."""

from __future__ import annotations

from datetime import timedelta

from policyengine.runtime.decision import OPERATOR_OBLIGATIONS as OPERATOR_OBLIGATIONS

NO_BLOCK = "no block of the policy accepts this caller with these credentials"
NOTHING_OPENS = "no block grants this to the caller"
NO_SCOPE = "the credential carries no scope that opens this"
NO_USER_BLOCK = "no user block opens this to the user served"
NOTHING_TO_APPROVE = "an approval is needed, but a fact to which it would be bound is unknown"
TOOL_NOT_OF_THE_TASK = "the task does not include this tool"
NOT_OF_THE_TASK = "the task does not include this resource"
A_TASK_WITH_IT = "a task whose `tools` include this tool"
A_TASK_ABOUT_IT = "a task whose `entities` include this resource"

FOR_THE_GATEWAY = ("redact", "step_up", "header")  # obligations that only the gateway can meet

# Better proofs that may remove a deny, in the order in which they are tried: the kind and words of the remedy, the
# fact, and its better value.
PROOFS: tuple[tuple[str, str, tuple[str, str], bool | timedelta], ...] = (
    ("attestation", "a verified attestation", ("attestation", "verified"), True),
    ("attestation", "a fresh attestation", ("attestation", "age"), timedelta(0)),
    ("credential", "a bound credential", ("credential", "bound"), True),
    ("credential", "a fresh credential", ("credential", "age"), timedelta(0)),
)
