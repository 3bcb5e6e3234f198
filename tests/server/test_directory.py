"""A database that goes away under a server: what it says to whom it decides for, at `/readyz` and at `/metrics`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as prometheus

from policyengine.engine import Engine
from policyengine.entities import lookup
from tests.entities.postgres import PASSWORD, Postgres, running
from tests.entities.shop import POLICY, READ, SQL, asking, mapped, read
from tests.server.conftest import client_of

PAYS = asking("/v1/invoices/43/pay", "bob", "POST")  # asks what bob is in
GONE = "the entity store did not answer"


def talked(engine: Engine, *asked: tuple[str, str, Any]) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with client_of(engine) as client:
            return [await client.request(method, path, json=body) for method, path, body in asked]

    return asyncio.run(run())


def failures(text: str) -> float:
    families = {one.name: one for one in prometheus(text)}
    return sum(one.value for one in families["policyengine_directory_failures"].samples)


def looked_up(tmp_path: Path, url: str) -> Engine:
    file = mapped(tmp_path, url, lookup=True, ttl="0s", timeout="500ms")
    return Engine.from_text(POLICY, directory=read(file))


READY, METRICS = ("GET", "/readyz", None), ("GET", "/metrics", None)


def test_a_missing_entity_database_file_is_reported_until_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "PAUSE_SECONDS", 0.0)
    file, aside = tmp_path / "shop.db", tmp_path / "aside.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(SQL)
    engine = looked_up(tmp_path, f"sqlite:///{file}")
    before = talked(engine, READY, ("POST", "/decide", READ), METRICS)
    assert [before[0].status_code, before[1].json()["outcome"]] == [200, "allow"]
    assert failures(before[2].text) == 0

    file.rename(aside)
    shut = talked(engine, ("POST", "/decide", READ), ("POST", "/decide", PAYS), READY, METRICS)
    assert [one.json()["outcome"] for one in shut[:2]] == ["deny", "deny"]
    assert all(GONE in one.text and "way up" not in one.text for one in shut[:2])
    assert (shut[2].status_code, shut[2].json()["detail"]) == (503, "the entity store does not answer")
    assert shut[2].json()["hint"] == "the operator's log says why"
    assert str(file) not in shut[2].text
    assert failures(shut[3].text) >= 3

    aside.rename(file)
    again = talked(engine, READY, ("POST", "/decide", READ))
    assert [again[0].status_code, again[1].json()["outcome"]] == [200, "allow"]


@pytest.mark.parametrize("table", ["people", "roles"])  # rows, and what rows hold several of
def test_readyz_fails_while_an_entity_table_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setattr(lookup, "PAUSE_SECONDS", 0.0)
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(SQL)
        engine = looked_up(tmp_path, f"sqlite:///{file}")
        assert talked(engine, READY)[0].status_code == 200
        connection.execute(f"alter table {table} rename to gone")
        connection.commit()
        assert talked(engine, READY)[0].status_code == 503


@pytest.fixture(scope="module")
def mortal() -> Iterator[Postgres]:
    with running() as server:
        server.fresh(SQL)
        yield server


def test_a_dead_entity_database_server_is_reported_until_it_returns(
    mortal: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lookup, "PAUSE_SECONDS", 0.0)
    engine = looked_up(tmp_path, mortal.url)
    assert talked(engine, READY)[0].status_code == 200
    mortal.stop()
    down = talked(engine, READY, ("POST", "/decide", PAYS), METRICS)
    assert down[0].status_code == 503
    assert GONE in down[1].text
    assert failures(down[2].text) >= 2
    mortal.start()
    assert engine.find_directory_failure() is None
    assert talked(engine, READY, ("POST", "/decide", READ))[1].json()["outcome"] == "allow"
    assert PASSWORD not in caplog.text


def test_an_entity_store_that_just_failed_is_not_asked_again_immediately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "PAUSE_SECONDS", 60.0)
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(SQL)
    engine = looked_up(tmp_path, f"sqlite:///{file}")
    file.unlink()
    assert "unable to open" in str(engine.find_directory_failure())
    assert engine.find_directory_failure() == "it failed to answer a moment ago"
