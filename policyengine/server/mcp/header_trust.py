"""Knows which MCP servers compare their headers with the body: it asks them at start, and again from time to time.

The first probe that fails ends what a server has proved, because another server may have replaced it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from threading import Event
from time import monotonic

from policyengine.install_hints import install_command
from policyengine.process_threads import ProcessThreads, ThreadRun
from policyengine.server.mcp.questions import McpQuestions
from policyengine.server.mcp.servers import McpServer, McpServerTable

PROBE_SECONDS = 5.0  # maximum seconds of all requests of a probe
PROBE_INTERVAL_SECONDS = 60.0
MIN_RETRY_SECONDS = 1.0  # doubles with each failure, up to the interval
_LOG = logging.getLogger("policyengine")


class ProbeError(Exception):
    """The error for a server that is not proved to compare headers with the body; the message says why."""


def probe_server(server: McpServer) -> frozenset[str]:
    """Probe a server, and return the methods whose headers it compares with the body. Raises ProbeError."""
    try:
        from policyengine.server.mcp.header_probe import HeaderProbe
    except ImportError:
        raise ProbeError(f"probes need more packages: {install_command('httpx')}") from None
    return HeaderProbe.of(server).proved_methods()


class McpHeaderTrust:
    """Probes each server that should validate headers, in threads of its own. `questions` builds the questions of all
    servers. Thread-safe.
    """

    def __init__(
        self,
        table: McpServerTable,
        probe: Callable[[McpServer], frozenset[str]] = probe_server,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.questions = McpQuestions(table, self.proved)
        self._watches = {one.name: ServerWatch(one, probe) for one in table.servers if one.validates_headers}
        self._threads = ProcessThreads("mcp header probe", self._runs, self._report)
        self._clock = clock

    def proved(self, name: str) -> frozenset[str]:
        """Return the methods whose headers this server is known to compare with the body."""
        watch = self._watches.get(name)
        return frozenset() if watch is None else watch.methods

    def start(self) -> None:
        """Start the threads, and wait for the first probes, so that they are over before the first request."""
        if not self._watches:
            return
        self._threads.wake()
        until = self._clock() + PROBE_SECONDS
        for watch in self._watches.values():
            watch.probed.wait(max(0.0, until - self._clock()))

    def stop(self) -> None:
        self._threads.stop(MIN_RETRY_SECONDS)

    def _runs(self) -> Iterator[ThreadRun]:
        return (watch.run for watch in self._watches.values())

    def _report(self, error: RuntimeError) -> None:
        for watch in self._watches.values():
            watch.fail(f"no thread for probes could be started: {error}")


class ServerWatch:
    """Watches one server. `methods` is replaced as a whole, so that threads can read it."""

    def __init__(self, server: McpServer, probe: Callable[[McpServer], frozenset[str]]) -> None:
        self.server, self._probe = server, probe
        self.methods: frozenset[str] = frozenset()
        self.probed = Event()
        self._why: str | None = ""  # differs from the result of every probe
        self._wait = MIN_RETRY_SECONDS

    def run(self, stop: Event) -> None:
        """Probe until `stop` is set."""
        while not stop.wait(self.step()):
            pass

    def step(self) -> float:
        """Probe once, and return the seconds until the next probe."""
        try:
            methods = self._probe(self.server)
        except ProbeError as error:
            self.fail(str(error))
        except Exception as error:  # an unexpected failure proves nothing
            self.fail(f"the probe failed: {type(error).__name__}")
        else:
            self._succeed(methods)
            return PROBE_INTERVAL_SECONDS
        wait, self._wait = self._wait, min(2 * self._wait, PROBE_INTERVAL_SECONDS)
        return wait

    def fail(self, why: str) -> None:
        """Forget what the server has proved, and log why, once for each cause."""
        self.methods = frozenset()
        self._tell(logging.ERROR, why)
        self.probed.set()

    def _succeed(self, methods: frozenset[str]) -> None:
        self.methods, self._wait = methods, MIN_RETRY_SECONDS
        self._tell(logging.INFO, None)
        self.probed.set()

    def _tell(self, level: int, why: str | None) -> None:
        if why == self._why:
            return
        self._why = why
        name = self.server.name
        if why is None:
            text = f"the MCP server `{name}` compares its headers with the body of {', '.join(sorted(self.methods))}"
            _LOG.log(level, "%s", text, extra={"event": "mcp_headers_proved", "server": name})
            return
        text = (
            f"the headers of the MCP server `{name}` are ignored: {why}; its requests are refused unless the gateway "
        )
        text += "sends their bodies"
        _LOG.log(level, "%s", text, extra={"event": "mcp_headers_unproved", "server": name, "why": why})
