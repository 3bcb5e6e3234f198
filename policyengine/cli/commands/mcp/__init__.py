"""The commands of `policyengine mcp`: each reviews or lists the definitions of tools."""
