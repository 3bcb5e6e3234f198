"""Sending with a clock that only the test moves: at least once, in order, with pauses, and with every loss counted."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from policyengine.audit.sinks import sender as sender_module
from policyengine.audit.sinks.cursor import read_cursor
from policyengine.audit.sinks.sender import IDLE_SECONDS, SinkSender, deliver
from policyengine.audit.sinks.targets import OnLag, parse_sink
from policyengine.audit.sinks.transport import LinesRefusedError, SinkError, SinkLine, read_sink_line
from tests.audit.sinks.lines import DIRECTORY, Clock, RecordedTransport, append, begin, decision, numbered


@pytest.fixture
def log(tmp_path: Path) -> Path:
    begin(tmp_path / "decisions.jsonl", tmp_path / "sinks")
    return tmp_path / "decisions.jsonl"


def sender(log: Path, transport: RecordedTransport, clock: Clock | None = None, url: str = "stdout:#name=s", **options):
    return SinkSender(
        parse_sink(url), lambda: transport, log, log.parent / "sinks", clock=clock or Clock(),
        on_lag=options.pop("on_lag", OnLag.CONTINUE), draw=lambda low, high: high, **options,
    )  # fmt: skip


def fails(*answers: SinkError | None) -> Callable[[Sequence[SinkLine]], int]:
    """Raise these errors, one for each call, and then accept everything."""
    left = list(answers)

    def answer(lines: Sequence[SinkLine]) -> int:
        if left and (error := left.pop(0)) is not None:
            raise error
        return 0

    return answer


def refuses(*bad: str) -> Callable[[Sequence[SinkLine]], int]:
    """Refuse every batch with one of these decisions."""

    def answer(lines: Sequence[SinkLine]) -> int:
        if any(line.summary.id in bad for line in lines):
            raise LinesRefusedError("the receiver answers 400")
        return 0

    return answer


def test_lines_are_sent_once_and_in_order(log):
    transport = RecordedTransport()
    sends = sender(log, transport)
    append(log, decision(1), decision(2))
    assert [sends.step(), sends.step()] == [0.0, IDLE_SECONDS]
    append(log, decision(3))
    sends.step()
    assert transport.ids == numbered(1, 2, 3)
    assert (sends.sent, sends.lost, sends.failures) == (3, 0, 0)


def test_a_batch_has_at_most_500_lines(log):
    transport = RecordedTransport()
    sends = sender(log, transport)
    append(log, *map(decision, range(1_100)))
    while not sends.step():
        pass
    assert [len(batch) for batch in transport.batches] == [500, 500, 100]


def test_entity_rows_and_torn_lines_are_not_sent(log):
    transport = RecordedTransport()
    sends = sender(log, transport)
    append(log, DIRECTORY, decision(1), b'{"v":1,"time":"2027\n', b"\n", b"[]\n", decision(2)[:40] + decision(3))
    sends.step()
    assert transport.ids == numbered(1, 3)
    assert (sends.sent, sends.lost) == (2, 0)


def test_a_line_that_was_not_accepted_is_sent_again_after_a_restart(log):
    first = RecordedTransport(fails(None, SinkError("down")))
    sends = sender(log, first)
    append(log, decision(1))
    sends.step()
    append(log, decision(2))
    sends.step()
    sends.close()
    second = RecordedTransport()
    sender(log, second).step()
    assert (first.ids, second.ids) == (numbered(1), numbered(2))


def test_pauses_grow_up_to_a_minute_and_are_drawn_at_random(log):
    clock, drawn = Clock(), []
    sends = sender(log, RecordedTransport(fails(*[SinkError("down")] * 9)), clock)
    sends._draw = lambda low, high: drawn.append((low, high)) or high
    append(log, decision(1))
    for _ in range(9):
        sends.step()
        clock.now += 60
    sends.step()
    assert drawn == [(high / 2, high) for high in (0.5, 1, 2, 4, 8, 16, 32, 60, 60)]
    assert (sends.failures, sends.sent) == (9, 1)


def test_nothing_is_sent_during_a_pause(log):
    clock, transport = Clock(), RecordedTransport(fails(SinkError("down"), SinkError("down"), SinkError("down")))
    sends = sender(log, transport, clock)
    append(log, decision(1))
    waits = []
    for _ in range(5):
        waits.append(sends.step())
        clock.now += waits[-1]
    assert waits == [0.5, 1.0, 1.0, 1.0, 0.0]
    assert sends.failures == 3


def test_the_receiver_may_ask_for_a_longer_pause_of_up_to_five_minutes(log):
    clock = Clock()
    sends = sender(log, RecordedTransport(fails(SinkError("busy", 120.0), SinkError("busy", 9_999.0))), clock)
    append(log, decision(1))
    sends.step()
    clock.now += 119.9
    sends.step()
    assert sends.failures == 1
    clock.now += 0.1
    sends.step()
    assert sends.failures == 2
    clock.now += 300
    assert (sends.step(), sends.sent) == (0.0, 1)


@pytest.mark.parametrize(("failures", "words"), [(1, "1 failure"), (2, "2 failures")])
def test_the_server_log_reports_when_a_sink_fails_and_when_it_works_again(log, caplog, failures, words):
    caplog.set_level(logging.INFO, "policyengine")
    clock = Clock()
    sends = sender(log, RecordedTransport(fails(*[SinkError("the receiver answers 503")] * failures)), clock)
    append(log, decision(1))
    for _ in range(failures + 1):
        sends.step()
        clock.now += 60
    assert [(record.event, record.getMessage()) for record in caplog.records] == [
        ("sink_fails", "the sink `s` fails: the receiver answers 503; records wait, and are sent again later"),
        ("sink_works", f"the sink `s` works again after {words}"),
    ]


# ── Refused lines ─────────────────────────────────────────────────────────────────────────────


def test_a_refused_line_is_lost_and_the_others_arrive(log, caplog):
    transport = RecordedTransport(refuses("D7"))
    sends = sender(log, transport)
    append(log, *map(decision, range(20)))
    sends.step()
    assert sorted(transport.ids) == sorted(numbered(*range(7), *range(8, 20)))
    assert (sends.sent, sends.lost) == (19, 1)
    assert read_cursor(log.parent / "sinks", "s").lost == 1
    assert caplog.messages == ["the sink `s` has lost 1 record: the receiver answers 400"]


def test_a_receiver_that_refuses_everything_loses_nothing(log):
    transport = RecordedTransport(refuses(*numbered(*range(100))))
    sends = sender(log, transport)
    append(log, *map(decision, range(100)))
    sends.step()
    assert (sends.sent, sends.lost, sends.failures) == (0, 0, 1)
    transport.answer = lambda lines: 0
    sends._retry_at = 0.0
    sends.step()
    assert transport.ids == numbered(*range(100))


def test_a_single_refused_line_waits_for_the_next_one(log):
    transport = RecordedTransport(refuses("D1"))
    sends = sender(log, transport)
    append(log, decision(1))
    sends.step()
    assert (sends.lost, sends.failures) == (0, 1)
    append(log, decision(2))
    sends._retry_at = 0.0
    sends.step()
    assert (transport.ids, sends.lost) == (numbered(2), 1)


def too_long(lines: Sequence[SinkLine]) -> int:
    """Accept only short requests, as most HTTP servers do."""
    if sum(len(line.raw) for line in lines) > 10_000:
        raise LinesRefusedError("the receiver answers 413")
    return 0


@pytest.mark.parametrize("accepted", [0, 1], ids=["after a start", "after an accepted line"])
@pytest.mark.parametrize("many", [1, 60])
def test_long_lines_of_one_caller_that_the_receiver_refuses_do_not_stop_the_sink(log, accepted, many):
    """A batch contains nothing but such lines: so no other line of the batch shows that the receiver works."""
    transport = RecordedTransport(too_long)
    sends = sender(log, transport)
    append(log, *map(decision, range(accepted)))
    sends.step()
    append(log, *(decision(number, note="x" * 20_000) for number in range(100, 100 + many)), decision(2))
    while not sends.step():
        pass
    assert transport.ids[-1:] == numbered(2)
    assert (sends.sent, sends.lost, sends.failures) == (accepted + 1, many, 0)


def test_a_receiver_that_begins_to_refuse_everything_loses_nothing(log):
    transport = RecordedTransport()
    sends = sender(log, transport)
    append(log, decision(1))
    sends.step()
    transport.answer = refuses(*numbered(*range(100)))
    append(log, *map(decision, range(2, 60)))
    sends.step()
    assert (sends.sent, sends.lost, sends.failures) == (1, 0, 1)


def test_a_receiver_that_refuses_everything_is_not_asked_for_each_line():
    calls = 0

    def answer(lines: Sequence[SinkLine]) -> int:
        nonlocal calls
        calls += 1
        raise LinesRefusedError("the receiver answers 400")

    lines = [line for number in range(500) if (line := read_sink_line(decision(number))) is not None]
    with pytest.raises(SinkError, match=r"^the receiver answers 400 to every request$"):
        deliver(RecordedTransport(answer), lines)
    assert calls == 1 + sender_module.MAX_REFUSALS


def test_lines_that_the_receiver_drops_from_an_accepted_batch_are_lost(log, caplog):
    sends = sender(log, RecordedTransport(lambda lines: 2))
    append(log, decision(1), decision(2), decision(3))
    sends.step()
    assert (sends.sent, sends.lost) == (1, 2)
    assert caplog.messages == ["the sink `s` has lost 2 records: the receiver dropped them"]


def test_a_failure_while_a_batch_is_divided_sends_all_of_it_again(log):
    refused = LinesRefusedError("the receiver answers 413")
    transport = RecordedTransport(fails(refused, None, SinkError("down")))
    sends = sender(log, transport)
    append(log, *map(decision, range(4)))
    sends.step()
    sends._retry_at = 0.0
    sends.step()
    assert transport.ids == numbered(0, 1, 0, 1, 2, 3)


# ── Files and processes ───────────────────────────────────────────────────────────────────────


def test_only_one_process_sends(log):
    first, second = sender(log, RecordedTransport()), sender(log, transport := RecordedTransport())
    append(log, decision(1))
    assert (first.step(), second.step()) == (0.0, IDLE_SECONDS)
    append(log, decision(2))
    first.close()
    second.step()
    assert transport.ids == numbered(2)


def test_a_log_that_cannot_be_read_is_a_failure_and_not_a_loss(log, caplog):
    sends = sender(log, transport := RecordedTransport(), clock := Clock())
    append(log, decision(1))
    away = log.rename(log.with_name("away"))
    sends.step()
    assert caplog.messages == [
        "the sink `s` fails: the log cannot be read: no such file or directory; records wait, and are sent again later"
    ]
    away.rename(log)
    clock.now += 1
    sends.step()
    assert (transport.ids, sends.lost) == (numbered(1), 0)


def test_a_defect_does_not_end_the_sender(log, caplog):
    sends = sender(log, transport := RecordedTransport(lambda lines: 1 // 0), clock := Clock())
    append(log, decision(1))
    sends.step()
    assert caplog.records[0].exc_info is not None
    transport.answer = lambda lines: 0
    clock.now += 1
    sends.step()
    assert transport.ids == numbered(1)


def test_a_forked_process_leaves_the_lock_to_its_parent(log):
    sends = sender(log, transport := RecordedTransport())
    append(log, decision(1))
    sends.step()
    before = sends._lock
    sends.after_fork()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(before)
    assert (sends.sent, transport.closed) == (0, 0)


# ── A spool ───────────────────────────────────────────────────────────────────────────────────

BIG = "x" * 100_000


def fill(log: Path, files: int, first: int = 0) -> None:
    for number in range(first, first + files):
        append(log, decision(number, note=BIG), decision(f"{number}b", note=BIG))
        log.rename(log.with_name(f"{log.name}.20270115T0800{number:02}.000000Z"))
        log.touch()


def test_a_full_spool_gives_up_its_oldest_lines_and_counts_them(log, caplog):
    clock = Clock()
    sends = sender(
        log, RecordedTransport(fails(*[SinkError("down")] * 99)), clock, "stdout:#name=s&lag=1MB", spool=True
    )
    append(log, decision("first", note=BIG))
    sends.step()
    fill(log, 10)
    clock.now += 10
    sends.step()
    assert 0 < sends.lost < 21
    assert sends.lag() <= 1_000_000
    assert caplog.messages[-1] == f"the sink `s` has lost {sends.lost} records: the spool is full"


def test_every_line_of_a_spool_is_sent_or_counted(log):
    clock, transport = Clock(), RecordedTransport(fails(*[SinkError("down")] * 3))
    sends = sender(log, transport, clock, "stdout:#name=s&lag=1MB", spool=True, now=lambda: os.stat(log).st_mtime + 10)
    for first in (0, 10, 20):
        fill(log, 10, first)
        clock.now += 60
        sends.step()
    clock.now += 60
    while not sends.step():
        pass
    assert sends.lost > 30
    assert sends.sent + sends.lost == 60
    assert transport.ids[-2:] == ["D29", "D29b"]


def test_a_spool_that_denies_keeps_every_line(log):
    clock = Clock()
    transport = RecordedTransport(fails(SinkError("down")))
    sends = sender(
        log, transport, clock, "stdout:#name=s&lag=1MB", spool=True, on_lag=OnLag.DENY,
        now=lambda: os.stat(log).st_mtime + 10,
    )  # fmt: skip
    fill(log, 10)
    sends.step()
    clock.now += 10
    while not sends.step():
        pass
    assert (sends.sent, sends.lost) == (20, 0)


def test_a_log_file_keeps_every_line_even_beyond_the_bound(log):
    clock = Clock()
    sends = sender(log, RecordedTransport(), clock, "stdout:#name=s&lag=1MB", now=lambda: os.stat(log).st_mtime + 10)
    fill(log, 10)
    while not sends.step():
        pass
    assert (sends.sent, sends.lost) == (20, 0)
