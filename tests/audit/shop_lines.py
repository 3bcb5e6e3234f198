"""Lines of logs for tests of questions, in the format of the log, with times one minute apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

START = datetime(2026, 3, 2, 10, tzinfo=UTC)


def moment(minute: float) -> str:
    return f"{START + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%S.%f}Z"


def line(minute: float, **members: Any) -> bytes:
    return json.dumps({"v": 2, "time": moment(minute), **members}).encode() + b"\n"


def decision(
    minute: float,
    id: str,
    outcome: str = "allow",
    *,
    agent: Any = "bot",
    user: Any = "alice",
    chain: Any = None,
    rule: str | None = None,
    path: str = "/v1/invoices/42",
    binding: str | None = None,
    approved: Sequence[tuple[str, str]] = (),
    **members: Any,
) -> bytes:
    """A decision; `approved` has the approver and the binding of each approval that it used."""
    gate = None if outcome == "allow" else "guard"
    reasons = [] if rule is None else [{"gate": "guard", "rule": rule, "message": "m", "outcome": outcome}]
    remedies = [] if binding is None else [{"kind": "approval", "binding": binding}]
    principal = {"agent": agent, "issuer": "acme", "user": user, "chain": chain or [user, agent]}
    approvals = [{"id": f"ap-{place}", "by": by, "binding": one} for place, (by, one) in enumerate(approved)]
    return line(
        minute,
        call="decide",
        decision={
            "outcome": outcome, "id": id, "revision": "sha256:r", "package": "shop", "gate": gate,
            "reasons": reasons, "remedies": remedies, "principal": principal,
        },
        request={"request": {"method": "GET", "path": path}, **({"approvals": approvals} if approvals else {})},
        **({"spends": [one["id"] for one in approvals]} if approvals else {}),
        **members,
    )  # fmt: skip


def outcome(minute: float, id: str, **members: Any) -> bytes:
    subject = {"agent": "bot", "user": "alice", "endpoint": "GET /v1/invoices/{id}", "outcome": "allow"}
    return line(minute, outcome={"decision": id, "subject": subject, **members})


def shop_lines() -> list[bytes]:
    """Forty decisions of a shop, their outcomes, an approved and an open confirm, and tokens."""
    lines = [line(0, system={"event": "started", "revision": "sha256:r"})]
    for number in range(40):
        denied = number % 4 == 3
        lines.append(
            decision(
                number, f"D{number:02}", "deny" if denied else "allow", agent=f"bot-{number % 3}",
                rule=f"rule {number % 8}" if denied else None, path=f"/v1/invoices/{number % 5}",
                chain=["alice", "planner", f"bot-{number % 3}"] if number % 5 == 0 else None,
            )
        )  # fmt: skip
        if not denied:
            usage = {"tokens": number, "cost/eur~": 0.25}
            lines.append(outcome(number, f"D{number:02}", status=200, latency_ms=number + 0.5, size=100, usage=usage))
    lines += [
        decision(50, "C1", "confirm", rule="large refunds", binding="sha256:1"),
        decision(51, "C2", "confirm", rule="large refunds", binding="sha256:2"),
        decision(52, "C3", approved=[("carol", "sha256:1")]),
        decision(53, "C4", "confirm", rule="large refunds", binding="sha256:1"),
        line(
            54, issued={"client": "desk", "jti": "j-1", "agent": {"id": "bot", "issuer": "acme"}, "user": {"id": "u"}}
        ),
        line(55, not_issued={"client": "desk", "code": "scope", "error": "invalid_scope"}),
        line(56, ended={"what": "task", "task": {"id": "t-1"}}),
    ]
    return lines


def odd_lines() -> list[bytes]:
    """Valid lines with members of odd types and hostile text."""
    return [
        decision(0, "O1", agent='=cmd()|"x"', chain=["a > b", 'q"x\\', "é\u202e", ""]),
        decision(1, "O2", agent=5, user=None, chain=[1, None, {"a": 1.5}]),
        decision(2, "O3", agent={"a": [1, 2.5, True]}, chain="x"),
        decision(3, "O4", endpoint="GET /x/{id}", resource={"type": "invoice", "id": "9"}, client="c1", task="t9"),
        decision(4, "O5", resource="r/1", observed=True, trace="00-1-2-01"),
        decision(5, "O6", agent="%_\\'", rule="100%_'; DROP TABLE events; --"),
        outcome(6, "O1", status=200, latency_ms=1, size=3, usage={"a": 1, "b/~c": 2.5, "d": "x", "e": True, "f": None}),
        outcome(7, "O2", status="200", latency_ms=1e-05, size=3.5, usage=[1]),
        outcome(8, "O3", latency_ms="x", size=10**20, usage={"a": 10**20}),
        outcome(9, "O4", status=True, latency_ms=1.5, usage="text"),
        line(10, seal={"event": "key"}),
        line(11, directory="sha256:d", entities=[]),
        line(12, decision={"id": 7, "reasons": {"rule": "x"}, "remedies": "no", "principal": None}, request="no"),
        decision(13, "O7").replace(b'"v": 2', b'"v": 1'),
    ]


def damaged_lines() -> list[bytes]:
    """Lines of which six are valid, and eleven are skipped."""
    whole, cut = decision(0, "W1"), decision(1, "W2")[:200]
    return [
        whole,
        cut.replace(b'{"v": 2', b'{"v":2') + decision(2, "W3").replace(b'{"v": 2', b'{"v":2'),
        decision(3, "W4").replace(moment(3).encode(), b"2026-03-02T12:03:00+02:00"),
        decision(4, "W5").replace(moment(4).encode(), b"yesterday"),
        decision(5, "W6").replace(b'"v": 2', b'"v": 3'),
        b"\n[1]\n5\n\"x\"\n{}\n",
        b'{"v":1,"time":"2026-03-02T10:00:02.000000Z"}\n',
        b"\xef\xbb\xbf" + decision(6, "W7"),
        decision(7, "W8").replace(b"alice", b"\xff\xfe"),
        b"[" * 5_000 + b"\n",
        decision(8, "W9", agent="last"),
        decision(9, "WA"),
        decision(10, "WB")[:150],
    ]  # fmt: skip


def write_lines(path: Path, lines: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path
