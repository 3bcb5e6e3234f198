"""The bench of the doors: right answers before anything is timed, floors in the same run, and ratios by round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")

from bench.serving import doors, grpc_load, load
from bench.serving.doors import ASGI, BARE, ECHO, GRPC, OURS, DoorServers
from bench.workload import workload

WORK = workload(20, 400)
CASES = {case.name: case for case in doors.http_cases(WORK)}


def quiet(words: str) -> None:
    pass


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorServers]:
    with ExitStack() as stack:
        yield DoorServers.start(WORK, tmp_path_factory.mktemp("doors"), stack)


@pytest.mark.parametrize("name", CASES)
def test_each_door_gives_right_answers(servers: DoorServers, name: str) -> None:
    case = CASES[name]
    with doors.closing(doors.HttpClient(servers.port(case).port, 1)) as client:
        for message in case.messages[:20]:
            answer = client.ask(message)
            assert (answer.status == 200) is not case.denied
            assert case.mark in doors.raw_answer(answer.headers, answer.body)


def test_a_door_is_measured_beside_both_floors(
    servers: DoorServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "CONNECTIONS", (2,))
    monkeypatch.setattr(load.shutil, "which", lambda program: None)  # our own load, whatever is installed
    found = list(doors.measure_case(CASES["/forward-auth"], servers, tmp_path, 1, 0.05, quiet))
    assert [(one["server"], one["connections"]) for one in found] == [(OURS, 2), (ASGI, 2), (BARE, 2)]
    assert all(one["rps"] > 0 and one["cpu_us"] > 0 and not one["failed"] for one in found)


def test_a_door_with_wrong_answers_is_not_timed(servers: DoorServers, tmp_path: Path) -> None:
    case = replace(CASES["/evaluate"], mark=b"never")
    (row,) = doors.measure_case(case, servers, tmp_path, 1, 0.05, quiet)
    assert row["skipped"].startswith(f"wrong: {len(case.messages):,} of {len(case.messages):,} answers")


def test_grpc_is_measured_beside_an_echo_of_the_same_answer(servers: DoorServers) -> None:
    written = grpc_load.serialized_answer(servers.grpc.port)
    assert b"x-decision-id" in written
    found = grpc_load.measure(servers.grpc.port, 2, 0.05)
    assert found["rps"] > 0
    assert found["failed"] == 0


def row(door: str, server: str, rates: list[float]) -> dict[str, Any]:
    each = [{"rps": one, "p50_us": 1.0, "p99_us": 2.0, "requests": 100, "cpu_s": 0.01, "failed": 0} for one in rates]
    return doors.summary(door, server, 32, each)


def test_doors_are_compared_with_their_floor_round_by_round() -> None:
    rows = [
        row("/decide", OURS, [90.0, 60.0, 80.0]), row("/decide", ASGI, [100.0, 50.0, 100.0]),
        row(GRPC, OURS, [7.0]), row(GRPC, ECHO, [10.0]),
    ]  # fmt: skip
    section = doors.section([*rows, {"door": "/evaluate", "skipped": "wrong"}])
    assert doors.ratio(rows, "/decide", ASGI, 32) == 0.9
    assert doors.ratio(rows, "/decide", ASGI, 1) is None
    assert [target.holds for target in section.targets] == [False, None, None, True, None]
    assert section.rows[0][4:6] == ("0.90×", "–")
    assert section.rows[-1][:2] == ("/evaluate", "left out")
    assert rows[0]["cpu_us"] == 100.0
