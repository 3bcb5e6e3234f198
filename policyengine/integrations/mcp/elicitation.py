"""Asks the user of a request for an approval through the MCP client: what the client shows, and what its answer means.
Nothing here depends on an SDK.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from policyengine.approvals.eligibility import ProvedPerson, find_aliases
from policyengine.clock import MICROSECOND
from policyengine.control_characters import split_invisible
from policyengine.identity.verified import VerifiedCredential
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.time_formats import format_duration

if TYPE_CHECKING:
    from policyengine.approvals.model import ApprovalRequest

ELICIT_METHOD = "elicitation/create"
COMPLETE_METHOD = "notifications/elicitation/complete"
FORM_VERSION, URL_VERSION = "2025-06-18", "2025-11-25"  # the first versions of the protocol with these modes
MAX_FORM_LENGTH = 8_000  # characters of a form; people do not read more
KEY_PREFIX = "policyengine/approval/"  # of the keys of questions in an interim result
INDENT = "    "  # clients that show Markdown show an indented line as it is
APPROVAL_SCHEMA = {
    "type": "object",
    "properties": {
        "approve": {"type": "boolean", "title": "Approve", "description": "Allow this call once"},
        "reason": {"type": "string", "title": "Reason", "description": "For the record"},
    },
    "required": ["approve"],
}


class CallerIdentity(NamedTuple):
    """The agent, the user and the issuers that the facts about a caller name."""

    agent: object
    agent_issuer: object
    user: object
    issuer: object


class UserPrompt(NamedTuple):
    """A question for the user of a request, about one approval. `key` identifies it; `identity` is the caller of the
    request; `params` are what the client gets."""

    key: str
    mode: ElicitMode
    approval: str
    person: ProvedPerson
    identity: CallerIdentity
    params: dict[str, Any]


class UserAnswer(NamedTuple):
    """The answer in a form."""

    approve: bool
    reason: str | None


def declared_modes(capability: object, version: str | None) -> frozenset[ElicitMode]:
    """Return the modes that the `elicitation` capability of a client declares, as far as the version of the protocol
    has them. An empty capability declares forms."""
    if not isinstance(capability, Mapping) or version is None:
        return frozenset()
    modes = set()
    if ("form" in capability or not capability) and version >= FORM_VERSION:
        modes.add(ElicitMode.FORM)
    if "url" in capability and version >= URL_VERSION:
        modes.add(ElicitMode.URL)
    return frozenset(modes)


def proved_facts(facts: Mapping[str, object]) -> Mapping[str, object]:
    """Return the facts about a caller; if credentials were verified, the facts that they prove."""
    proved = facts.get("credentials")
    return proved.facts if isinstance(proved, VerifiedCredential) else facts


def caller_identity(facts: Mapping[str, object]) -> CallerIdentity:
    facts = proved_facts(facts)

    def member(root: str, name: str) -> object:
        found = facts.get(root)
        return found.get(name) if isinstance(found, Mapping) else None

    return CallerIdentity(
        member("agent", "id"), member("agent", "issuer"), member("user", "id"), member("credential", "issuer")
    )


def approving_user(question: Mapping[str, object]) -> ProvedPerson | None:
    """Return the user of a question whose facts are verified; None if they are not, or name no user."""
    found, proved = caller_identity(question), question.get("credentials")
    names = proved.names if isinstance(proved, VerifiedCredential) else ()
    is_proved = "credentials" not in question or isinstance(proved, VerifiedCredential)
    if not is_proved or not isinstance(found.user, str) or not found.user:
        return None
    issuer = found.issuer if isinstance(found.issuer, str) else None
    return ProvedPerson(found.user, issuer, aliases=find_aliases(found.user, issuer, names))


def is_own_approval(approval: ApprovalRequest, person: ProvedPerson) -> bool:
    """Return whether the rule asks for the approval of the user of the request, and the person is this user."""
    return person.user is not None and approval.approvers.user == approval.requester.user == person.user


def build_prompt(
    approval: ApprovalRequest,
    person: ProvedPerson,
    identity: CallerIdentity,
    modes: Collection[ElicitMode],
    page: str | None,
) -> UserPrompt | None:
    """Return the question as a form, if all of the call can be shown in it, otherwise with a page; None if neither is
    possible."""
    if ElicitMode.FORM in modes and len(message := describe_call(approval)) <= MAX_FORM_LENGTH:
        params: dict[str, Any] = {"message": message, "requestedSchema": APPROVAL_SCHEMA}
        return UserPrompt(prompt_key(approval), ElicitMode.FORM, approval.id, person, identity, params)
    if ElicitMode.URL in modes and page is not None:
        id = secrets.token_hex(16)
        message = f"{summarize(approval)}\nSign in on this page to approve or deny it."
        params = {"mode": "url", "message": message, "url": page, "elicitationId": id}
        return UserPrompt(prompt_key(approval), ElicitMode.URL, approval.id, person, identity, params)
    return None


def prompt_key(approval: ApprovalRequest) -> str:
    return f"{KEY_PREFIX}{approval.id}"


def summarize(approval: ApprovalRequest) -> str:
    agent = approval.requester.agent
    who = (
        "A caller without a name" if agent is None else f"The agent {show_text(json.dumps(agent, ensure_ascii=False))}"
    )
    return "\n".join(
        (
            f"{who} needs your approval for {show_text(approval.endpoint)}.",
            f"Rule {show_text(json.dumps(approval.rule, ensure_ascii=False))}:",
            f"{INDENT}{show_text(approval.summary)}",
        )
    )


def describe_call(approval: ApprovalRequest) -> str:
    """Return the whole text of a form. What the requester wrote is indented, and marked as its words."""
    asked = {name: value for name, value in approval.question.items() if name not in ("tool", "request")}
    http = {name: value for name, value in approval.question.get("request", {}).items() if value}
    if http:
        asked["request"] = http
    content = json.dumps(asked, ensure_ascii=False, indent=2)
    words = [f"{INDENT}{show_text(line)}" for line in content.split("\n")]
    within = format_duration(approval.within * MICROSECOND)
    end = f"Your approval counts once, for exactly this call, for {within}."
    return "\n".join((summarize(approval), "What the agent asks for, in its own words:", *words, end))


def show_text(text: str) -> str:
    """Return the text with code points, such as `⟨U+202E⟩`, in place of characters that are invisible or change the
    direction of text."""
    return "".join(f"⟨{part}⟩" if is_code else part for part, is_code in split_invisible(text, ""))


def without_own_answers(responses: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers to an interim result of the tool, which are not for the enforcement point."""
    return {key: value for key, value in responses.items() if not key.startswith(KEY_PREFIX)}


def read_form_answer(result: Mapping[str, Any]) -> UserAnswer | None:
    """Return the answer of the user; None if the user gave none, or if it is unclear."""
    content = result.get("content")
    members = content if isinstance(content, Mapping) else {}
    reason = members.get("reason")
    words = reason if isinstance(reason, str) and reason else None
    match result.get("action"), members.get("approve"):
        case "accept", bool(approve):
            return UserAnswer(approve, words)
        case "decline", _:
            return UserAnswer(False, words)
        case _:
            return None
