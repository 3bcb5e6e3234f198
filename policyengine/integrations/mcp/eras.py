"""The two eras of MCP: *legacy* versions, with sessions that begin with `initialize`, and *modern* versions, in which
each request carries an envelope in `_meta`: its version, and the capabilities of its client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policyengine.install_hints import install_command

try:
    from mcp.shared.exceptions import MCPError
    from mcp_types import (
        CLIENT_CAPABILITIES_META_KEY,
        CLIENT_INFO_META_KEY,
        INVALID_REQUEST,
        LOG_LEVEL_META_KEY,
        PROTOCOL_VERSION_META_KEY,
        SERVER_INFO_META_KEY,
    )
    from mcp_types.methods import CLIENT_REQUESTS, SPEC_CLIENT_METHODS
    from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION, MODERN_PROTOCOL_VERSIONS
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

MODERN_VERSION = MODERN_PROTOCOL_VERSIONS[-1]
SUPPORTED_VERSIONS = (*MODERN_PROTOCOL_VERSIONS, *reversed(HANDSHAKE_PROTOCOL_VERSIONS))
ENVELOPE_KEYS = (
    PROTOCOL_VERSION_META_KEY,
    CLIENT_INFO_META_KEY,
    CLIENT_CAPABILITIES_META_KEY,
    LOG_LEVEL_META_KEY,
)
MODERN_RESULT_MEMBERS = ("resultType", "ttlMs", "cacheScope")  # legacy clients do not know them
ROUND_MEMBERS = ("inputResponses", "requestState")  # of a repeated request
CACHEABLE_METHODS = frozenset({
    "prompts/list", "resources/list", "resources/read", "resources/templates/list", "tools/list",
})  # fmt: skip
INPUT_METHODS = frozenset({"prompts/get", "resources/read", "tools/call"})  # their result may be `input_required`
# The requests that an upstream server may make of a client, and the capability that the client must declare.
CLIENT_CAPABILITIES = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}


@dataclass(frozen=True, slots=True)
class Envelope:
    """The envelope of a modern request: its version, its client, and the capabilities of its client."""

    version: str
    client_info: Any
    capabilities: Mapping[str, Any]
    log_level: str | None = None

    def stamp(self, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the parameters with this envelope."""
        meta: dict[str, Any] = {**read_meta(params), PROTOCOL_VERSION_META_KEY: self.version}
        meta[CLIENT_CAPABILITIES_META_KEY] = dict(self.capabilities)
        if self.client_info is not None:
            meta[CLIENT_INFO_META_KEY] = self.client_info
        if self.log_level is not None:
            meta[LOG_LEVEL_META_KEY] = self.log_level
        return {**(params or {}), "_meta": meta}


def read_meta(params: Mapping[str, Any] | None) -> Mapping[str, Any]:
    meta = (params or {}).get("_meta")
    return meta if isinstance(meta, Mapping) else {}


def has_envelope(params: object) -> bool:
    """Return whether parameters have the envelope of a modern request, complete or not."""
    return isinstance(params, Mapping) and PROTOCOL_VERSION_META_KEY in read_meta(params)


def read_envelope(params: Mapping[str, Any]) -> Envelope:
    """Return the envelope of a request that `classify_inbound_request` accepted."""
    meta = read_meta(params)
    capabilities, level = meta[CLIENT_CAPABILITIES_META_KEY], meta.get(LOG_LEVEL_META_KEY)
    return Envelope(
        meta[PROTOCOL_VERSION_META_KEY],
        meta.get(CLIENT_INFO_META_KEY),
        capabilities if isinstance(capabilities, Mapping) else {},
        level if isinstance(level, str) else None,
    )


def without_envelope(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as a legacy server knows them."""
    meta = {name: value for name, value in read_meta(params).items() if name not in ENVELOPE_KEYS}
    plain = {name: value for name, value in params.items() if name not in ("_meta", *ROUND_MEMBERS)}
    return {**plain, "_meta": meta} if meta else plain


def to_legacy_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a modern server as a legacy client knows it."""
    meta = {name: value for name, value in read_meta(result).items() if name != SERVER_INFO_META_KEY}
    plain = {name: value for name, value in result.items() if name not in ("_meta", *MODERN_RESULT_MEMBERS)}
    return {**plain, "_meta": meta} if meta else plain


def to_modern_result(method: str, result: Mapping[str, Any], server_info: object = None) -> dict[str, Any]:
    """Return a result with the members that modern clients require. Lists may not be cached: each caller sees another
    one."""
    cached = {"ttlMs": 0, "cacheScope": "private"} if method in CACHEABLE_METHODS else {}
    stamped = dict(result)
    if server_info is not None and read_meta(result).get(SERVER_INFO_META_KEY) is None:
        stamped["_meta"] = {**read_meta(result), SERVER_INFO_META_KEY: server_info}
    return {"resultType": "complete", **cached, **stamped}


def is_of_another_era(method: str, version: str) -> bool:
    """Return whether the specification has the method, but not in this version."""
    return method in SPEC_CLIENT_METHODS and (method, version) not in CLIENT_REQUESTS


def negotiate_legacy(requested: object) -> str:
    """Return the version of a session whose client requests a version."""
    return requested if requested in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION


def era_error(kind: str, message: str, hint: str, code: int = INVALID_REQUEST) -> MCPError:
    """Return the named error of something that cannot be carried between the eras."""
    return MCPError(code, f"{message} ({hint})", {"kind": kind, "hint": hint})
