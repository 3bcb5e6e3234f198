"""The certificate of a connection, as the TLS extension of ASGI tells of it."""

from __future__ import annotations

from typing import Any

import pytest

from policyengine.integrations.credentials import presented
from tests.identity.bound_world import pem, workload

CERTIFICATE = pem(workload())
TLS: dict[str, tuple[Any, bool]] = {
    "a certificate that the server found good": ({"client_cert_chain": [CERTIFICATE], "client_cert_error": None}, True),
    "a server that says nothing of errors": ({"client_cert_chain": [CERTIFICATE]}, True),
    "one that it did not": ({"client_cert_chain": [CERTIFICATE], "client_cert_error": "self-signed"}, False),
    "none": ({"client_cert_chain": []}, False),
    "no TLS": (None, False),
}


@pytest.mark.parametrize(("tls", "counts"), TLS.values(), ids=TLS)
def test_a_client_certificate_counts_only_if_the_tls_extension_reports_no_error(tls: object, counts: bool) -> None:
    headers = [(b"host", b"api.example"), (b"client-cert", b"the client's own words")]
    scope = {"type": "http", "method": "GET", "path": "/a", "scheme": "https", "headers": headers,
             "extensions": {} if tls is None else {"tls": tls}}  # fmt: skip
    found = presented(scope).get("credentials")
    expected = {"method": "GET", "url": "https://api.example/a", "client_certificate": CERTIFICATE}
    assert found == (expected if counts else None)
