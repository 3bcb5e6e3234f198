"""The halts that ended, in the console: what they covered, who set them, until when, and how they ended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from policyengine.halts.document import RESERVED_BYTES, HaltDocument, HaltLift, decode_document, encode_document
from policyengine.runtime.halts import Halt
from policyengine.server.console.pages import halts as page
from policyengine.stores.halts import MAX_HALTS_BYTES
from policyengine.time_formats import format_epoch_seconds
from tests.console.answering import Answers, answering, send

HOUR = timedelta(hours=1)


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Answers]:
    with answering(tmp_path) as answers:
        yield answers


def ended_rows(found: Answers) -> list[list[str]]:
    """Return the cells of the rows of ended halts."""
    text = found.person("hal").get("/halts").text.partition("<h2>Ended</h2>")[2]
    rows = re.findall(r"<tr><th.*?</tr>", text.partition("<tbody>")[2].partition("</tbody>")[0], re.DOTALL)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
            for row in rows]  # fmt: skip


def shown(seconds: float) -> str:
    return format_epoch_seconds(int(seconds))[:19].replace("T", " ")


def test_a_lifted_halt_is_listed_with_who_set_and_who_lifted_it(found: Answers) -> None:
    engine = found.world.engine
    halt = engine.halt(agent="bot\u202e", reason="it repeats", end=HOUR, by="ops")
    send(found.person("hal"), f"/halts/{halt.id}/lift", {"reason": "it was mended"})
    [lifting] = engine.halting.liftings
    assert ended_rows(found) == [[
        "agent botU+202E", "it repeats", shown(halt.until), "ops", shown(halt.since),
        f"lifted {shown(lifting.at)} by hal of acme: it was mended",
    ]]  # fmt: skip


def test_a_halt_that_reached_its_end_is_listed_as_such(found: Answers) -> None:
    halt = found.world.engine.halt(everything=True, reason="incident", end=HOUR, by="ops")
    assert ended_rows(found) == []
    found.clock.now += 3_601
    found.world.engine.halting.refresh()
    assert ended_rows(found) == [["everything", "incident", shown(halt.until), "ops", shown(halt.since), "at its end"]]


def test_the_halt_that_ended_last_is_first_and_the_list_is_bounded(
    found: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        halt = found.world.engine.halt(agent=name, reason="x", end=HOUR)
        found.world.engine.lift(halt.id, reason="over")
        found.clock.now += 1
    assert [row[0] for row in ended_rows(found)] == ["agent three", "agent two", "agent one"]
    monkeypatch.setattr(page, "MAX_ENDED_SHOWN", 2)
    assert [row[0] for row in ended_rows(found)] == ["agent three", "agent two"]


def test_a_lifting_of_an_earlier_version_is_listed_by_its_id(found: Answers) -> None:
    raw = b'{"number": 9000000000000000, "halts": [], "lifted": [{"id": "h1", "reason": "over", "at": 1, "by": "dev"}]}'
    assert found.world.engine.store.halts.save(9_000_000_000_000_000, raw, None)
    found.world.engine.halting.refresh()
    assert ended_rows(found) == [["h1", "", "", "", "", "lifted 1970-01-01 00:00:01 by dev: over"]]


def test_lifted_halts_make_room_for_new_ones() -> None:
    large = Halt("h1", "x" * 900_000, 0, 10**9, agent="bot")
    document = HaltDocument(1, (large,)).lifting(HaltLift("h1", "over", 5), 5)
    assert document.lifted[0].halt == large
    more = document.adding(Halt("h2", "y" * 900_000, 0, 10**9, agent="bot"), 6)
    assert [one.id for one in more.halts] == ["h2"]
    assert (more.lifted[0].id, more.lifted[0].halt) == ("h1", None)
    assert len(encode_document(more)) < MAX_HALTS_BYTES - RESERVED_BYTES
    small = HaltDocument(1, (Halt("h3", "x", 0, 10**9, agent="bot"),)).lifting(HaltLift("h3", "over", 5), 5)
    assert decode_document(small.number, encode_document(small)) == small
