"""Random traces: the engine on its store, against the specification on a plain list of everything that happened."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from policyengine.clock import epoch_microseconds
from policyengine.engine import Engine
from policyengine.runtime.decision import Decision
from policyengine.runtime.history import OutcomeReport
from policyengine.stores.memory.store import MemoryStore
from tests.history.plainly import HEAD, Everything, Trace, user
from tests.spec.deciding import NOW, bot, kernel, question

RULES = (
    HEAD
    + """
facts on POST /doc/{id}/pay, POST /doc/{id}/review { body.amount: number   body.note: string? }
guard "reviewed" on POST /doc/{id}/pay {
  require after (POST /doc/{id}/review by another user where past.params.id == params.id) within 10m
}
guard "silent" on TOOL mail/* {
  require no TOOL secrets/read within 5m since (POST /doc/*/review where past.status < 400)
}
guard "probing" on POST /doc/** { deny when count of (denied TOOL *) within 3m per (user.id) > 2 }
guard "spent" on POST /doc/{id}/pay {
  require sum past.body.amount of (POST /doc/*/pay where past.body.note is absent) within 7m + body.amount <= 100
}
guard "open" on POST /doc/{id}/review {
  require no (POST /doc/{id}/review where past.params.id == params.id and past.status is absent) within 4m
}
guard "scored" on GET /else {
  require sum (past.output.score else 2) of POST /doc/*/review within 6m < 12
  require distinct (past.status else 0) of POST /doc/*/pay within 6m per (user.id) < 3
  require no (POST /doc/*/pay where past.output.score is absent and (past.output.state else "open") == "open") within 1m
}
guard "few" on TOOL secrets/* {
  deny when distinct past.params.id of (POST /doc/{id}/review by any user where past.output.score > 5) within 4m > 1
  deny when context.risk > 8
}
facts { context.risk: number? }
"""
)
WHO = [bot(), bot(user="bob"), bot("other"), user("alice"), user("carol"), bot(user=None), {}]
WHERE = ["POST /doc/1/pay", "POST /doc/2/pay", "POST /doc/1/review", "POST /doc/2/review", "TOOL mail/send",
         "TOOL secrets/read", "GET /else"]  # fmt: skip
AMOUNTS: list[object] = [1, 40, 60.5, "many", None]


class Traffic(RuleBasedStateMachine):
    store: Any
    has_one_clock = True  # a cluster has a clock on each of its servers, which only calls to this server move

    def opened(self, complete: bool) -> bool:
        """Makes the store. Whether it knows that nothing happened before it was made."""
        self.store = MemoryStore(history_complete=complete)
        return complete

    @initialize(complete=st.booleans())
    def begin(self, complete: bool) -> None:
        self.now = NOW
        complete = self.opened(complete)
        self.engine = Engine.from_text(RULES, "0.policy", clock=lambda: self.now, store=self.store)
        self.trace = Trace(kernel(RULES), history=Everything(-1 if complete else epoch_microseconds(NOW) - 1))
        self.pairs: list[tuple[Decision, Decision]] = []
        self.latest = NOW

    @rule(
        who=st.sampled_from(WHO), where=st.sampled_from(WHERE), amount=st.sampled_from(AMOUNTS),
        note=st.sampled_from([None, "x"]), risk=st.sampled_from([None, 1, 9]),
    )  # fmt: skip
    def ask(self, who: dict[str, object], where: str, amount: object, note: object, risk: object) -> None:
        asked = {**who, **question(where, body={"amount": amount, "note": note}, context={"risk": risk})}
        self.latest = max(self.latest, self.now)
        self.store.check(epoch_microseconds(self.now))  # a request that is denied before would not move its clock
        self.trace.now, self.trace.stored = self.now, self.latest
        peeked, found, told = self.engine.evaluate(asked), self.engine.decide(asked), self.trace.decide(asked)
        assert found.answer == told.answer
        assert found.principal == told.principal
        assert (peeked.outcome, peeked.reasons) == (found.outcome, found.reasons)
        self.pairs.append((found, told))

    @rule(passed=st.sampled_from([1, 30, 60, 170, 240, 600]))
    def wait(self, passed: int) -> None:
        self.now += timedelta(seconds=passed)

    @rule(back=st.sampled_from([1, 2, 4]))
    def set_back(self, back: int) -> None:
        """Windows are judged by the clock of the store, which never runs back. Further back it is asked no more."""
        if self.has_one_clock:
            self.now = max(self.now - timedelta(seconds=back), self.latest - timedelta(seconds=4))

    @rule(
        data=st.data(), status=st.sampled_from([200, 399, 400, None]), score=st.sampled_from([None, 1, 6, "6"]),
        state=st.sampled_from([None, "open", "done", 3]),
    )  # fmt: skip
    def report(self, data: st.DataObject, status: int | None, score: Any, state: Any) -> None:
        if self.pairs:
            self.latest = max(self.latest, self.now)
            found, told = data.draw(st.sampled_from(self.pairs))
            output = {"score": score, "state": state}
            if self.engine.report(found.id, status=status, output=output):
                self.trace.history.report(told.id, OutcomeReport(status, output))


class InMemory(Traffic):
    @rule()
    def forget(self) -> None:
        """What a full store does: nothing that counts is lost."""
        with self.store._lock:
            self.store._forget(epoch_microseconds(self.now))


TestTraffic = InMemory.TestCase
TestTraffic.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
