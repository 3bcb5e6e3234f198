"""Diagnostics as SARIF 2.1.0, which code hosts show next to the lines of a change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from policyengine import __version__
from policyengine.diagnostics.catalog import CODES
from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Span

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif_document(found: Sequence[Diagnostic]) -> dict[str, Any]:
    codes = sorted({diagnostic.code for diagnostic in found})
    driver = {"name": "policyengine", "semanticVersion": __version__, "rules": [_rule(code) for code in codes]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(diagnostic, codes.index(diagnostic.code)) for diagnostic in found],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"id": code, "defaultConfiguration": {"level": _level(code)}}
    if known := CODES.get(code):
        examples = "".join(
            f"\n\n{title}\n\n{_indented(example)}"
            for title, example in (("Not like this:", known.bad), ("But like this:", known.good))
            if example
        )
        rule["shortDescription"] = {"text": known.title}
        rule["fullDescription"] = {"text": known.explanation}
        rule["help"] = {"text": known.explanation + examples}
    return rule


def _result(diagnostic: Diagnostic, rule: int) -> dict[str, Any]:
    message = diagnostic.message if diagnostic.hint is None else f"{diagnostic.message} (hint: {diagnostic.hint})"
    result: dict[str, Any] = {
        "ruleId": diagnostic.code,
        "ruleIndex": rule,
        "level": _level(diagnostic.code),
        "message": {"text": message},
        "locations": [_location(diagnostic.span)],
    }
    if diagnostic.related:
        related = enumerate(diagnostic.related)
        result["relatedLocations"] = [
            {"id": i, **_location(other.span), "message": {"text": other.message}} for i, other in related
        ]
    return result


def _location(span: Span) -> dict[str, Any]:
    end_line, end_column = span.source.position(span.end)
    region = {"startLine": span.line, "startColumn": span.column, "endLine": end_line, "endColumn": end_column}
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(span.source.name)}, "region": region}}


def _uri(name: str) -> str:
    path = Path(name)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _level(code: str) -> str:
    return "error" if code.startswith("E") else "warning"


def _indented(example: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in example.strip("\n").split("\n"))
