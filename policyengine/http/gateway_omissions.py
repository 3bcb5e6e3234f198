"""Which headers and bodies a gateway passes on, so that its adapter knows which facts are absent and which are
unknown."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from policyengine.http.client_credentials import CREDENTIAL_SECRET_HEADERS
from policyengine.runtime.values import Invalid

HeaderValues = Mapping[str, tuple[str, ...]]

ALL: Final = "all"  # the word that stands for all header names
GIVEN_TWICE = Invalid("given twice")
UNREADABLE = Invalid("not valid UTF-8")
MAYBE_GIVEN_TWICE = Invalid("a comma, as if it had been given twice")
# Hop-by-hop and framing headers; a gateway does not pass them on as the client sent them.
HOP_BY_HOP = frozenset(
    "connection content-length expect host http2-settings keep-alive proxy-authenticate proxy-authorization "
    "proxy-connection te trailer transfer-encoding upgrade".split()
)
# Secret and hop-by-hop headers, which are never facts.
WITHHELD_HEADERS = CREDENTIAL_SECRET_HEADERS | HOP_BY_HOP | {"cookie"}
# `authorization` is often set by the gateway itself, or removed before the check.
UNKNOWABLE_HEADERS = HOP_BY_HOP | {"authorization"}
ENVOY_PREFIX = "x-envoy-"  # headers of Envoy's own call to this server
# List fields, and fields with a date or a comment: a comma in the value does not mean that the header is repeated.
COMMA_HEADERS = frozenset(
    "accept accept-charset accept-encoding accept-language access-control-request-headers baggage cache-control "
    "content-encoding content-language date expires forwarded if-match if-modified-since if-none-match if-range "
    "if-unmodified-since last-modified link pragma prefer priority range referer sec-ch-ua signature-input tracestate "
    "user-agent vary via warning".split()
)


class GatewayAdapter(StrEnum):
    """An adapter, with its name in settings."""

    FORWARD_AUTH = "forward_auth"
    NGINX = "nginx"
    ENVOY = "envoy"
    ENVOY_GRPC = "envoy_grpc"

    @property
    def place(self) -> str:
        """The path at which the adapter answers."""
        return ADAPTER_PATHS[self]

    @property
    def sends_bodies(self) -> bool:
        """Whether the gateway of this adapter can send bodies at all."""
        return self in (GatewayAdapter.ENVOY, GatewayAdapter.ENVOY_GRPC)


ADAPTER_PATHS: Mapping[GatewayAdapter, str] = {
    GatewayAdapter.FORWARD_AUTH: "/forward-auth",
    GatewayAdapter.NGINX: "/forward-auth/nginx",
    GatewayAdapter.ENVOY: "/envoy",
    GatewayAdapter.ENVOY_GRPC: "the port for Envoy",
}


@dataclass(frozen=True, slots=True)
class ForwardedParts:
    """The parts of a request that a gateway passes on. `headers` are those that arrive whenever the client sends them;
    None means all headers. `bodies` means that each body arrives whole, or the request is refused. `joins` means that
    repeated headers arrive as one header.
    """

    headers: frozenset[str] | None = frozenset()
    bodies: bool = False
    joins: bool = False

    def shows_absence(self, header: str) -> bool:
        """Return whether a header that did not arrive is certainly absent."""
        return header not in UNKNOWABLE_HEADERS and (self.headers is None or header in self.headers)


def is_withheld(name: str, ours: Collection[str]) -> bool:
    return name in WITHHELD_HEADERS or name in ours or name.startswith(ENVOY_PREFIX)


def get_header_value(name: str, values: tuple[str, ...], hands_on: ForwardedParts) -> str | Invalid:
    if len(values) > 1:
        return GIVEN_TWICE
    if hands_on.joins and "," in values[0] and name not in COMMA_HEADERS:
        return MAYBE_GIVEN_TWICE
    return values[0] if values[0].isprintable() else UNREADABLE
