"""The `requestState` of results that ask for input: bound to the caller and the request to which it was given.

An upstream server sees one client, the gateway, so it cannot distinguish the callers by itself.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from time import time
from typing import Any

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.clients.sessions import Owner
from policyengine.integrations.mcp.eras import era_error

try:
    from mcp.shared.exceptions import MCPError
    from mcp_types import INVALID_PARAMS
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

STATE_SECONDS = 600.0  # how long a state can be used
MAX_STATE_LENGTH = 1024 * 1024
PREFIX = "pe1"


def request_digest(owner: Owner, method: str, params: Mapping[str, Any]) -> bytes:
    """Return the digest of a request of a caller, without its envelope and its answers."""
    asked = {name: params.get(name) for name in ("name", "uri", "arguments")}
    return hashlib.sha256(json.dumps([owner, method, asked], sort_keys=True).encode()).digest()


def foreign_state() -> MCPError:
    return era_error(
        "foreign_state",
        "`requestState` was not given to this caller for this request, or has expired",
        "make the request again without `requestState` and `inputResponses`",
        INVALID_PARAMS,
    )


class RequestStates:
    """Seals and opens states with a key of this process: a restart of the gateway ends the rounds in progress."""

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._key, self._clock = secrets.token_bytes(32), clock

    def seal(self, state: str, owner: Owner, method: str, params: Mapping[str, Any]) -> str:
        expires = str(int(self._clock() + STATE_SECONDS))
        return f"{PREFIX}.{expires}.{self._tag(state, expires, owner, method, params)}.{state}"

    def open(self, sealed: object, owner: Owner, method: str, params: Mapping[str, Any]) -> str:
        """Return the state of the server. Raises MCPError."""
        parts = sealed.split(".", 3) if isinstance(sealed, str) and len(sealed) <= MAX_STATE_LENGTH else []
        if len(parts) != 4 or parts[0] != PREFIX:
            raise foreign_state()
        _, expires, tag, state = parts
        known = self._tag(state, expires, owner, method, params)
        if not hmac.compare_digest(known.encode(), tag.encode("utf-8", "surrogatepass")):
            raise foreign_state()
        if int(expires) < self._clock():
            raise foreign_state()
        return state

    def _tag(self, state: str, expires: str, owner: Owner, method: str, params: Mapping[str, Any]) -> str:
        content = request_digest(owner, method, params) + f"{expires}.{state}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()
