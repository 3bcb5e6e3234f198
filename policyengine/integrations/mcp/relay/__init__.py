"""The relay of messages between a client and the MCP server behind the gateway."""
