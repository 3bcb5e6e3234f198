"""Reasons that do not depend on the policy; the specification and the evaluator share them."""

from __future__ import annotations

from datetime import timedelta

from policyengine.runtime.credential_errors import describe_refusal
from policyengine.runtime.decision import OPERATOR_OBLIGATIONS as OPERATOR_OBLIGATIONS
from policyengine.runtime.format_values import format_value

NO_BLOCK = "no block of the policy accepts this caller with these credentials"
NOTHING_OPENS = "no block grants this to the caller"
NO_SCOPE = "the credential carries no scope that covers this"
NO_USER_BLOCK = "no user block grants this to the user"
NOTHING_TO_APPROVE = "an approval is needed, but a fact to which it would be bound is unknown"
UNKNOWN_CHAIN = "the delegating agents are not known"
NOT_COUNTABLE = "its cost or its key is not known"
NOT_SHOWN = "(not shown)"  # replaces, in a message to the caller, a fact that the caller did not send
TOOL_NOT_OF_THE_TASK = "the task does not include this tool"
NOT_OF_THE_TASK = "the task does not include this resource"
A_TASK_WITH_IT = "a task whose `tools` include this tool"
A_TASK_ABOUT_IT = "a task whose `entities` include this resource"

FOR_THE_GATEWAY = ("redact", "step_up", "header")  # obligations that only the gateway can meet

# Proofs that may remove a deny, in the order in which they are tried: the kind and words of the remedy, the fact, and
# the value of the fact with the proof.
PROOFS: tuple[tuple[str, str, tuple[str, str], bool | timedelta], ...] = (
    ("attestation", "a verified attestation", ("attestation", "verified"), True),
    ("attestation", "a fresh attestation", ("attestation", "age"), timedelta(0)),
    ("credential", "a bound credential", ("credential", "bound"), True),
    ("credential", "a fresh credential", ("credential", "age"), timedelta(0)),
)


def refused_credential(code: str) -> str:
    return f"the credential was refused: {describe_refusal(code)}"


def ungranted_hop(agent: object) -> str:
    return f"agent {format_value(agent)} may not do this itself"


def undelegated_hop(agent: object, receiver: object) -> str:
    return f"agent {format_value(agent)} does not delegate this to agent {format_value(receiver)}"


def broken_delegation_limit(words: str) -> str:
    return f"the delegation limit `{words}` does not hold"


def unsupported_obligation(kind: str) -> str:
    return f"the gateway cannot meet the obligation `{kind}`"


def approvable_facts(names: str) -> str:
    return f"{names}, or a rule that binds less: `bound to (…)`"
