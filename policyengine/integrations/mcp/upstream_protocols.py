"""The versions of MCP in which a gateway uses its server. Depends on no SDK."""

from enum import StrEnum


class UpstreamProtocol(StrEnum):
    """The versions that the server may be used in: the one of each client if the server speaks it, only the modern one
    without sessions, or only the legacy ones with sessions."""

    AUTO = "auto"
    MODERN = "modern"
    LEGACY = "legacy"
