"""Raw MCP messages: finds the ambiguous parts of a request in the raw text, because a parser has already chosen one of
two values. Nothing here depends on an SDK.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from policyengine.http.json_members import DECODER, ROUNDED
from policyengine.integrations.mcp.plain_messages import MEMBERS_BY_FOLDED_NAME, PARAMS_MEMBERS, is_plain_message
from policyengine.runtime import decode
from policyengine.runtime.values import Invalid

Raw: TypeAlias = bytes | str
Params: TypeAlias = Mapping[str, Any]
MESSAGE_MEMBERS = ("jsonrpc", "id", "method", "params")
NESTED_MEMBERS = ("ref", "notifications")


class AmbiguousMessageError(Exception):
    """The error for a message that two parsers would read differently."""


@dataclass(frozen=True, slots=True)
class StdioRequest:
    """The raw message over stdio, in place of an HTTP request."""

    text: str


def get_raw_message(request: object) -> Raw | None:
    """Return the raw message of a request, or None if the server did not keep it."""
    if isinstance(request, StdioRequest):
        return request.text
    found = getattr(request, "_body", None)  # Starlette keeps the body here
    return found if isinstance(found, bytes) else None


def check_local_params(params: Params, raw: Raw | None) -> Params:
    """Check the parameters for a server in this process. Its parser took the last of repeated members, so repeated
    arguments become unknown. Raises AmbiguousMessageError.
    """
    if raw is None or is_plain_message(params, raw):
        return params
    return drop_ambiguous_arguments(params, parse_message(raw, decode.DECODER))


def check_upstream_params(params: Params, raw: Raw | None) -> Params:
    """Check the parameters for an upstream server with an unknown parser: some accept `Name` for `name`, and some round
    numbers. Raises AmbiguousMessageError.
    """
    if raw is not None and is_plain_message(params, raw):
        return params
    tree = parse_message(json.dumps({"params": params}) if raw is None else raw, DECODER)
    for outer in (get_part(tree, "params"), *(get_part(get_part(tree, "params"), name) for name in NESTED_MEMBERS)):
        for name in outer if isinstance(outer, Mapping) else ():
            if MEMBERS_BY_FOLDED_NAME.get(str(name).casefold(), name) != name:
                raise AmbiguousMessageError(
                    f"`{str(name)[:80]}` means `{MEMBERS_BY_FOLDED_NAME[str(name).casefold()]}` to some servers"
                )
    return drop_ambiguous_arguments(params, tree)


def parse_message(raw: Raw, decoder: json.JSONDecoder) -> Mapping[str, object]:
    try:
        tree = decode.json_tree(raw, decoder)
    except decode.DecodeError as error:
        raise AmbiguousMessageError(f"the message is {error}") from None
    if isinstance(tree, Invalid):
        raise AmbiguousMessageError(f"the message is ambiguous: {tree.why}")
    if not isinstance(tree, dict):
        raise AmbiguousMessageError("the message is not a JSON object")
    return tree


def drop_ambiguous_arguments(params: Params, tree: Mapping[str, object]) -> Params:
    """Replace ambiguous arguments with unknown values, if the tree is a message with these parameters. Raises
    AmbiguousMessageError if another part is ambiguous.
    """
    inner = get_part(tree, "params")
    check_unambiguous(tree, MESSAGE_MEMBERS)
    check_unambiguous(inner, PARAMS_MEMBERS)
    for name in NESTED_MEMBERS:
        check_unambiguous(get_part(inner, name))
    arguments = params.get("arguments")
    raw = get_part(inner, "arguments")
    # Equal arguments have no unknown parts: to look at each of a million values would keep other callers waiting.
    if arguments is None or get_part(inner, "name") != params.get("name") or raw == arguments:
        return params
    return {**params, "arguments": overlay_unknown(arguments, raw)}


def check_unambiguous(outer: object, names: tuple[str, ...] | None = None) -> None:
    """Check that every parser reads the members from the same place. Raises AmbiguousMessageError."""
    for name, value in outer.items() if isinstance(outer, Mapping) else ():
        if isinstance(value, Invalid) and value.why != ROUNDED and (names is None or name in names):
            raise AmbiguousMessageError(f"`{str(name)[:80]}` is ambiguous in this message: {value.why}")


def get_part(outer: object, name: str) -> object:
    return outer.get(name) if isinstance(outer, Mapping) else None


def overlay_unknown(parsed: object, raw: object) -> object:
    """Return the parsed value with unknown values in place of the parts that are ambiguous in the raw value."""
    match parsed, raw:
        case _, Invalid():
            return raw
        case Mapping(), Mapping():
            return {name: overlay_unknown(value, raw.get(name)) for name, value in parsed.items()}
        case list(), list() if len(parsed) == len(raw):
            return [overlay_unknown(*pair) for pair in zip(parsed, raw, strict=True)]
        case _:
            return parsed
