"""The metrics of all workers in the format of Prometheus. Other modules count under the keys that this module lists."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from policyengine import __version__
from policyengine.clock import MICROSECONDS_PER_SECOND, NANOSECONDS_PER_SECOND
from policyengine.server.telemetry.behavior_metrics import behavior_metrics
from policyengine.server.telemetry.shared_counters import BOUNDS, MIN_LATENCY_BITS, SUM, CounterKey, ServerCounters
from policyengine.stores.circuit_breaker import READ, WRITE

BOUND_STEP = 2  # number of counted latency bounds for each exported bound
# Name, description, label names, and first word of the keys.
COUNTERS = (
    ("policyengine_once", "Questions with an idempotency key, by result.", ("result",), "once"),
    (
        "policyengine_credentials",
        "Raw credentials, by `proved` or the code of the refusal.",
        ("result",),
        "credentials",
    ),
    (
        "policyengine_connections_closed",
        "Connections that the server closed, by reason.",
        ("reason",),
        "connections_closed",
    ),
    ("policyengine_foreign_requests", "Requests refused by their `Host` or `Origin`.", ("header",), "foreign"),
    ("policyengine_problems", "HTTP responses that are not decisions, by status.", ("status",), "problems"),
    ("policyengine_reload_refusals", "Reloads that were refused, by reason.", ("reason",), "reload_refusals"),
    ("policyengine_would_be", "Decisions that passed only in observe mode.", ("outcome",), "would_be"),
    ("policyengine_sink_sent", "Log records that a sink has sent.", ("sink",), "sink_sent"),
    ("policyengine_sink_lost", "Log records that a sink has lost.", ("sink",), "sink_lost"),
    ("policyengine_sink_failures", "Failed attempts of a sink to send log records.", ("sink",), "sink_failures"),
    ("policyengine_sink_denials", "Decisions that were denied because a sink lags.", ("sink",), "sink_denials"),
    (
        "policyengine_webhook_sent",
        "Messages that the receiver of a webhook has accepted.",
        ("webhook",),
        "webhook_sent",
    ),
    ("policyengine_webhook_failures", "Failed attempts to send a message.", ("webhook",), "webhook_failures"),
    ("policyengine_webhook_dropped", "Messages that are not sent any more.", ("webhook",), "webhook_dropped"),
    ("policyengine_rule_decisions", "Decisions that a rule stopped.", ("rule", "outcome"), "rules"),
)
TOTALS = (
    ("policyengine_failures", "Decisions that failed internally and were denied.", "failures"),
    ("policyengine_store_failures", "Calls that the store did not answer.", "store_failures"),
    ("policyengine_store_full", "Refusals because the in-memory store was full.", "store_full"),
    ("policyengine_directory_failures", "Entity look-ups that the entity store did not answer.", "directory_failures"),
    ("policyengine_log_failures", "Lines that could not be written to the decision log.", "log_failures"),
    ("policyengine_seal_failures", "Failed attempts to seal the decision log.", "seal_failures"),
    ("policyengine_worker_starts", "Worker processes that started.", "starts"),
)
GAUGES = (
    (
        "policyengine_store_clock_skew_exceeded",
        "Workers that do not use the store, because its clock differs too much.",
        "clock_skew_exceeded",
    ),
    ("policyengine_halts", "Halts in effect.", "halts"),
    (
        "policyengine_halts_unreadable",
        "Workers that cannot read the halts, so that the latest known ones stay in effect.",
        "halts_unreadable",
    ),
    ("policyengine_observing", "Workers in observe mode.", "observing"),
    ("policyengine_connections", "Open connections, without those of gRPC.", "connections"),
    ("policyengine_draining", "Workers that are stopping.", "draining"),
    ("process_resident_memory_bytes", "Resident memory of all workers, shared pages counted in each.", "memory"),
    ("process_open_fds", "Open files of all workers.", "open_files"),
    ("process_max_fds", "Limit of open files of all workers together.", "most_files"),
)

STORE_FAILING = (
    "policyengine_store_failing",
    "Workers whose last read or write of the store failed: they are not ready.",
)
CLOCK_SKEW = (
    "policyengine_store_clock_skew_seconds",
    "Largest difference between the clock of the store and that of a worker.",
)
UNSEALED = (
    "policyengine_log_unsealed_seconds",
    "How long the decision log has had lines that no checkpoint covers.",
)
# Name, description, label name, and first word of the keys.
LABELED_GAUGES = (
    ("policyengine_sink_lag_bytes", "Bytes of the decision log that a sink has not sent.", "sink", "sink_lag"),
    ("policyengine_webhook_waiting", "Messages that wait in the spool of webhooks.", "webhook", "webhook_waiting"),
)
CounterTotals = dict[CounterKey, Sequence[int]]


def render_metrics(tally: ServerCounters, accept: str) -> tuple[bytes, str]:
    """Return the metrics in the format that `Accept` requests, and its media type."""
    encoder, media_type = choose_encoder(accept)
    return encoder(MetricsCollector(tally)), media_type


class MetricsCollector(Collector):
    def __init__(self, tally: ServerCounters) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        total = self._tally.total()
        yield from decision_metrics(total)
        yield from outcome_metrics(total)
        yield from counter_metrics(total)
        yield from policy_metrics(total)
        yield from behavior_metrics(total)
        for name, doc, key in GAUGES:
            if (key,) in total:
                yield GaugeMetricFamily(name, doc, total[key,][0])
        if any(key[0] == "store_failing" for key in total):
            failing = GaugeMetricFamily(*STORE_FAILING, labels=("operation",))
            for operation in (READ.name, WRITE.name):
                failing.add_metric([operation], total.get(("store_failing", operation), (0,))[0])
            yield failing
        yield from labeled_gauges(total)
        for key, family in (("clock_skew", CLOCK_SKEW), ("unsealed", UNSEALED)):
            if (key,) in total:
                yield GaugeMetricFamily(*family, total[key,][0] / MICROSECONDS_PER_SECOND)
        yield CounterMetricFamily(
            "process_cpu_seconds", "CPU time of all workers.", total.get(("cpu",), (0,))[0] / MICROSECONDS_PER_SECOND
        )
        yield GaugeMetricFamily("process_start_time_seconds", "Start time of the server.", self._tally.began)


def labeled_gauges(total: CounterTotals) -> Iterator[Metric]:
    for name, doc, label, word in LABELED_GAUGES:
        values = [(labels, cells[0]) for (kind, *labels), cells in total.items() if kind == word]
        if values:
            family = GaugeMetricFamily(name, doc, labels=(label,))
            for labels, value in values:
                family.add_metric(labels, value)
            yield family


def decision_metrics(total: CounterTotals) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(
        "policyengine_decisions", "Decisions by adapter, outcome and gate.", labels=("door", "outcome", "gate")
    )
    took = HistogramMetricFamily(
        "policyengine_decision_duration_seconds",
        "Time from a question to its answer, without the network.",
        labels=["door"],
    )
    doors: dict[str, list[int]] = {}
    for (kind, *labels), cells in total.items():
        if kind == "decisions":
            outcomes.add_metric(labels, cells[0])
            doors[labels[0]] = [a + b for a, b in zip(doors.get(labels[0], [0] * len(cells)), cells, strict=True)]
    for door, cells in doors.items():
        took.add_metric([door], latency_buckets(cells[1:SUM]), cells[SUM] / NANOSECONDS_PER_SECOND)
    yield outcomes
    yield took


def outcome_metrics(total: CounterTotals) -> Iterator[Metric]:
    outcomes = CounterMetricFamily("policyengine_outcomes", "Reported outcomes by class of status.", labels=("status",))
    took = HistogramMetricFamily(
        "policyengine_outcome_latency_seconds", "Time that requests took, as reported.", labels=["status"]
    )
    for (kind, *labels), cells in total.items():
        if kind == "outcomes":
            outcomes.add_metric(labels, cells[0])
            took.add_metric(labels, latency_buckets(cells[1:SUM]), cells[SUM] / NANOSECONDS_PER_SECOND)
    yield outcomes
    yield took


def latency_buckets(cells: Sequence[int]) -> list[tuple[str, float]]:
    """Return the upper bound of each exported bucket in seconds, as text, with the number of values up to it."""
    found = [
        (repr((1 << MIN_LATENCY_BITS + bound) / NANOSECONDS_PER_SECOND), float(sum(cells[: bound + 1])))
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
        family = CounterMetricFamily("policyengine_reloads", "Reloads of policies.", labels=("result",))
        for result in ("done", "refused"):
            family.add_metric([result], total.get(("reloads", result), (0,))[0])
        yield family
        widened = total.get(("reloads_widened",), (0,))[0]
        yield CounterMetricFamily("policyengine_reloads_widened", "Reloads that allow more than before.", widened)


def policy_metrics(total: CounterTotals) -> Iterator[Metric]:
    """Yield the metrics of the policies. There are several revisions only during a reload."""
    info = InfoMetricFamily("policyengine_policy", "The policies that decide.", labels=())
    workers = GaugeMetricFamily(
        "policyengine_workers", "Workers by the revision of their policies.", labels=("revision",)
    )
    for (kind, *values), cells in total.items():
        if kind == "revision" and cells[0]:
            info.add_metric((), {"revision": values[0], "packages": values[1]})
            workers.add_metric(values[:1], cells[0])
    yield info
    yield workers
    build = {"version": __version__, "python": platform.python_version()}
    yield InfoMetricFamily("policyengine_build", "Version of policyengine and Python.", build)
