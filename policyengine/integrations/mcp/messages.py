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
OF_A_MESSAGE = ("jsonrpc", "id", "method", "params")
OF_PARAMS = ("name", "arguments", "uri", "ref", "notifications")  # what is asked, as far as policies look at it
WITHIN = ("ref", "notifications")
READ = {name.casefold(): name for name in (*OF_PARAMS, "type", "resourceSubscriptions")}


class AmbiguousMessage(Exception):
    """A message of which two readers would read two things, and nobody knows which one counts."""


@dataclass(frozen=True, slots=True)
class Line:
    """What stands over stdio for the HTTP request that brought a message."""

    text: str


def message_of(request: object) -> Raw | None:
    """The message that a request brought, where the server that parsed it has kept it."""
    if isinstance(request, Line):
        return request.text
    found = getattr(request, "_body", None)  # of Starlette, which reads no body twice
    return found if isinstance(found, bytes) else None


def params_here(params: Params, raw: Raw | None) -> Params:
    """For a reader in this process, which took the last of two values: arguments whose name is repeated have none.
    Raises AmbiguousMessage."""
    return params if raw is None else doubted(params, tree_of(raw, decode.DECODER))


def params_elsewhere(params: Params, raw: Raw | None) -> Params:
    """For a reader that we do not know, which gets the message next: some take `Name` for `name`, and some round
    numbers. Raises AmbiguousMessage."""
    tree = tree_of(json.dumps({"params": params}) if raw is None else raw, DECODER)
    for outer in (part(tree, "params"), *(part(part(tree, "params"), name) for name in WITHIN)):
        for name in outer if isinstance(outer, Mapping) else ():
            if READ.get(str(name).casefold(), name) != name:
                raise AmbiguousMessage(f"`{str(name)[:80]}` is `{READ[str(name).casefold()]}` to some servers")
    return doubted(params, tree)


def tree_of(raw: Raw, decoder: json.JSONDecoder) -> Mapping[str, object]:
    try:
        tree = decode.json_tree(raw, decoder)
    except decode.WireError as error:
        raise AmbiguousMessage(f"the message is {error}") from None
    if not isinstance(tree, dict):
        raise AmbiguousMessage("the message is no object that every reader reads alike")
    return tree


def doubted(params: Params, tree: Mapping[str, object]) -> Params:
    """With no value for the arguments that have none in the tree, where it is of these params."""
    inner = part(tree, "params")
    check_clear(tree, OF_A_MESSAGE)
    check_clear(inner, OF_PARAMS)
    for name in WITHIN:
        check_clear(part(inner, name))
    arguments = params.get("arguments")
    if arguments is None or part(inner, "name") != params.get("name"):
        return params
    return {**params, "arguments": overlaid(arguments, part(inner, "arguments"))}


def check_clear(outer: object, names: tuple[str, ...] | None = None) -> None:
    """Raises AmbiguousMessage where two readers take a value of an object from different places."""
    for name, value in outer.items() if isinstance(outer, Mapping) else ():
        if isinstance(value, Invalid) and value.why != ROUNDED and (names is None or name in names):
            raise AmbiguousMessage(f"`{str(name)[:80]}` is not clear in this message: {value.why}")


def part(outer: object, name: str) -> object:
    return outer.get(name) if isinstance(outer, Mapping) else None


def overlaid(parsed: object, raw: object) -> object:
    """What was parsed, but for what has no value as it came."""
    match parsed, raw:
        case _, Invalid():
            return raw
        case Mapping(), Mapping():
            return {name: overlaid(value, raw.get(name)) for name, value in parsed.items()}
        case list(), list() if len(parsed) == len(raw):
            return [overlaid(*pair) for pair in zip(parsed, raw, strict=True)]
        case _:
            return parsed
