"""The gRPC listener, with which a server answers Envoy."""

from __future__ import annotations

from typing import Any, Protocol

from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.install_hints import install_command
from policyengine.reload import ReloadableEngine
from policyengine.server.bearer_tokens import BearerTokens
from policyengine.server.listeners import ServeError
from policyengine.server.mcp.questions import McpQuestions
from policyengine.server.shared_state import SharedState
from policyengine.server.telemetry.metered_engine import MeteredEngineProvider


class GrpcListener(Protocol):
    """A listener that answers in its own threads, in addition to the event loop."""

    def started(self) -> Any: ...


def grpc_listener(
    reloading: ReloadableEngine,
    shared: SharedState,
    names: GatewayHeaders,
    tokens: BearerTokens | None,
    host: str,
    port: int,
    mcp: McpQuestions,
) -> GrpcListener:
    """Return the gRPC listener for Envoy. Raises ServeError, for example if a package is not installed."""
    try:
        from policyengine.server.adapters.envoy_grpc import EnvoyGrpcAdapter, check_address
    except ImportError:
        raise ServeError(
            "the package `grpcio`, which serves Envoy, is not installed", install_command("envoy")
        ) from None
    door = MeteredEngineProvider(reloading, shared.tally, shared.tally.apart("envoy_grpc"))
    address = check_address(host, port, tokens is not None)
    return EnvoyGrpcAdapter(door, names, tokens, address, shared.limits, shared.bounds, mcp)
