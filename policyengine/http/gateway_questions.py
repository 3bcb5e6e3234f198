"""Builds the question for the engine from a request that a gateway describes. Facts that the gateway does not show are
pending. A header is refused if its name is another spelling of a trusted header: a header that only a gateway may set,
or one of TRUSTED_HEADERS.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from policyengine.http.body_facts import METHOD_OVERRIDE, body_members
from policyengine.http.body_method_override import names_method
from policyengine.http.client_credentials import (
    CERTIFICATE_HEADERS,
    FORWARDED_AUTHORIZATION,
    read_client_credentials,
    request_url,
)
from policyengine.http.gateway_headers import (
    FORWARDED_HEADERS,
    HEADER_PARSERS,
    HTTP_FACTS,
    OPTIONAL_FACTS,
    OTHER_TARGET_HEADERS,
    OWN_HEADERS,
    TRUSTED_HEADERS,
    UNCARRIED_FACTS,
    GatewayHeaders,
    get_only_value,
    header_error,
    parse_word,
)
from policyengine.http.gateway_omissions import (
    UNKNOWABLE_HEADERS,
    ForwardedParts,
    HeaderValues,
    get_header_value,
    is_withheld,
)
from policyengine.http.query_fields import Field, query_fields
from policyengine.runtime.header_names import (
    AMBIGUOUS_NAME,
    ReservedNames,
    ambiguous_names,
    fold_header_name,
    spelling_error,
)
from policyengine.runtime.request import RequestError
from policyengine.runtime.values import Invalid

Facts: TypeAlias = Mapping[str, Mapping[str, object]]
# The part of the body that the gateway sent. A text is not exactly the body of the client: the gateway has replaced
# bytes that are not UTF-8.
Content: TypeAlias = bytes | str

BODY_AS_TEXT = Invalid("the body was sent as text, not as bytes (set `pack_as_bytes`)")
PARTIAL_BODY = "x-envoy-auth-partial-body"
FORWARDED_METHOD, FORWARDED_URI, FORWARDED_HOST = FORWARDED_HEADERS
MAX_KNOWN_NAMES = 1_024  # maximum number of header names that a builder remembers, and maximum characters of each
MAX_KNOWN_LENGTH = 64
MAX_KNOWN_LISTS = 256
ANY_HEADER = ["request.headers.*"]


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """The method, the URI and the host that the client requested."""

    method: str
    uri: str
    host: str | None


def read_forwarded_target(given: HeaderValues) -> RequestTarget:
    """Read the target from the headers of Caddy, Traefik, or nginx as configured. Raises RequestError."""
    method, uri = get_only_value(given, FORWARDED_METHOD), get_only_value(given, FORWARDED_URI)
    host = get_only_value(given, FORWARDED_HOST)
    if method is None or uri is None:
        missing = FORWARDED_METHOD if method is None else FORWARDED_URI
        raise header_error(missing, "is missing", "the gateway must set it to the client's request")
    return RequestTarget(method, uri, host)


# ── Headers ───────────────────────────────────────────────────────────────────────────────────


class HeaderKind(NamedTuple):
    """The meaning of a header name; `folded` is the spelling that some servers map it to."""

    folded: str
    is_withheld: bool  # whether the header is never a fact
    is_respelled: bool  # whether some server takes this name for that of a trusted header


class StatedFact(NamedTuple):
    """A fact that the gateway states in a header, and how to read it."""

    root: str
    member: str
    header: str
    parse: Callable[[str, str], object]


class GatewayQuestionBuilder:
    """Builds the questions of one adapter. Everything that depends only on its settings is prepared once; the kinds of
    header names, and the pending facts that follow from them, are cached within bounds.
    """

    def __init__(self, names: GatewayHeaders, forwarded: ForwardedParts) -> None:
        self.names, self.forwarded = names, forwarded
        of_gateway = (*names.facts.values(), *FORWARDED_HEADERS, *OWN_HEADERS, *OTHER_TARGET_HEADERS)
        self._ours = frozenset((*of_gateway, *CERTIFICATE_HEADERS, FORWARDED_AUTHORIZATION))
        self._reserved = ReservedNames.of(self._ours | TRUSTED_HEADERS)
        self._stated = [
            StatedFact(*fact_place(key), header, HEADER_PARSERS.get(key, parse_word))
            for key, header in names.facts.items()
        ]
        named = sorted(forwarded.headers or ())
        self._always = [name for name in named if not is_withheld(name, self._ours)]
        self._optional = [(*fact_place(key), getattr(names, key)) for key in OPTIONAL_FACTS]
        self._options = {"obligations_supported": list(names.obligations), "request_approval": True}
        self._kinds: dict[str, HeaderKind] = {}
        self._unknown: dict[tuple[str, ...], list[str]] = {}

    def build(
        self,
        target: RequestTarget,
        given: HeaderValues,
        content: Content | None = None,
        vouched: Facts | None = None,
    ) -> dict[str, object]:
        """Build the question in the shape of `/decide`. `content` is the part of the body that the gateway sent, or
        None if it never sends bodies; `vouched` holds further facts about the caller. Raises RequestError.
        """
        headers, withheld = self._read_headers(given)
        for name in OTHER_TARGET_HEADERS:
            if name in given:
                raise header_error(name, "makes some servers use another path", "the gateway must remove it")
        facts: dict[str, dict[str, object]] = {**(vouched or {}), **self._read_stated_facts(given)}  # type: ignore[dict-item]
        request = facts.pop("request", {})
        body, size = read_body_and_size(given, self.forwarded, content, request.pop("size", None))
        path, _, query = target.uri.partition("?")
        request["method"], request["path"] = target.method, path
        request["query"], request["headers"] = read_query(query) if query else {}, headers
        if target.host is not None:
            request["host"] = target.host
        if size is not None:
            request["size"] = size
        pending = ["context"] if body is not None else ["body", "context"]
        pending += [name for name, member in HTTP_MEMBERS if member not in request]
        pending += self._unknown_headers(withheld)
        pending += self._missing_facts(facts, given)
        said = facts if body is None else {**facts, "body": body}
        return {"request": request, **said, "pending": pending, "options": self._options}

    def _read_headers(self, given: HeaderValues) -> tuple[dict[str, object], tuple[str, ...]]:
        """Return the client's headers as facts of the request, with None for a header that is known to be absent; and
        the names of the headers that are never facts. Raises RequestError.
        """
        found: dict[str, object] = {}
        withheld: list[str] = []
        folded: set[str] = set()
        for name, values in given.items():
            kind = self._kinds.get(name) or self._learn(name)
            if kind.is_respelled:
                raise spelling_error(name)
            if kind.is_withheld:
                withheld.append(name)
                continue
            folded.add(kind.folded)
            found[name] = get_header_value(name, values, self.forwarded)
        if len(folded) < len(found):
            found |= dict.fromkeys(ambiguous_names(found), AMBIGUOUS_NAME)
        for name in self._always:
            if name not in given:
                found[name] = None
        return found, tuple(withheld)

    def _learn(self, name: str) -> HeaderKind:
        folded = fold_header_name(name)
        found = HeaderKind(folded, is_withheld(name, self._ours), self._reserved.has_spelling(name))
        if len(name) <= MAX_KNOWN_LENGTH:
            if len(self._kinds) >= MAX_KNOWN_NAMES:
                self._kinds.clear()
            self._kinds[name] = found
        return found

    def _read_stated_facts(self, given: HeaderValues) -> dict[str, dict[str, object]]:
        """Return the facts of all headers by root. Raises RequestError."""
        found: dict[str, dict[str, object]] = {}
        for root, member, header, parse in self._stated:
            value = get_only_value(given, header) if header in given else None
            if value is not None:
                found.setdefault(root, {})[member] = parse(header, value)
        return found

    # ── Pending facts ─────────────────────────────────────────────────────────────────────────

    def _unknown_headers(self, withheld: tuple[str, ...]) -> list[str]:
        """Return, in the spelling of `pending`, the headers that may or may not be present."""
        if self.forwarded.headers is not None:
            return ANY_HEADER
        known = self._unknown.get(withheld)
        if known is None:
            known = [f'request.headers["{name}"]' for name in sorted(UNKNOWABLE_HEADERS | quotable_names(withheld))]
            if sum(map(len, withheld)) <= MAX_KNOWN_NAMES:
                if len(self._unknown) >= MAX_KNOWN_LISTS:
                    self._unknown.clear()
                self._unknown[withheld] = known
        return known

    def _missing_facts(self, facts: Facts, given: HeaderValues) -> list[str]:
        """Return the optional facts that no header states; an empty header states that there is no such fact."""
        found = []
        for root, member, header in self._optional:
            if root in facts and member not in facts[root]:
                silent = header == "" or (header not in given and not self.forwarded.shows_absence(header))
                found += [f"{root}.{member}"] if silent else []
        return found + [name for name, root in UNCARRIED_MEMBERS if root in facts]


def fact_place(key: str) -> tuple[str, str]:
    """Return the root and the member of the fact with this key (`agent_id`)."""
    root, _, member = key.partition("_")
    return root, member


def quotable_names(names: Collection[str]) -> frozenset[str]:
    """Return the names that can be written between quotes."""
    return frozenset(name for name in names if '"' not in name and "\\" not in name)


HTTP_MEMBERS = [(name, name.removeprefix("request.")) for name in HTTP_FACTS]
UNCARRIED_MEMBERS = [(name, name.partition(".")[0]) for name in UNCARRIED_FACTS]


# ── Bodies, credentials and queries ───────────────────────────────────────────────────────────


def read_body_and_size(
    given: HeaderValues, forwarded: ForwardedParts, content: Content | None, said: object
) -> tuple[Mapping[str, object] | Invalid | None, object]:
    """Return the members of the body and its size: no members if the body is empty, None for unknown parts. `said`, the
    size that the gateway states, is used only if the gateway never sends bodies.
    """
    if content is None:
        return ({} if said == 0 else None), said
    whole = whole_body(given, content)
    if whole is not None:
        return read_body(given, whole), len(raw_body(whole))
    if content:
        return find_body_override(given, content), None
    empty = forwarded.bodies and given.get(PARTIAL_BODY, ("false",)) == ("false",)
    return ({}, 0) if empty else (None, None)


def read_body(given: HeaderValues, content: Content) -> Mapping[str, object] | Invalid:
    """Return the members of a whole body, or an Invalid that states why they are unknown."""
    if isinstance(content, str):
        return find_body_override(given, content) or BODY_AS_TEXT
    return body_members(given.get("content-type", ()), given.get("content-encoding", ()), content)


def find_body_override(given: HeaderValues, content: Content) -> Mapping[str, object] | None:
    """Return the method override of an unread body, or None if the body names no method."""
    return METHOD_OVERRIDE if names_method(given.get("content-type", ()), raw_body(content)) else None


def add_credentials(
    question: Mapping[str, object],
    target: RequestTarget,
    given: HeaderValues,
    *,
    own: bool,
    certificate: str | None,
    content: Content | None = None,
) -> Mapping[str, object]:
    """Add the client's raw credentials to the question.

    `own` means that `Authorization` belongs to the client, because this server requires no token. `certificate` is the
    header with the client's certificate, `content` the part of the body that the gateway sent. Raises RequestError.
    """
    url, whole = request_url(given, target.host, target.uri), whole_body(given, content)
    signed = None if whole is None else raw_body(whole)
    found = read_client_credentials(
        given, method=target.method, url=url, own=own, certificate=certificate, content=signed
    )
    return {**question, "credentials": found} if found else question


def whole_body(given: HeaderValues, content: Content | None) -> Content | None:
    """Return the body if the gateway states that it is complete. Any other body may be missing or cut off, and counts
    as unknown: the result is None.
    """
    return content or None if given.get(PARTIAL_BODY) == ("false",) else None


def raw_body(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def read_query(text: str) -> dict[str, Field]:
    """Return the query parameters by name. Raises RequestError."""
    found = query_fields(text)
    if isinstance(found, Invalid):
        raise RequestError("request.query", f"the query has {found.why}")
    return found
