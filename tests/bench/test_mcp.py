"""The bench of the MCP gateway: both ways in turns, right answers only, and a target for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bench import mcp
from bench.mcp import GATEWAY, RELAY, McpWay
from bench.serving.mcp_upstream import answer


def test_both_ways_are_measured_in_turns_with_new_numbers() -> None:
    numbers: list[tuple[str, int]] = []
    pair = {
        name: McpWay(lambda number, name=name: numbers.append((name, number)), os.getpid())  # type: ignore[misc]
        for name in (GATEWAY, RELAY)
    }
    found = mcp.compare(pair, 2, 3)
    assert [name for name, _ in numbers] == ([GATEWAY] * 3 + [RELAY] * 3) * 3
    assert len({number for _, number in numbers}) == len(numbers)
    one = {"transport": "HTTP", "server": "constant", "era": "modern", **found}
    section = mcp.section([{**one, "ratio": 1.31}, {**one, "ratio": 1.29}])
    assert [target.holds for target in section.targets] == [False, True]


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_wrong_answer_ends_the_measurement(era: str) -> None:
    program = "import sys\nfor line in sys.stdin: print('{}', flush=True)"
    with mcp.stdio_process([sys.executable, "-c", program]) as process, pytest.raises(SystemExit, match="wrong answer"):
        mcp.stdio_ask(process, era)(1)


def test_the_relay_over_stdio_forwards_lines_both_ways() -> None:
    message = json.dumps(mcp.modern_call(7)).encode() + b"\n"
    server = [sys.executable, "-m", "bench.serving.mcp_pipe", "answer"]
    relay = [sys.executable, "-m", "bench.serving.mcp_pipe", "relay", *server]
    done = subprocess.run(relay, input=message * 3, capture_output=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [answer("POST", message)[1]] * 3
