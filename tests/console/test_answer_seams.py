"""Attacks on the seams between the console, the API and MCP: answers at the same moment, people with a link and rules
that name issuers, secrets, and approvals that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from policyengine.approvals.eligibility import ProvedPerson
from policyengine.approvals.events import ApprovalEvent, ApprovalEventKind
from policyengine.approvals.model import ApprovalChangeError
from policyengine.integrations.mcp.elicitation import describe_call, summarize
from policyengine.webhooks.messages import encode_message
from policyengine.webhooks.target import WebhookFormat, WebhookLinks, WebhookTarget
from tests.console.answering import POLICY, Answers, answer, answering
from tests.stores.test_approval_desk import states_on_record

FROM = POLICY.replace("by role finance within 15m when", "by role finance from acme within 15m when")
OTHERS = FROM.replace("from acme", "from partner") + (
    'issuer partner {{ url "https://login.partner.example"  audience "shop"  scopes none  users like "*@partner" }}\n'
)
FAY, GUS = ProvedPerson("fay", "acme"), ProvedPerson("gus", "acme")


# ── At the same moment ────────────────────────────────────────────────────────────────────────


def lines_of(found: Answers, id: str) -> list[str]:
    return [state for of, state in states_on_record(found.world.log) if of == id]


def test_of_answers_in_the_console_in_mcp_and_over_the_api_at_the_same_moment_one_counts(tmp_path: Path) -> None:
    with answering(tmp_path) as found:
        ids = [found.open(body={"amount": 200 + number}) for number in range(6)]
        fay, gus = found.person("fay"), found.person("gus")

        def in_the_console(id: str) -> None:
            assert answer(fay, id).status in (200, 409)

        def in_the_console_of_another(id: str) -> None:
            assert answer(gus, id, "deny").status in (200, 409)

        def in_mcp(id: str) -> None:
            with suppress(ApprovalChangeError):
                found.desk.deny(id, FAY, channel="mcp")

        def over_the_api(id: str) -> None:
            with suppress(ApprovalChangeError):
                found.desk.approve(id, GUS)

        works = (in_the_console, in_the_console_of_another, in_mcp, over_the_api)
        with ThreadPoolExecutor(4) as threads:
            for id in ids:
                for task in [threads.submit(work, id) for work in works]:
                    task.result()
        for number, id in enumerate(ids):
            [first, *last] = lines_of(found, id)
            assert (first, last) in (("pending", ["approved"]), ("pending", ["denied"]))
            passes = found.world.decide(
                request={"method": "POST", "path": "/refunds"}, body={"amount": 200 + number}
            ).allowed
            assert passes == (last == ["approved"])


def test_one_person_in_the_console_and_in_mcp_is_one_of_two(tmp_path: Path) -> None:
    with answering(tmp_path) as found:
        id = found.open("/wipe")
        with ThreadPoolExecutor(2) as threads:
            page = threads.submit(answer, found.person("fay"), id)
            form = threads.submit(found.desk.approve, id, FAY, channel="mcp")
            assert (page.result().status, form.result().state.value) == (200, "pending")
        assert len(found.find(id).approval.votes) == 1


# ── The person with a link, and rules that name issuers ───────────────────────────────────────


@pytest.mark.parametrize(
    ("policy", "user", "issuer", "status"),
    [
        (FROM, "fay", "acme", 200), (FROM, "fay", None, 403), (OTHERS, "fay", "acme", 403),
        (OTHERS, "fay", "partner", 403), (OTHERS.replace('"*@partner"', '"f*"'), "fay", "partner", 200),
    ],
    ids=["vouched for", "of no issuer", "of another issuer", "not a user of the issuer", "a user of the issuer"],
)  # fmt: skip
def test_a_link_gives_no_other_issuer_than_that_of_its_setting(
    tmp_path: Path, policy: str, user: str, issuer: str | None, status: int
) -> None:
    with answering(tmp_path, policy=policy, link_user=user, link_issuer=issuer) as found:
        id = found.open(body={"amount": 900})
        assert answer(found.world.operator(), id).status == status
        assert found.state(id) == ("approved" if status == 200 else "pending")


# ── Damage ────────────────────────────────────────────────────────────────────────────────────


def test_a_damaged_approval_takes_no_page_of_the_console_away(tmp_path: Path) -> None:
    with answering(tmp_path) as found:
        damaged, sound = found.open(body={"amount": 900}), found.open(body={"amount": 901})
        store, now = found.world.engine.store.approvals, int(found.clock.now * 1e6)
        row = store.find(damaged, now)
        assert row is not None
        assert store.save(row._replace(value=b"\xc1"), row, now)
        visitor = found.person("fay")
        assert [visitor.get(path).status for path in ("/", "/approvals", f"/approvals/{sound}")] == [200] * 3
        assert visitor.get(f"/approvals/{damaged}").status == 503
        assert answer(visitor, damaged).status == 503
        assert answer(visitor, sound).status == 200


# ── Secrets ───────────────────────────────────────────────────────────────────────────────────

SECRET = "sEcr3tW0rds"
SECRETS = {
    "password": SECRET, "nested": {"client_secret": SECRET, "list": [{"api_key": SECRET}]}, "Authorization": SECRET,
}  # fmt: skip
HTTP = {"method": "POST", "path": "/refunds", "query": {"access_token": SECRET},
        "headers": {"authorization": f"Bearer {SECRET}", "cookie": SECRET}}  # fmt: skip


def in_webhooks(found: Answers, id: str) -> str:
    event = ApprovalEvent(ApprovalEventKind.OPENED, found.find(id).approval, int(found.clock.now * 1e6))
    targets = [
        WebhookTarget(name="x", url="https://x.example", format=format, include_request=True)
        for format in WebhookFormat
    ]
    return "".join(encode_message(event, target, WebhookLinks()).decode() for target in targets)


def on_pages(found: Answers, id: str) -> str:
    visitor = found.person("fay")
    return "".join(visitor.get(path).text for path in ("/approvals", f"/approvals/{id}", "/log", "/traffic"))


def in_the_log(found: Answers, id: str) -> str:
    return found.world.log.read_text()


def in_forms(found: Answers, id: str) -> str:
    approval = found.find(id).approval
    return describe_call(approval) + summarize(approval)


@pytest.mark.parametrize("read", [in_webhooks, on_pages, in_the_log, in_forms])
def test_secrets_of_a_request_are_shown_nowhere(tmp_path: Path, read: Callable[[Answers, str], str]) -> None:
    with answering(tmp_path) as found:
        id = found.open(request=HTTP, body={"amount": 900, **SECRETS})
        text = read(found, id)
        assert "refund" in text
        assert SECRET not in text
