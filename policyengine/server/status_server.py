"""A server with ports for metrics and health: the decision API, or an application beside it such as the MCP gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import uvicorn

from policyengine.server.app import status_app
from policyengine.server.connections.bounded_server import (
    TICKS_PER_SECOND,
    BoundedServer,
    ProtocolFactory,
    uvicorn_config,
)
from policyengine.server.connections.connection_table import ConnectionTable
from policyengine.server.handlers import INSTALL_METRICS, DecisionApi
from policyengine.server.listeners import ServeError, bind_listener, resolve_address
from policyengine.server.telemetry.process_metrics import inspect_store, publish_metrics
from policyengine.server.workers.board import WorkerBoard


class StatusServer(BoundedServer):
    """A server that shows the status of `api` on the listeners `metrics`."""

    def __init__(
        self,
        config: uvicorn.Config,
        table: ConnectionTable,
        board: WorkerBoard,
        api: DecisionApi,
        metrics: Sequence[socket.socket],
        is_worker: bool = False,
    ) -> None:
        super().__init__(config, table, board, api.drain, is_worker)
        self.api, self.metrics = api, metrics
        self.inspection: asyncio.Future[None] | None = None

    def listens(self, sockets: Sequence[socket.socket]) -> Iterator[tuple[socket.socket, ProtocolFactory]]:
        yield from super().listens(sockets)
        for listener in self.metrics:
            yield listener, self.speaking(uvicorn_config(status_app(self.api)))

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_SECOND == 0:
            publish_metrics(self.api.tally, self.api.reloading)
            if self.inspection is None or self.inspection.done():
                inspected = inspect_store(self.api.engine, at_once=self.inspection is None)
                self.inspection = asyncio.ensure_future(inspected)
        if self.drain.begun is not None:
            self.api.tally.now("draining", value=1)
        return await super().on_tick(counter)


def bind_metrics_port(host: str, port: int) -> socket.socket:
    """Listen on the metrics port, which needs no token: it serves only metrics and health. Raises ServeError."""
    if not find_spec("prometheus_client"):
        raise ServeError("the package `prometheus-client` is not installed", INSTALL_METRICS)
    return bind_listener(resolve_address(host, port), host, "--metrics-port")
