"""Pins the tools of a first import: their definitions as the server listed them."""

from __future__ import annotations

import os
from pathlib import Path

from policyengine.clock import utc_now
from policyengine.importers.errors import ApiImportError
from policyengine.importers.model import Api, ServerTool
from policyengine.time_formats import format_rfc3339
from policyengine.tool_pins.pin_file import (
    OTHERS_MAY_NOT_WRITE,
    PIN_FILE,
    PinFile,
    PinFileError,
    PinSet,
    format_pins,
)
from policyengine.tool_pins.review import accept_reviews, review_tools


def pins_text(api: Api, reviewer: str) -> str:
    """Return the pins of all tools that a policy can name and that can be pinned."""
    named = {one.endpoint.name for one in api.operations if isinstance(one.endpoint, ServerTool)}
    reviews = [one for one in review_tools(api.listings, api.server, PinSet()) if one.is_acceptable]
    now = format_rfc3339(utc_now(), "seconds")
    accepted = [review for review in reviews if review.name in named]
    return format_pins(accept_reviews(PinSet(), api.server, accepted, now, reviewer))


def restrict_writers(file: Path) -> None:
    """Let only the owner write a new pin file, because others could pin what they want."""
    if file.exists():
        os.chmod(file, file.stat().st_mode & OTHERS_MAY_NOT_WRITE)


def pin_notes(folder: Path, api: Api) -> list[str]:
    """Return a note about tools that are not pinned as they are now, if there is a pin file. Raises ApiImportError."""
    file = folder / PIN_FILE
    if not file.exists() or not api.listings:
        return []
    try:
        pins = PinFile(file).read()
    except PinFileError as error:
        raise ApiImportError(error.message, hint=error.hint) from None
    names = [review.name for review in review_tools(api.listings, api.server, pins) if review.definitions]
    if not names:
        return []
    shown = ", ".join(f"`{name}`" for name in names[:5]) + (", …" if len(names) > 5 else "")
    return [f"not reviewed, and hidden by the gateway: {shown}; run `policyengine mcp review`"]
