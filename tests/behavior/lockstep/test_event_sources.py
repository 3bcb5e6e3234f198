"""Groups in decision logs and in files of plain events."""

import json
from datetime import UTC, datetime

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.audit.reader import read_log
from policyengine.behavior.events import Tagger
from policyengine.behavior.lockstep.columns import CallerNumbers, EventColumns, fill_columns
from policyengine.behavior.lockstep.detection import find_groups
from policyengine.behavior.lockstep.event_sources import events_of_file, events_of_log
from policyengine.behavior.log_events import LogEventReader
from policyengine.behavior.plain_event_reader import PlainEventReader
from policyengine.behavior.plain_events import read_plain_events
from tests.behavior.lockstep.movements import BEGIN, DAY, KEY, SECOND, Movements
from tests.behavior.reporting_agents import POLICY, FakeClock, question

FARM = ["report-7", "report-8", "report-9"]


def runs():
    """Yield the times, the agents and the runs of a farm and of independent agents, in the order of time."""
    town = Movements(seed=3, independent=0)
    moves = [(agent, beat) for beat in town.beats(40) for agent in FARM]
    moves += [(f"report-{number}", beat) for number in range(7) for beat in town.beats(40)]
    for number, (agent, beat) in enumerate(sorted(moves, key=lambda move: move[1])):
        yield BEGIN + beat + town.random.randrange(SECOND), agent, f"task {number}"


def find(events, tagger):
    columns, numbers = EventColumns(BEGIN, BEGIN + DAY), CallerNumbers()
    fill_columns(columns, numbers, events, tagger)
    [group] = find_groups(columns, numbers.callers(), KEY).groups
    return len(columns), sorted(caller.agent for caller in group.pooled)


def test_a_farm_is_found_in_plain_events(tmp_path):
    file = tmp_path / "events.jsonl"
    lines = [
        {"at": at + step * SECOND, "agent": agent, "run": run, "endpoint": f"GET /data/{step}"}
        for at, agent, run in runs()
        for step in range(3)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    tagger = Tagger(KEY)
    assert find(events_of_file(read_plain_events(file), PlainEventReader(None, tagger)), tagger) == (1_200, FARM)


def test_a_farm_is_found_in_a_decision_log(tmp_path):
    clock, file = FakeClock(), tmp_path / "decisions.jsonl"
    log = DecisionLog(file, seal=None)
    engine = Engine.from_text(POLICY, clock=clock, log=log, behavior=tmp_path / "learned")
    for at, agent, run in sorted(runs()):
        clock.now = datetime.fromtimestamp(at / 1_000, UTC)
        engine.decide(question(int(agent.removeprefix("report-")), "/data/1", task=run))
    engine.behavior.close()
    log.close()
    counted, farm = find(events_of_log(read_log(file), LogEventReader(None)), Tagger(KEY))
    assert (counted, farm) == (400, FARM)
