"""The ways in which an MCP client may ask its user for an approval."""

from __future__ import annotations

from enum import StrEnum


class ElicitMode(StrEnum):
    """How the client may ask its user: with a `form`, whose answer counts; with the `url` of a page on which the user
    signs in and answers; not at all."""

    OFF = "off"
    URL = "url"
    FORM = "form"
