"""The side of the MCP clients of the gateway: endpoints, sessions, and streams."""
