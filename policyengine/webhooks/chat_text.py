"""Text of requesters for chats, without effect there: no links, no mentions, no formatting, nothing invisible."""

from __future__ import annotations

import json
import re

from policyengine.approvals.events import ApprovalEvent, ApprovalEventKind
from policyengine.approvals.model import to_datetime
from policyengine.control_characters import one_line, printable
from policyengine.time_formats import format_rfc3339

MAX_FIELD_LENGTH = 300
MAX_REQUEST_LENGTH = 2_000
LINK_DOT = re.compile(r"(?<=[^\s.])[.。．｡](?=[^\W\d_]{2})")  # as in `evil.example`, which chats turn into a link
LINK_SCHEME = re.compile(r":(?=//)|(?<=mailto):|(?<=tel):", re.IGNORECASE)
ANGLE_BRACKETS = str.maketrans({"<": "‹", ">": "›"})
TITLES = {
    ApprovalEventKind.OPENED: "An approval waits for an answer",
    ApprovalEventKind.APPROVED: "A request was approved",
    ApprovalEventKind.DENIED: "A request was denied",
    ApprovalEventKind.EXPIRED: "An approval expired without an answer",
    ApprovalEventKind.WITHDRAWN: "A request for approval was withdrawn",
    ApprovalEventKind.TEST: "A test of this webhook",
}


def chat_text(text: str, most: int = MAX_FIELD_LENGTH) -> str:
    """Return a text on one line, of at most `most` characters, in which no chat finds a link:
    `https[:]//evil[.]example`. Characters that are not visible are shown as code points.
    """
    return break_links(shorten(one_line(text[:most]), most, cut=len(text) > most))


def chat_json(value: object, most: int = MAX_REQUEST_LENGTH) -> str:
    """Return a value as JSON on several lines, treated as in `chat_text`."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return break_links(shorten(printable(text[:most], "\n"), most, cut=len(text) > most))


def shorten(text: str, most: int, *, cut: bool) -> str:
    return f"{text[: most - 1]}…" if cut or len(text) > most else text


def break_links(text: str) -> str:
    return LINK_DOT.sub("[.]", LINK_SCHEME.sub("[:]", text)).replace("{{", "{ {")


def chat_fields(event: ApprovalEvent) -> list[tuple[str, str]]:
    """Return the facts of an event as pairs of a name and a text that `chat_text` has treated."""
    approval, who = event.approval, event.approval.requester
    refusal = approval.refusal
    agent = who.agent if who.issuer is None or who.agent is None else f"{who.agent} (issuer {who.issuer})"
    is_open = event.kind in (ApprovalEventKind.OPENED, ApprovalEventKind.TEST)
    found = (
        ("Rule", approval.rule),
        ("Message, in the words of the requester", approval.summary),
        ("Endpoint", approval.endpoint),
        ("Agent", agent),
        ("For user", who.user),
        ("Chain", " → ".join(who.chain)),
        ("Approvers", approval.by),
        ("Answer until", format_rfc3339(to_datetime(approval.expires), "seconds") if is_open else None),
        ("Approved by", ", ".join(vote.by for vote in approval.votes)),
        ("Denied by", None if refusal is None or approval.withdrawn else refusal.by),
        ("Reason", None if refusal is None else refusal.reason),
    )
    return [(name, chat_text(text)) for name, text in found if text]
