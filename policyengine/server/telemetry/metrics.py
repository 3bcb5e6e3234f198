"""The numbers of all workers as Prometheus reads them. What is counted, and under which key, the others say."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from policyengine.server.telemetry.process_metrics import MICRO
from policyengine.server.telemetry.shared_counters import BOUNDS, MIN_LATENCY_BITS, SUM, CounterKey, ServerCounters
from policyengine.stores.circuit_breaker import READ, WRITE

NANO = 1_000_000_000
BOUND_STEP = 2  # bounds that are kept apart for one that is told
# Name, what it says, the names of its labels, and the first word of its keys.
COUNTERS = (
    ("policyengine_once", "Questions by a key, by what came of it.", ("result",), "once"),
    ("policyengine_credentials", "Raw credentials: `proved`, or the code of a refusal.", ("result",), "credentials"),
    (
        "policyengine_connections_closed",
        "Connections that the server closed, by why.",
        ("reason",),
        "connections_closed",
    ),
    ("policyengine_foreign_requests", "Requests refused by their `Host` or `Origin`.", ("header",), "foreign"),
    ("policyengine_problems", "HTTP answers that are no decision, by status.", ("status",), "problems"),
    ("policyengine_reload_refusals", "Reloads that were refused, by why.", ("reason",), "reload_refusals"),
    ("policyengine_would_be", "Decisions that passed as somebody observes.", ("outcome",), "would_be"),
    ("policyengine_rule_decisions", "Decisions in which a rule stood in the way.", ("rule", "outcome"), "rules"),
)
TOTALS = (
    ("policyengine_failures", "Decisions that failed inside and were denied.", "failures"),
    ("policyengine_store_failures", "Calls that the store did not answer.", "store_failures"),
    ("policyengine_store_full", "Refusals as the store of this process was full.", "store_full"),
    ("policyengine_directory_failures", "Look-ups of rows that the directory did not answer.", "directory_failures"),
    ("policyengine_log_failures", "Lines that could not be written to the decision log.", "log_failures"),
    ("policyengine_worker_starts", "Processes that began to answer.", "starts"),
)
GAUGES = (
    (
        "policyengine_store_clock_skew_exceeded",
        "Workers that ask the store nothing, as its clock is too far from theirs.",
        "clock_skew_exceeded",
    ),
    ("policyengine_observing", "Workers that let pass what policies deny.", "observing"),
    ("policyengine_connections", "Open connections, without those of gRPC.", "connections"),
    ("policyengine_draining", "Workers that are about to stop.", "draining"),
    ("process_resident_memory_bytes", "Resident memory of all workers, shared pages counted in each.", "memory"),
    ("process_open_fds", "Open files of all workers.", "open_files"),
    ("process_max_fds", "Files that all workers together may open.", "most_files"),
)

STORE_FAILING = (
    "policyengine_store_failing",
    "Workers whose store failed when it was last read, or last written to: they are not ready.",
)
CLOCK_SKEW = (
    "policyengine_store_clock_skew_seconds",
    "How far the clock of the store is from that of the worker for which this is most.",
)
CounterTotals = dict[CounterKey, Sequence[int]]


def render_metrics(tally: ServerCounters, accept: str) -> tuple[bytes, str]:
    """The metrics in the form that an `Accept` asks for, and its media type."""
    encoder, media_type = choose_encoder(accept)
    return encoder(MetricsCollector(tally)), media_type


class MetricsCollector(Collector):
    def __init__(self, tally: ServerCounters) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        total = self._tally.total()
        yield from decision_metrics(total)
        yield from counter_metrics(total)
        yield from policy_metrics(total)
        for name, doc, key in GAUGES:
            if (key,) in total:
                yield GaugeMetricFamily(name, doc, total[key,][0])
        if any(key[0] == "store_failing" for key in total):
            failing = GaugeMetricFamily(*STORE_FAILING, labels=("operation",))
            for operation in (READ.name, WRITE.name):
                failing.add_metric([operation], total.get(("store_failing", operation), (0,))[0])
            yield failing
        if ("clock_skew",) in total:
            yield GaugeMetricFamily(*CLOCK_SKEW, total["clock_skew",][0] / MICRO)
        yield CounterMetricFamily("process_cpu_seconds", "Processor time.", total.get(("cpu",), (0,))[0] / MICRO)
        yield GaugeMetricFamily("process_start_time_seconds", "When it began.", self._tally.began)


def decision_metrics(total: CounterTotals) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(
        "policyengine_decisions", "Decisions that were given.", labels=("door", "outcome", "gate")
    )
    took = HistogramMetricFamily(
        "policyengine_decision_duration_seconds", "From a question to its answer, without the network.", labels=["door"]
    )
    doors: dict[str, list[int]] = {}
    for (kind, *labels), cells in total.items():
        if kind == "decisions":
            outcomes.add_metric(labels, cells[0])
            doors[labels[0]] = [a + b for a, b in zip(doors.get(labels[0], [0] * len(cells)), cells, strict=True)]
    for door, cells in doors.items():
        took.add_metric([door], latency_buckets(cells[1:SUM]), cells[SUM] / NANO)
    yield outcomes
    yield took


def latency_buckets(cells: Sequence[int]) -> list[tuple[str, float]]:
    """Each with all that are shorter."""
    found = [
        (repr((1 << MIN_LATENCY_BITS + bound) / NANO), float(sum(cells[: bound + 1])))
        for bound in range(0, BOUNDS, BOUND_STEP)
    ]
    return [*found, ("+Inf", float(sum(cells)))]


def counter_metrics(total: CounterTotals) -> Iterator[Metric]:
    for name, doc, labels, kind in COUNTERS:
        family = CounterMetricFamily(name, doc, labels=labels)
        for (one, *values), cells in total.items():
            if one == kind:
                family.add_metric(values, cells[0])
        yield family
    for name, doc, key in TOTALS:
        yield CounterMetricFamily(name, doc, total.get((key,), (0,))[0])
    if any(key[0] == "reloads" for key in total):
        family = CounterMetricFamily("policyengine_reloads", "Policies that were read anew.", labels=("result",))
        for result in ("done", "refused"):
            family.add_metric([result], total.get(("reloads", result), (0,))[0])
        yield family
        widened = total.get(("reloads_widened",), (0,))[0]
        yield CounterMetricFamily("policyengine_reloads_widened", "Reloads that let more pass than before.", widened)


def policy_metrics(total: CounterTotals) -> Iterator[Metric]:
    """More than one revision only while workers take over another."""
    info = InfoMetricFamily("policyengine_policy", "Which policies decide.", labels=())
    workers = GaugeMetricFamily("policyengine_workers", "Workers that decide by a revision.", labels=("revision",))
    for (kind, *values), cells in total.items():
        if kind == "revision" and cells[0]:
            info.add_metric((), {"revision": values[0], "packages": values[1]})
            workers.add_metric(values[:1], cells[0])
    yield info
    yield workers
    build = {"version": version("agent-policyengine"), "python": platform.python_version()}
    yield InfoMetricFamily("policyengine_build", "What this is.", build)
