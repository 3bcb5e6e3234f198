"""The raw credentials of a client, as the headers of its request bring them, for whoever verifies them here.

`Authorization` is the client's own where whoever asks needs no token of ours; else a gateway hands it on in
`X-Forwarded-Authorization`. `Client-Cert` or `X-Forwarded-Client-Cert` is what the gateway says of the connection
where the configuration says so: it takes away what its client sent under that name.
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
# Secrets that are no facts of a request.
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
    """The member `credentials` of a question; empty where nothing was sent.

    `own`: whether `Authorization` is the client's. `certificate`: the header in which somebody who may says whose
    connection it is; None: nobody does. `content`: the body, where all of it is here. Raises RequestError for what is
    there twice or in another spelling: of two values nobody knows which one counts.
    """
    check_spellings(given, (*CREDENTIAL_HEADERS, *CREDENTIAL_SECRET_HEADERS))
    given = {name: values for name, values in given.items() if values != ("",)}  # as some say that there is none
    found: dict[str, object] = {}
    for header, name in CREDENTIAL_HEADERS.items():
        if header in given:
            found[name] = get_single_value(header, given[header])
    authorizations = [name for name in (FORWARDED_AUTHORIZATION, *(("authorization",) if own else ())) if name in given]
    if len(authorizations) > 1:
        raise RequestError(
            f"headers.{FORWARDED_AUTHORIZATION}", "two headers say what the client authorizes itself with"
        )
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
        raise RequestError(f"headers.{header}", f"the header `{header}` is there twice")
    return values[0]


def request_url(given: Mapping[str, tuple[str, ...]], host: str | None, uri: str) -> str:
    """What the client asked for, as far as the gateway says so: `https` unless it says otherwise."""
    scheme = given.get(PROTOCOL_HEADER, ("https",))[-1].strip().lower()
    return f"{scheme if scheme in ('http', 'https') else 'https'}://{host or ''}{uri}"
