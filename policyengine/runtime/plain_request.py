"""Reads the facts and the endpoint of an ordinary question in one pass.

An ordinary question consists of dicts with known members, has a path that is already canonical, and contains nothing
ambiguous. For any other question these functions return None, and `read_request` reads it or reports the error. For an
ordinary question, `read_request` returns the same result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from policyengine.runtime.decode import MAX_DEPTH, clean
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.host_names import parse_host
from policyengine.runtime.paths import MAX_PATH_LENGTH, MAX_SEGMENTS, METHOD
from policyengine.runtime.values import MAX_ELEMENTS, MAX_INT, MAX_STRING_LENGTH, MIN_INT
from policyengine.vocabulary import HOP_MEMBERS, ROOTS

MEMBERS: Final = {root: None if members is None else frozenset(members) for root, members in ROOTS.items()}
OTHER_ROOTS: Final = frozenset({"approvals", "entities", "pending", "options"})
COMMON_METHODS: Final = frozenset({"DELETE", "GET", "PATCH", "POST", "PUT"})
# Segments that are already canonical; all others are decoded and checked.
SEGMENT = r"[A-Za-z0-9_~@:!$&'()*+,=-]+(?:\.+[A-Za-z0-9_~@:!$&'()*+,=-]+)*"
PLAIN_PATH: Final = re.compile(f"(?:/{SEGMENT})+|/").fullmatch
PlainFacts: TypeAlias = dict[str, Any]


def read_plain(raw: dict[str, object]) -> tuple[Endpoint, PlainFacts] | None:
    """Return the endpoint and the facts by root; None if the question is not ordinary."""
    facts: PlainFacts = {}
    try:
        for root, members in raw.items():
            if type(root) is not str:
                return None
            if root in OTHER_ROOTS or (members is None and root in MEMBERS):
                continue
            if root not in MEMBERS or type(members) is not dict:
                return None
            allowed = MEMBERS[root]
            if allowed is None:
                facts[root] = read_members(members)
                continue
            # A caller's own class could falsify the comparison of names.
            found = facts[root] = read_known_members(members)
            if not allowed.issuperset(found):
                return None
        endpoint = read_plain_endpoint(facts)
    except Exception:  # a caller's own class may raise any error; `read_request` reports it
        return None
    return None if endpoint is None or not has_plain_parts(facts) else (endpoint, facts)


class NotOrdinaryError(Exception):
    """The error for a part of the question that is not ordinary; `read_plain` then returns None."""


def read_members(members: dict[Any, Any]) -> PlainFacts:
    """Return the members of a root with plain values. Raises NotOrdinaryError and DecodeError."""
    if len(members) > MAX_ELEMENTS:
        raise NotOrdinaryError
    found: PlainFacts = {}
    for name, value in members.items():
        if type(name) is not str or not name.isascii() or len(name) > MAX_STRING_LENGTH:
            raise NotOrdinaryError
        kind = type(value)
        if kind is str:
            if not value.isascii() or len(value) > MAX_STRING_LENGTH:
                value = clean(value)
        elif kind is int:
            if not MIN_INT <= value <= MAX_INT:
                value = clean(value)
        elif kind is not bool and value is not None:
            value = read_value(value, 2)
        found[name] = value
    return found


def read_known_members(members: dict[Any, Any]) -> PlainFacts:
    """Return the members of a root with fixed members, as `read_members` does. The caller compares the names with the
    allowed names. Raises NotOrdinaryError and DecodeError.
    """
    found: PlainFacts = {}
    for name, value in members.items():
        if type(name) is not str:
            raise NotOrdinaryError
        kind = type(value)
        if kind is str:
            if not value.isascii() or len(value) > MAX_STRING_LENGTH:
                value = clean(value)
        elif kind is not bool and value is not None:
            value = read_value(value, 2)
        found[name] = value
    return found


def read_value(value: Any, depth: int) -> Any:
    """Return a value as `clean` does; `clean` itself reads values that are not ordinary. Raises DecodeError."""
    kind = type(value)
    if kind is str:
        return value if value.isascii() and len(value) <= MAX_STRING_LENGTH else clean(value)
    if kind is int:
        return value if MIN_INT <= value <= MAX_INT else clean(value)
    if kind is bool or value is None:
        return value
    if (kind is list or kind is tuple) and depth < MAX_DEPTH and len(value) <= MAX_ELEMENTS:
        for element in value:
            of = type(element)
            if of is str:
                if not element.isascii() or len(element) > MAX_STRING_LENGTH:
                    break
            elif of is not int or not MIN_INT <= element <= MAX_INT:
                break
        else:
            return tuple(value)
        return tuple([read_value(element, depth + 1) for element in value])
    if kind is dict and depth < MAX_DEPTH and len(value) <= MAX_ELEMENTS:
        found: PlainFacts = {}
        for name, one in value.items():
            if type(name) is not str or not name.isascii() or len(name) > MAX_STRING_LENGTH:
                return clean(value, depth)
            found[name] = read_value(one, depth + 1)
        return found
    return clean(value, depth)


def read_plain_endpoint(facts: PlainFacts) -> Endpoint | None:
    """Return the endpoint; None if it is missing, ambiguous or not already canonical."""
    request = facts.get("request")
    if request is not None:
        method, path = request.get("method"), request.get("path")
        if method is not None or path is not None:
            if "tool" in facts or "action" in facts:
                return None
            return read_plain_http(facts, request, method, path)
        if not normalize_http_facts(request):
            return None
    if "tool" in facts:
        return None if "action" in facts else read_plain_tool(facts["tool"])
    return read_plain_action(facts["action"], facts.get("resource")) if "action" in facts else None


def read_plain_http(facts: PlainFacts, request: PlainFacts, method: object, path: object) -> HttpEndpoint | None:
    if type(method) is not str or type(path) is not str:
        return None
    if method not in COMMON_METHODS and METHOD.fullmatch(method) is None:
        return None
    if len(path) > MAX_PATH_LENGTH or not PLAIN_PATH(path) or not normalize_http_facts(request):
        return None
    body = facts.get("body")
    if may_override(request.get("headers")) or may_override(request.get("query")) or may_override(body):
        return None
    segments = tuple(path[1:].split("/")) if path != "/" else ()
    if len(segments) > MAX_SEGMENTS:
        return None
    if method == "HEAD":
        method = request["method"] = "GET"
    return HttpEndpoint(method, path, segments)


def may_override(members: Mapping[str, object] | None) -> bool:
    """Return whether a member could name another method for some server."""
    if members:
        for name in members:
            if "method" in name.lower():
                return True
    return False


def normalize_http_facts(request: PlainFacts) -> bool:
    """Put header names into lower case and the host into its canonical form. Return False if one of them is not
    ordinary.
    """
    query, headers, host = request.get("query"), request.get("headers"), request.get("host")
    if (query is not None and type(query) is not dict) or (headers is not None and type(headers) is not dict):
        return False
    if headers:
        lower = {name.lower(): value for name, value in headers.items()}
        if len(lower) < len(headers):
            return False
        request["headers"] = lower
    if type(host) is str:
        request["host"] = parse_host(host)
    return True


def read_plain_tool(tool: PlainFacts) -> ToolEndpoint | None:
    name, server = tool.get("name"), tool.get("server")
    if not is_plain_id(name) or (server is None and "/" in name):  # type: ignore[operator]
        return None
    if server is not None and (not is_plain_id(server) or "/" in server):
        return None
    return ToolEndpoint(server, name)  # type: ignore[arg-type]  # an id


def read_plain_action(action: PlainFacts, resource: PlainFacts | None) -> ActionEndpoint | None:
    verb, type_ = action.get("name"), None if resource is None else resource.get("type")
    return ActionEndpoint(verb, type_) if is_plain_id(verb) and is_plain_id(type_) else None  # type: ignore[arg-type]


def is_plain_id(text: object) -> bool:
    return type(text) is str and text != "" and text.isascii()


def has_plain_parts(facts: PlainFacts) -> bool:
    """Return whether the structured parts are ordinary: claims, and the hops of the chain."""
    credential, chain = facts.get("credential"), facts.get("chain")
    claims = None if credential is None else credential.get("claims")
    if claims is not None and type(claims) is not dict:
        return False
    hops = None if chain is None else chain.get("hops")
    if hops is None:
        return True
    if type(hops) is not tuple:
        return False
    return all(type(hop) is dict and HOP_MEMBERS.keys() >= hop.keys() for hop in hops)
