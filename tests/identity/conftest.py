"""Servers that the identity tests use, each started once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.identity.bound_world import World, write_files
from tests.identity.keys import public
from tests.identity.openbao import OpenBao, open_bao
from tests.identity.providing import Faulty, OpenIdProvider, faulty, openid_provider
from tests.stores.conftest import redis_server, valkey_server

__all__ = ["bound_files", "certificate", "provider", "redis_server", "server", "valkey_server", "world"]

CLIENTS = [
    {"client_id": "svc", "client_secret": "secret of svc"},
    {"client_id": "basic:&", "client_secret": "a secret: + & %"},
    {
        "client_id": "post",
        "client_secret": "secret of post",
        "token_endpoint_auth_method": "client_secret_post",
    },
    {
        "client_id": "assertion",
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": "ES256",
        "jwks": {"keys": [public("ES256", 9, use="sig")]},
    },
]


@pytest.fixture(scope="session")
def provider() -> Iterator[OpenIdProvider]:
    """A real provider."""
    with openid_provider(CLIENTS) as found:
        yield found


@pytest.fixture
def server() -> Iterator[Faulty]:
    """A server that answers as a test specifies."""
    with faulty() as found:
        yield found


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and keys.acme.example: PEM files with the certificate and the key."""
    names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("keys.acme.example")]
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "server.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    return folder / "server.pem", folder / "server.key"


@pytest.fixture(scope="session")
def bound_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and authorities that `World` trusts."""
    return write_files(tmp_path_factory.mktemp("identity"))


@pytest.fixture
def world(bound_files: Path) -> World:
    return World(bound_files)


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with open_bao(tmp_path_factory.mktemp("openbao")) as found:
        yield found
