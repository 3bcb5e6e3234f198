"""Policies in front of MCP servers: the gateway and middlewares of the SDKs."""
