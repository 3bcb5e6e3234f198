"""A server that takes `X.Role` and `X_Role` for `X-Role`, behind real gateways: PHP reads what was decided."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.servers import KINDS, PATIENCE, Client, Gateway, gateway
from tests.ports import free_port
from tests.processes import stop

SCRIPT = Path(__file__).with_name("headers.php")
READER = "Authorization: Bearer demo-reader"


@dataclass(frozen=True)
class Php:
    port: int


@pytest.fixture(scope="module")
def php() -> Iterator[Php]:
    program = shutil.which("php")
    if program is None:
        pytest.skip("php is missing: apt-get install php-cli")
    port = free_port()
    command = [program, "-S", f"127.0.0.1:{port}", str(SCRIPT)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            listening(port)
            yield Php(port)
        finally:
            stop(process)


def listening(port: int) -> None:
    latest = time.monotonic() + PATIENCE
    while time.monotonic() < latest:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError("php does not listen")


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def before_php(
    request: pytest.FixtureRequest, php: Php, engine_ports: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    if request.param.found() is None:
        pytest.skip(f"{request.param.name} is missing: {request.param.install}")
    with gateway(request.param, tmp_path_factory.mktemp("php"), php, engine_ports, None) as one:  # type: ignore[arg-type]
        yield one


def read(web: Gateway, path: str, *headers: str, method: str = "GET") -> dict[str, Any]:
    """What PHP read, if it was asked at all."""
    answer = web.client.ask(path, *headers, method=method)
    found: dict[str, Any] = json.loads(answer.body) if answer.status == 200 else {}
    return found


@pytest.mark.parametrize("name", ["X.Role", "X_Role", "X-Role", "x.rOLE"])
def test_php_reads_all_spellings_as_one_header(php: Php, name: str) -> None:
    alone = Client(php.port)
    try:
        assert json.loads(alone.ask("/x", f"{name}: admin").body)["role"] == "admin"
    finally:
        alone.close()


@pytest.mark.parametrize("name", ["X.Role", "X_Role", "X+Role", "X-Role"])
def test_a_header_in_another_spelling_does_not_bypass_a_guard(before_php: Gateway, name: str) -> None:
    for place in ("else", "present", "absent"):
        assert read(before_php, f"/absence/role/{place}", f"{name}: admin").get("role") is None
        both = read(before_php, f"/absence/role/{place}", "X-Role: guest", f"{name}: admin")
        assert both.get("role") in (None, "guest")


@pytest.mark.parametrize("name", ["X.Auth.Subject", "X-Auth.Subject", "X_Auth_Subject", "X-Auth-Subject"])
def test_only_the_gateway_sets_the_subject_header(before_php: Gateway, name: str) -> None:
    assert read(before_php, "/v1/things", READER)["subject"] == "invoice-bot"
    assert read(before_php, "/v1/things", READER, f"{name}: root").get("subject") in (None, "invoice-bot")


@pytest.mark.parametrize(
    "name", ["X.HTTP.Method.Override", "X-HTTP-Method.Override", "X_HTTP_Method_Override", "X-HTTP-Method-Override"]
)
def test_no_spelling_overrides_the_method(before_php: Gateway, name: str) -> None:
    writer = "Authorization: Bearer demo-writer"
    assert read(before_php, "/v1/things", writer, method="POST")["method"] == "POST"
    assert read(before_php, "/v1/things", writer, f"{name}: DELETE", method="POST").get("method") in (None, "POST")


def test_a_header_with_a_different_name_has_no_effect(before_php: Gateway) -> None:
    for place in ("else", "present"):
        passed = read(before_php, f"/absence/role/{place}", "X-Roles: admin", "X.Trace: 7") != {}
        assert passed is before_php.kind.sees_headers
