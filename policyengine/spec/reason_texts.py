"""Reasons that do not depend on the policy, shared by the specification and the evaluator."""

from __future__ import annotations

from datetime import timedelta

from policyengine.runtime.decision import OPERATOR_OBLIGATIONS as OPERATOR_OBLIGATIONS

NO_BLOCK = "no block of the policy accepts this caller with these credentials"
NOTHING_OPENS = "no block grants this to the caller"
NO_SCOPE = "the credential carries no scope that opens this"
NO_USER_BLOCK = "no user block opens this to the person served"
NOTHING_TO_APPROVE = "an approval is needed, but a fact that it would be bound to is not known"
TOOL_NOT_OF_THE_TASK = "the tool is not among those of the task"
NOT_OF_THE_TASK = "the resource is not among those of the task"
A_TASK_WITH_IT = "a task whose `tools` hold this one"
A_TASK_ABOUT_IT = "a task whose `entities` hold this one"

FOR_THE_GATEWAY = ("redact", "step_up", "header")  # obligations that only the gateway can meet

# Better proofs that may lift a deny, in the order of trial: kind and words of the remedy, the fact and its better
# value.
PROOFS: tuple[tuple[str, str, tuple[str, str], bool | timedelta], ...] = (
    ("attestation", "a verified attestation", ("attestation", "verified"), True),
    ("attestation", "a fresh attestation", ("attestation", "age"), timedelta(0)),
    ("credential", "a bound credential", ("credential", "bound"), True),
    ("credential", "a fresh credential", ("credential", "age"), timedelta(0)),
)
