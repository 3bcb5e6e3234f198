"""The order of calls that recorded runs follow is mined, and verified with the automaton of decisions."""

from itertools import count, permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.analysis.call_orders.call_reader import request_to
from policyengine.analysis.call_orders.order_miner import order_words, propose_orders, steps_of
from policyengine.analysis.call_orders.order_replay import OrderReplayer, StepReader
from policyengine.analysis.call_orders.run_collector import (
    MAX_CALLS,
    MAX_VARIANTS,
    AllowedCall,
    ClassRuns,
    EndpointTable,
    RunCollector,
    RunTable,
)
from policyengine.analysis.call_orders.run_rules import MINUTE, PAUSES, TASK, RunRule, run_key_values
from policyengine.analysis.call_orders.suggestion import MissingOrder, OrderFinder, OrderSuggestion
from policyengine.behavior.events import Caller
from policyengine.check import check
from policyengine.runtime.request import Request

PATHS = {"A": "POST /auth", "D": "GET /data", "R": "POST /report", "X": "GET /x", "Y": "GET /y", "Z": "GET /z"}
DAY = 86_400_000
HEADER = ("request", "headers", "x-run")


class Traffic:
    """Calls of one class. A letter stands for an endpoint."""

    def __init__(self):
        self.endpoints, self.runs = EndpointTable(), ClassRuns()
        self._at, self._names = 1_800_000_000_000, count()

    def run(self, letters, agent="a", *, keys=(TASK,), pause=10_000, gap=30 * MINUTE, names=None):
        name = str(next(self._names)) if names is None else names
        for letter in letters:
            self.call(letter, agent, dict.fromkeys(keys, name), name)
            self._at += pause
        self._at += gap

    def call(self, letter, agent, keys, name):
        path = PATHS.get(letter, f"GET /{letter}")
        number = self.endpoints.number(path, (), request_to(path).endpoint)
        self.runs.add(AllowedCall(self._at, Caller("acme", agent), "g", number, keys, name))

    def find(self, support=0.95):
        return OrderFinder(self.endpoints, StepReader(check([]).program, "main"), support).find("g", self.runs)

    def of(self, *runs, times=10):
        for number in range(times):
            for letters in runs:
                self.run(letters, "ab"[number % 2])
        return self


def letters_of(suggestion):
    assert isinstance(suggestion, OrderSuggestion), suggestion.why
    words = suggestion.words
    for letter, path in PATHS.items():
        words = words.replace(path, letter)
    return words


# ── Mining ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("runs", "order"),
    [
        (("ADR",), "A -> D -> R"),
        (("ADR", "ADDR", "ADDDDR"), "A -> D repeated -> R"),
        (("ADR", "AR"), "A -> D optional -> R"),
        (("ADDR", "AR"), "A -> D optional repeated -> R"),
        (("ADR", "AXR"), "A -> (D | X) -> R"),
        (("ADR", "AXYR"), "A -> (D | X -> Y) -> R"),
        (("ADR", "XYZ"), "(X -> Y -> Z | A -> D -> R)"),
        (("ADXDXDXR", "ADXR", "ADXDXR"), "A -> (D -> X) repeated -> R"),
        (("ADXXR", "AXDDXR", "AXDR", "ADXDXXR", "AXR", "ADR"), "A -> (D | X) repeated -> R"),
        (("ADXDR", "ADXDXDR", "ADXDXDXDR", "ADR", "ADXDXDXDXDR"), "A -> D -> (X -> D) optional repeated -> R"),
    ],
)
def test_a_workflow_is_found_again(runs, order):
    found = Traffic().of(*runs).find()
    assert letters_of(found) == order
    assert (found.accepted, found.complete, found.agents, found.followers) == (found.runs, found.runs, 2, 2)
    assert found.rule == RunRule(TASK, 5 * MINUTE)
    assert found.exceptions == ()


def test_equal_runs_have_equal_orders_whatever_their_sequence():
    runs = ["ADR", "ADDR", "AXR", "AXYR", "AR"]
    orders = {letters_of(Traffic().of(*some).find()) for some in list(permutations(runs))[::17]}
    assert len(orders) == 1


def test_runs_out_of_order_are_exceptions_with_their_agents_and_examples():
    traffic = Traffic().of("ADR", times=40)
    traffic.run("RDA", "b", names="odd")
    traffic.run("RDA", "c", names="odd too")
    found = traffic.find()
    assert (letters_of(found), found.accepted, found.runs) == ("A -> D -> R", 40, 42)
    (exception,) = found.exceptions
    assert (exception.runs, exception.follows, exception.length) == (2, 0, 3)
    assert (exception.agents, exception.examples) == (("b", "c"), ("odd", "odd too"))
    assert exception.calls == (("POST /report", 1), ("GET /data", 1), ("POST /auth", 1))


def test_a_rare_detour_does_not_widen_the_order():
    traffic = Traffic().of("ADR", "ADDR", "ADDDR", times=20)
    traffic.run("ADARDR", "a")
    traffic.run("DRAR", "b")
    assert letters_of(traffic.find()) == "A -> D repeated -> R"


def test_more_support_may_need_a_wider_order():
    traffic = Traffic().of("ADR", times=19)
    traffic.run("AXR", "b")
    assert letters_of(traffic.find(0.95)) == "A -> D -> R"
    assert letters_of(traffic.find(1)) == "A -> (D | X) -> R"


def test_a_run_that_has_not_ended_follows_the_order_but_does_not_complete_it():
    traffic = Traffic().of("ADR", times=20)
    traffic.run("AD", "a")
    found = traffic.find()
    assert (found.accepted, found.complete, found.runs) == (21, 20, 21)


def test_the_runs_for_tests_are_the_most_frequent_run_and_one_with_a_call_out_of_order():
    found = Traffic().of("ADR", times=12).find()
    names = ["", "POST /auth", "GET /data", "POST /report"]
    assert [names[number] for number in found.samples.accepted] == ["POST /auth", "GET /data", "POST /report"]
    assert [names[number] for number in found.samples.rejected] == ["POST /report"]
    assert found.samples.agent == ("acme", "a")


# ── No order ─────────────────────────────────────────────────────────────────────────────────


def test_runs_without_an_order_have_no_suggestion():
    random, traffic = Random(3), Traffic()
    for number in range(200):
        traffic.run("".join(random.choices("ADRXYZ", k=8)), "abcd"[number % 4])
    found = traffic.find()
    assert isinstance(found, MissingOrder)
    assert "also accepts most runs with the same calls in another order" in found.why


def test_one_endpoint_is_no_order():
    found = Traffic().of("D", "DD", "DDD").find()
    assert isinstance(found, MissingOrder)
    assert "another order" in found.why


def test_runs_of_one_call_are_no_order():
    assert isinstance(Traffic().of("A", "D", "R").find(), MissingOrder)


def test_one_agent_is_no_habit_of_a_class():
    traffic = Traffic()
    for _ in range(50):
        traffic.run("ADR", "a")
    found = traffic.find()
    assert isinstance(found, MissingOrder)
    assert found.why == "all runs are of one agent, and a habit of one agent is not a habit of the class"


def test_an_order_that_one_agent_follows_is_no_habit_even_if_most_runs_are_of_that_agent():
    traffic = Traffic()
    for number in range(100):
        traffic.run("ADR", "a")
        if number % 25 == 0:
            traffic.run("RDA", "b")
    found = traffic.find()
    assert isinstance(found, MissingOrder)
    assert "is that of one agent" in found.why


def test_few_runs_are_no_habit():
    found = Traffic().of("ADR", times=9).find()
    assert isinstance(found, MissingOrder)
    assert found.why == "there are only 9 runs, and 10 are needed"


def test_an_order_with_too_many_steps_is_not_suggested():
    found = Traffic().of([f"e{number}" for number in range(33)]).find()
    assert isinstance(found, MissingOrder)
    assert found.why == "no order of at most 32 steps is followed by 95 % of the 10 runs"
    assert isinstance(Traffic().of([f"e{number}" for number in range(32)]).find(), OrderSuggestion)


def test_the_share_of_the_best_order_is_stated_if_it_is_too_low():
    traffic = Traffic().of("ADR", times=30)
    random = Random(1)
    for number in range(20):
        traffic.run([f"e{number}-{place}" for place in range(random.randint(2, 4))], "ab"[number % 2])
    found = traffic.find()
    assert isinstance(found, MissingOrder)
    assert found.why.endswith("; the best order has 60.0 %")


def test_an_endpoint_that_a_policy_cannot_name_is_in_no_order():
    traffic = Traffic().of("ADR", times=20)
    traffic.endpoints.names[2] = 'GET /data } guard "x" { deny'
    assert isinstance(traffic.find(), MissingOrder)


# ── Runs ─────────────────────────────────────────────────────────────────────────────────────


def test_a_pause_separates_runs_without_a_key():
    traffic = Traffic()
    for number in range(20):
        traffic.run("ADR", "ab"[number % 2], keys=(), pause=2 * MINUTE, gap=20 * MINUTE)
    found = traffic.find()
    assert (letters_of(found), found.rule, found.rule.words()) == ("A -> D -> R", PAUSES[0], "")


def test_a_shorter_pause_is_chosen_if_runs_follow_soon():
    traffic = Traffic()
    for number in range(60):
        traffic.run("ADR" if number % 3 else "ADDR", "a" if number < 30 else "b", keys=(), gap=2 * MINUTE)
    found = traffic.find()
    assert (letters_of(found), found.rule.words()) == ("A -> D repeated -> R", "run within 1m")


def test_a_longer_pause_within_a_task_is_allowed():
    traffic = Traffic()
    for number in range(20):
        traffic.run("ADR", "ab"[number % 2], pause=20 * MINUTE)
    found = traffic.find()
    assert (letters_of(found), found.rule.words()) == ("A -> D -> R", "run by task.id within 1h")


def test_a_header_is_the_key_if_neither_tasks_nor_pauses_separate_runs():
    traffic = Traffic()
    for number in range(40):
        traffic.run("ADR" if number % 3 else "AXYR", "a" if number < 20 else "b", keys=(HEADER,), gap=0)
    found = traffic.find()
    assert (letters_of(found), found.rule.words()) == ("A -> (D | X -> Y) -> R", 'run by request.headers["x-run"]')


def test_a_task_of_each_call_is_not_chosen():
    traffic = Traffic()
    for number in range(30):
        for letter in "ADR":
            traffic.run(letter, "ab"[number % 2], gap=0)
        traffic.run("", gap=20 * MINUTE)
    assert traffic.find().rule == PAUSES[0]


def test_a_fact_that_many_calls_lack_is_no_key():
    traffic = Traffic()
    for number in range(30):
        traffic.run("ADR", "ab"[number % 2], keys=(TASK,) if number % 2 else ())
    assert traffic.find().rule.key is None


def test_headers_that_name_runs_are_keys_and_others_are_not():
    headers = {"x-run-id": "7", "traceparent": "t", "user-agent": "curl", "authorization": "secret"}
    facts = {"request": {"method": "GET", "path": "/", "headers": headers}, "task": {"id": "night"}}
    assert run_key_values(Request.from_mapping(facts)) == {
        TASK: "night",
        ("request", "headers", "x-run-id"): "7",
        ("request", "headers", "traceparent"): "t",
    }


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────


def test_a_table_has_a_bounded_number_of_variants_and_calls(monkeypatch):
    table = RunTable(RunRule(TASK, MINUTE))
    for run in range(MAX_VARIANTS + 10):
        table.add(AllowedCall(run, Caller("acme", "a"), "g", run, {TASK: str(run)}, ""))
    for place in range(2 * MAX_CALLS):
        table.add(AllowedCall(0, Caller("acme", "b"), "g", place, {TASK: "long"}, ""))
    table.finish()
    assert (len(table.variants), table.dropped, table.runs) == (MAX_VARIANTS, 11, MAX_VARIANTS + 11)


def test_equal_calls_in_a_row_are_counted_up_to_the_size_of_an_order():
    table = RunTable(RunRule(TASK, MINUTE))
    for _ in range(500):
        table.add(AllowedCall(0, Caller("acme", "b"), "g", 7, {TASK: "long"}, ""))
    table.finish()
    assert [len(calls) for calls in table.variants] == [33]


def test_open_runs_are_bounded(monkeypatch):
    monkeypatch.setattr("policyengine.analysis.call_orders.run_collector.MAX_OPEN", 3)
    table = RunTable(RunRule(TASK, MINUTE))
    for number in range(10):
        table.add(AllowedCall(number, Caller("acme", f"a{number}"), "g", 1, {TASK: "t"}, ""))
    assert table.runs == 7


def test_further_classes_and_endpoints_are_left_out(monkeypatch):
    monkeypatch.setattr("policyengine.analysis.call_orders.run_collector.MAX_CLASSES", 2)
    monkeypatch.setattr("policyengine.analysis.call_orders.run_collector.MAX_ENDPOINTS", 3)
    collector, endpoints = RunCollector(), EndpointTable()
    for number in range(5):
        collector.add(AllowedCall(0, Caller("acme", "a"), f"g{number}", 1, {}, ""))
    assert (len(collector.classes), collector.further) == (2, 3)
    sample = request_to("GET /x").endpoint
    assert [endpoints.number(f"GET /{number}", (), sample) for number in range(4)] == [1, 2, 0, 0]


# ── Properties ───────────────────────────────────────────────────────────────────────────────

STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 99), min_size=1, max_size=2, unique=True), st.booleans(), st.integers(1, 3),
    ),
    min_size=3,
    max_size=7,
)  # fmt: skip


def seeded_runs(steps, random, runs):
    """Return runs of a workflow: each step has alternatives, may be optional, and repeats up to some times."""
    for _ in range(runs):
        letters = []
        for place, (alternatives, optional, most) in enumerate(steps):
            if not optional or random.random() < 0.7:
                letters += [f"s{place}-{random.choice(alternatives)}"] * random.randint(1, most)
        yield letters or [f"s0-{steps[0][0][0]}"]


@given(steps=STEPS, seed=st.integers(0, 1_000), noise=st.sampled_from([0, 0.03]))
def test_a_mined_order_has_the_support_and_rejects_most_other_orders(steps, seed, noise):
    random, traffic = Random(seed), Traffic()
    for number, letters in enumerate(seeded_runs(steps, random, 80)):
        odd = random.random() < noise
        traffic.run(random.sample(letters, len(letters)) if odd else letters, "abc"[number % 3])
    found = traffic.find(0.9)
    if isinstance(found, MissingOrder):
        return
    assert found.accepted >= 0.9 * found.runs
    assert found.selectivity >= 0.75
    assert found.steps <= 32


@given(steps=STEPS, seed=st.integers(0, 1_000))
def test_each_proposed_order_accepts_the_runs_from_which_it_is_mined(steps, seed):
    traffic = Traffic()
    for letters in seeded_runs(steps, Random(seed), 30):
        traffic.run(letters)
    table = next(table for table in traffic.runs.tables() if table.rule.key == TASK)
    replayer = OrderReplayer(traffic.endpoints, StepReader(check([]).program, "main"), table)
    for order in propose_orders(replayer.named_runs(), 1):
        replayed = replayer.replay(order)
        assert replayed is None or replayed.complete <= replayed.accepted <= table.runs
        assert replayed is not None or sum(1 for _ in steps_of(order)) > 32, order_words(order)
    full = [replayer.replay(order) for order in propose_orders(replayer.named_runs(), 1)[:2]]
    assert any(one is None or one.complete == table.runs for one in full)


def test_a_workflow_with_strict_steps_is_always_found():
    for seed in range(20):
        random, traffic = Random(seed), Traffic()
        steps = [([place], place % 3 == 1, 1 + 2 * (place % 2)) for place in range(5)]
        for number, letters in enumerate(seeded_runs(steps, random, 60)):
            traffic.run(letters, "ab"[number % 2])
        found = traffic.find()
        assert isinstance(found, OrderSuggestion)
        assert found.words == (
            "GET /s0-0 -> GET /s1-1 optional repeated -> GET /s2-2 -> GET /s3-3 repeated -> GET /s4-4 optional"
        )
