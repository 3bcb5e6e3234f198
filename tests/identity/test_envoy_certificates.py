"""A real Envoy with mutual TLS: what it writes of its client's certificate is what we read."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from policyengine.identity.proof.certificates import parse_client_certificate
from policyengine.runtime.credentials import Credentials
from tests.gateways.servers import PATIENCE, Upstream, engine, upstream, wheel
from tests.identity.bound_world import (
    SVID,
    World,
    authority,
    der,
    envoy,
    pem,
    workload,
    workload_key,
    write_files,
    x5t,
)
from tests.ports import free_port
from tests.processes import stop

PROGRAM = wheel("envoy/_bin/envoy", "envoy")
FOREVER = 4_000_000_000  # the certificates of this file are valid on Envoy's clock, too
BEGAN = 1_600_000_000
CLIENT = workload(by="forever/lower", begins=BEGAN, ends=FOREVER)
OF_CLIENT = f"By=x;Hash={sha256(der(CLIENT)).hexdigest()}"
DECIDED = "decided"
POLICY = """
scope read { GET /v1 }
issuer mesh { url "spiffe://acme.example" scopes none }
agent "spiffe://acme.example/ns/**" { issued by mesh  acts alone  credential { kind in [mtls]  bound }  may read }
"""


@dataclass
class Gateway:
    port: int
    api: Upstream
    folder: Path

    def sent(self, *headers: str, client: str = "client.pem") -> str:
        """The first line of the answer to a request of the client."""
        context = ssl.create_default_context(cafile=self.folder / "roots.pem")
        context.check_hostname = False
        context.load_cert_chain(self.folder / client, self.folder / "key.pem")
        lines = ["GET /v1 HTTP/1.1", "Host: api.acme.example", "Connection: close", *headers, "", ""]
        self.api.taken()
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=30) as raw,
            context.wrap_socket(raw, server_hostname="gateway") as connection,
        ):
            connection.sendall("\r\n".join(lines).encode())
            answer = b""
            while data := connection.recv(65_536):
                answer += data
        return answer.partition(b"\r\n")[0].decode()

    def told(self, *headers: str, client: str = "client.pem") -> str:
        """What reached the server behind in `x-forwarded-client-cert`."""
        assert self.sent(*headers, client=client) == "HTTP/1.1 200 OK"
        (seen,) = self.api.taken()
        (value,) = seen.values("x-forwarded-client-cert")
        return value


def listener(port: int, details: str, folder: Path, decides: bool = False) -> dict[str, object]:
    kinds = "type.googleapis.com/envoy.extensions"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "api"}}
    authz = {
        "@type": f"{kinds}.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "include_peer_certificate": True,
        "grpc_service": {"envoy_grpc": {"cluster_name": "engine"}, "timeout": "2s"},
    }
    manager = {
        "@type": f"{kinds}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": details,
        "forward_client_cert_details": details,
        "set_current_client_cert_details": {"subject": True, "cert": True, "chain": True, "uri": True, "dns": True},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            *([{"name": "authz", "typed_config": authz}] if decides else []),
            {"name": "router", "typed_config": {"@type": f"{kinds}.filters.http.router.v3.Router"}},
        ],
    }
    tls = {
        "@type": f"{kinds}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(folder / "server.pem")},
                    "private_key": {"filename": str(folder / "key.pem")},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(folder / "roots.pem")}},
        },
    }
    chain = {
        "filters": [{"name": "http", "typed_config": manager}],
        "transport_socket": {"name": "tls", "typed_config": tls},
    }
    return {"name": f"{details} {port}", "address": address(port), "filter_chains": [chain]}


def address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, port: int, **more: object) -> dict[str, object]:
    behind = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]}
    return {"name": name, "type": "STATIC", "load_assignment": behind, **more}


HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def configuration(ports: dict[str, int], api: int, grpc: int, folder: Path) -> dict[str, object]:
    clusters = [cluster("api", api), cluster("engine", grpc, typed_extension_protocol_options=HTTP2)]
    listeners = [
        listener(port, "SANITIZE_SET" if details == DECIDED else details, folder, details == DECIDED)
        for details, port in ports.items()
    ]
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_files(tmp_path_factory.mktemp("envoy"))
    roots = pem(authority("forever").certificate)
    key = workload_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    server = workload(("spiffe://acme.example/gateway",), by="forever", begins=BEGAN, ends=FOREVER, purpose=None)
    files = {
        "roots.pem": roots,
        "acme.pem": roots,
        "key.pem": key,
        "server.pem": pem(server),
        "mesh.policy": POLICY,
        "policyengine.toml": '[gateway]\nclient_certificate = "x-forwarded-client-cert"\n',
        "identity.toml": '[trust_domains."acme.example"]\nbundle = "acme.pem"\n',
        "other.pem": pem(workload(("spiffe://acme.example/other/x",), by="forever", begins=BEGAN, ends=FOREVER)),
        "elsewhere.pem": pem(workload(("spiffe://other.example/ns/x",), by="forever", begins=BEGAN, ends=FOREVER)),
        "client.pem": pem(CLIENT, authority("lower", "forever").certificate),
        "crafted.pem": pem(workload((f"{SVID},{OF_CLIENT}",), by="forever", begins=BEGAN, ends=FOREVER)),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def gateways(folder: Path) -> Iterator[dict[str, Gateway]]:
    """One Envoy, with a listener for each way in which it passes certificates on."""
    if not Path(PROGRAM).is_file():
        pytest.skip("envoy is missing: make tools")
    ports = {details: free_port() for details in ("SANITIZE_SET", "APPEND_FORWARD", DECIDED)}
    with (
        upstream() as api,
        engine(str(folder / "mesh.policy"), "--identity", str(folder / "identity.toml")) as (_, grpc),
    ):
        (folder / "envoy.json").write_text(json.dumps(configuration(ports, api.port, grpc, folder)))
        with running(folder, list(ports.values())):
            yield {details: Gateway(port, api, folder) for details, port in ports.items()}


@contextmanager
def running(folder: Path, ports: list[int]) -> Iterator[None]:
    arguments = [PROGRAM, "-c", str(folder / "envoy.json"), "--concurrency", "1", "--disable-hot-restart"]
    output = folder / "output"
    with output.open("w") as to, subprocess.Popen(arguments, cwd=folder, stdout=to, stderr=to) as process:
        try:
            wait_for(ports, process, output)
            yield
        finally:
            stop(process)


def wait_for(ports: list[int], process: subprocess.Popen[bytes], output: Path) -> None:
    latest = time.monotonic() + PATIENCE
    left = list(ports)
    while left and time.monotonic() < latest:
        assert process.poll() is None, output.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", left[0]), timeout=1):
            left.pop(0)
        time.sleep(0.01)
    assert not left, output.read_text()


FORGED = f"x-forwarded-client-cert: {envoy(workload(('spiffe://acme.example/admin',)))}"
OPEN_QUOTE = 'x-forwarded-client-cert: By=x;Subject="CN=a'


@pytest.mark.parametrize(
    ("details", "header"), [("SANITIZE_SET", ()), ("SANITIZE_SET", (FORGED,)), ("APPEND_FORWARD", ())]
)
def test_the_certificate_header_of_envoy_identifies_the_connected_client(
    gateways: dict[str, Gateway], details: str, header: tuple[str, ...]
) -> None:
    gateway = gateways[details]
    sent = gateway.told(*header)
    found = parse_client_certificate(sent)
    assert (found.certificate, found.x5t, len(found.chain)) == (CLIENT, x5t(CLIENT), 1)
    world = World(gateway.folder)
    proved = world.prove(Credentials(client_certificate=sent))
    assert (proved.facts["agent"]["id"], proved.facts["agent"]["issuer"]) == (SVID, "mesh")


def test_a_token_is_accepted_only_if_bound_to_the_certificate_that_envoy_forwards(gateways: dict[str, Gateway]) -> None:
    sent, world = gateways["SANITIZE_SET"].told(), World(gateways["SANITIZE_SET"].folder)
    for bound, code in ((x5t(CLIENT), "proved"), (x5t(workload()), "bound_to_other")):
        token = world.issued.token({"x5t#S256": bound})
        assert world.refusal(Credentials(authorization=f"Bearer {token}", client_certificate=sent)) == code


def test_a_certificate_header_that_envoy_appended_to_is_rejected(gateways: dict[str, Gateway]) -> None:
    sent = gateways["APPEND_FORWARD"].told(FORGED)
    assert World(gateways["APPEND_FORWARD"].folder).refusal(Credentials(client_certificate=sent)) == "untrusted_proxy"


def test_a_crafted_name_in_a_certificate_cannot_impersonate_another_client(gateways: dict[str, Gateway]) -> None:
    """Envoy writes names as they are: this one goes on with the hash of somebody else's certificate."""
    sent, world = gateways["SANITIZE_SET"].told(client="crafted.pem"), World(gateways["SANITIZE_SET"].folder)
    assert f",{OF_CLIENT}" in sent
    token = world.issued.token({"x5t#S256": x5t(CLIENT)})
    given = Credentials(authorization=f"Bearer {token}", client_certificate=sent)
    assert world.refusal(given) == "untrusted_proxy"


def test_an_unclosed_quote_in_a_client_header_cannot_impersonate_another_client(gateways: dict[str, Gateway]) -> None:
    appended, set_anew = (gateways[details].told(OPEN_QUOTE) for details in ("APPEND_FORWARD", "SANITIZE_SET"))
    world = World(gateways["APPEND_FORWARD"].folder)
    assert world.refusal(Credentials(client_certificate=appended)) == "untrusted_proxy"
    assert world.refusal(Credentials(client_certificate=set_anew)) == "proved"


def test_an_engine_behind_envoy_decides_by_the_verified_certificate(gateways: dict[str, Gateway]) -> None:
    """As `deploy/` has it, over gRPC: by what Envoy saw, whatever its client says of itself."""
    gateway = gateways[DECIDED]
    assert gateway.sent() == "HTTP/1.1 200 OK"
    assert gateway.sent(FORGED) == "HTTP/1.1 200 OK"
    assert [gateway.sent(FORGED, client=f"{one}.pem") for one in ("other", "elsewhere")] == [
        "HTTP/1.1 403 Forbidden", "HTTP/1.1 401 Unauthorized",
    ]  # fmt: skip
