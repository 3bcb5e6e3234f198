"""A body that is too large: who asks by way of a gateway reads why, although the answer came before all was sent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.gateways.servers import KINDS
from tests.ports import free_port
from tests.processes import stop, wait_until
from tests.server.conftest import OPEN
from tests.server.test_serving import running

NGINX = next(one for one in KINDS if one.name == "nginx")
ENVOY = next(one for one in KINDS if one.name == "envoy-http")
BODY = b" " * (5 * 1024 * 1024)
OF_NGINX = """
daemon off; pid nginx.pid; error_log stderr; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off; client_max_body_size 20m; client_body_buffer_size 8m;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{engine}; proxy_set_header Host localhost; {more} }}
  }}
}}
"""
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
OF_ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": {manager}
          stat_prefix: http
          http_filters: [{{name: router, typed_config: {{"@type": {router}}}}}]
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: engine}}}}]}}
  clusters:
  - name: engine
    load_assignment:
      cluster_name: engine
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {engine}}}}}}}
"""
WAYS = {
    "nginx, which keeps a body until it is whole": (NGINX, OF_NGINX, ""),
    "nginx, which passes it on": (NGINX, OF_NGINX, "proxy_request_buffering off; proxy_http_version 1.1;"),
    "envoy": (ENVOY, OF_ENVOY, ""),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with running() as (url, _):
        yield url


@contextmanager
def gateway(folder: Path, way: str, engine: str) -> Iterator[str]:
    kind, text, more = WAYS[way]
    program, port = kind.found(), free_port()
    if program is None:
        pytest.skip(f"{kind.name} is missing: {kind.install}")
    file = folder / "gateway.yaml"
    file.write_text(text.format(port=port, engine=engine.rpartition(":")[2], more=more, manager=MANAGER, router=ROUTER))
    arguments = [one.format(folder=folder, file=file) for one in kind.arguments]
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(process)  # nginx, if killed, leaves its worker


def answers(url: str) -> bool:
    try:
        return httpx.post(f"{url}/decide", json=OPEN, headers={"host": "localhost"}).status_code == 200
    except httpx.TransportError:
        os.sched_yield()
        return False


@pytest.mark.parametrize("way", WAYS)
def test_a_too_large_body_gets_413_through_a_gateway(tmp_path: Path, engine: str, way: str) -> None:
    headers = {"host": "localhost", "content-type": "application/json"}
    with gateway(tmp_path, way, engine) as url:
        wait_until(lambda: answers(url))
        found = [httpx.post(f"{url}/decide", content=BODY, headers=headers, timeout=20).status_code for _ in range(3)]
    assert found == [413] * 3
