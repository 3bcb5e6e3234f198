"""What the adapters for gateways know by what does not arrive: which headers are handed on, and whether bodies are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from policyengine.http.client_credentials import SECRET
from policyengine.runtime.header_names import IN_TWO_SPELLINGS, ambiguous_names
from policyengine.runtime.values import Invalid

Given = Mapping[str, tuple[str, ...]]

ALL: Final = "all"  # in place of names of headers
TWICE = Invalid("given twice")
UNREADABLE = Invalid("not valid UTF-8")
PERHAPS_TWICE = Invalid("a comma, as if it had been given twice")
# What is between two neighbours, or says how a body is framed: no gateway hands it on as its client sent it.
HOP_BY_HOP = frozenset(
    "connection content-length expect host http2-settings keep-alive proxy-authenticate proxy-authorization "
    "proxy-connection te trailer transfer-encoding upgrade".split()
)
# Secrets, and what is between two neighbours: none of it is a fact.
WITHHELD = SECRET | HOP_BY_HOP | {"cookie"}
# `authorization` is often the gateway's own, or is taken away before we are asked.
NEVER_KNOWN = HOP_BY_HOP | {"authorization"}
OF_ENVOY = "x-envoy-"  # about the call of Envoy to us, at least some of them
# Fields that are lists, or hold a date or a comment: a comma in one is no sign that it came twice.
WITH_COMMAS = frozenset(
    "accept accept-charset accept-encoding accept-language access-control-request-headers baggage cache-control "
    "content-encoding content-language date expires forwarded if-match if-modified-since if-none-match if-range "
    "if-unmodified-since last-modified link pragma prefer priority range referer sec-ch-ua signature-input tracestate "
    "user-agent vary via warning".split()
)


class Adapter(StrEnum):
    """By the name that it has in settings."""

    FORWARD_AUTH = "forward_auth"
    NGINX = "nginx"
    ENVOY = "envoy"
    ENVOY_GRPC = "envoy_grpc"

    @property
    def place(self) -> str:
        """Where it answers."""
        return PLACES[self]

    @property
    def sends_bodies(self) -> bool:
        """Whether its gateway can send them at all."""
        return self in (Adapter.ENVOY, Adapter.ENVOY_GRPC)


PLACES: Mapping[Adapter, str] = {
    Adapter.FORWARD_AUTH: "/forward-auth",
    Adapter.NGINX: "/forward-auth/nginx",
    Adapter.ENVOY: "/envoy",
    Adapter.ENVOY_GRPC: "the port for Envoy",
}


@dataclass(frozen=True, slots=True)
class HandsOn:
    """What a gateway hands on of a request. `headers`: those that arrive whenever its client sends them; None: all.

    `bodies`: each arrives whole, or its request is refused. `joins`: several headers of a name arrive as one.
    """

    headers: frozenset[str] | None = frozenset()
    bodies: bool = False
    joins: bool = False

    def shows_absence(self, header: str) -> bool:
        """Whether a header that does not arrive is not there."""
        return header not in NEVER_KNOWN and (self.headers is None or header in self.headers)


def header_facts(given: Given, hands_on: HandsOn, ours: Collection[str]) -> dict[str, object]:
    """What the client says about itself: facts of the request, as guards may ask for them. None for a header that is
    known not to be there. `ours` are headers that only the gateway sets."""
    told: dict[str, object] = {
        name: header_value(name, values, hands_on) for name, values in given.items() if not withheld(name, ours)
    }
    twice = dict.fromkeys(ambiguous_names(told), IN_TWO_SPELLINGS)
    lacking = (name for name in sorted(hands_on.headers or ()) if name not in given and not withheld(name, ours))
    return {**told, **twice, **dict.fromkeys(lacking)}


def unknown_headers(given: Given, hands_on: HandsOn, ours: Collection[str]) -> Iterator[str]:
    """The names, as `pending` has them, of headers of which nobody knows whether they are there."""
    if hands_on.headers is not None:
        yield "request.headers.*"
        return
    arrived = {name for name in given if withheld(name, ours) and '"' not in name and "\\" not in name}
    yield from (f'request.headers["{name}"]' for name in sorted(NEVER_KNOWN | arrived))


def withheld(name: str, ours: Collection[str]) -> bool:
    return name in WITHHELD or name in ours or name.startswith(OF_ENVOY)


def header_value(name: str, values: tuple[str, ...], hands_on: HandsOn) -> str | Invalid:
    if len(values) > 1:
        return TWICE
    if hands_on.joins and "," in values[0] and name not in WITH_COMMAS:
        return PERHAPS_TWICE
    return values[0] if values[0].isprintable() else UNREADABLE
