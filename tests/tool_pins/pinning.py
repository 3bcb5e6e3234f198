"""Pins of definitions, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policyengine.tool_pins.pin_file import PIN_FILE, PinSet, ToolPin, write_pins
from policyengine.tool_pins.review import pin_definitions

REVIEWED = "2026-11-30T05:00:00Z"


def tool(name: str, description: str = "A tool.", **members: Any) -> dict[str, Any]:
    return {"name": name, "description": description, "inputSchema": {"type": "object"}, **members}


def pins_of(*definitions: dict[str, Any], server: str = "notes") -> PinSet:
    pins: dict[str, ToolPin] = {}
    for one in definitions:
        pin = pin_definitions([one], REVIEWED, "alice")
        assert pin is not None
        pins[one["name"]] = pin
    return PinSet({server: pins})


def pin_file(folder: Path, pins: PinSet) -> Path:
    write_pins(folder / PIN_FILE, pins)
    return folder / PIN_FILE
