"""Decision logs of simulated agents for the tests of learning: some lines are damaged, late, repeated or reports."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from policyengine.behavior.bulk.line_filter import ALL_TIMES, LineFilter
from policyengine.behavior.bulk.log_lines import LineDecoder, read_learned
from policyengine.behavior.events import Tagger
from policyengine.behavior.fold import ProfileSettings
from policyengine.behavior.recent_requests import packed_days
from policyengine.behavior.row import pack_row
from policyengine.behavior.state import BehaviorState

KEY = b"a key of the tests"
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
NOW = 2_000_000_000_000  # milliseconds
SETTINGS = ProfileSettings("work", ready_runs=3, ready_days=2)
GROUPED = ProfileSettings("work", ready_runs=3, ready_days=2, groups=True)
ENDPOINTS = ("POST /auth", "GET /data/**", "GET /data/**", "POST /report")
TOOL = "sha256:0000"


class LogPolicies:
    """The settings of all classes."""

    revision = ""

    def settings_of(self, group):
        return SETTINGS

    def reader(self, state):
        return None


class GroupedPolicies(LogPolicies):
    """The same settings, of policies that read groups."""

    def settings_of(self, group):
        return GROUPED


def load_grouped_policies(paths):
    return GroupedPolicies()


def load_log_policies(paths):
    """Return the policies, in a process of Spark, too."""
    return LogPolicies()


def moment(at):
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def decision(at, agent, number, endpoint, **members):
    """Return the line of a decision; `members` replace those of `behavior`, or name an `outcome`, an `id`, an `issuer`
    or a `gate`."""
    outcome, id_ = members.pop("outcome", "allow"), members.pop("id", f"id-{number}")
    principal = {"agent": agent, "issuer": members.pop("issuer", "acme")}
    found = {
        "v": 2, "time": moment(at), "call": "decide", "endpoint": endpoint,
        "behavior": {
            "class": "profile work", "model": TOOL, "read": 0, "event": 1, "ready": False, "trust": 0.5, "burst": False,
            "novelty": 0.0, "error_rate": 0.0, "deviation": 0.0, **members.pop("behavior", {}), **members,
        },
        "decision": {
            "outcome": outcome, "id": id_, "revision": TOOL, "package": "acme", "principal": principal, "reasons": [],
        },
        "request": {"agent": {"id": agent, "issuer": "acme"}},
    }  # fmt: skip
    return json.dumps(found, separators=(",", ":"))


def outcome(at, id_, status):
    found = {"v": 2, "time": moment(at), "outcome": {"decision": id_, "status": status, "latency_ms": 3}}
    return json.dumps(found, separators=(",", ":"))


def make_lines(seed, *, agents=4, days=6, runs=3):
    """Return the times and the lines of a log, in order of time: versions, instances, bursts, denials, reports of
    failures, and repetitions of decisions."""
    random, found = Random(seed), []
    for day in range(days):
        for agent in range(agents):
            for _ in range(runs):
                at = START + timedelta(days=day, minutes=random.randrange(600), microseconds=random.randrange(10**6))
                key = random.randrange(1, 2**32)
                for endpoint in ENDPOINTS * (5 if random.random() < 0.05 else 1):
                    at += timedelta(milliseconds=random.choice((0, 1, 900, 20_000)))
                    found.append(one_line(random, at, agent, len(found), endpoint, run=key, day=day))
                    if random.random() < 0.1:
                        found.append((at, outcome(at, f"id-{len(found) - 1}", random.choice((200, 500)))))
                    if random.random() < 0.05:
                        found.append((at, found[-1][1]))
    found.sort(key=lambda item: item[0])
    return found


def one_line(random, at, agent, number, endpoint, run, day):
    members = {"run": run}
    if agent == 0:
        members["instance"] = f"i{random.randrange(3)}"
    if agent == 1:
        members["version"] = f"v{day // 3}"
    if random.random() < 0.1:
        members |= {"outcome": random.choice(("deny", "throttle", "confirm")), "clamped": random.random() < 0.5}
    if random.random() < 0.02:
        members |= {"shape": random.randrange(1, 2**32), "released": True}
    if random.random() < 0.02:
        endpoint = f"GET /odd/{random.randrange(3)}"
    return at, decision(at, f"agent-{agent}", number, endpoint, **members)


def make_moving_lines(seed, *, keys=4, days=5):
    """Return the lines of make_lines with those of keys that one clock starts, in order of time. One of the keys joins
    on the third day, and some requests of the keys are denied."""
    random, found = Random(seed), make_lines(seed, agents=3, days=days)
    for day in range(days):
        for minute in sorted(random.sample(range(600), 8)):
            begin = START + timedelta(days=day, minutes=minute, seconds=random.uniform(0, 50))
            for key in range(keys if day >= 2 else keys - 1):
                at, run = begin + timedelta(milliseconds=random.randrange(900)), random.randrange(1, 2**32)
                for endpoint in ENDPOINTS:
                    members = {"outcome": "deny"} if random.random() < 0.05 else {}
                    at += timedelta(milliseconds=400)
                    found.append((at, decision(at, f"key-{key}", f"k{len(found)}", endpoint, run=run, **members)))
    found.sort(key=lambda item: item[0])
    return found


def write_lines(path, lines):
    Path(path).write_text("".join(line + "\n" for _, line in lines))
    return path


def learn(logs, way, state=None, settings_of=lambda group: SETTINGS, period=ALL_TIMES):
    """Learn logs in a way that takes lines, into a state (default: a new one). Return the state and the tally."""
    state = state or BehaviorState(Tagger(KEY))
    known = {caller: kept.row.level_at for caller, kept in state.rows.items()}
    filter, messages = LineFilter(known, NOW, period), []
    way(read_learned(logs, LineDecoder(None), messages.append), filter, state, settings_of)
    return state, filter.tally, messages


def content(state):
    """Return everything that is saved of a state, in order: the model, the rows and the requests of the last days."""
    rows = [(caller, kept.group, pack_row(kept.row)) for caller, kept in state.rows.items()]
    days = state.requests.days
    return state.model.payload, rows, list(packed_days(days, {}, {day: days[day].count for day in sorted(days)}))


def group_sizes(state):
    return sorted(group.size for group in state.model.content.groups)
