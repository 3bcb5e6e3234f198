"""An MCP server built with the SDK, as users build theirs: one tool, over HTTP (`app`) or stdio.

python -m bench.serving.mcp_sdk_server
"""

from __future__ import annotations

from mcp.server import MCPServer

server = MCPServer("files")


@server.tool(name="open")
def read_file(path: str) -> str:
    return f"what stands in {path}"


app = server.streamable_http_app()

if __name__ == "__main__":
    server.run()
