"""A server that ignores the case of paths, behind real gateways: Express opens nothing that a guard shuts."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateways.servers import KINDS, ROOT, Client, Gateway, Kind, gateway

MODULES = ROOT / ".npm-readers" / "node_modules"
INSTALL = "make readers"
SHUT = {"/public/admin/x": 403, "/public/ADMIN/x": 403, "/public/Admin/X?a=1": 403, "/PUBLIC/admin/x": 401}


@dataclass(frozen=True)
class Express:
    port: int


@pytest.fixture(scope="module")
def express() -> Iterator[Express]:
    node = shutil.which("node")
    if node is None or not (MODULES / "express").is_dir():
        pytest.skip(f"express is missing: {INSTALL}" if node else "node is missing: apt install nodejs")
    command = [node, str(Path(__file__).with_name("express.mjs")), str(MODULES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Express(int(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture(
    scope="module", params=[one for one in KINDS if one.name in ("nginx", "envoy-grpc")], ids=lambda kind: kind.name
)
def before_express(
    request: pytest.FixtureRequest,
    express: Express,
    engine_ports: tuple[int, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    kind: Kind = request.param
    if kind.found() is None:
        pytest.skip(f"{kind.name} is missing: {kind.install}")
    with gateway(kind, tmp_path_factory.mktemp("express"), express, engine_ports, None) as one:
        yield one


@pytest.mark.parametrize("path", SHUT)
def test_a_guard_denies_every_letter_case_that_express_treats_as_equal(
    before_express: Gateway, express: Express, path: str
) -> None:
    alone = Client(express.port)
    try:
        assert alone.ask(path).body.lower() == b"admin x"
    finally:
        alone.close()
    answer = before_express.client.ask(path)
    assert (answer.status, answer.problem["outcome"]) == (SHUT[path], "deny")


def test_a_path_outside_the_guard_passes_to_express(before_express: Gateway) -> None:
    answer = before_express.client.ask("/public/ADMINS")
    assert (answer.status, answer.body) == (200, b"public ADMINS")
    assert before_express.client.ask("/PUBLIC/x").status == 401  # no door: that is what is written
