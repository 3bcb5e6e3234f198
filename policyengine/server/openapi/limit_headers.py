"""The rate limit headers, for OpenAPI only; `http/rate_limit_headers.py` writes them."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]

LIMIT_HEADERS: JsonObject = {
    "RateLimit-Policy": (
        "The tightest limit: at most `q`, fully refilled in `w` seconds. Absent if no limit applies.",
        '"per agent";q=20;w=12',
    ),
    "RateLimit": (
        "The state of the tightest limit: `r` left, fully refilled in `t` seconds.",
        '"per agent";r=19;t=1',
    ),
    "Retry-After": ("With `throttle`: seconds until every limit allows the request.", "1"),
}


def limit_headers() -> JsonObject:
    return {
        name: {"description": words, "schema": {"type": "string"}, "example": example}
        for name, (words, example) in LIMIT_HEADERS.items()
    }
