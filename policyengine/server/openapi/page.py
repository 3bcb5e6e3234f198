"""The OpenAPI document as one page that needs nothing from elsewhere: no script, no network but this server."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from html import escape
from typing import Any

# The page runs nothing and loads nothing; its style is its own.
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1e21 }
h2 { margin-top: 2.5rem; border-top: 1px solid #d5d8dc; padding-top: 1rem }
code, pre { font: 14px/1.4 ui-monospace, monospace }
pre { background: #f4f5f7; padding: .8rem; overflow-x: auto }
td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #e4e6eb }
  pre { background: #22252b }
  a { color: #8ab4f8 }
}
"""


def render_page(document: dict[str, Any], url: str) -> str:
    """HTML for people; `url` is where the server is reached, for the commands to try."""
    info = document["info"]
    operations = [
        "".join(render_operation(url + path, method, operation, path))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p>{escape(info['description'])}</p>"
        '<p>The same for machines: <a href="/openapi.json">/openapi.json</a></p>'
        f"{''.join(operations)}<h2>Schemas</h2>{''.join(render_schemas(document))}</body></html>\n"
    )


def render_operation(url: str, method: str, operation: dict[str, Any], path: str) -> Iterator[str]:
    yield f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2><p>{escape(operation['description'])}</p>"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    for name, example in body.get("examples", {}).items():
        yield f"<p>{escape(name)}</p><pre>{escape(curl_command(url, example['value'], 'security' in operation))}</pre>"
    yield "<table><tr><th>status</th><th>meaning</th></tr>"
    for status, response in operation["responses"].items():
        yield f"<tr><td>{escape(status)}</td><td>{escape(response['description'])}</td></tr>"
    yield "</table>"
    for content in operation["responses"]["200"].get("content", {}).values():
        for example in content.get("examples", {}).values():
            yield f"<details><summary>an answer</summary><pre>{escape(format_json(example['value']))}</pre></details>"


def curl_command(url: str, question: object, needs_token: bool) -> str:
    token = ' \\\n  -H "authorization: Bearer $TOKEN"' if needs_token else ""
    sent = shlex.quote(format_json(question))
    return f"curl -s {shlex.quote(url)} -H 'content-type: application/json'{token} \\\n  -d {sent}"


def render_schemas(document: dict[str, Any]) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        shown = escape(format_json(schema))
        yield f"<details><summary><code>{escape(name)}</code></summary><pre>{shown}</pre></details>"


def format_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
