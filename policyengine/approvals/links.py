"""The link to the page of the console on which people answer an approval."""

from __future__ import annotations


def approval_page(console_url: str | None, id: str) -> str | None:
    """Return the URL of the page of an approval; None if the URL of the console is unknown."""
    return None if console_url is None else f"{console_url.rstrip('/')}/approvals/{id}"
