"""Messages of MCP as they came, before a reader took one of two values: what of a request is clear, and what is not.

Nothing here knows an SDK.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from policyengine.http.json_members import DECODER, ROUNDED
from policyengine.runtime import decode
from policyengine.runtime.values import Invalid

Raw: TypeAlias = bytes | str
Params: TypeAlias = Mapping[str, Any]
MESSAGE_MEMBERS = ("jsonrpc", "id", "method", "params")
PARAMS_MEMBERS = ("name", "arguments", "uri", "ref", "notifications")  # what is asked, as far as policies look at it
NESTED_MEMBERS = ("ref", "notifications")
MEMBERS_BY_FOLDED_NAME = {name.casefold(): name for name in (*PARAMS_MEMBERS, "type", "resourceSubscriptions")}


class AmbiguousMessageError(Exception):
    """A message of which two readers would read two things, and nobody knows which one counts."""


@dataclass(frozen=True, slots=True)
class StdioRequest:
    """What stands over stdio for the HTTP request that brought a message."""

    text: str


def get_raw_message(request: object) -> Raw | None:
    """The message that a request brought, where the server that parsed it has kept it."""
    if isinstance(request, StdioRequest):
        return request.text
    found = getattr(request, "_body", None)  # of Starlette, which reads no body twice
    return found if isinstance(found, bytes) else None


def check_local_params(params: Params, raw: Raw | None) -> Params:
    """For a reader in this process, which took the last of two values: arguments whose name is repeated have none.
    Raises AmbiguousMessageError."""
    return params if raw is None else drop_ambiguous_arguments(params, parse_message(raw, decode.DECODER))


def check_upstream_params(params: Params, raw: Raw | None) -> Params:
    """For a reader that we do not know, which gets the message next: some take `Name` for `name`, and some round
    numbers. Raises AmbiguousMessageError."""
    tree = parse_message(json.dumps({"params": params}) if raw is None else raw, DECODER)
    for outer in (get_part(tree, "params"), *(get_part(get_part(tree, "params"), name) for name in NESTED_MEMBERS)):
        for name in outer if isinstance(outer, Mapping) else ():
            if MEMBERS_BY_FOLDED_NAME.get(str(name).casefold(), name) != name:
                raise AmbiguousMessageError(
                    f"`{str(name)[:80]}` is `{MEMBERS_BY_FOLDED_NAME[str(name).casefold()]}` to some servers"
                )
    return drop_ambiguous_arguments(params, tree)


def parse_message(raw: Raw, decoder: json.JSONDecoder) -> Mapping[str, object]:
    try:
        tree = decode.json_tree(raw, decoder)
    except decode.DecodeError as error:
        raise AmbiguousMessageError(f"the message is {error}") from None
    if not isinstance(tree, dict):
        raise AmbiguousMessageError("the message is no object that every reader reads alike")
    return tree


def drop_ambiguous_arguments(params: Params, tree: Mapping[str, object]) -> Params:
    """With no value for the arguments that have none in the tree, where it is of these params."""
    inner = get_part(tree, "params")
    check_unambiguous(tree, MESSAGE_MEMBERS)
    check_unambiguous(inner, PARAMS_MEMBERS)
    for name in NESTED_MEMBERS:
        check_unambiguous(get_part(inner, name))
    arguments = params.get("arguments")
    if arguments is None or get_part(inner, "name") != params.get("name"):
        return params
    return {**params, "arguments": overlay_unknown(arguments, get_part(inner, "arguments"))}


def check_unambiguous(outer: object, names: tuple[str, ...] | None = None) -> None:
    """Raises AmbiguousMessageError where two readers take a value of an object from different places."""
    for name, value in outer.items() if isinstance(outer, Mapping) else ():
        if isinstance(value, Invalid) and value.why != ROUNDED and (names is None or name in names):
            raise AmbiguousMessageError(f"`{str(name)[:80]}` is not clear in this message: {value.why}")


def get_part(outer: object, name: str) -> object:
    return outer.get(name) if isinstance(outer, Mapping) else None


def overlay_unknown(parsed: object, raw: object) -> object:
    """What was parsed, but for what has no value as it came."""
    match parsed, raw:
        case _, Invalid():
            return raw
        case Mapping(), Mapping():
            return {name: overlay_unknown(value, raw.get(name)) for name, value in parsed.items()}
        case list(), list() if len(parsed) == len(raw):
            return [overlay_unknown(*pair) for pair in zip(parsed, raw, strict=True)]
        case _:
            return parsed
