"""The bodies of webhooks: JSON of our own, Block Kit for Slack, flat JSON for Slack workflows, and an Adaptive Card for
Teams workflows.

The words of requesters are only in elements that their chat shows literally: `plain_text` of Slack and `TextRun` of
Adaptive Cards, in which neither Markdown nor mentions have an effect.
"""

from __future__ import annotations

import json

from policyengine.approvals.events import ApprovalEvent, ApprovalEventKind
from policyengine.approvals.views import format_moment
from policyengine.webhooks.chat_text import ANGLE_BRACKETS, TITLES, chat_fields, chat_json
from policyengine.webhooks.event_data import event_data
from policyengine.webhooks.target import WebhookFormat, WebhookLinks, WebhookTarget

MAX_SLACK_FIELDS = 10  # maximum fields of one section
LINK_TEXT, STATUS_TEXT = "Open the approval", "State of the approval"
REQUEST_TITLE = "The request, in the words of the requester"
SLACK_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
CARD_TYPE = "application/vnd.microsoft.card.adaptive"
CARD_SCHEMA = "http://adaptivecards.io/schemas/adaptive-card.json"


def encode_message(event: ApprovalEvent, target: WebhookTarget, links: WebhookLinks) -> bytes:
    """Return the body of the message about an event."""
    match target.format:
        case WebhookFormat.JSON:
            found = json_message(event, target, links)
        case WebhookFormat.SLACK:
            found = slack_message(event, target, links)
        case WebhookFormat.SLACK_WORKFLOW:
            found = slack_variables(event, target, links)
        case WebhookFormat.TEAMS:
            found = teams_message(event, target, links)
    return json.dumps(found, ensure_ascii=True, separators=(",", ":")).encode()


def json_message(event: ApprovalEvent, target: WebhookTarget, links: WebhookLinks) -> dict[str, object]:
    """Return the event in the form that the Standard Webhooks specification recommends."""
    data = event_data(event, links, include_request=target.include_request)
    return {"type": f"approval.{event.kind}", "timestamp": format_moment(event.at), "data": data}


def find_link(event: ApprovalEvent, links: WebhookLinks) -> tuple[str, str] | None:
    """Return the text and the URL of the link to an approval: to its page or, without a console, to its state."""
    if event.kind is ApprovalEventKind.TEST:
        return None
    if (page := links.page(event.approval.id)) is not None:
        return LINK_TEXT, page
    status = links.status(event.approval.id)
    return None if status is None else (STATUS_TEXT, status)


# ── Slack ─────────────────────────────────────────────────────────────────────────────────────


def slack_message(event: ApprovalEvent, target: WebhookTarget, links: WebhookLinks) -> dict[str, object]:
    """Return the message for an incoming webhook of Slack."""
    fields = [slack_text(f"{name}\n{text}") for name, text in chat_fields(event)]
    blocks: list[dict[str, object]] = [{"type": "header", "text": slack_text(TITLES[event.kind])}]
    blocks += [
        {"type": "section", "fields": fields[at : at + MAX_SLACK_FIELDS]}
        for at in range(0, len(fields), MAX_SLACK_FIELDS)
    ]
    if target.include_request:
        blocks.append({"type": "section", "text": slack_text(f"{REQUEST_TITLE}\n{chat_json(event.approval.question)}")})
    if (link := find_link(event, links)) is not None:
        text, url = link
        shown = f"<{url.translate(SLACK_ENTITIES).replace('|', '%7C')}|{text}>"
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": shown, "verbatim": True}})
    quiet = {"parse": "none", "link_names": False, "unfurl_links": False, "unfurl_media": False}
    return {"text": TITLES[event.kind], "blocks": blocks, **quiet}


def slack_text(text: str) -> dict[str, object]:
    """Return a text that Slack shows literally."""
    return {"type": "plain_text", "text": text.translate(SLACK_ENTITIES), "emoji": False}


def slack_variables(event: ApprovalEvent, target: WebhookTarget, links: WebhookLinks) -> dict[str, object]:
    """Return the variables for a workflow of Slack that starts from a webhook: `event`, `title`, `summary`, `link` and,
    if it is included, `request`."""
    lines = "\n".join(f"{name}: {text}" for name, text in chat_fields(event))
    link = find_link(event, links)
    found: dict[str, object] = {
        "event": str(event.kind), "title": TITLES[event.kind], "summary": lines.translate(ANGLE_BRACKETS),
        "link": "" if link is None else link[1],
    }  # fmt: skip
    if target.include_request:
        found["request"] = chat_json(event.approval.question).translate(ANGLE_BRACKETS)
    return found


# ── Teams ─────────────────────────────────────────────────────────────────────────────────────


def teams_message(event: ApprovalEvent, target: WebhookTarget, links: WebhookLinks) -> dict[str, object]:
    """Return the message for a workflow of Teams that posts a card when a webhook request is received."""
    body: list[dict[str, object]] = [
        {"type": "TextBlock", "text": TITLES[event.kind], "weight": "Bolder", "size": "Medium", "wrap": True}
    ]
    body += [teams_text(name, text) for name, text in chat_fields(event)]
    if target.include_request:
        body.append(teams_text(REQUEST_TITLE, chat_json(event.approval.question)))
    link = find_link(event, links)
    actions = [] if link is None else [{"type": "Action.OpenUrl", "title": link[0], "url": link[1]}]
    card = {"$schema": CARD_SCHEMA, "type": "AdaptiveCard", "version": "1.4", "body": body, "actions": actions}
    return {"type": "message", "attachments": [{"contentType": CARD_TYPE, "contentUrl": None, "content": card}]}


def teams_text(name: str, text: str) -> dict[str, object]:
    """Return a line with a name and a text, which Teams shows literally."""
    runs = [
        {"type": "TextRun", "text": f"{name}: ", "weight": "Bolder"},
        {"type": "TextRun", "text": text.translate(ANGLE_BRACKETS)},
    ]
    return {"type": "RichTextBlock", "inlines": runs}
