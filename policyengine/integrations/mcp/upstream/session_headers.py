"""The headers of HTTP requests in one session with a legacy upstream server."""

from __future__ import annotations

from collections.abc import Mapping

from policyengine.install_hints import install_command
from policyengine.integrations.mcp.upstream.answers import AnswerError
from policyengine.integrations.mcp.upstream.connections import AnswerHead, Headers, UpstreamEndpoint

try:
    from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
    from mcp.shared.message import ClientMessageMetadata, SessionMessage
    from mcp_types import JSONRPCRequest
except ImportError as error:
    raise ImportError(f"the `mcp` SDK is not installed; {install_command('mcp')}") from error

SESSION_HEADER, LAST_EVENT_HEADER = b"mcp-session-id", b"last-event-id"
VERSION_HEADER = MCP_PROTOCOL_VERSION_HEADER.encode()
UNCOMPRESSED = (b"accept-encoding", b"identity")
POST_HEADERS: Headers = [
    (b"accept", b"application/json, text/event-stream"),
    (b"content-type", b"application/json"),
    UNCOMPRESSED,
]
GET_HEADERS: Headers = [(b"accept", b"text/event-stream"), (b"cache-control", b"no-store"), UNCOMPRESSED]
OWN_HEADERS = frozenset(
    {name for name, _ in (*POST_HEADERS, *GET_HEADERS)} | {SESSION_HEADER, VERSION_HEADER, LAST_EVENT_HEADER}
)
MAX_SESSION_ID_BYTES = 8 * 1024  # some servers keep their state in the ID


class SessionHeaders:
    """The headers that the gateway sends: its own, and those that say to which session a request belongs. `session` is
    the ID that the server has given the session, if it has given one."""

    def __init__(self, target: str, headers: Mapping[str, str]) -> None:
        own = {name: value for name, value in headers.items() if name.lower().encode() not in OWN_HEADERS}
        self.endpoint = UpstreamEndpoint.of(target, own, {})
        self.session: bytes | None = None
        self._version: str | None = None

    def note_version(self, item: SessionMessage) -> None:
        """Remember the version that a message states for the session. `initialize` has none."""
        message, metadata = item.message, item.metadata
        if isinstance(message, JSONRPCRequest) and message.method == "initialize":
            self._version = None
        elif isinstance(metadata, ClientMessageMetadata) and metadata.headers:
            self._version = metadata.headers.get(MCP_PROTOCOL_VERSION_HEADER, self._version)

    def note_session(self, head: AnswerHead) -> None:
        """Remember the ID that the answer to `initialize` gives the session. Raises AnswerError if it is malformed."""
        id = head.value(SESSION_HEADER)
        if id is not None and (len(id) > MAX_SESSION_ID_BYTES or not all(0x21 <= byte <= 0x7E for byte in id)):
            raise AnswerError("the ID that the upstream server gives the session is malformed")
        self.session = id or self.session

    def of_post(self, body: bytes) -> Headers:
        return [*self._common(), *POST_HEADERS, (b"content-length", b"%d" % len(body))]

    def of_get(self, last_event: bytes) -> Headers:
        return [*self._common(), *GET_HEADERS, *([(LAST_EVENT_HEADER, last_event)] if last_event else ())]

    def of_delete(self) -> Headers:
        return self._common()

    def _common(self) -> Headers:
        headers = list(self.endpoint.head)
        if self.session is not None:
            headers.append((SESSION_HEADER, self.session))
        if self._version is not None:
            headers.append((VERSION_HEADER, self._version.encode()))
        return headers
