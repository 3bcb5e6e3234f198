"""The headers that say how limits stand, for OpenAPI only; what they say is written in `http/rate_limit_headers.py`."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]

LIMIT_HEADERS: JsonObject = {
    "RateLimit-Policy": (
        "The tightest limit: `q` of it at most, all of it back in `w` seconds. Absent where no limit applies.",
        '"per agent";q=20;w=12',
    ),
    "RateLimit": (
        "How that limit stands: `r` of it left, all of it there again in `t` seconds.",
        '"per agent";r=19;t=1',
    ),
    "Retry-After": ("With `throttle`: seconds until every limit would let this through.", "1"),
}


def limit_headers() -> JsonObject:
    return {
        name: {"description": words, "schema": {"type": "string"}, "example": example}
        for name, (words, example) in LIMIT_HEADERS.items()
    }
