"""Learns logs in a thread and on one local session of Spark, and prints for each case whether the result is the same.

A process of its own, because a session needs a Java process and packages that the other tests do not need.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from pathlib import Path
from random import Random

from policyengine.behavior.bulk.spark_learner import learn_on_spark
from policyengine.behavior.bulk.spark_partitions import WorkerSetup
from policyengine.behavior.bulk.spark_session import open_session
from policyengine.behavior.events import Tagger
from policyengine.behavior.learn_logs import learn_lines
from policyengine.behavior.state import BehaviorState
from tests.behavior.bulk.logs import (
    KEY,
    NOW,
    content,
    group_sizes,
    learn,
    load_grouped_policies,
    load_log_policies,
    make_lines,
    make_moving_lines,
    write_lines,
)

SETUP = WorkerSetup(load_log_policies, ("work",), KEY, "")
GROUPED_SETUP = WorkerSetup(load_grouped_policies, ("groups",), KEY, "")


def two_servers(folder):
    """Two logs that overlap in time, one with a rotated, compressed file; lines of both are damaged, and some are late
    or early."""
    return overlapping_logs(folder, make_lines(11, agents=5, days=3)), None


def overlapping_logs(folder, lines):
    half = len(lines) // 2
    (folder / "a.jsonl.1.gz").write_bytes(gzip.compress(b"".join(line.encode() + b"\n" for _, line in lines[:half:2])))
    write_lines(folder / "a.jsonl", lines[half::2])
    rest = lines[1::2]
    rest.insert(20, rest.pop(40))
    write_lines(folder / "b.jsonl", rest)
    with (folder / "b.jsonl").open("ab") as file:
        file.write(b'{"v":2,"time":"2027-\n\nno json\n' + b"x" * 3_000 + b"\n")
        file.write(f'{{"v":2,"time":"20{lines[-1][1]}'.encode())
    return [folder / "a.jsonl", folder / "b.jsonl"]


def continued(folder):
    """A log of which the first days are known."""
    lines = make_lines(12, agents=3, days=4)
    known = write_lines(folder / "known.jsonl", lines[: len(lines) // 2])
    random = Random(12)
    late = lines[len(lines) // 3 :]
    late.insert(random.randrange(len(late)), late.pop())
    return [write_lines(folder / "log.jsonl", late)], known


def days_that_return(folder):
    """A log whose days do not follow each other, so that models are learned again."""
    lines = make_lines(13, agents=4, days=5)
    days = [[line for line in lines if line[0].day == day] for day in sorted({at.day for at, _ in lines})]
    mixed = [line for number in (0, 3, 1, 4, 2) for line in days[number]]
    return [write_lines(folder / "log.jsonl", mixed)], None


def groups_of_two_servers(folder):
    """Two logs with keys that one clock starts, some of whose days are known; lines are damaged, and some are late."""
    lines = make_moving_lines(14)
    known = write_lines(folder / "known.jsonl", lines[: len(lines) // 3])
    return overlapping_logs(folder, lines[len(lines) // 4 :]), known


def groups_on_days_that_return(folder):
    """A log with such keys whose days do not follow each other."""
    lines = make_moving_lines(15)
    days = [[line for line in lines if line[0].day == day] for day in sorted({at.day for at, _ in lines})]
    mixed = [line for number in (0, 3, 1) for line in days[number]]
    return [write_lines(folder / "log.jsonl", mixed)], None


def state_of(known, setup):
    if known is None:
        return BehaviorState(Tagger(KEY))
    return learn([known], learn_lines, settings_of=setup.policies().settings_of)[0]


def compare(session, case, setup):
    """Return the numbers of a case, and what is the same."""
    with tempfile.TemporaryDirectory() as name:
        logs, known = case(Path(name))
        settings_of = setup.policies().settings_of
        found, tally, messages = learn(logs, learn_lines, state_of(known, setup), settings_of)
        state, again = state_of(known, setup), []
        counted = learn_on_spark(session, logs, setup, state, NOW, again.append, split_bytes=4_000)
    return {
        "rows": content(state)[1] == content(found)[1],
        "model": content(state)[0] == content(found)[0],
        "requests": content(state)[2] == content(found)[2],
        "tally": counted == tally,
        "day": state.learned_day == found.learned_day,
        "messages": len(again) == len(messages) and set(filter(None, again)) <= set(messages),
        "learned": tally.learned,
        "late": tally.late,
        "known": tally.known,
        "models": found.model.content.serial,
        "groups": group_sizes(state),
    }


if __name__ == "__main__":
    cases = {two_servers: SETUP, continued: SETUP, days_that_return: SETUP}
    cases |= {groups_of_two_servers: GROUPED_SETUP, groups_on_days_that_return: GROUPED_SETUP}
    with open_session() as opened:
        json.dump({case.__name__: compare(opened, case, setup) for case, setup in cases.items()}, sys.stdout)
