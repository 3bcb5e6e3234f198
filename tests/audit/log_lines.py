"""The schema of log lines, strictly: every member that is written is one that the schema describes."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator


@cache
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files("policyengine.audit") / "log-line.schema.json").read_text("utf-8"))
    return found


@cache
def strict_validator() -> Draft202012Validator:
    return Draft202012Validator({**schema(), "unevaluatedProperties": False})


def problems(line: bytes) -> list[str]:
    """Return what is wrong with a line."""
    return [f"{error.json_path}: {error.message[:300]}" for error in strict_validator().iter_errors(json.loads(line))]
