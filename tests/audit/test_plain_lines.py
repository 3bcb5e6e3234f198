"""Lines that are encoded on the fast path: the slow path writes the same bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from policyengine.audit.encoder import LogLineEncoder
from policyengine.audit.outcomes import build_outcome
from policyengine.audit.redaction import Redaction
from policyengine.runtime.history import OutcomeReport
from policyengine.runtime.request import Request
from policyengine.runtime.values import Invalid

TOOL: dict[str, Any] = {"agent": {"id": "bot"}, "tool": {"server": "billing", "name": "add"}}
OPTIONS = {"obligations_supported": ["redact", "audit"], "request_approval": True}
REDACTION = Redaction(frozenset({("args", "card"), ("request", "headers", "x-id")}), (("args", "**", "token"),), b"k")
INDEXED = Redaction.of(['args.cards["0"]', 'args.rows.*["1"]'])


class SlowEncoder(LogLineEncoder):
    """An encoder without its fast paths."""

    def _encode_plain(self, question: dict[str, object]) -> None:
        return None

    def _encode_plain_event(self, what: str, told: object) -> None:
        return None


@pytest.mark.parametrize("redaction", [Redaction(key=b"k"), REDACTION, INDEXED])
@pytest.mark.parametrize(
    "question",
    [
        {**TOOL, "pending": ["request.headers.*", "request.host", "request.ip", "request.query.*", "request.size"]},
        {**TOOL, "args": {"a": [1, {"b": None}], "c": True}, "pending": ["request.ip"], "options": OPTIONS},
        {**TOOL, "options": OPTIONS},
        {**TOOL, "options": {"consume": False, "explain": True}},
        {**TOOL, "pending": ["args"]},
        {**TOOL, "args": {"a": 1}, "pending": ["args.*", "agent.groups", "user.roles"]},
        {**TOOL, "args": {"a": {"b": 1}}, "pending": ["args.a.*"], "options": OPTIONS},
        {**TOOL, "args": {"cards": ["1234", "b"], "rows": [["a", "5678"]]}, "pending": ["request.ip"]},
        {**TOOL, "args": {"password": "x", "card": "1234", "deep": {"token": "y"}}, "pending": ["request.ip"]},
        {**TOOL, "request": {"headers": {"X-Id": "1", "authorization": "Bearer x"}}, "pending": ["request.ip"]},
        {**TOOL, "args": {"a": Decimal("1.5"), "b": Decimal("100")}, "pending": ["request.ip"]},
        {**TOOL, "args": {"at": datetime(2027, 1, 1, tzinfo=UTC), "ü": "\u202e{"}, "pending": ["request.ip"]},
        {**TOOL, "args": {"a": Invalid("a duplicate key")}, "pending": ["request.ip"]},
        {**TOOL, "approvals": [{"id": "a", "by": "carol"}], "pending": ["request.ip"]},
        {**TOOL, "entities": [{"type": "user", "id": "a", "attributes": {}}], "pending": ["request.ip"]},
        {**TOOL, "options": {"at": "2027-01-01T00:00:00Z", "consume": False}, "pending": ["request.ip"]},
    ],
)
def test_a_question_is_written_as_on_the_slow_path(question: dict[str, Any], redaction: Redaction) -> None:
    request = Request.from_mapping(question)
    assert LogLineEncoder(redaction).question(request) == SlowEncoder(redaction).question(request)


def test_attack_secret_in_a_list_whose_index_is_redacted() -> None:
    question = {**TOOL, "args": {"cards": ["1234", "b"], "rows": [["a", "5678"]]}}
    line, _ = LogLineEncoder(INDEXED).question(Request.from_mapping(question))
    assert b"1234" not in line
    assert b"5678" not in line


@pytest.mark.parametrize("redaction", [Redaction(key=b"k"), REDACTION])
@pytest.mark.parametrize(
    "subject",
    [
        {},
        {"agent": "bot", "chain": ["alice", "bot"], "revision": "sha256:1", "task": {"id": 1, "password": "x"}},
        {"resource": {"type": "doc", "id": "ü\u202e"}, "task": Decimal("100"), "model": Decimal("1.5")},
        {"task": datetime(2027, 1, 1, tzinfo=UTC)},
        {"task": "x" * 70_000},
        {"task": "\ud800"},
    ],
)
@pytest.mark.parametrize(
    "report",
    [
        OutcomeReport(200, {}, 12.3456),
        OutcomeReport(500, {"cost": Decimal("0.25"), "args": {"card": "1"}}, None, 10, {"input_tokens": 12}),
    ],
)
def test_an_outcome_is_written_as_on_the_slow_path(
    report: OutcomeReport, subject: dict[str, Any], redaction: Redaction
) -> None:
    told = {**build_outcome("01ARZ3NDEKTSV4RRFFQ69G5FAV", report, [("cost",), ("args", "card")]), "subject": subject}
    lines = [
        of(redaction).event("outcome", told, 0, b'"trace":"0",', is_clean=True) for of in (LogLineEncoder, SlowEncoder)
    ]
    assert lines[0] == lines[1]
