"""What counting costs is measured of a counter that counts."""

from bench.metrics import ROUNDS, cost
from policyengine.runtime.decision import Answer, Outcome
from policyengine.server.telemetry.shared_counters import SUM, ServerCounters, time_always


def test_the_cost_benchmark_counts_every_answer_of_every_round() -> None:
    tally, answers = ServerCounters(), [Answer(Outcome.ALLOW)] * 100
    cost(tally.counter("decide"), answers, time_always())
    [cells] = tally.total().values()
    assert cells[0] == sum(cells[1:SUM]) == (ROUNDS + 1) * len(answers)
