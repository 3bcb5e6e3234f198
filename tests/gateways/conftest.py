"""The gateways, each started once: with a running engine, and without one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways.servers import DEPLOY, KINDS, Gateway, Kind, Upstream, engine, gateway, upstream
from tests.ports import free_port

SITE = Path(__file__).with_name("site.policy")
ABSENCE = SITE.with_name("absence.policy")
HANDED_ON = (DEPLOY / "policyengine.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def api() -> Iterator[Upstream]:
    with upstream() as server:
        yield server


@pytest.fixture(scope="session")
def decisions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine") / "decisions.jsonl"


@pytest.fixture(scope="session")
def engine_ports(decisions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Engines with the headers that the files in deploy/ forward, and with the one that they have commented out."""
    folder = tmp_path_factory.mktemp("policies")
    for policy in (SITE, ABSENCE):
        (folder / policy.name).write_text(policy.read_text(encoding="utf-8"), encoding="utf-8")
    named = re.sub(r"^(hands_on_(?:nginx|envoy) = \[)", r'\1\n  "X-Tenant",', HANDED_ON, flags=re.MULTILINE)
    (folder / "policyengine.toml").write_text(named, encoding="utf-8")
    with engine(
        str(folder), "--log", str(decisions), "--allowed-host", "api.acme.example", "--allowed-host", "api.example"
    ) as ports:
        yield ports


@pytest.fixture(scope="session")
def payments() -> Iterator[tuple[int, int]]:
    """The policies that `make serve` serves."""
    example = SITE.parents[2] / "policies" / "examples" / "payments"
    with engine(str(example), "--entities", str(example / "entities.json")) as ports:
        yield ports


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    if found.found() is None:
        pytest.skip(f"{found.name} is missing: {found.install}")
    return found


@pytest.fixture(scope="module")
def running(
    kind: Kind, api: Upstream, engine_ports: tuple[int, int], decisions: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    with gateway(kind, tmp_path_factory.mktemp(kind.name), api, engine_ports, decisions) as one:
        yield one


@pytest.fixture
def web(running: Gateway) -> Iterator[Gateway]:
    running.api.taken()
    yield running
    running.client.close()


@pytest.fixture(scope="module")
def alone(kind: Kind, api: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway without its engine."""
    with gateway(kind, tmp_path_factory.mktemp(kind.name), api, (free_port(), free_port()), None) as one:
        yield one
