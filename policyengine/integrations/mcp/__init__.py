"""Enforcement points for MCP servers: a gateway, and middlewares for the SDKs."""
