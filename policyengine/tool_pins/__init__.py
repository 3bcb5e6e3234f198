"""Pins of tools: the reviewed definitions of the tools of MCP servers, and how a listed definition differs."""
