"""The side of the MCP server behind the gateway: connections, sessions, and what the server may send."""
