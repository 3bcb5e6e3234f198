"""MCP servers behind gateways: their requests become tools, resources and prompts in place of one HTTP endpoint."""
