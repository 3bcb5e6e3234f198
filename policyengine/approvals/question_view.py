"""A request as its approvers see it: the endpoint and the content, without secrets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import msgpack

from policyengine.audit.encoder import to_json_value, to_raw_request
from policyengine.audit.redaction import Redaction
from policyengine.runtime.request import Request
from policyengine.runtime.values import Invalid

SHOWN_ROOTS = ("tool", "action", "resource", "body", "args", "context", "task")
SHOWN_REQUEST_FACTS = ("method", "path", "host", "query")
MAX_VIEW_BYTES = 65_536


class UnshowableRequestError(ValueError):
    """The error for a request that cannot be shown to a person completely, and therefore cannot be approved."""


def view_question(request: Request, redaction: Redaction) -> dict[str, Any]:
    """Return the content of a request as JSON; facts with secret names, and facts that the log redacts, are replaced
    by fingerprints. Raises UnshowableRequestError.
    """
    raw = to_raw_request(request)
    shown: dict[str, object] = {root: raw[root] for root in SHOWN_ROOTS if root in raw}
    if isinstance(http := raw.get("request"), dict):
        shown["request"] = {name: http[name] for name in SHOWN_REQUEST_FACTS if name in http}
    clean = {name: redaction.value(value, (name,)) for name, value in shown.items()}
    view: Any = to_json_value(clean, (), [], show_special_value)
    if len(msgpack.encode(view)) > MAX_VIEW_BYTES:
        raise UnshowableRequestError("the request is too large to be shown to a person")
    return view  # type: ignore[no-any-return]  # an object, like `clean`


def show_special_value(value: object, at: Sequence[str | int]) -> str:
    """Return the text of a value that JSON cannot hold. Raises UnshowableRequestError for a text that was not read, so
    that only its digest is known."""
    if not isinstance(value, Invalid):
        return str(value)
    if value.given is not None:
        raise UnshowableRequestError(f"a part of the request cannot be shown to a person: {value.why}")
    return f"({value.why})"
