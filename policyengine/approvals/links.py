"""The links to an approval: to its page in the console, where people answer, and to its state in the decision API."""

from __future__ import annotations


def approval_url(base: str | None, id: str) -> str | None:
    """Return the URL of an approval below the URL of a console or of a decision API; None if that is unknown."""
    return None if base is None else f"{base.rstrip('/')}/approvals/{id}"
