"""Real gateways before an engine that observes: what it would stop passes, the operator sees so, and no client does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways.conftest import SITE
from tests.gateways.servers import Gateway, Kind, Upstream, engine, gateway
from tests.gateways.test_gateways import READER, WRITER, only


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tuple[int, int], Path]]:
    log = tmp_path_factory.mktemp("observing") / "decisions.jsonl"
    with engine(str(SITE), "--log", str(log), "--observe", "--observe-until", "1h") as ports:
        yield ports, log


@pytest.fixture(scope="module")
def watching(
    kind: Kind, api: Upstream, observed: tuple[tuple[int, int], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    ports, log = observed
    with gateway(kind, tmp_path_factory.mktemp(kind.name), api, ports, log) as one:
        one.api.taken()
        yield one
        one.client.close()


def test_observed_denials_pass_and_only_the_operator_sees_them(watching: Gateway) -> None:
    for path, method, would_be in (
        ("/v1/shut", "GET", "deny"),
        ("/v1/ask", "POST", "confirm"),
        ("/v1/x", "GET", "allow"),
    ):
        answer = watching.client.ask(path, WRITER, "X-Would-Be: forged", "X-Auth-Subject: root", method=method)
        assert answer.status == 200
        assert [name for name in answer.headers if "would" in name] == []
        seen = only(watching.api.taken())
        assert seen.values("x-would-be") == [would_be]
        assert (seen.values("x-auth-subject"), seen.values("x-auth-user")) == (["invoice-bot"], ["alice"])
        record = watching.decided()[seen.values("x-decision-id")[0]]
        assert (record["decision"]["outcome"], record.get("observed", False)) == (would_be, would_be != "allow")
    if watching.kind.name == "nginx":
        lines = (watching.output.parent / "would_be.log").read_text(encoding="utf-8").splitlines()
        assert [line.split()[1] for line in lines] == ["would_be=deny", "would_be=confirm"]


def test_observe_mode_still_rejects_missing_credentials_and_method_overrides(watching: Gateway) -> None:
    assert watching.client.ask("/v1/x").status == 401
    assert watching.client.ask("/v1/x", READER, method="POST").status == 200
    assert watching.client.ask("/v1/x?_method=DELETE", WRITER).status == 403
    assert [seen.target for seen in watching.api.taken()] == ["/v1/x"]
