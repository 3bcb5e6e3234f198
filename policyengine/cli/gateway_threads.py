"""The threads of `policyengine mcp-gateway` in addition to the threads for requests: reloads, entities, approvals,
behavior, webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyengine.entities.watch import EntityWatcher
    from policyengine.reload import ReloadableEngine


@contextmanager
def run_gateway_threads(held: ReloadableEngine, watch: bool, following: EntityWatcher | None) -> Iterator[None]:
    """Reload policies, watch entities, record expired approvals and send webhooks in a block; log to stderr."""
    from policyengine.reload.expiry_timer import expiry_timer
    from policyengine.reload.scheduler import ReloadScheduler
    from policyengine.reload.thread import reload_on_request
    from policyengine.server.telemetry.server_log import LogFormat, server_logging

    with (
        server_logging(LogFormat.TEXT, lambda: held.current.revision),
        reload_on_request(held, ReloadScheduler(held, watch)),
    ):
        if following is not None:
            following.started()
        held.current.recorder.write_start(gateway="mcp")
        if held.current.log is not None:
            held.current.log.wake()
        if held.current.behavior is not None:
            held.current.behavior.start()
        listener = held.current.approval_settings.listener
        if listener is not None:
            listener.wake()
        try:
            with expiry_timer(held):
                yield
        finally:
            if following is not None:
                following.stop()
            if listener is not None:
                listener.stop()
            held.current.recorder.write_system("stopped")
            if held.current.behavior is not None:
                held.current.behavior.close()
            log = held.current.log
            if log is not None:
                log.finish()
