"""A seeded decision log of simulated agents, as large as wanted, with the lines that a server writes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

CLASSES: Final = 5
DAYS: Final = 20
RUNS: Final = 10  # of an agent in a day
WORKFLOWS: Final = (
    ("POST /auth", "GET /data/**", "GET /data/**", "GET /check", "POST /report"),
    ("POST /auth", "GET /customers/{id}", "GET /orders", "PATCH /customers/{id}", "POST /audit"),
    ("GET /queue", "GET /documents/{id}", "POST /summaries", "POST /summaries", "DELETE /queue/{id}"),
    ("POST /auth", "GET /prices", "GET /stock", "POST /offers", "GET /offers/{id}"),
    ("GET /tickets", "GET /tickets/{id}", "GET /customers/{id}", "POST /answers", "POST /notes"),
)
LENGTH: Final = len(WORKFLOWS[0])
START: Final = datetime(2027, 1, 4, tzinfo=UTC)
DAY: Final = 86_400_000_000  # microseconds
LINE: Final = (
    '{"v":2,"time":"%s.%06dZ","call":"decide","endpoint":"%s","behavior":{"class":"profile work-%d","model":'
    '"sha256:b677d5c75e41e48679287b89ececc1059e718bddc860684d99e944457eb72b03","read":%d,"event":%d,"run":%d,"shape":'
    '%d,"ready":true,"trust":0.500,"burst":false,"novelty":0.000,"error_rate":0.000,"deviation":0.000},"decision":'
    '{"outcome":"%s","allowed":%s,"id":"01MBFYTJM05%015d","revision":'
    '"sha256:efaed1e071ab999109c7b8b616c6d8a3bafba641f267049068a85e626f2bce8f","package":"acme.work","gate":null,'
    '"reasons":[],"remedies":[],"principal":{"agent":"work-%d","issuer":"acme","chain":["work-%d"],"cluster":'
    '"work-%d"},"rates":[{"rule":"work","limit":80,"remaining":79,"reset_ms":100,"factor":1.0}],"obligations":[],'
    '"unknown":[]},"request":{"agent":{"id":"work-%d","issuer":"acme"},"request":{"method":"%s","path":"/%d"},"task":'
    '{"id":"task-%d"}}}\n'
)


def write_log(path: Path, events: int, agents: int, seed: int, days: int = DAYS) -> int:
    """Write a log of about so many decisions in order of time, and return their number. Each agent repeats the workflow
    of its class; in one run of fifty, one request goes elsewhere, and one request of two hundred is denied."""
    random, written = np.random.default_rng(seed), 0
    runs = max(events // (agents * days * LENGTH), 1)
    with path.open("w") as file:
        for day in range(days):
            written += write_day(file, random, START + timedelta(days=day), written, agents, runs)
    return written


def write_day(file: Any, random: np.random.Generator, day: datetime, before: int, agents: int, runs: int) -> int:
    agent = np.repeat(np.arange(agents), runs)
    begins = random.integers(8 * 3_600_000_000, 19 * 3_600_000_000, len(agent))
    gaps = random.integers(500_000, 20_000_000, (len(agent), LENGTH)).cumsum(axis=1)
    moments = (begins[:, None] + gaps).ravel()
    order = np.argsort(moments, kind="stable")
    odd = random.random(len(moments)) < 1 / (50 * LENGTH)
    denied = random.random(len(moments)) < 1 / 200
    tags = random.integers(1, 2**32, len(agent))
    for number, place in enumerate(order.tolist(), before + 1):
        run, step = divmod(place, LENGTH)
        who, moment = int(agent[run]), int(moments[place])
        workflow = WORKFLOWS[(who + odd[place]) % CLASSES]
        seconds, rest = divmod(moment, 1_000_000)
        outcome, allowed = ("deny", "false") if denied[place] else ("allow", "true")
        endpoint = workflow[step]
        file.write(LINE % (
            (day + timedelta(seconds=seconds)).isoformat()[:19], rest, endpoint, who % CLASSES, number, number,
            tags[run], 0, outcome, allowed, number, who, who, who, who, endpoint.partition(" ")[0], place, run,
        ))  # fmt: skip
    return len(order)
