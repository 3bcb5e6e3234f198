"""The newest lines of a log, what a requester did before, and the requests that a halt covers."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine.audit.query import halted_requests, requester_history
from policyengine.audit.query.halted_requests import HaltedRequestSearch
from policyengine.audit.query.log_tail import TrafficSearch, read_log_tail
from policyengine.audit.query.requester_history import RequesterSearch
from policyengine.halts.requests import HaltScope, make_halt

BOT = {"agent": "bot", "issuer": "acme", "user": "alice"}


def time_of(number: int) -> str:
    return f"2027-01-01T00:00:{number:02d}.000000Z"


def decision(number: int, outcome: str = "allow", **changed: Any) -> dict[str, Any]:
    principal = {"chain": [], **changed.pop("principal", BOT)}
    request = {
        "request": {"method": "GET", "path": "/x"}, "user": {"id": principal.get("user", "u")},
        "agent": {"id": principal.get("agent", "a"), "issuer": "acme"},
    }  # fmt: skip
    told = {"id": f"D{number}", "outcome": outcome, "principal": principal, "reasons": [], "revision": "sha256:1"}
    return {"v": 2, "time": time_of(number), "call": "decide", "decision": told, "request": request, **changed}


def approval(number: int, id: str, state: str, **changed: Any) -> dict[str, Any]:
    told = {
        "event": "approval", "approval": id, "state": state, "rule": "large", "endpoint": "GET /x", "agent": "bot",
        "agent_issuer": "acme", "user": "alice", **changed,
    }  # fmt: skip
    return {"v": 2, "time": time_of(number), "system": told}


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    texts = [one if isinstance(one, str) else json.dumps(one, separators=(",", ":")) for one in lines]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


# ── The tail ──────────────────────────────────────────────────────────────────────────────────


def test_a_tail_has_only_whole_lines(log: Path) -> None:
    log.write_bytes(b"first\nsecond\nthird\nbegun")
    tail = read_log_tail(log, 16)
    assert (tail.lines, tail.complete) == ((b"third",), False)
    whole = read_log_tail(log)
    assert (whole.lines, whole.complete) == ((b"first", b"second", b"third"), True)


def test_a_tail_continues_in_the_rotated_file(log: Path) -> None:
    log.with_name("log.jsonl.1").write_bytes(b"a\nb\n")
    log.write_bytes(b"c\n")
    assert read_log_tail(log).lines == (b"a", b"b", b"c")
    assert read_log_tail(log, 5).lines == (b"b", b"c")
    assert read_log_tail(log, 2) == read_log_tail(log, 3)


def test_a_tail_ends_before_a_compressed_file(log: Path) -> None:
    log.with_name("log.jsonl.2.gz").write_bytes(gzip.compress(b"a\n"))
    log.write_bytes(b"c\n")
    tail = read_log_tail(log)
    assert (tail.lines, tail.complete) == ((b"c",), False)


def test_a_missing_log_is_an_error(log: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        read_log_tail(log)


def test_the_newest_decisions_come_first_and_other_lines_are_left_out(log: Path) -> None:
    write(log, decision(1), "nonsense", approval(2, "a", "pending"), decision(3, "deny"), '{"v":2,"directory":"x"}')
    assert [(one.id, one.outcome) for one in TrafficSearch(log).answer()] == [("D3", "deny"), ("D1", "allow")]
    assert [one.id for one in TrafficSearch(log, most=1).answer()] == ["D3"]
    assert [one.id for one in TrafficSearch(log, outcome="allow").answer()] == ["D1"]


# ── The history of a requester ────────────────────────────────────────────────────────────────


def search(log: Path, **changed: Any) -> RequesterSearch:
    return RequesterSearch(log, **{**BOT, "since": time_of(0), **changed})


def test_the_history_counts_what_this_agent_of_this_issuer_did(log: Path) -> None:
    others = ({"agent": "bot", "issuer": "x"}, {"agent": "bott", "issuer": "acme"}, {"user": "bot"})
    lines = [decision(10 + number, principal=one) for number, one in enumerate(others)]
    write(log, decision(1), decision(2, "deny"), decision(3, principal={**BOT, "user": "zoe"}), *lines)
    found = search(log).answer()
    assert found.decisions == {"allow": 2, "deny": 1}
    assert [one.id for one in found.latest] == ["D3", "D2", "D1"]


def test_the_history_of_a_user_without_an_agent_has_no_agent(log: Path) -> None:
    write(log, decision(1, principal={"user": "alice"}), decision(2))
    assert [one.id for one in search(log, agent=None, issuer=None).answer().latest] == ["D1"]


def test_the_history_has_the_last_state_of_each_earlier_approval(log: Path) -> None:
    write(
        log, approval(1, "a", "pending"), approval(2, "a", "denied", by="fay"), approval(3, "b", "pending"),
        approval(4, "this", "pending"), approval(5, "c", "approved", agent="other"),
    )  # fmt: skip
    found = search(log, besides="this").answer()
    assert found.approvals == {"pending": 1, "denied": 1}
    assert [(one.id, one.state, one.by) for one in found.latest_approvals] == [
        ("b", "pending", ""),
        ("a", "denied", "fay"),
    ]


def test_the_history_begins_at_its_time_in_any_order_of_lines(log: Path) -> None:
    write(log, decision(5), decision(1), decision(6))
    assert [one.id for one in search(log, since=time_of(4)).answer().latest] == ["D6", "D5"]


def test_the_history_is_bounded_and_says_since_when(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(log, *(decision(number) for number in range(30)))
    found = search(log).answer()
    assert (found.decisions, len(found.latest), found.since) == ({"allow": 30}, 10, time_of(0))
    size = log.stat().st_size // 30
    monkeypatch.setattr(requester_history, "read_log_tail", lambda path: read_log_tail(path, 5 * size))
    bounded = search(log).answer()
    assert bounded.decisions["allow"] < 6
    assert bounded.since == bounded.latest[-1].time


@pytest.mark.parametrize("name", ['a"b', "b\u00f6t", "\u202e", "a\\b"])
def test_unusual_names_are_found(log: Path, name: str) -> None:
    write(log, decision(1, principal={"agent": name, "issuer": "acme"}))
    assert search(log, agent=name).answer().decisions == {"allow": 1}


# ── The requests that a halt covers ───────────────────────────────────────────────────────────


def covered(log: Path, since: str = time_of(0), **scope: Any) -> tuple[int, int, int]:
    named: HaltScope = scope.pop("scope", {})
    halt = make_halt(named, everything=not named, reason="x", end=timedelta(hours=1), by="", now=0)
    found = HaltedRequestSearch(log, halt, {"acme": "https://acme.example"}, since).answer()
    return found.total, found.covered, found.allowed


def test_the_requests_that_a_halt_covers_are_counted(log: Path) -> None:
    write(log, decision(1), decision(2, "deny"), decision(3, principal={"agent": "other"}), approval(4, "a", "pending"))
    assert covered(log, scope={"agent": "BOT"}) == (3, 2, 1)
    assert covered(log, scope={"place": "GET /x"}) == (3, 3, 2)
    assert covered(log, scope={"place": "POST /x"}) == (3, 0, 0)
    assert covered(log, scope={"issuer": "https://acme.example/"}) == (3, 3, 2)
    assert covered(log) == (3, 3, 2)
    assert covered(log, time_of(2)) == (2, 2, 1)


def test_a_request_that_cannot_be_read_is_not_covered(log: Path) -> None:
    write(log, decision(1, request={"nonsense": 1}), decision(2, request=[]))
    assert covered(log) == (2, 0, 0)


def test_the_count_of_requests_is_bounded_and_says_since_when(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(log, *(decision(number) for number in range(9)))
    monkeypatch.setattr(halted_requests, "MAX_COUNTED", 3)
    halt = make_halt({}, everything=True, reason="x", end=timedelta(hours=1), by="", now=0)
    found = HaltedRequestSearch(log, halt, {}, time_of(0)).answer()
    assert (found.total, found.since) == (3, time_of(6))
