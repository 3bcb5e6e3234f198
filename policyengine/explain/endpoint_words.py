"""An endpoint of a request in words."""

from __future__ import annotations

from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, MalformedEndpoint, ToolEndpoint
from policyengine.runtime.format_values import format_value


def endpoint_words(endpoint: Endpoint) -> str:
    match endpoint:
        case HttpEndpoint(method, path):
            return f"{method} {path}"
        case MalformedEndpoint(_, method, path):
            return f"{method} {format_value(path)}"
        case ToolEndpoint():
            return f"TOOL {endpoint.qualified}"
        case ActionEndpoint(verb, type_):
            return f"ACTION {verb} {type_}"
