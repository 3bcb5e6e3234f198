"""Reads the forms that pages send; a form has a maximum size and no repeated field."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request

MAX_FORM_BYTES = 16_384
MAX_FIELDS = 50
FORM_TYPE = "application/x-www-form-urlencoded"


class FormError(Exception):
    """The error for a body that is not a form; the message says why."""


async def read_form(http: Request) -> dict[str, str]:
    """Return the fields of a form. Raises FormError."""
    if http.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise FormError("this is not a form")
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise FormError("the form is too large")
    return parse_fields(bytes(body))


def parse_fields(body: bytes) -> dict[str, str]:
    """Parse the fields of a form or of a query. Raises FormError."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise FormError("the form is malformed") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise FormError("a field is repeated")
    return fields
