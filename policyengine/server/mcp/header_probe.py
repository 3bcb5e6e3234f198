"""Asks an MCP server whether it compares its headers with the body, with requests that change nothing.

One request agrees with its headers and must be answered. In the others, headers and body name different methods, or
different tools, resources and prompts that do not exist: the server must refuse each of them as the specification says,
with status 400 and the error `HeaderMismatch`. It must also refuse a list of messages.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from policyengine import __version__
from policyengine.bounded_files import read_bounded
from policyengine.http.fetch import CertificatesError, Fetcher, FetchError, FetchResponse
from policyengine.runtime import decode
from policyengine.server.mcp.calls import NAME_PARAMETERS, VERSION_KEY
from policyengine.server.mcp.header_trust import PROBE_SECONDS, ProbeError
from policyengine.server.mcp.header_values import VALIDATING_VERSIONS
from policyengine.server.mcp.servers import McpServer

HEADER_MISMATCH = -32020
MAX_ANSWER_BYTES = 65_536
MAX_TOKEN_BYTES = 16_384
VERSION = max(VALIDATING_VERSIONS)
META: Mapping[str, object] = {
    VERSION_KEY: VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "policyengine-probe", "version": __version__},
    "io.modelcontextprotocol/clientCapabilities": {},
}
ANSWERS = frozenset({200, *range(400, 500)}) - {401, 403}  # statuses that say something about headers
DISCOVER, LIST_TOOLS = "server/discover", "tools/list"


@dataclass(frozen=True, slots=True)
class HeaderProbe:
    """Probes one server. `until` is the deadline by the clock of the fetcher."""

    server: McpServer
    fetcher: Fetcher
    until: float

    @classmethod
    def of(cls, server: McpServer, seconds: float = PROBE_SECONDS) -> HeaderProbe:
        fetcher = Fetcher(
            ca=server.ca, plain_http=server.token_file is None, largest=MAX_ANSWER_BYTES, statuses=ANSWERS
        )
        return cls(server, fetcher, fetcher.clock() + seconds)

    def proved_methods(self) -> frozenset[str]:
        """Return the methods whose `Mcp-Name` the server compares with the body. Raises ProbeError unless it compares
        `Mcp-Method` and at least one name.
        """
        if self.server.url is None:
            raise ProbeError("its URL is not configured")
        status = self.post(DISCOVER, {}, method=DISCOVER).status
        if status != 200:
            raise ProbeError(f"it refuses `server/discover`, whose headers and body agree, with status {status}")
        if not self.refuses(DISCOVER, {}, method=LIST_TOOLS):
            raise ProbeError("it does not refuse a request whose `Mcp-Method` differs from its body")
        if self.send([self.message(DISCOVER, {})], method=LIST_TOOLS).status == 200:
            raise ProbeError("it accepts several messages in one body, whose headers can describe only one of them")
        found = frozenset(name for name in NAME_PARAMETERS if self.compares_name(name))
        if not found:
            raise ProbeError("it does not refuse a request whose `Mcp-Name` differs from its body")
        return found

    def compares_name(self, method: str) -> bool:
        """Return whether the server refuses a name that differs from the body, and a missing name. The server has
        nothing with either name, so nothing happens if it does not compare names.
        """
        parameter = NAME_PARAMETERS[method]
        here, there = (probe_name(method) for _ in range(2))
        return self.refuses(method, {parameter: here}, method=method, name=there) and self.refuses(
            method, {parameter: here}, method=method
        )

    def refuses(self, asked: str, params: Mapping[str, object], *, method: str, name: str | None = None) -> bool:
        """Return whether the server refuses a request because its headers and its body differ. A server that does not
        have the method may refuse it for that reason, which proves nothing. Raises ProbeError.
        """
        try:
            answer = self.post(asked, params, method=method, name=name)
        except ProbeError:
            if asked == DISCOVER:
                raise
            return False
        return answer.status == 400 and error_code(answer.body) == HEADER_MISMATCH

    def post(self, asked: str, params: Mapping[str, object], *, method: str, name: str | None = None) -> FetchResponse:
        """Send a request with `asked` in its body and `method` in its header. Raises ProbeError."""
        return self.send(self.message(asked, params), method=method, name=name)

    def message(self, asked: str, params: Mapping[str, object]) -> dict[str, object]:
        return {"jsonrpc": "2.0", "id": secrets.token_hex(8), "method": asked, "params": {**params, "_meta": META}}

    def send(self, body: object, *, method: str, name: str | None = None) -> FetchResponse:
        """Send a body with these headers. Raises ProbeError."""
        headers = {
            "Accept": "application/json, text/event-stream", "Content-Type": "application/json",
            "Mcp-Protocol-Version": VERSION, "Mcp-Method": method,
            **({} if name is None else {"Mcp-Name": name}), **self.authorization(),
        }  # fmt: skip
        assert self.server.url is not None
        try:
            return self.fetcher.post(self.server.url, msgspec.json.encode(body), headers, self.until)
        except FetchError as error:
            hint = ": set `token_file`, if it needs a token" if error.status in (401, 403) else ""
            raise ProbeError(f"{error.why}{hint}") from None
        except CertificatesError as error:
            raise ProbeError(str(error)) from None

    def authorization(self) -> dict[str, str]:
        """Return the header with the token. Raises ProbeError."""
        if self.server.token_file is None:
            return {}
        try:
            token = read_bounded(self.server.token_file, MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise ProbeError(f"the token in `{self.server.token_file}` cannot be read") from None
        if not token or any(one <= " " or one == "\x7f" for one in token):
            raise ProbeError(f"`{self.server.token_file}` does not have one token on one line")
        return {"Authorization": f"Bearer {token}"}


def probe_name(method: str) -> str:
    """Return a name that no tool or prompt has or, for resources, a URI."""
    name = f"policyengine-probe-{secrets.token_hex(8)}"
    return f"policyengine-probe:{name}" if NAME_PARAMETERS[method] == "uri" else name


def error_code(body: bytes) -> object:
    """Return the code of a JSON-RPC error; None for any other body."""
    try:
        found = decode.json_tree(body)
    except decode.DecodeError:
        return None
    error = found.get("error") if isinstance(found, dict) else None
    return error.get("code") if isinstance(error, dict) else None
