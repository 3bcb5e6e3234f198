"""Takes the events of approvals from decisions and people, and passes them through the spool to the senders of the
webhooks. Decisions only append to a bounded queue in memory."""

from __future__ import annotations

import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from threading import Event
from time import monotonic, time

from policyengine.approvals.events import ApprovalEvent
from policyengine.log_throttle import LogThrottle
from policyengine.process_threads import ProcessThreads, ThreadRun
from policyengine.webhooks.messages import encode_message
from policyengine.webhooks.sender import IDLE_SECONDS, KEPT_SECONDS, WebhookSender
from policyengine.webhooks.spool import SpoolDamagedError, SpoolError, SpoolMessage, WebhookSpool, set_aside
from policyengine.webhooks.target import WebhookLinks, WebhookTarget

_LOG = logging.getLogger("policyengine")
MAX_QUEUED = 1_000  # maximum events that wait for the thread that writes the spool
STOP_SECONDS = 1.0  # for writing and sending the last messages when a process ends


class WebhookDispatcher:
    """The webhooks of one server."""

    def __init__(
        self,
        targets: Sequence[WebhookTarget],
        spool: WebhookSpool,
        links: WebhookLinks,
        *,
        now: Callable[[], float] = time,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.targets, self.links = tuple(targets), links
        self._spool, self._now, self._clock = spool, now, clock
        self.senders = tuple(WebhookSender(target, spool, clock=clock, now=now) for target in self.targets)
        self._throttle = LogThrottle.every(clock=clock)
        self._waiting: dict[str, int] = {}
        self._threads = ProcessThreads("webhooks", self._runs, report_start_failure, clock)
        self._reset()
        _DISPATCHERS.add(self)

    def _reset(self) -> None:
        self._ready, self._queue = Event(), deque[ApprovalEvent]()
        self._sending = {target.name: Event() for target in self.targets}

    # ── Events ────────────────────────────────────────────────────────────────────────────────

    def notify(self, event: ApprovalEvent) -> None:
        """Queue an event. Never waits for the spool or a receiver, and never raises an error."""
        try:
            if not any(target.wants(event) for target in self.targets):
                return
            if len(self._queue) >= MAX_QUEUED:
                self._drop_event(event, "too many events at a time")
                return
            self._queue.append(event)
            self.wake()
            self._ready.set()
        except Exception:
            _LOG.exception("an event of an approval was not queued", extra={"event": "webhook_fails"})

    def _drop_event(self, event: ApprovalEvent, why: str) -> None:
        for sender in self.senders:
            if sender.target.wants(event):
                sender.drop(1, why)

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Return the counts of this process by metric key and webhook."""
        found: dict[tuple[str, str], int] = {}
        for sender in self.senders:
            name = sender.target.name
            found["webhook_sent", name] = sender.sent
            found["webhook_failures", name] = sender.failures
            found["webhook_dropped", name] = sender.dropped
        return found

    def gauges(self) -> Mapping[tuple[str, str], int]:
        """Return how many messages of each webhook wait in the spool, as of a moment ago."""
        return {("webhook_waiting", target.name): self._waiting.get(target.name, 0) for target in self.targets}

    # ── The spool ─────────────────────────────────────────────────────────────────────────────

    def tick(self) -> None:
        """Write the queued events to the spool. Failures are logged, not raised."""
        try:
            self._write_queue()
            self._waiting = {name: state.waiting for name, state in self._spool.states().items()}
        except SpoolDamagedError as error:
            self._replace_spool(error)
        except SpoolError as error:
            self._throttle.tell(logging.ERROR, "spool", str(error), event="webhook_spool_fails")
        except Exception:  # a defect must not end the thread
            _LOG.exception("webhooks fail", extra={"event": "webhook_fails"})

    def _write_queue(self) -> None:
        """Write the queued events. They stay in the queue until they are in the spool. Raises SpoolError."""
        while count := len(self._queue):
            events = [self._queue[at] for at in range(count)]
            self._add([message for event in events for message in self._try_messages(event)])
            for _ in events:
                self._queue.popleft()

    def _add(self, messages: list[SpoolMessage]) -> None:
        """Add messages to the spool. Raises SpoolError."""
        for webhook, count in self._spool.add(messages).items():
            for sender in self.senders:
                if sender.target.name == webhook:
                    sender.drop(count, "the spool is full")
        for message in messages:
            if (event := self._sending.get(message.webhook)) is not None:
                event.set()

    def _try_messages(self, event: ApprovalEvent) -> list[SpoolMessage]:
        """Return the messages about an event. If building them fails, only this event is lost."""
        try:
            return self._messages(event)
        except Exception:
            _LOG.exception("the messages about an approval cannot be written", extra={"event": "webhook_fails"})
            return []

    def _messages(self, event: ApprovalEvent) -> list[SpoolMessage]:
        now = self._now()
        return [
            SpoolMessage(
                message_id(target.name, event), target.name, str(event.kind),
                encode_message(event, target, self.links), now, now + KEPT_SECONDS,
            )
            for target in self.targets if target.wants(event)
        ]  # fmt: skip

    def _replace_spool(self, error: SpoolError) -> None:
        path = self._spool.path
        with suppress(SpoolError):
            aside = None if path is None else set_aside(path)
            self._spool.close()
            where = f"; it is now `{aside}`, and a new one was begun" if aside is not None else ""
            _LOG.error("%s%s", error, where, extra={"event": "webhook_spool_damaged"})

    # ── Threads ───────────────────────────────────────────────────────────────────────────────

    def wake(self) -> None:
        """Start the threads of this process. A failure is logged, not raised."""
        self._threads.wake()

    def _runs(self) -> Iterator[ThreadRun]:
        yield self._write_until_stopped
        for sender in self.senders:
            yield partial(send_until_stopped, sender, self._sending[sender.target.name])

    def _write_until_stopped(self, stop: Event) -> None:
        while not stop.is_set():
            self._ready.wait(IDLE_SECONDS)
            self._ready.clear()
            if not stop.is_set():
                self.tick()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End the threads within `seconds`. Messages that were not sent wait in the spool."""
        if not self._threads.stop(seconds, (self._ready, *self._sending.values())):
            return
        self.tick()
        if self._spool.is_shared:
            self._spool.close()

    def after_fork(self) -> None:
        """Leave threads, locks and connections to the parent process, and reset the counts."""
        self._threads.forget()
        self._reset()
        self._spool.after_fork()
        for sender in self.senders:
            sender.after_fork()


def report_start_failure(error: RuntimeError) -> None:
    _LOG.error("webhooks cannot be started: %s", error, extra={"event": "webhook_fails"})


def send_until_stopped(sender: WebhookSender, ready: Event, stop: Event) -> None:
    while not stop.is_set():
        pause = sender.step()
        if pause and not stop.is_set():
            ready.wait(pause)
            ready.clear()
    sender.close()


def message_id(webhook: str, event: ApprovalEvent) -> str:
    """Return the ID of a message. It is the same each time the message is sent, and does not reveal the ID of the
    approval."""
    digest = sha256("\0".join((webhook, event.approval.id, event.kind)).encode()).hexdigest()
    return f"msg_{digest[:32]}"


# ── Processes ─────────────────────────────────────────────────────────────────────────────────

_DISPATCHERS: weakref.WeakSet[WebhookDispatcher] = weakref.WeakSet()


def _after_fork() -> None:
    for dispatcher in tuple(_DISPATCHERS):
        dispatcher.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
