"""Writes what people do in the console to the decision log, one line for each act."""

from __future__ import annotations

import logging

from policyengine.audit import OnFailure, SystemEvent
from policyengine.identity.login.open_id_client import Person
from policyengine.log_throttle import LogThrottle
from policyengine.reload import ReloadableEngine


class ConsoleRecords:
    """The writer of records about people. Every act is written, unlike events of the server, which are throttled."""

    def __init__(self, reloading: ReloadableEngine) -> None:
        self._reloading = reloading
        self._throttle = LogThrottle()

    def act(self, event: SystemEvent, person: Person, **details: object) -> bool:
        """Write what a person did. Return whether the act may happen: it is recorded, there is no log, or the log's
        `on_failure` permits acts without a record.
        """
        engine = self._reloading.current
        if engine.log is None:
            return True
        named = {"user": person.user, "issuer": person.issuer}
        written = engine.log.system.write(event, revision=engine.revision, **named, **details)
        return written or engine.log.on_failure is OnFailure.CONTINUE

    def refused(self, code: str, detail: str, address: str) -> None:
        """Write that a sign-in was refused; these lines are throttled, because every client can cause them."""
        text = f"a sign-in to the console was refused: {detail or code}"
        self._throttle.tell(logging.WARNING, "console_refused", text, event="console_refused", code=code)
        self._reloading.current.recorder.write_system(
            SystemEvent.CONSOLE_REFUSED, code=code, why=detail, address=address
        )
