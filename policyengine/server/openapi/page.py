"""The OpenAPI document as one HTML page, without scripts, and without resources from other servers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policyengine.templates import render_template

# The page runs no scripts and loads nothing; its style is inline.
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class OperationPage:
    """One operation for the page: `commands` holds examples to try, by name."""

    method: str
    path: str
    description: str
    commands: tuple[tuple[str, str], ...]
    statuses: tuple[tuple[str, str], ...]
    answers: tuple[str, ...]


def render_page(document: dict[str, Any], url: str) -> str:
    """Return the HTML page; `url` is the URL of this server, for the commands to try."""
    schemas = document["components"]["schemas"]
    return render_template(
        __file__,
        "docs.html.j2",
        info=document["info"],
        operations=list(operation_pages(document, url)),
        schemas=[(name, format_json(schema)) for name, schema in schemas.items()],
    )


def operation_pages(document: dict[str, Any], url: str) -> Iterator[OperationPage]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield OperationPage(
                method.upper(),
                path,
                operation["description"],
                tuple(example_commands(url + path, operation)),
                tuple((status, response["description"]) for status, response in operation["responses"].items()),
                tuple(example_answers(operation)),
            )


def example_commands(url: str, operation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    for name, example in body.get("examples", {}).items():
        yield name, curl_command(url, example["value"], "security" in operation)


def example_answers(operation: dict[str, Any]) -> Iterator[str]:
    for content in operation["responses"]["200"].get("content", {}).values():
        for example in content.get("examples", {}).values():
            yield format_json(example["value"])


def curl_command(url: str, question: object, needs_token: bool) -> str:
    token = ' \\\n  -H "authorization: Bearer $TOKEN"' if needs_token else ""
    sent = shlex.quote(format_json(question))
    return f"curl -s {shlex.quote(url)} -H 'content-type: application/json'{token} \\\n  -d {sent}"


def format_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
