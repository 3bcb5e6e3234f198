"""A process that decides without end, with a log and sinks, and prints the ID of each acknowledged decision."""

import sys
from pathlib import Path

from policyengine.audit import DecisionLog, Rotation
from policyengine.audit.sinks import log_follower, sender, sink_set
from policyengine.audit.sinks.sink_set import SinkOptions
from policyengine.audit.sinks.targets import parse_sinks
from policyengine.engine import Engine


def main(log: str, rotate: str, spool: str, *urls: str) -> None:
    sender.IDLE_SECONDS = sink_set.IDLE_SECONDS = 0.02
    sender.FIRST_PAUSE_SECONDS, sender.MAX_PAUSE_SECONDS = 0.02, 0.1
    log_follower.FINISHED_SECONDS = sink_set.FINISHED_SECONDS = 1.5
    options = SinkOptions(parse_sinks(urls), spool=spool == "spool")
    kept = DecisionLog(Path(log), rotation=Rotation(int(rotate)), seal=None, sinks=options)
    engine = Engine.from_text("anyone { may GET /health }", log=kept)
    assert kept.sinks is not None
    kept.sinks.wake()
    question = {"request": {"method": "GET", "path": "/health"}}
    for line in sys.stdin:
        for _ in range(int(line)):
            decision = engine.decide(question)
            if decision.allowed:
                print(decision.id, flush=True)
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
