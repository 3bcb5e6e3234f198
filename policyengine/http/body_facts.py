"""Reads HTTP bodies as facts: a JSON object or the fields of a form, if every parser reads the body in the same way.

The upstream server may parse a form as JSON, or decode the body in a way that differs from its headers. So a body is
read only if there is exactly one way to read it; otherwise its facts are unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from policyengine.http.body_method_override import names_method
from policyengine.http.json_members import parse_json_members
from policyengine.http.query_fields import MAX_FIELDS, form_fields, possible_fields
from policyengine.runtime import decode
from policyengine.runtime.structure_checks import quote_input
from policyengine.runtime.values import Invalid

IN_UTF_8 = r"""(?: *; *charset=(?:utf-?8|"utf-?8"))?"""
JSON = re.compile(rf"application/json{IN_UTF_8}", re.IGNORECASE)
FORM = re.compile(rf"application/x-www-form-urlencoded{IN_UTF_8}", re.IGNORECASE)
RAW_FORM = re.compile(rb"[\x20-\x7e]*")
JSON_START = re.compile(rb' *(?:[{\["]|/[*/]|null)')  # Ruby accepts comments before JSON, and Go ignores text after it
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # names that a policy can use after `body.`
ALSO_FORM_FIELD = Invalid("a string in the JSON can be read as a form field with this name (write `&` as `\\u0026`)")
METHOD_OVERRIDE = {"_method": Invalid("the body names another method (`_method`)")}  # such a request is always refused


def body_members(types: Sequence[str], codings: Sequence[str], content: bytes) -> Mapping[str, object] | Invalid:
    """Return the members of the body, or an Invalid that says why they are unknown. `types` and `codings` are the
    values of `Content-Type` and `Content-Encoding` as sent.
    """
    found = members_by_type(types, codings, content) if content else Invalid("the body is empty")
    if isinstance(found, Invalid) and names_method(types, content):
        return METHOD_OVERRIDE
    return found


def members_by_type(types: Sequence[str], codings: Sequence[str], content: bytes) -> Mapping[str, object] | Invalid:
    if codings:
        return Invalid("the body has a `Content-Encoding`")
    match types:
        case []:
            return Invalid("the body has no `Content-Type`")
        case [str() as type_] if JSON.fullmatch(type_):
            return json_body(content)
        case [str() as type_] if FORM.fullmatch(type_):
            return form_body(content)
        case [str() as type_]:
            return Invalid(f"the body was sent as `{quote_input(type_)}`: only JSON and forms in UTF-8 are read")
        case _:
            return Invalid("the body has more than one `Content-Type`")


def json_body(content: bytes) -> Mapping[str, object] | Invalid:
    """Parse JSON. Names that also occur in the text as form fields are unknown, because some servers parse every body
    as a form.
    """
    try:
        found = parse_json_members(content)
    except decode.DecodeError as error:
        return Invalid(f"the body is {error}")
    possible = possible_fields(content.decode("utf-8"))
    names = None if possible is None else [name for name in possible if IDENTIFIER.fullmatch(name)]
    if names is None or len(names) > MAX_FIELDS:
        return Invalid("the body could be read as a form")
    return {**found, **dict.fromkeys(names, ALSO_FORM_FIELD)}


def form_body(content: bytes) -> Mapping[str, object] | Invalid:
    if not RAW_FORM.fullmatch(content):
        return Invalid("the body is a form with unescaped characters")
    if JSON_START.match(content) or is_json(content):
        return Invalid("the body was sent as a form, but could be read as JSON")
    found = form_fields(content.decode("ascii"), of_body=True)
    if found is None:
        return Invalid(f"the body has more than {MAX_FIELDS:,} fields")
    return Invalid("the body names a character set") if "_charset_" in found else found


def is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
