"""Checks the public URL of a server, which `serve` and `mcp-gateway` accept."""

from __future__ import annotations

import re

from policyengine.cli.errors import CommandError


def check_public_url(url: str | None) -> str | None:
    """Check the public URL and return it without a trailing slash. Raises CommandError. None stays None."""
    if url is None or re.fullmatch(r"https?://[^\s/?#@\"\\]+(?:/[^\s?#\"\\]*)?", url):
        return url and url.rstrip("/")
    hint = "write it without a query, such as https://pdp.example.com"
    raise CommandError("usage", f"`{url}` is not a server URL", hint, code=2)
