"""To look at a limit at another time leaves it as it is."""

from datetime import UTC, datetime

from policyengine.engine import Engine
from policyengine.runtime.decision import Outcome

NOW = datetime(2027, 1, 4, 12, tzinfo=UTC)
LIMITED = 'language 1\npackage shop\nanyone { may GET /x }\nrate "calls" per request.ip { 1/1h }\n'
ASK = {"request": {"method": "GET", "path": "/x", "ip": "10.0.0.1"}}


def test_an_evaluation_at_a_later_time_refills_nothing_now() -> None:
    engine = Engine.from_text(LIMITED, clock=lambda: NOW)
    assert engine.decide(ASK).allowed
    later = engine.evaluate({**ASK, "options": {"at": "2027-01-05T12:00:00Z"}})
    assert later.allowed
    assert engine.decide(ASK).outcome is Outcome.THROTTLE
