"""Sends the messages of one webhook from the spool, at least once, until its receiver accepts them or the time for that
is over."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from time import monotonic, time

from policyengine.audit.sinks.secret_values import SecretValueError
from policyengine.circuit_breaker import CircuitBreaker
from policyengine.http.fetch import CertificatesError, FetchError
from policyengine.http.poster import PostResponse
from policyengine.log_throttle import LogThrottle
from policyengine.plurals import pluralize
from policyengine.webhooks.spool import SpoolError, SpoolMessage, WebhookSpool
from policyengine.webhooks.target import WebhookTarget
from policyengine.webhooks.webhook_client import WebhookClient

_LOG = logging.getLogger("policyengine")
IDLE_SECONDS = 1.0  # between two reads of the spool
LEASE_SECONDS = 120.0  # an attempt takes less
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 2.0, 900.0
MAX_RETRY_AFTER_SECONDS = 3_600.0
KEPT_SECONDS = 86_400.0  # after this time, a message is no longer sent
BREAKER_PAUSE_SECONDS = 30.0
REFUSED_STATUSES = frozenset({400, 410, 413, 422})  # the message is refused: sending it again does not help


class WebhookSender:
    """The sender of one webhook in one process. `sent` counts accepted messages, `failures` failed attempts, and
    `dropped` messages that no receiver will get. `clock` is monotonic seconds, `now` seconds since 1970."""

    def __init__(
        self,
        target: WebhookTarget,
        spool: WebhookSpool,
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], float] = time,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.target, self._spool, self._clock, self._now, self._draw = target, spool, clock, now, draw
        self.sent = self.failures = self.dropped = 0
        self._throttle = LogThrottle.every(clock=clock)
        self._reset()

    def _reset(self) -> None:
        self._client = WebhookClient(self.target, self._now)
        self.breaker = CircuitBreaker(self._clock, pause=BREAKER_PAUSE_SECONDS)

    def after_fork(self) -> None:
        """Leave the connection to the parent process, and reset the counts."""
        self.sent = self.failures = self.dropped = 0
        self._reset()

    def close(self) -> None:
        self._client.close()

    def step(self) -> float:
        """Send one message. Return the seconds until the next step; 0 if there may be more messages. Failures are
        counted and logged, not raised."""
        if not self.breaker.admit():
            return IDLE_SECONDS
        try:
            message = self._spool.lease(self.target.name, LEASE_SECONDS)
            if message is None:
                return IDLE_SECONDS
            self._send(message)
        except SpoolError as error:
            self._throttle.tell(logging.ERROR, "spool", str(error), event="webhook_spool_fails")
            return IDLE_SECONDS
        except Exception:  # a defect must not end the thread
            _LOG.exception("the webhook `%s` fails", self.target.name, extra={"event": "webhook_fails"})
            return IDLE_SECONDS
        return 0.0

    def _send(self, message: SpoolMessage) -> None:
        """Send a message, and delete or postpone it. Raises SpoolError."""
        if message.until <= self._now():
            self._drop(message, "the time limit for sending it has passed")
            return
        try:
            response = self._client.post(message.id, message.body)
        except (FetchError, CertificatesError, SecretValueError) as error:
            self._fail(message, str(error))
            return
        if 200 <= response.status < 300:
            self.sent += 1
            self._succeed()
            self._spool.delete(message)
        elif response.status in REFUSED_STATUSES:
            self.failures += 1
            self._succeed()
            self._drop(message, describe_status(response))
        else:
            self._fail(message, describe_status(response), response.retry_after)

    def _fail(self, message: SpoolMessage, why: str, retry_after: float | None = None) -> None:
        self.failures += 1
        if not self.breaker.fails:
            _LOG.warning(
                "the webhook `%s` fails: %s; messages are sent again later", self.target.name, why,
                extra={"event": "webhook_fails", "webhook": self.target.name, "reason": why},
            )  # fmt: skip
        self.breaker.fail()
        longest = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(message.attempts, 16))
        pause = max(self._draw(longest / 2, longest), min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS))
        if self._now() + pause >= message.until:
            self._drop(message, why)
        else:
            self._spool.postpone(message, self._now() + pause, why)

    def _succeed(self) -> None:
        failures = self.breaker.fails
        self.breaker.succeed()
        if failures:
            _LOG.warning(
                "the webhook `%s` works again after %s", self.target.name, pluralize(failures, "failure"),
                extra={"event": "webhook_works", "webhook": self.target.name, "failures": failures},
            )  # fmt: skip

    def _drop(self, message: SpoolMessage, why: str) -> None:
        self._spool.delete(message)
        self.drop(1, why)

    def drop(self, messages: int, why: str) -> None:
        """Count messages that are not sent, and log them."""
        self.dropped += messages
        count = self._throttle.admit("dropped", messages)
        if count:
            _LOG.error(
                "the webhook `%s` has dropped %s: %s", self.target.name, pluralize(count, "message"), why,
                extra={"event": "webhook_dropped", "webhook": self.target.name, "count": count, "reason": why},
            )  # fmt: skip


def describe_status(response: PostResponse) -> str:
    leads = ", and redirects are not followed" if 300 <= response.status < 400 else ""
    return f"the receiver answers {response.status}{leads}"
