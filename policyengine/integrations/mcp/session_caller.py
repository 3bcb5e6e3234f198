"""The client of one call on a server of the `mcp` SDK, on which FastMCP is built, too: progress and elicitation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.confirm_handler import InputRound
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.integrations.mcp.elicitation import ELICIT_METHOD, UserPrompt, declared_modes

try:
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.session import ServerSession
    from mcp.shared.message import ServerMessageMetadata
    from mcp_types import ElicitRequest, ElicitResult, InputRequiredResult, RequestId
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

_LOG = logging.getLogger("policyengine")


@dataclass(frozen=True, slots=True)
class SessionCaller:
    """The client of the request `request_id`, with the HTTP `request` if there is one, and the `responses` to an
    interim result.
    """

    session: ServerSession
    request_id: RequestId | None
    request: object
    responses: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_rounds(self) -> bool:
        return self.session.protocol_version in MODERN_PROTOCOL_VERSIONS

    @property
    def modes(self) -> frozenset[ElicitMode]:
        capabilities = self.session.client_capabilities
        elicitation = None if capabilities is None else capabilities.elicitation
        declared = None if elicitation is None else elicitation.model_dump(by_alias=True, exclude_none=True)
        modes = declared_modes(declared, self.session.protocol_version)
        if self.in_rounds:  # the answer is part of a request whose caller is identified
            return modes
        if not self.session.can_send_request:
            return frozenset()
        return modes if self._is_bound else modes - {ElicitMode.FORM}

    @property
    def _is_bound(self) -> bool:
        """Whether only the caller of the request can answer: over HTTP, the SDK accepts messages of a session only with
        the token that began it, if it verifies tokens. A session without a token is open to everybody who has its ID.
        """
        scope = getattr(self.request, "scope", None)
        return self.request is None or (isinstance(scope, Mapping) and isinstance(scope.get("user"), AuthenticatedUser))

    def hold(self) -> AbstractContextManager[None]:
        return nullcontext()  # the SDK reads other messages meanwhile, and cancels the task of a cancelled request

    async def progress(self, progress: float, message: str) -> None:
        try:
            await self.session.report_progress(progress, None, message)
        except Exception as error:
            _LOG.debug("progress could not be reported: %s", error)

    async def elicit(self, prompt: UserPrompt) -> Mapping[str, Any] | None:
        request = elicit_request(prompt.params)
        try:
            result = await self.session.send_request(
                request, ElicitResult, metadata=ServerMessageMetadata(related_request_id=self.request_id)
            )
        except Exception as error:
            _LOG.info("the client did not ask its user: %s", error)
            return None
        return result.model_dump(by_alias=True, exclude_none=True)

    async def complete(self, elicitation: str) -> None:
        try:
            await self.session.send_elicit_complete(elicitation, self.request_id)
        except Exception as error:
            _LOG.debug("the end of an elicitation could not be reported: %s", error)


def elicit_request(params: Mapping[str, Any]) -> ElicitRequest:
    return ElicitRequest.model_validate({"method": ELICIT_METHOD, "params": {"mode": "form", **params}}, by_name=False)


def interim_result(asked: InputRound) -> InputRequiredResult:
    """Return the result that asks the client for input, in versions of the protocol without requests of servers."""
    params = {name: value for name, value in asked.prompt.params.items() if name != "elicitationId"}
    return InputRequiredResult(input_requests={asked.prompt.key: elicit_request(params)})
