"""Marks answers of an upstream server that imitate answers of the gateway: members of `_meta` under our prefix, and the
error codes of denials. Nothing here depends on an SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from policyengine.integrations.mcp.methods import ERROR_CODES

META_PREFIX: Final = "policyengine/"
OWN_CODES: Final = frozenset(ERROR_CODES.values())


def has_own_meta(meta: object) -> bool:
    """Return whether the value of `_meta` has a member that only the gateway sets."""
    return isinstance(meta, dict) and any(name.startswith(META_PREFIX) for name in meta)


def without_own_meta(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without the members of `_meta` that only the gateway sets."""
    meta = result.get("_meta")
    if not isinstance(meta, dict) or not has_own_meta(meta):
        return result
    return {**result, "_meta": {name: value for name, value in meta.items() if not name.startswith(META_PREFIX)}}


def describe_foreign_error(code: int, message: str, data: object) -> tuple[str, Mapping[str, object]] | None:
    """Return the message and the data of an error whose code means a denial of the gateway; None for other codes. The
    server's own code and data are in the member `upstream` of the data."""
    if code not in OWN_CODES:
        return None
    own = {"code": code} if data is None else {"code": code, "data": data}
    return f"the server answered with error {code}: {message}", {"upstream": own}
