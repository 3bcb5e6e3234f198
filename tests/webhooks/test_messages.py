"""What a message contains, and that the words of requesters have no effect in a chat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from policyengine.approvals.model import ApproverAnswer
from policyengine.runtime.decision import Principal
from policyengine.webhooks.chat_text import TITLES, chat_text
from policyengine.webhooks.messages import encode_message
from policyengine.webhooks.sample_message import create_sample_message
from policyengine.webhooks.target import WebhookFormat, WebhookLinks, WebhookTarget
from tests.webhooks.sending import ID, NOW, event

LINKS = WebhookLinks("https://console.example/", "https://pdp.example/")
PAGE = f"https://console.example/approvals/{ID}"
CHATS = (WebhookFormat.SLACK, WebhookFormat.SLACK_WORKFLOW, WebhookFormat.TEAMS)


def message(kind: str = "opened", format: WebhookFormat = WebhookFormat.JSON, **more: Any) -> Any:
    links, included = more.pop("links", LINKS), more.pop("include_request", False)
    target = WebhookTarget("a", "https://a.example", format=format, include_request=included)
    return json.loads(encode_message(event(kind, **more), target, links))


def test_json_has_what_an_approver_needs_to_decide_to_look() -> None:
    assert message() == {
        "type": "approval.opened", "timestamp": "2027-01-15T08:00:00Z",
        "data": {
            "id": ID, "state": "pending", "rule": "large", "message": "refund of 900", "endpoint": "POST /refunds",
            "requester": {"agent": "bot", "issuer": "acme", "user": "alice", "chain": ["alice", "bot"]},
            "by": "role finance", "count": 1, "opened": "2027-01-15T08:00:00Z", "expires": "2027-01-15T09:00:00Z",
            "within": "15m", "decision": "01J", "page": PAGE, "status": f"https://pdp.example/approvals/{ID}",
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "member"),
    [
        ("approved", "approved"),
        ("denied", "denied"),
    ],
)
def test_json_says_who_answered(kind: str, member: str) -> None:
    found = message(kind)
    answer = {"by": "carol", "issuer": "acme", "at": "2027-01-15T08:00:00Z", "reason": "already paid"}
    assert found["type"] == f"approval.{kind}"
    assert found["data"]["state"] == kind
    assert found["data"][member] in (answer, [answer])


def test_json_says_how_a_person_was_asked() -> None:
    [vote] = message("approved", votes=(ApproverAnswer("carol", "acme", 0, None, "mcp"),))["data"]["approved"]
    assert (vote["by"], vote["channel"]) == ("carol", "mcp")


def test_a_withdrawal_is_no_denial() -> None:
    found = message("withdrawn")
    assert (found["data"]["state"], "denied" in found["data"]) == ("withdrawn", False)


@pytest.mark.parametrize("format", list(WebhookFormat))
def test_values_of_the_request_are_sent_only_if_a_setting_says_so(format: WebhookFormat) -> None:
    assert "private words" not in json.dumps(message(format=format))
    assert "private words" in json.dumps(message(format=format, include_request=True))


@pytest.mark.parametrize("format", list(WebhookFormat))
@pytest.mark.parametrize("kind", ["opened", "approved", "denied", "expired", "withdrawn"])
def test_every_format_has_every_event(format: WebhookFormat, kind: str) -> None:
    text = json.dumps(message(kind, format), ensure_ascii=False)
    assert all(word in text for word in ("large", "POST /refunds", "bot", "alice"))
    assert ("carol" in text) is (kind in ("approved", "denied"))


@pytest.mark.parametrize("format", CHATS)
def test_a_chat_links_to_the_page_and_otherwise_to_the_state(format: WebhookFormat) -> None:
    assert PAGE in json.dumps(message(format=format))
    found = json.dumps(message(format=format, links=WebhookLinks(None, "https://pdp.example")))
    assert f"https://pdp.example/approvals/{ID}" in found
    assert "approvals/" not in json.dumps(message(format=format, links=WebhookLinks()))


@pytest.mark.parametrize("format", list(WebhookFormat))
def test_a_test_message_is_marked_as_a_test(format: WebhookFormat) -> None:
    target = WebhookTarget("a", "https://a.example", format=format)
    body = create_sample_message(target, LINKS, NOW).body.decode()
    assert TITLES["test"] in body or '"approval.test"' in body  # type: ignore[index]
    assert format is WebhookFormat.JSON or "/approvals/" not in body


# ── The words of requesters ───────────────────────────────────────────────────────────────────

HOSTILE = {
    "a link": "https://evil.example/login",
    "a link without a scheme": "see www.evil.example or evil.example",
    "a link with another dot": "evil。example evil．example",
    "a Slack link": "<https://evil.example|Open the approval>",
    "a mention of a channel": "<!channel> <!here> <@U012AB3CD> <!subteam^S1>",
    "Slack formatting": "*bold* _it_ ~no~ `code` >quote :smile:",
    "a Markdown link": "[Open the approval](https://evil.example)",
    "a Markdown picture": "![x](https://evil.example/x.png)",
    "Teams markup": '<at>All</at> <a href="https://evil.example">x</a> **bold**',
    "a template": "{{DATE(2027-01-01,SHORT)}} ${x} @{triggerBody()}",
    "line breaks": "one\nApproved by: carol\r\nStatus: approved\u2028x\u0085y\x0bz",
    "controls": "\x00\x07\x1b[31m\x7f\x9b",
    "reversed text": "\u202egnihton\u202c \u2066x\u2069",
    "invisible characters": "a\u200bb\u200dc\ufeffd\u00ade\U000e0041",
    "surrogates": "\ud800 \udfff",
    "entities": "&lt;!channel&gt; &amp; &#60;",
    "other schemes": "mailto:a@evil.example tel:+1 javascript://evil",
    "too long": "evil.example " * 10_000,
}
FIELDS = ("summary", "rule", "endpoint", "by", "agent", "issuer", "user", "chain", "reason", "approver", "question")


def hostile_message(format: WebhookFormat, field: str, text: str) -> Any:
    """Return the message of a denial with this text in one field."""
    who: dict[str, Any] = {"agent": "bot", "issuer": "acme", "user": "alice", "chain": ("alice", "bot")}
    if field in who:
        return message(
            "denied", format, requester=Principal(**{**who, field: (text, "b") if field == "chain" else text})
        )
    if field in ("reason", "approver"):
        answer = ApproverAnswer(text if field == "approver" else "carol", "acme", round(NOW) * 1_000_000, text)
        return message("denied", format, refusal=answer)
    if field == "question":
        return message("denied", format, question={"body": {"note": text, text[:50]: 1}}, include_request=True)
    return message("denied", format, **{field: text})


def texts(found: Any) -> Iterator[str]:
    """Yield all texts of a message except those that every message has."""
    match found:
        case dict():
            for key, value in found.items():
                if key not in ("$schema", "contentType", "url", "link"):
                    yield from texts(value)
        case list():
            for value in found:
                yield from texts(value)
        case str():
            yield found


def elements(found: Any, kind: str) -> Iterator[dict[str, Any]]:
    if isinstance(found, dict):
        if found.get("type") == kind:
            yield found
        for value in found.values():
            yield from elements(value, kind)
    if isinstance(found, list):
        for value in found:
            yield from elements(value, kind)


def is_harmless_in_slack(found: Any) -> None:
    # Only the link of our own is formatted; everything else is shown literally.
    assert [one["text"] for one in elements(found, "mrkdwn")] == [f"<{PAGE}|Open the approval>"]
    assert found["text"] in TITLES.values()
    assert (found["parse"], found["link_names"], found["unfurl_links"]) == ("none", False, False)
    shown = list(elements(found, "plain_text"))
    assert len(shown) >= 8
    assert not any(one["emoji"] for one in shown)
    for one in shown:
        assert not set(one["text"]) & set("<>")
        assert is_inert(one["text"].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
        assert len(one["text"]) <= 3_000
    assert all(len(one["fields"]) <= 10 for one in elements(found, "section") if "fields" in one)
    assert all(len(field["text"]) <= 2_000 for one in elements(found, "section") for field in one.get("fields", ()))


def is_harmless_in_a_workflow_of_slack(found: Any) -> None:
    assert found["link"] == PAGE
    for one in texts(found):
        assert is_inert(one)
        assert not set(one) & set("<>")


def is_harmless_in_teams(found: Any) -> None:
    [attached] = found["attachments"]
    card = attached["content"]
    # Only a title of our own is in an element that reads Markdown.
    assert [one["text"] for one in elements(card, "TextBlock")] == [TITLES["denied"]]  # type: ignore[index]
    assert [one["url"] for one in card["actions"]] == [PAGE]
    assert "msteams" not in card  # which would hold mentions
    for one in texts(found):
        assert is_inert(one)
        assert not set(one) & set("<>")
    assert len(json.dumps(found)) < 28_000


HARMLESS = {
    WebhookFormat.SLACK: is_harmless_in_slack,
    WebhookFormat.SLACK_WORKFLOW: is_harmless_in_a_workflow_of_slack,
    WebhookFormat.TEAMS: is_harmless_in_teams,
}


@pytest.mark.parametrize("format", CHATS)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_words_have_no_effect_in_a_chat_in_whatever_field_they_are(format: WebhookFormat, text: str) -> None:
    for field in FIELDS:
        HARMLESS[format](hostile_message(format, field, text))


def is_inert(text: str) -> bool:
    """Return whether a text has neither links nor characters that are not visible, except line breaks between
    fields."""
    return (
        "://" not in text and "evil.example" not in text and "{{" not in text and text.replace("\n", "").isprintable()
    )


def test_a_line_break_does_not_begin_another_field() -> None:
    found = hostile_message(WebhookFormat.SLACK_WORKFLOW, "summary", HOSTILE["line breaks"])
    assert not any(line.startswith(("Approved by", "Status")) for line in found["summary"].split("\n"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("900.50 EUR, e.g. 3.5", "900.50 EUR, e.g. 3.5"),
        ("alice@shop.example", "alice@shop[.]example"),
        ("https://a.example/b", "https[:]//a[.]example/b"),
        ("a\u202eb", "a\\u202eb"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_ordinary_words_stay_readable(text: str, shown: str) -> None:
    assert chat_text(text) == shown


def test_the_url_of_a_console_cannot_end_the_link_of_slack() -> None:
    links = WebhookLinks("https://console.example/a|b>c&d")
    [link] = elements(message(format=WebhookFormat.SLACK, links=links), "mrkdwn")
    assert link["text"] == f"<https://console.example/a%7Cb&gt;c&amp;d/approvals/{ID}|Open the approval>"


def test_a_rule_for_several_people_names_their_number_once() -> None:
    summary = message(format=WebhookFormat.SLACK_WORKFLOW, count=2, by="2 of role finance")["summary"]
    assert "\nApprovers: 2 of role finance\n" in summary
