"""Saved results: a file for each section and build. The documentation takes its tables and charts from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
BUILDS = ("pure", "compiled")


@dataclass(frozen=True, slots=True)
class SavedResult:
    """A section that was saved: its measurements, its targets, and the machine of the run."""

    data: list[dict[str, Any]]
    targets: list[dict[str, Any]]
    machine: dict[str, Any]


def file_of(section: str, build: str) -> Path:
    return FOLDER / f"{section}-{build}.json"


def read_result(section: str, build: str) -> SavedResult:
    """Return the saved section of a build. Raises FileNotFoundError, and ValueError if another build was measured."""
    file = file_of(section, build)
    saved = json.loads(file.read_text(encoding="utf-8"))
    if saved["machine"]["build"] != build:
        raise ValueError(f"{file.name} holds figures of the {saved['machine']['build']} build")
    found = saved["sections"][section]
    return SavedResult(found["data"], found["targets"], saved["machine"])
