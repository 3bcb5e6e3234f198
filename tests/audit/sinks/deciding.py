"""A process that decides a number of times, with a log and sinks, prints the ID of each acknowledged decision, and then
waits to be killed."""

import signal
import sys
from pathlib import Path

from policyengine.audit import DecisionLog, Rotation
from policyengine.audit.sinks import log_follower, sender, sink_set
from policyengine.audit.sinks.sink_set import SinkOptions
from policyengine.audit.sinks.targets import parse_sinks
from policyengine.engine import Engine

RUN = "import sys; from tests.audit.sinks.deciding import main; main(*sys.argv[1:])"


def main(count: str, log: str, rotate: str, spool: str, *urls: str) -> None:
    sender.IDLE_SECONDS = sink_set.IDLE_SECONDS = 0.02
    sender.FIRST_PAUSE_SECONDS, sender.MAX_PAUSE_SECONDS = 0.02, 0.1
    log_follower.FINISHED_SECONDS = sink_set.FINISHED_SECONDS = 1.0
    options = SinkOptions(parse_sinks(urls), spool=spool == "spool")
    kept = DecisionLog(Path(log), rotation=Rotation(int(rotate)), seal=None, sinks=options)
    engine = Engine.from_text("anyone { may GET /health }", log=kept)
    assert kept.sinks is not None
    kept.sinks.wake()
    question = {"request": {"method": "GET", "path": "/health"}}
    for _ in range(int(count)):
        decision = engine.decide(question)
        if decision.allowed:
            sys.stdout.write(f"{decision.id}\n")
            sys.stdout.flush()
    sys.stdout.write("done\n")
    sys.stdout.flush()
    signal.pause()
