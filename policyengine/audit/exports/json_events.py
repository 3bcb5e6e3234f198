"""Encodes events as JSON that is safe to display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policyengine.audit.encoder import escape_unprintable


def encode_json(event: Mapping[str, Any]) -> bytes:
    """Return one line of JSON, without its newline. Control characters and bidirectional marks are escaped."""
    return escape_unprintable(msgspec.json.encode(event) + b"\n").rstrip(b"\n")
