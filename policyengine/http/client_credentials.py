"""Reads the raw credentials of a client from the headers of its request, for a verifier in this server.

If this server requires no token from its callers, `Authorization` belongs to the client; otherwise the gateway passes
the client's value in `X-Forwarded-Authorization`. If configured, `Client-Cert` or `X-Forwarded-Client-Cert` describes
the client's connection: the gateway must then remove that header from the client's request.
"""

from __future__ import annotations

from collections.abc import Mapping

from policyengine.runtime.credentials import body_digests
from policyengine.runtime.header_names import check_spellings
from policyengine.runtime.structure_checks import RequestError
from policyengine.runtime.values import Invalid

FORWARDED_AUTHORIZATION = "x-forwarded-authorization"
CERTIFICATE_HEADERS = ("client-cert", "x-forwarded-client-cert")
CREDENTIAL_HEADERS = {
    "dpop": "dpop",
    "txn-token": "txn_token",
    "x-api-key": "api_key",
    "x-attestation": "attestation",
    "signature": "signature",
    "signature-input": "signature_input",
    "signature-agent": "signature_agent",
    "content-digest": "content_digest",
}
# Secret headers, which are never facts of a request.
CREDENTIAL_SECRET_HEADERS = frozenset(
    {
        "authorization",
        FORWARDED_AUTHORIZATION,
        *CERTIFICATE_HEADERS,
        "dpop",
        "txn-token",
        "x-api-key",
        "x-attestation",
        "signature",
    }
)
PROTOCOL_HEADER = "x-forwarded-proto"


def read_client_credentials(
    given: Mapping[str, tuple[str, ...]],
    *,
    method: str,
    url: str,
    own: bool,
    certificate: str | None,
    content: bytes | None = None,
) -> dict[str, object]:
    """Return the member `credentials` of a question; empty if there are none.

    `own` says whether `Authorization` belongs to the client. `certificate` is the header with the client's certificate,
    set by a trusted gateway, or None. `content` is the whole body, if available. Raises RequestError for a repeated or
    respelled header, because it is unknown which of two values is right.
    """
    check_spellings(given, (*CREDENTIAL_HEADERS, *CREDENTIAL_SECRET_HEADERS))
    given = {name: values for name, values in given.items() if values != ("",)}  # an empty header counts as missing
    found: dict[str, object] = {}
    for header, name in CREDENTIAL_HEADERS.items():
        if header in given:
            found[name] = get_single_value(header, given[header])
    authorizations = [name for name in (FORWARDED_AUTHORIZATION, *(("authorization",) if own else ())) if name in given]
    if len(authorizations) > 1:
        raise RequestError(f"headers.{FORWARDED_AUTHORIZATION}", "two headers contain the client's authorization")
    for name in authorizations:
        found["authorization"] = get_single_value(name, given[name])
    if certificate is not None and certificate in given:
        found["client_certificate"] = get_single_value(certificate, given[certificate])
    if not found:
        return {}
    if content is not None and ("content_digest" in found or "signature" in found):
        found["digests"] = body_digests(content)
    return {**found, "method": method, "url": url}


def get_single_value(header: str, values: tuple[str, ...] | Invalid) -> str:
    if isinstance(values, Invalid) or len(values) != 1:
        raise RequestError(f"headers.{header}", f"the header `{header}` is repeated")
    return values[0]


def request_url(given: Mapping[str, tuple[str, ...]], host: str | None, uri: str) -> str:
    """Return the URL that the client requested, as the gateway reports it; the default scheme is `https`."""
    scheme = given.get(PROTOCOL_HEADER, ("https",))[-1].strip().lower()
    return f"{scheme if scheme in ('http', 'https') else 'https'}://{host or ''}{uri}"
