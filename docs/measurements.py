"""The tables and charts of docs/performance.md, from the saved results of `bench`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench import chart, kind_chart
from bench.paper import NAMES
from bench.peers import ENTRIES, FLOOR, KIND_PEERS, OURS
from bench.results import BUILDS, read_result
from bench.seal import ADDED, CREATED, SEALED, UNSEALED
from bench.serving.adapters import CONSTANT
from bench.serving.doors import ASGI, BARE, ECHO, ratio
from bench.serving.doors import OURS as SERVER
from bench.trial import format_number
from policyengine import Engine
from policyengine.compiler.graph.collapse import collapse
from policyengine.compiler.graph.draw import draw
from policyengine.compiler.graph.selection import read_endpoint
from policyengine.compiler.graph.svg import render
from policyengine.compiler.tree import tree_of

DOCS = Path(__file__).parent
SIZE = 1_000
ENDPOINT = "POST /v1/invoices/42/refunds"
TITLES = {"compiled": "**policyengine, compiled**", "pure": "**policyengine, pure Python**"}
ROWS = ("cel-sliced", "rego-data", "cedar-sliced", "cedar", "casbin-sliced", "oso")
Row = Mapping[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def timed(row: Row | None) -> str:
    """Return `3.7 (1.8×)`, or a dash where nothing was timed."""
    if row is None or "p50_us" not in row:
        return "—"
    return f"{format_number(row['p50_us'])} ({format_number(row['ratio'])}×)"


def tail(row: Row | None) -> str:
    """Return the p99 in microseconds, or a dash."""
    return "—" if row is None or "p99_us" not in row else format_number(row["p99_us"])


SECTIONS = ("kinds", "decide", "paper", "first", "doors")
RECORDS = ("seal", "query", "approvals")


def on() -> str:
    """Return when and where the results were measured, and how busy the machine was."""
    machines = {(name, build): read_result(name, build).machine for name in SECTIONS for build in BUILDS}
    days = sorted({machine["at"][:10] for machine in machines.values()})
    machine = machines["kinds", "pure"]
    loads = ", ".join(
        f"`{name}` {machines[name, 'compiled']['load']:.1f} ({machines[name, 'pure']['load']:.1f})" for name in SECTIONS
    )
    return (
        f"Measured on {' and '.join(days)} with {machine['python']} on {machine['cores']} shared cores of an "
        f"{machine['cpu']} virtual machine. This was the load of the machine before each run with the compiled "
        "build, and in parentheses with the pure build: "
        f"{loads}. Because machines differ and this one is shared, compare multiples of [the "
        "floor](#how-to-repeat-each-figure) instead of times: an engine and the floor take turns in one process."
    )


def decisions() -> str:
    found = {build: read_result("decide", build).data for build in BUILDS}
    cells = {(build, one["engine"], one["size"]): one for build in BUILDS for one in found[build]}
    sizes = sorted({one["size"] for one in found["pure"]})
    rows = [[TITLES[build], *(timed(cells.get((build, OURS.name, size))) for size in sizes)] for build in BUILDS[::-1]]
    for build in BUILDS[::-1]:
        floors = (cells[build, FLOOR.name, size]["p50_us"] for size in sizes)
        rows.append([f"{FLOOR.title}, in the runs of the {build} build", *map(format_number, floors)])
    rows += [[ENTRIES[name].title, *(timed(cells.get(("pure", name, size))) for size in sizes)] for name in ROWS]
    return table(("engine", *(f"{size:,} rules" for size in sizes)), rows)


def kinds() -> str:
    """Return a row for each kind: both builds, and the peers, with notes about what they lack."""
    ours = {build: at_size(read_result("kinds", build).data) for build in BUILDS}
    peers = {one["peer"]: by_kind(one) for one in read_result("kinds", "pure").data if "peer" in one}
    notes: dict[str, int] = {}

    def noted(text: str | None) -> str:
        return "" if text is None else f" <sup>{notes.setdefault(text, len(notes) + 1)}</sup>"

    def peer_cell(row: Row | None, own: Row | None) -> str:
        if row is not None and "cannot" in row:
            return f"not expressible{noted(row['cannot'])}"
        words = timed(row)
        if row is not None and own is not None and row.get("ratio", own["ratio"]) < own["ratio"]:
            words = f"**{words}**"
        return words + noted(None if row is None else row.get("partial"))

    rows = [
        [kind, row["outcome"], timed(ours["compiled"].get(kind)), tail(ours["compiled"].get(kind)), timed(row),
         *(peer_cell(peers.get(entry.name, {}).get(kind), ours["compiled"].get(kind)) for entry in KIND_PEERS)]
        for kind, row in ours["pure"].items()
    ]  # fmt: skip
    head = ("kind", "outcome", "compiled", "compiled, p99", "pure", *(entry.title for entry in KIND_PEERS))
    lines = [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join([table(head, rows), "", *lines])


SUMMARIZED = {
    "allow": "an allow", "deny": "a deny", "fact absent": "a request that lacks a fact", "confirm": "a confirm",
    "chain of 2": "a chain of two hops",
}  # fmt: skip


def summary() -> str:
    """Return a sentence about the most common kinds of questions."""
    ours = {build: at_size(read_result("kinds", build).data) for build in BUILDS}
    listed = [
        f"{title} {format_number(ours['compiled'][kind]['p50_us'])} µs ({format_number(ours['pure'][kind]['p50_us'])})"
        for kind, title in SUMMARIZED.items()
    ]
    return (
        f"Median time of a decision in process, at {SIZE:,} rules, with the compiled evaluator and, in parentheses, "
        f"with the interpreted evaluator: {', '.join(listed)}."
    )


def at_size(data: Iterable[Row]) -> dict[str, Row]:
    return by_kind(next(one for one in data if "peer" not in one and one["size"] == SIZE))


def by_kind(one: Row) -> dict[str, Row]:
    return {row["kind"]: row for row in one["kinds"]}


def applications() -> str:
    """Return the applications of the Cedar paper."""
    found = {build: read_result("paper", build).data for build in BUILDS}
    cells = {(build, one["engine"], one["application"]): one for build in BUILDS for one in found[build]}
    names = list(dict.fromkeys(one["application"] for one in found["pure"]))
    rows = [[TITLES[build], *(timed(cells.get((build, OURS.name, name))) for name in names)] for build in BUILDS[::-1]]
    rows.append(["Cedar, called from Python", *(timed(cells.get(("pure", "cedar", name))) for name in names)])
    return table(("engine", *(NAMES[name] for name in names)), rows)


def first() -> str:
    found = {build: read_result("first", build).data for build in BUILDS}
    rows = []
    for place, name in enumerate(("load_ms", "very_first_us", "very_first_from_bundle_us", "first_p50_us")):
        title = (
            "load 10,000 rules from text", "the very first question, 10,000 rules from text", "… from a bundle",
            "the first question at each other endpoint, p50",
        )[place]  # fmt: skip
        values = [found[build][0][name] for build in BUILDS[::-1]]
        rows.append([title, *(f"{format_number(one if name == 'load_ms' else one / 1e3)} ms" for one in values)])
    for place, one in enumerate(found["pure"][1:], 1):
        title = f"swap of the {one['what']}, {one['size']:,} {'rule' if one['size'] == 1 else 'rules'}"
        rows.append([title, *(swap_words(found[build][place]) for build in BUILDS[::-1])])
    return table(("what", "compiled", "pure"), rows)


def swap_words(one: Row) -> str:
    before, after = (
        f"{format_number(one[f'{name}_p50_us'])} / {format_number(one[f'{name}_p99_us'])}"
        for name in ("before", "after")
    )
    return f"{format_number(one['swap_ms'])} ms; before {before} µs, after {after} µs"


def doors() -> str:
    """Return requests per second at each door with 32 connections, and their share of the floors'."""
    found = {build: [one for one in read_result("doors", build).data if "skipped" not in one] for build in BUILDS}
    rows = []
    for door in dict.fromkeys(one["door"] for one in found["pure"]):
        busy = max(one["connections"] for one in found["pure"] if one["door"] == door)
        cells = []
        for build in BUILDS[::-1]:
            [ours] = [one for one in found[build] if door_key(one) == (door, SERVER, busy)]
            cells += [f"{ours['rps']:,}", f"{format_number(ours['cpu_us'])}"]
            shares = (ratio(found[build], door, floor, busy) for floor in (ASGI, BARE, ECHO))
            cells += [f"{share:.2f}×" for share in shares if share is not None][:1] or ["—"]
        rows.append([way_title(door), *cells])
    head = [f"{name}, {build}" for build in BUILDS[::-1] for name in ("requests/s", "CPU in µs", "of the floor")]
    return table(("way in", *head), rows)


def way_title(way: str) -> str:
    """Return the way in as the tables show it, with its path as code."""
    path, comma, rest = way.partition(",")
    return f"`{path}`{comma}{rest}" if path.startswith("/") else way


def door_key(one: Row) -> tuple[str, str, int]:
    return one["door"], one["server"], one["connections"]


def ways() -> str:
    """Return the CPU time of a constant answer at each way in, and what deciding adds, by kind of question."""
    found = [one for one in read_result("adapters", "pure").data if "skipped" not in one]
    names = list(dict.fromkeys(one["question"] for one in found))
    rows = []
    for way in dict.fromkeys(one["way"] for one in found):
        of_way = {one["question"]: one for one in found if one["way"] == way}
        constant = median(one[CONSTANT]["cpu_us"] for one in of_way.values())
        rows.append([way_title(way), format_number(constant), *(added(of_way.get(name)) for name in names)])
    return table(("way in", "constant", *names), rows)


def added(one: Row | None) -> str:
    """Return `+9.2 (1.2×)`, or a dash where the way in cannot ask such a question."""
    if one is None:
        return "—"
    if one["added_us"] <= 0:
        return "below the noise"
    return f"+{format_number(one['added_us'])} ({one['ratio']:.1f}×)"


def records() -> str:
    """Return what the decision log costs, and how fast it is verified, asked and sent, in the pure build."""
    [seal] = read_result("seal", "pure").data
    costs, rates = seal["costs_us"], seal["rates"]
    costs = {**costs, **{f"{name}, on disk": seal["disk_us"][name] for name in (SEALED, UNSEALED)}}
    added = costs.pop(ADDED)
    rows = [[f"a decision, {name}", f"{format_number(cost)} µs of processor time"] for name, cost in costs.items()]
    rows.append(
        ["what the seal adds to a decision (median of the differences)", f"{format_number(added)} µs of processor time"]
    )
    created = format_number(seal["disk_us"][CREATED])
    rows.append(["creating a file of 8 KiB on that disk", f"{created} µs of processor time"])
    rows += [
        [f"`/decide`, {name}", f"{one['rps']:,}/s, p99 {format_number(one['p99_us'] / 1e3)} ms"]
        for name, one in rates.items()
    ]
    rows.append(["`audit verify`", f"{seal['verified_per_s']:,} records/s"])
    p50, p99 = (f"{format_number(milliseconds)} ms" for milliseconds in seal["proofs_ms"])
    rows.append([f"`audit prove` with {seal['proved']:,} records", f"p50 {p50}, p99 {p99}"])
    return table(("what", "measured"), rows)


def approvals() -> str:
    """Return the median and the 99th percentile of each step of an approval, by store, in the pure build, and how busy
    the machine was."""
    result = read_result("approvals", "pure")
    found = result.data
    stores = list(dict.fromkeys(one["where"] for one in found))
    cells = {
        (one["what"], one["where"]): f"{format_number(one['p50_us'])} / {format_number(one['p99_us'])}" for one in found
    }
    steps = dict.fromkeys(one["what"] for one in found)
    rows = [[step, *(cells.get((step, where), "—") for where in stores)] for step in steps]
    load = f"The load of the machine before this run was {result.machine['load']:.1f}."
    return "\n".join([table(("p50 / p99 in µs", *stores), rows), "", load])


def targets() -> str:
    """Return every target of the saved sections, and whether it is met."""
    rows = []
    for section in SECTIONS:
        for build in BUILDS[::-1]:
            for one in read_result(section, build).targets:
                if section == "paper" and build == "pure":
                    continue  # the target is that of the compiled build
                rows.append(target_row(section, build, one))
    for section in RECORDS:
        rows += [target_row(section, "pure", one) for one in read_result(section, "pure").targets]
    return table(("what", "build", "target", "measured", "met"), rows)


def target_row(section: str, build: str, one: Row) -> list[str]:
    limit = f"{'≥' if one.get('at_least') else '≤'} {one['limit']:,g} {one['unit']}"
    met = {True: "yes", False: "no", None: "not measured"}[one["holds"]]
    return [f"`{section}`: {one['what']}", build, limit, format_number(one["seen"]), met]


def pictures() -> dict[Path, str]:
    """Return the charts, and the rules of the example `payments` at one endpoint."""
    decided, compiled = (read_result("decide", build) for build in BUILDS)
    kinds_pure, kinds_compiled = (read_result("kinds", build) for build in BUILDS)
    return {
        DOCS / "decide.svg": chart.svg([*decided.data, *chart.compiled_points(compiled.data)], decided.machine),
        DOCS / "program.svg": program(),
        DOCS / "kinds.svg": kind_chart.svg(SIZE, kinds_pure.data, kinds_compiled.data, kinds_compiled.machine),
    }


def program() -> str:
    """Return what `policyengine graph` draws of the example `payments` at one endpoint."""
    kernel = Engine.load(DOCS.parent / "policies" / "examples" / "payments").kernel
    return render(collapse(draw(kernel, tree_of(kernel), read_endpoint(ENDPOINT), None), None, whole=True))
