"""The versions of MCP in which a gateway uses its server. Depends on no SDK."""

from enum import StrEnum


class UpstreamProtocol(StrEnum):
    """The versions in which the server may be used: the version of each client if the server speaks it, only the modern
    version without sessions, or only the legacy versions with sessions."""

    AUTO = "auto"
    MODERN = "modern"
    LEGACY = "legacy"
