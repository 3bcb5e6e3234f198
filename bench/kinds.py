"""`kinds`: one decision by kind of question, beside the floor in the same run and beside the peers that can express it.

The floor answers the ordinary requests of the workload meanwhile: it knows no chain, no approval and no third value.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

from bench.child import Data, in_child
from bench.kind_questions import APPROVED, Kind, approved_kinds, kinds, load_engine
from bench.measure import Ask, Duel, duel, fresh_questions
from bench.peers import KIND_PEERS, PeerEntry
from bench.peers.kind_peer import KindPeer
from bench.peers.own import FloorPeer
from bench.report import Section, Target
from bench.trial import format_number
from bench.workload import Workload, workload
from policyengine.evaluator import is_compiled

SIZES = (10, 1_000, 10_000)
PEER_SIZE = 1_000
SECONDS, REQUESTS = 1.5, 1_000
CHILD_SECONDS = 900
PURE_RATIO, PURE_US = 5.0, 15.0  # what the pure build may cost, except for long chains
TAIL = 2.5  # p99 relative to p50
Say = Callable[[str], None]


def run(sizes: Sequence[int], say: Say) -> Section:
    """Measure every kind at every size, and every peer at one size, each in a child process of its own."""
    found = []
    for size in sizes:
        say(f"kinds: {size:,} rules")
        found.append(in_child("bench.kinds:measure", CHILD_SECONDS, {"size": size}))
    for entry in KIND_PEERS:
        say(f"kinds: {entry.title}, {PEER_SIZE:,} rules")
        found.append(_measure_peer(entry))
    return section(found)


def _measure_peer(entry: PeerEntry) -> Data:
    if entry.version is None:
        return {"peer": entry.name, "kinds": [], "error": "not installed: pip install '.[bench]'"}
    answer = in_child("bench.kinds:measure_peer", CHILD_SECONDS, {"name": entry.name, "size": PEER_SIZE})
    return {"peer": entry.name, "kinds": [], **answer}


def measure(size: int, only: Sequence[str] = (), seconds: float = SECONDS) -> Data:
    """Time the kinds by turns with the floor; runs in the child process. Raises ValueError for a wrong outcome."""
    work = workload(size, requests=REQUESTS)
    engine, floor = load_engine(work), FloorPeer(work)
    named = kinds(work)
    confirmed = next(kind for kind in named if kind.name == "confirm")
    place = named.index(confirmed) + 1
    rows = []
    for kind in [*named[:place], *approved_kinds(confirmed, engine), *named[place:]]:
        if only and kind.name not in only:
            continue
        ask = engine.evaluate if kind.evaluates else engine.decide
        outcomes = {str(ask(kind.prepare(question)).outcome) for question in kind.questions}
        if outcomes != {kind.outcome}:
            raise ValueError(f"{kind.name}: {', '.join(outcomes)} instead of {kind.outcome}")
        rows.append(_timed(kind, ask, kind.prepare, floor, work, seconds))
    return {"size": size, "build": "compiled" if is_compiled() else "pure", "kinds": rows}


def measure_peer(name: str, size: int, seconds: float = SECONDS) -> Data:
    """Time a peer with the kinds that it can express, if it agrees on the outcomes; runs in the child process."""
    work = workload(size, requests=REQUESTS)
    peer: KindPeer = next(entry for entry in KIND_PEERS if entry.name == name).loader()(work)
    floor = FloorPeer(work)
    rows: list[Data] = [{"kind": name, "cannot": peer.cannot[name]} for name in APPROVED]
    return {"size": size, "kinds": [*rows, *(_peer_row(peer, kind, floor, work, seconds) for kind in kinds(work))]}


def _peer_row(peer: KindPeer, kind: Kind, floor: FloorPeer, work: Workload, seconds: float) -> Data:
    if kind.name in peer.cannot:
        return {"kind": kind.name, "cannot": peer.cannot[kind.name]}
    ask = peer.ask_function(kind.name)
    for number, question in enumerate(kind.questions):
        outcome = peer.outcome(ask(peer.question(question)))
        if outcome != kind.outcome:
            return {"kind": kind.name, "skipped": f"wrong: question {number + 1} is {kind.outcome}, not {outcome}"}
    return _timed(kind, ask, peer.question, floor, work, seconds) | {"partial": peer.partial.get(kind.name)}


def _timed(kind: Kind, ask: Ask, prepare: Ask, floor: FloorPeer, work: Workload, seconds: float) -> Data:
    gc.collect()
    same = fresh_questions(floor.question, work.requests[: len(kind.questions)])
    return _row(kind, duel(ask, fresh_questions(prepare, kind.questions), floor.ask, same, seconds))


def _row(kind: Kind, found: Duel) -> Data:
    return {
        "kind": kind.name, "outcome": kind.outcome,
        "p50_us": round(found.ours.p50, 2), "p99_us": round(found.ours.p99, 2),
        "floor_p50_us": round(found.floor.p50, 3), "floor_p99_us": round(found.floor.p99, 3),
        "ratio": round(found.ratio, 2), "rounds": found.rounds, "quiet_rounds": found.quiet,
        "most_ratio": kind.most_ratio, "most_us": kind.most_us, "is_short": kind.is_short,
    }  # fmt: skip


# ── The table ─────────────────────────────────────────────────────────────────────────────────


def section(found: Sequence[Data]) -> Section:
    ours = [one for one in found if "peer" not in one]
    peers = [one for one in found if "peer" in one]
    sizes = [one["size"] for one in ours]
    cells = {(row["kind"], one["size"]): row for one in ours for row in one["kinds"]}
    beside = {(row["kind"], one["peer"]): row for one in peers for row in one["kinds"]}
    titles = {entry.name: entry.title for entry in KIND_PEERS}
    kind_names = list(dict.fromkeys(kind for kind, _ in cells))
    notes = Footnotes()
    rows = [
        (
            kind, cells[kind, sizes[0]]["outcome"], *(_cell(cells[kind, size]) for size in sizes),
            *(_peer_cell(beside.get((kind, one["peer"])), notes) for one in peers),
        )
        for kind in kind_names
    ]  # fmt: skip
    return Section(
        name="kinds",
        title="One decision by kind of question: p50 / p99 in µs, and p50 as a multiple of the floor's",
        columns=("kind", "outcome", *(f"{size:,} rules" for size in sizes), *(titles[one["peer"]] for one in peers)),
        rows=tuple(rows),
        data=tuple(found),
        targets=_targets(ours, cells, kind_names, sizes),
        notes=(
            "The floor answers the ordinary requests of the workload by turns with each kind.",
            f"Peers: p50 at {PEER_SIZE:,} rules, selected by the caller. None is timed unless all its outcomes agree.",
            "Rounds that another process interrupted are left out, where enough others remain.",
            *(f"Not measured: {titles[one['peer']]}, {one['error']}" for one in peers if "error" in one),
            *notes.lines(),
        ),
    )


class Footnotes:
    """Numbers the texts that cells refer to."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, text: str | None) -> str:
        return "" if text is None else f" [{self.numbers.setdefault(text, len(self.numbers) + 1)}]"

    def lines(self) -> list[str]:
        return [f"[{number}] {text}" for text, number in self.numbers.items()]


def _cell(row: Data) -> str:
    return f"{format_number(row['p50_us'])} / {format_number(row['p99_us'])} ({format_number(row['ratio'])}×)"


def _peer_cell(row: Data | None, notes: Footnotes) -> str:
    if row is None:
        return "–"
    if "cannot" in row:
        return "not expressible" + notes.mark(row["cannot"])
    if "skipped" in row:
        return str(row["skipped"])
    return f"{format_number(row['p50_us'])} ({format_number(row['ratio'])}×)" + notes.mark(row["partial"])


def _targets(
    ours: Sequence[Data], cells: dict[tuple[str, int], Data], names: Sequence[str], sizes: Sequence[int]
) -> tuple[Target, ...]:
    compiled = any(one["build"] == "compiled" for one in ours)
    short = [row for row in cells.values() if row["is_short"]]
    found = list(_compiled_targets(cells, names, sizes) if compiled else _pure_targets(short))
    found.append(_worst("p99 relative to p50", TAIL, short, lambda row: row["p99_us"] / row["p50_us"], "×"))
    if len(sizes) > 1:
        found += [_growth_target(kind, cells[kind, sizes[0]], cells[kind, sizes[-1]]) for kind in ("allow", "deny")]
    return tuple(found)


def _compiled_targets(cells: dict[tuple[str, int], Data], names: Sequence[str], sizes: Sequence[int]) -> list[Target]:
    found = []
    for kind in names:
        rows = [cells[kind, size] for size in sizes]
        ratio, microseconds = rows[0]["most_ratio"], rows[0]["most_us"]
        if ratio is not None:
            found.append(Target(f"{kind}, at the worst size", ratio, max(row["ratio"] for row in rows)))
        if microseconds is not None:
            seen = max(row["p50_us"] for row in rows)
            found.append(Target(f"{kind}, at the worst size", microseconds, seen, "µs"))
    return found


def _pure_targets(short: Sequence[Data]) -> list[Target]:
    return [
        _worst("all but long chains", PURE_RATIO, short, lambda row: row["ratio"], "×"),
        _worst("all but long chains", PURE_US, short, lambda row: row["p50_us"], "µs"),
    ]


def _worst(what: str, limit: float, rows: Sequence[Data], value: Callable[[Data], float], unit: str) -> Target:
    """Return a target for the worst of several kinds, which it names."""
    worst: Any = max(rows, key=value)
    return Target(f"{what}, at worst ({worst['kind']})", limit, round(value(worst), 2), unit)


def _growth_target(kind: str, small: Data, large: Data) -> Target:
    ours, floors = (large[name] / small[name] for name in ("p50_us", "floor_p50_us"))
    return Target(f"growth of {kind} from the fewest to the most rules, relative to the floor's", 1.0, ours / floors)
