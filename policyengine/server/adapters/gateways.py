"""The adapters for gateways that ask over HTTP, prepared for the header names of the settings."""

from __future__ import annotations

from typing import NamedTuple

from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.http.gateway_omissions import GatewayAdapter
from policyengine.http.gateway_questions import GatewayQuestionBuilder
from policyengine.server.adapters.envoy_http import EnvoyHttpAdapter
from policyengine.server.adapters.forward_auth import ForwardAuthAdapter
from policyengine.server.mcp.questions import McpQuestions


class GatewayAdapters(NamedTuple):
    """One adapter for each kind of gateway."""

    forward_auth: ForwardAuthAdapter
    nginx: ForwardAuthAdapter
    envoy: EnvoyHttpAdapter

    @classmethod
    def of(
        cls, names: GatewayHeaders, body_timeout: float, *, own: bool, mcp: McpQuestions | None = None
    ) -> GatewayAdapters:
        """Return the adapters for these header names. `own` means that `Authorization` belongs to the client; `mcp`
        builds the questions of MCP servers."""
        forward_auth, nginx, envoy = (
            GatewayQuestionBuilder(names, names.hands_on(one))
            for one in (GatewayAdapter.FORWARD_AUTH, GatewayAdapter.NGINX, GatewayAdapter.ENVOY)
        )
        return cls(
            ForwardAuthAdapter(forward_auth, own, mcp),
            ForwardAuthAdapter(nginx, own, mcp),
            EnvoyHttpAdapter(envoy, body_timeout, own, mcp),
        )
