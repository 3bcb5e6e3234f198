"""Plain events and labels for tests: agents that work by day, and some abusive runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HOUR, DAY = 3_600_000, 86_400_000
START = 20_000 * DAY
Event = dict[str, Any]


def run_of(agent: str, name: str, at: int, endpoints: Iterable[str], gap: int = 10_000, **more: Any) -> list[Event]:
    return [
        {"at": at + gap * number, "issuer": "idp", "agent": agent, "run": name, "endpoint": endpoint, **more}
        for number, endpoint in enumerate(endpoints)
    ]


def usual(
    days: Iterable[int], agents: int = 4, hours: Iterable[int] = range(9, 15)
) -> Iterator[tuple[str, list[Event]]]:
    """Yield normal runs: one an hour for each agent."""
    for day in days:
        for hour in hours:
            for agent in range(agents):
                name = f"{agent}/{day}/{hour}"
                at = START + day * DAY + hour * HOUR + agent * 60_000
                yield name, run_of(f"bot-{agent}", name, at, ["GET /data"] * 4 + ["POST /report"])


def abuse(day: int) -> Iterator[tuple[str, str, list[Event]]]:
    """Yield abusive runs of a day, with their kind."""
    at = START + day * DAY + 16 * HOUR
    yield "flood", f"flood-{day}", run_of("bot-0", f"flood-{day}", at, ["GET /data"] * 120, 100)
    yield "scan", f"scan-{day}", run_of("bot-1", f"scan-{day}", at, [f"GET /secret/{day}/{each}" for each in range(8)])
    yield "probe", f"probe-{day}", run_of("bot-2", f"probe-{day}", at, ["GET /data"] * 12, outcome="deny")


def write_lines(path: Path, lines: Iterable[Event]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_traffic(folder: Path, *, days: int = 14, later: int = 3) -> None:
    """Write `train.jsonl`, `test.jsonl` and `labels.jsonl`."""
    events = [event for _, run in usual(range(days)) for event in run]
    write_lines(folder / "train.jsonl", sorted(events, key=lambda event: event["at"]))
    runs = [("normal", name, run) for name, run in usual(range(days, days + later))]
    runs += [one for day in range(days, days + later) for one in abuse(day)]
    events = [event for _, _, run in runs for event in run]
    write_lines(folder / "test.jsonl", sorted(events, key=lambda event: event["at"]))
    write_lines(folder / "labels.jsonl", [{"run": name, "label": label} for label, name, _ in runs])
