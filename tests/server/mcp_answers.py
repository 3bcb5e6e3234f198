"""An MCP server that answers each message as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

from policyengine.server.mcp.header_probe import HEADER_MISMATCH
from policyengine.server.mcp.servers import McpServer

NAMES = frozenset({"tools/call", "resources/read", "prompts/get"})
Reply: TypeAlias = tuple[int, dict[str, Any] | bytes]
Answer: TypeAlias = Callable[[dict[str, str], dict[str, Any]], Reply]


class Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error here."""


def refuse_list(messages: list[Any]) -> tuple[int, dict[str, Any] | bytes]:
    return 400, {}


@contextmanager
def answering(
    answer: Answer, headers: dict[str, str] | None = None, answer_list: Callable[[list[Any]], Reply] = refuse_list
) -> Iterator[tuple[McpServer, list[dict[str, Any]]]]:
    """A server that answers each message as given, and the messages that it got."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            bodies.append(body)
            asked = {name.lower(): value for name, value in self.headers.items()}
            status, said = answer_list(body) if isinstance(body, list) else answer(asked, body)
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None: ...

    with Http(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{http.server_address[1]}/mcp"
        try:
            yield McpServer("notes", ("/mcp",), validates_headers=True, url=url), bodies
        finally:
            http.shutdown()


def result(body: dict[str, Any]) -> Reply:
    return 200, {"jsonrpc": "2.0", "id": body["id"], "result": {}}


def mismatch(body: dict[str, Any]) -> Reply:
    return 400, {"jsonrpc": "2.0", "id": body["id"], "error": {"code": HEADER_MISMATCH, "message": "no"}}


def validated(headers: dict[str, str], body: dict[str, Any]) -> Reply:
    name = body["params"].get("name", body["params"].get("uri"))
    same = headers["mcp-method"] == body["method"] and headers.get("mcp-name") == name
    return result(body) if same else mismatch(body)
