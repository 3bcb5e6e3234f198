"""`/metrics`: what Prometheus reads, added up over workers, few enough series, and never a counter that falls."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe
from policyengine.reload import ReloadableEngine, ReloadRules
from policyengine.runtime.decision import Answer, Gate, Outcome, Reason
from policyengine.server import ServeError, serve
from policyengine.server.telemetry.metrics import MetricsCollector, render_metrics
from policyengine.server.telemetry.process_metrics import publish_metrics
from policyengine.server.telemetry.shared_counters import MAX_RULES, REGION_BYTES, CounterRegion, ServerCounters
from policyengine.stores.base import StoreError
from policyengine.stores.url import open_store
from tests.pages import CHECKOUT, blocks
from tests.ports import free_port
from tests.processes import is_running, wait_until
from tests.server.conftest import OPEN, ORDER, POLICY, SHUT, TOKEN, client_of
from tests.server.processes import started
from tests.server.test_workers import FREE, workers_of

DOCS = CHECKOUT / "docs"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def samples(families: Iterator[Metric]) -> Samples:
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def of(found: Samples, name: str, **labels: str) -> float:
    """The sum of all that have these labels."""
    return sum(value for (one, given), value in found.items() if one == name and labels.items() <= dict(given).items())


def exchange(engine: Any, *asked: tuple[str, str, dict[str, Any]], **options: Any) -> list[httpx.Response]:
    """All of them, one after another, of one server."""

    async def run() -> list[httpx.Response]:
        async with client_of(engine, **options) as client:
            return [await client.request(method, path, **more) for method, path, more in asked]

    return asyncio.run(run())


def scraped(engine: Any, *asked: tuple[str, str, dict[str, Any]], **options: Any) -> Samples:
    return samples(prometheus(exchange(engine, *asked, ("GET", "/metrics", {}), **options)[-1].text))


def decide(question: object, path: str = "/decide", **headers: str) -> tuple[str, str, dict[str, Any]]:
    return "POST", path, {"json": question, "headers": headers}


# ── What is counted ───────────────────────────────────────────────────────────────────────────


def test_every_decision_counts_for_its_adapter(small_engine: Engine) -> None:
    spends = {**OPEN, "options": {"consume": True}}
    forwarded = {"headers": {"x-forwarded-method": "GET", "x-forwarded-uri": "/secrets"}}
    found = scraped(
        small_engine,
        *[decide(OPEN)] * 3,
        decide({**SHUT, "options": {"explain": True}}),  # the careful way
        decide(OPEN, "/evaluate"),
        decide({"requests": [spends, SHUT, {"no": "question"}]}, "/decide/batch"),
        ("GET", "/forward-auth", forwarded),
        ("GET", "/envoy/health", {}),
    )
    name = "policyengine_decisions_total"
    assert of(found, name, door="decide", outcome="allow", gate="") == 3
    assert of(found, name, door="decide", outcome="deny") == 1
    assert of(found, name, door="evaluate", outcome="allow") == 1
    assert of(found, name, door="batch") == 2
    assert of(found, name, door="forward_auth", outcome="deny") == 1
    assert of(found, name, door="envoy_http", outcome="allow") == 1
    took = "policyengine_decision_duration_seconds"
    # Of those that are answered at once one of sixteen is timed, of others each.
    assert of(found, f"{took}_count", door="decide") == of(found, f"{took}_bucket", door="decide", le="+Inf") == 2
    assert 0 < of(found, f"{took}_sum", door="decide") < 60


def test_decisions_that_a_rule_blocks_count_by_rule(small_engine: Engine) -> None:
    found = scraped(small_engine, decide(ORDER), decide(ORDER, "/evaluate"), decide(SHUT))
    name = "policyengine_rule_decisions_total"
    assert of(found, name, rule="orders need a person", outcome="confirm") == of(found, name) == 2


def test_failures_and_problems_are_counted() -> None:
    def broken(now: object) -> str:
        raise ZeroDivisionError

    engine = Engine.from_text(FREE, ids=broken)
    found = scraped(engine, decide(OPEN), decide({"no": "question"}), ("GET", "/nowhere", {}))
    assert of(found, "policyengine_failures_total") == 1
    assert of(found, "policyengine_decisions_total", outcome="deny", gate="failure") == 1
    assert of(found, "policyengine_problems_total", status="400") == 1
    assert of(found, "policyengine_problems_total", status="404") == 1


def test_idempotency_keys_count_by_result() -> None:
    engine = Engine.from_text(FREE + 'rate "r" per request.path on GET /health { 9/1h }')
    key = {"idempotency-key": "k", "authorization": f"Bearer {TOKEN}"}
    asked = [decide(OPEN, **key), decide(OPEN, **key), decide(SHUT, **key)]
    read = ("GET", "/metrics", {"headers": key})
    found = samples(prometheus(exchange(engine, *asked, read, token=TOKEN)[-1].text))
    name = "policyengine_once_total"
    assert [of(found, name, result=one) for one in ("first", "again", "used")] == [1, 1, 1]
    assert of(found, "policyengine_decisions_total") == 1  # what is told again was counted before


def test_a_failing_store_appears_in_the_metrics(tmp_path: Path) -> None:
    store: Any = open_store(f"sqlite:///{tmp_path}/store.db")

    def down(*given: object, **options: object) -> Any:
        raise StoreError("down")

    store._store.spent_among = store._store.commit = store._store.commit_many = down
    engine = Engine.from_text(FREE + 'rate "r" per request.path on GET /health { 9/1h }', store=store)
    found = scraped(engine, *[decide(OPEN)] * 4)
    assert of(found, "policyengine_store_failures_total") >= 3
    assert of(found, "policyengine_store_failing", operation="write") == 1


def test_excessive_clock_skew_of_the_store_appears_in_the_metrics(tmp_path: Path) -> None:
    store: Any = open_store(f"sqlite:///{tmp_path}/store.db")
    rules = FREE + 'rate "r" per request.path on GET /health { 9/1h }'
    now = [datetime(2027, 1, 4, 12, tzinfo=UTC)]
    engine = Engine.from_text(rules, store=store, clock=lambda: now[0])
    found = scraped(engine, decide(OPEN))
    names = ("policyengine_store_clock_skew_seconds", "policyengine_store_clock_skew_exceeded")
    assert [of(found, one) for one in names] == [0, 0]
    now[0] -= timedelta(seconds=20)
    found = scraped(engine, decide(OPEN), decide(OPEN))
    assert [of(found, one) for one in names] == [20, 1]
    assert of(found, "policyengine_decisions_total", outcome="deny", gate="failure") == 1
    assert of(found, "policyengine_store_failing") == 0


def test_observe_mode_counts_the_outcomes_that_would_be() -> None:
    engine = Engine.from_text(POLICY)
    engine.observe(Observe(datetime.now(UTC) + timedelta(days=1)))
    found = scraped(engine, decide(OPEN), decide(ORDER), decide(ORDER))
    assert of(found, "policyengine_decisions_total", outcome="allow") == 3
    assert of(found, "policyengine_would_be_total", outcome="confirm") == 2
    assert of(found, "policyengine_observing") == 1


def test_a_reload_counts_once_for_all_workers(tmp_path: Path) -> None:
    (tmp_path / "a.policy").write_text(FREE)
    reloading = ReloadableEngine.load(tmp_path, rules=ReloadRules(seconds=0))
    (tmp_path / "a.policy").write_text(f"{FREE}guard {{ deny }}")
    assert not reloading.reload()
    (tmp_path / "a.policy").write_text(f'{FREE}guard "later" on GET /health {{ deny }}')
    assert reloading.reload()
    tally = ServerCounters(2)
    for place in (0, 1):
        tally.take(place)
        publish_metrics(tally, reloading)
    found = samples(MetricsCollector(tally).collect())
    name = "policyengine_reloads_total"
    assert (of(found, name, result="done"), of(found, name, result="refused")) == (1, 1)
    assert of(found, "policyengine_reload_refusals_total", reason="policies") == 1
    assert of(found, "policyengine_reloads_widened_total") == 0
    assert "later" in tally.rules
    assert of(found, "policyengine_workers", revision=reloading.current.revision) == 2


def test_the_metrics_include_policy_build_and_process_info(small_engine: Engine) -> None:
    found = scraped(small_engine)
    labels = {"revision": small_engine.revision, "packages": "shop"}
    assert of(found, "policyengine_policy_info", **labels) == 1
    assert of(found, "policyengine_workers", revision=small_engine.revision) == 1
    assert of(found, "policyengine_build_info") == 1
    assert of(found, "process_resident_memory_bytes") > 1_000_000
    assert of(found, "process_cpu_seconds_total") > 0


# ── How it is written ─────────────────────────────────────────────────────────────────────────


def test_metrics_are_served_in_prometheus_and_openmetrics_format(small_engine: Engine) -> None:
    plain, other = exchange(
        small_engine, ("GET", "/metrics", {}), ("GET", "/metrics", {"headers": {"accept": OPENMETRICS}})
    )
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4; charset=utf-8")
    assert other.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert other.text.endswith("# EOF\n")
    assert samples(prometheus(plain.text)).keys() == samples(openmetrics(other.text)).keys()


def promtool(*arguments: str | Path, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = which("promtool")
    if program is None:
        pytest.skip("promtool is missing: apt-get install promtool")
    return subprocess.run([program, *arguments], input=text, capture_output=True, check=False)


def test_promtool_accepts_the_metrics_without_warnings(small_engine: Engine) -> None:
    text = exchange(small_engine, decide(OPEN), decide(ORDER), ("GET", "/metrics", {}))[-1].content
    checked = promtool("check", "metrics", text=text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize(("begins", "kind"), [("groups:", "rules"), ("scrape_configs:", "config")])
def test_promtool_accepts_the_documented_prometheus_configuration(begins: str, kind: str, tmp_path: Path) -> None:
    [block] = [one for one in blocks(DOCS / "metrics.md") if one.language == "yaml" and one.text.startswith(begins)]
    (tmp_path / "prometheus.yml").write_text(block.text)
    checked = promtool("check", kind, tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stderr.decode()


def test_the_docs_list_exactly_the_exported_metrics(small_engine: Engine) -> None:
    told = set(re.findall(r"^\| `(policyengine_\w+)`", (DOCS / "metrics.md").read_text(), re.MULTILINE))
    families = list(prometheus(exchange(small_engine, decide(OPEN), ("GET", "/metrics", {}))[-1].text))
    counters = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
    needs_a_reason = {
        "policyengine_store_failing", "policyengine_store_clock_skew_seconds", "policyengine_draining",
        "policyengine_reloads_total", "policyengine_reloads_widened_total", "policyengine_connections",
        "policyengine_sink_lag_bytes", "policyengine_log_unsealed_seconds",
        "policyengine_behavior_alarms_total", "policyengine_behavior_callers", "policyengine_behavior_ready_callers",
        "policyengine_behavior_model_age_seconds", "policyengine_behavior_model_number",
        "policyengine_behavior_damaged_callers", "policyengine_behavior_groups",
        "policyengine_behavior_grouped_callers", "policyengine_behavior_conditions_total",
        "policyengine_webhook_waiting",
    }  # fmt: skip
    assert told - needs_a_reason == {one for one in counters if one.startswith("policyengine_")}


def test_rule_names_with_special_characters_are_escaped_in_the_metrics() -> None:
    hard = 'a "quoted"\nline \\ and ü'
    tally = ServerCounters(rules=[hard])
    tally.counter("decide")(denied(hard), 1)
    for accept, read in (("", prometheus), (OPENMETRICS, openmetrics)):
        found = samples(read(render_metrics(tally, accept)[0].decode()))
        assert of(found, "policyengine_rule_decisions_total", rule=hard) == 1


# ── How many series there are ─────────────────────────────────────────────────────────────────


def denied(*rules: str) -> Answer:
    return Answer(Outcome.DENY, Gate.GUARD, tuple(Reason(Gate.GUARD, "no", rule) for rule in rules))


def test_agents_users_and_paths_create_no_metric_series(small_engine: Engine) -> None:
    def who(n: int) -> dict[str, Any]:
        return {"agent": {"id": f"a{n}"}, "user": {"id": f"u{n}"}, "request": {"method": "GET", "path": f"/{n}"}}

    one, many = (scraped(small_engine, *(decide(who(n)) for n in range(several))) for several in (1, 50))
    assert one.keys() == many.keys()


def test_rules_beyond_the_limit_count_as_other() -> None:
    rules = [f"rule {n}" for n in range(MAX_RULES + 50)]
    tally = ServerCounters(rules=rules)
    for count in (tally.counter("decide"), tally.apart("batch")):
        for rule in rules:
            count(denied(rule), 1)
    found = samples(MetricsCollector(tally).collect())
    name = "policyengine_rule_decisions_total"
    assert len([key for key in found if key[0] == name]) == MAX_RULES + 1
    assert of(found, name, rule="rule 0") == 2
    assert of(found, name, rule="other") == 100


def test_rules_of_a_later_policy_get_their_own_series() -> None:
    tally = ServerCounters(rules=["old"])
    count = tally.counter("decide")
    answer = denied("new")
    count(answer, 1)
    tally.learn(["new"])
    count(answer, 1)
    found = samples(MetricsCollector(tally).collect())
    name = "policyengine_rule_decisions_total"
    assert (of(found, name, rule="other"), of(found, name, rule="new")) == (1, 1)


def test_interleaved_counters_of_one_rule_lose_no_counts() -> None:
    tally = ServerCounters(rules=["r"])
    doors = [tally.counter("decide"), tally.counter("socket"), tally.counter("decide")]
    answer = denied("r")
    for number in range(30):
        doors[number % 3](answer, 1)
        if number == 15:
            tally.learn(["another"])  # where answers count is looked for anew
    found = samples(MetricsCollector(tally).collect())
    assert of(found, "policyengine_rule_decisions_total", rule="r") == 30
    assert of(found, "policyengine_decisions_total", door="decide") == 20
    assert of(found, "policyengine_decision_duration_seconds_count") == 30


def test_ten_thousand_distinct_answers_are_all_counted() -> None:
    tally = ServerCounters()
    count = tally.counter("decide")
    for _ in range(10_000):
        count(denied(), 1)
    assert of(samples(MetricsCollector(tally).collect()), "policyengine_decisions_total") == 10_000


def test_decisions_still_count_if_the_counter_memory_is_full() -> None:
    tally = ServerCounters()
    for n in range(5_000):
        tally.add("problems", f"{n} {'x' * 200}")
        tally.loop.cells((str(n), "x" * 200))
    assert tally.threads.cells(("one", "more", "x" * 200)) is None
    for door in ("decide", "evaluate", "batch", "socket", "forward_auth", "envoy_http", "envoy_grpc"):
        for outcome in Outcome:
            for gate in Gate:
                for count in (tally.counter(door), tally.apart(door)):
                    count(Answer(outcome, gate, (Reason(gate, "no", "r" * 500),)), 1)
    found = samples(MetricsCollector(tally).collect())
    assert of(found, "policyengine_decisions_total") == 2 * 7 * len(Outcome) * len(Gate)


# ── Times ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("took", "bound"),
    [(0, "1.024e-06"), (1_023, "1.024e-06"), (1_024, "4.096e-06"), (70_000, "0.000262144"), (10**12, "+Inf")],
)
def test_a_duration_counts_in_the_first_bucket_above_it(took: int, bound: str) -> None:
    tally = ServerCounters(clock=lambda: 7 + took)
    tally.counter("decide")(denied(), 7)
    tally.apart("decide")(denied(), 7)
    tally.apart("decide")(denied(), 0)  # which is not timed
    found = samples(MetricsCollector(tally).collect())
    name = "policyengine_decision_duration_seconds_bucket"
    below = {dict(labels)["le"]: value for (one, labels), value in found.items() if one == name}
    reached = [le for le, value in sorted(below.items(), key=lambda pair: float(pair[0])) if value]
    assert reached[0] == bound
    assert set(below.values()) <= {0.0, 2.0}


# ── Workers ───────────────────────────────────────────────────────────────────────────────────

SERVE = f"""
import sys
from policyengine.engine.engine import Engine
from policyengine.server import serve
serve(Engine.from_text({FREE!r}), port=0, workers=2, metrics=int(sys.argv[1]),
      listening=lambda url: print(url, flush=True))
"""


def test_metrics_sum_over_workers_and_keep_the_counts_of_a_dead_worker() -> None:
    port = free_port()

    def read() -> Samples:
        return samples(prometheus(httpx.get(f"http://127.0.0.1:{port}/metrics").text))

    def asked(many: int) -> None:
        for _ in range(many):  # each time a worker that happens to be free
            assert httpx.post(f"{url}/decide", json=OPEN).status_code == 200

    with started(SERVE, str(port)) as (url, process):
        asked(30)
        assert of(read(), "policyengine_decisions_total") == 30
        wait_until(lambda: of(read(), "policyengine_workers") == 2)
        dead = workers_of(process)[0]
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda: not is_running(dead))
        assert of(read(), "policyengine_decisions_total") == 30
        wait_until(lambda: of(read(), "policyengine_worker_starts_total") == 3)
        asked(30)
        found = read()
        assert of(found, "policyengine_decisions_total") == 60
        assert 4 <= of(found, "policyengine_decision_duration_seconds_count") <= 9  # of 60, one of 16 of each worker
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        assert httpx.post(f"http://127.0.0.1:{port}/decide", json=OPEN).status_code == 404


def test_a_new_worker_continues_the_counters_of_its_predecessor() -> None:
    tally = ServerCounters(2, ["r"])
    for place in (0, 1, 1):
        tally.take(place)
        tally.counter("decide")(denied("r"), 5)
        tally.apart("decide")(denied("r"), 5)
        tally.reached("failures", count=3)
        tally.now("memory", value=10)
        tally.only("revision", f"of {place}", "p")
    found = samples(MetricsCollector(tally).collect())
    assert of(found, "policyengine_decisions_total") == of(found, "policyengine_rule_decisions_total") == 6
    assert of(found, "policyengine_failures_total") == 9
    assert of(found, "process_resident_memory_bytes") == 20
    assert of(found, "policyengine_workers") == 2


def test_a_half_written_counter_key_of_a_dead_worker_is_ignored() -> None:
    memory = memoryview(bytearray(REGION_BYTES))
    region = CounterRegion(memory)
    region.cells(("whole",))
    used = region.numbers[0]
    region.cells(("torn", "x" * 100), 50)
    region.numbers[region.cells(("torn", "x" * 100)) or 0] = 7
    region.numbers[0] = used
    after = CounterRegion(memory)
    assert [key for key, *_ in after.entries()] == [("whole",)]
    place = after.cells(("next",), 60)
    assert place is not None
    assert after.numbers[place : place + 60].tolist() == [0] * 60


def test_counts_of_a_source_that_starts_from_zero_are_added_once() -> None:
    tally, first, second = ServerCounters(), object(), object()
    for whose, count in ((first, 2), (first, 5), (second, 1), (second, 1)):
        tally.reached("failures", count=count, of=whose)
    assert tally.total()["failures",][0] == 6


# ── Who may read it ───────────────────────────────────────────────────────────────────────────


def test_metrics_require_the_token(small_engine: Engine) -> None:
    right = {"headers": {"authorization": f"Bearer {TOKEN}"}}
    without, with_it = exchange(small_engine, ("GET", "/metrics", {}), ("GET", "/metrics", right), token=TOKEN)
    assert (without.status_code, with_it.status_code) == (401, 200)


def test_the_error_for_a_metrics_port_in_use_names_the_option(small_engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServeError) as error:
        serve(small_engine, port=0, metrics=taken.getsockname()[1], listening=lambda url: pytest.fail("it listens"))
    assert "--metrics-port" in str(error.value.hint)


def test_the_error_for_a_missing_metrics_package_names_the_install_command(
    small_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policyengine.server.status_server.find_spec", lambda name: None)
    with pytest.raises(ServeError, match="prometheus-client") as error:
        serve(small_engine, port=0, metrics=1, listening=lambda url: pytest.fail("it listens"))
    assert error.value.hint == "in a checkout of policyengine: `pip install -c constraints.txt '.[metrics]'`"
