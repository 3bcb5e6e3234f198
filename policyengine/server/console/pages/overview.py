"""The overview: which decisions are made now, from the counters of all workers."""

from __future__ import annotations

from time import time

from starlette.responses import JSONResponse, Response

from policyengine.runtime.decision import Outcome
from policyengine.server.console.context import ConsoleContext, ConsoleVisit
from policyengine.server.console.html import render_visit

OUTCOMES = tuple(outcome.value for outcome in (Outcome.ALLOW, Outcome.DENY, Outcome.CONFIRM, Outcome.THROTTLE))
LABELS = {"allow": "allowed", "deny": "denied", "confirm": "confirms", "throttle": "throttled"}
MAX_RULES_SHOWN = 10


async def answer_overview(visit: ConsoleVisit) -> Response:
    counts = count_traffic(visit.console)
    figures = [{"outcome": outcome, "label": LABELS[outcome], "count": counts[outcome]} for outcome in OUTCOMES]
    engine, rules = visit.console.engine, stopping_rules(visit.console)
    return render_visit(
        visit, "overview.html.j2", "Overview", figures=figures, total=sum(counts.values()), rules=rules,
        largest=max((count for _, _, count in rules), default=1), observing=engine.observing is not None,
        has_log=engine.log is not None,
    )  # fmt: skip


async def answer_counts(visit: ConsoleVisit) -> Response:
    """Answer the script that draws the chart."""
    return JSONResponse({"time": time(), "outcomes": count_traffic(visit.console)})


def count_traffic(console: ConsoleContext) -> dict[str, int]:
    """Return how many decisions all workers have made since the server started, by outcome."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for key, numbers in console.tally.total().items():
        if key[0] == "decisions" and key[2] in counts:
            counts[key[2]] += numbers[0]
    return counts


def stopping_rules(console: ConsoleContext) -> list[tuple[str, str, int]]:
    """Return the rules that stopped most requests: the name, the outcome, and how often."""
    found = [
        (key[1], key[2], numbers[0])
        for key, numbers in console.tally.total().items()
        if key[0] == "rules" and key[2] != Outcome.ALLOW
    ]
    return sorted(found, key=lambda rule: (-rule[2], rule[0]))[:MAX_RULES_SHOWN]
