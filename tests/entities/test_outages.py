"""A real PostgreSQL that stalls, dies and comes back: decisions never hang, never allow by what is not known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from policyengine.engine import Engine
from policyengine.entities import lookup
from tests.entities.postgres import PASSWORD, Postgres, running
from tests.entities.shop import READ, SQL, mapped, read, shop
from tests.processes import is_usually_within, wait_until

TIMEOUT = "200ms"


@pytest.fixture(scope="module")
def mortal() -> Iterator[Postgres]:
    """A server that tests may kill."""
    with running() as server:
        server.fresh(SQL)
        yield server


@pytest.fixture
def engine(mortal: Postgres, tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "PAUSE_SECONDS", 0.4)
    engine = shop(read(mapped(tmp_path, mortal.url, lookup=True, ttl="0s", timeout=TIMEOUT)))
    until_allowed(engine)
    return engine


def until_allowed(engine: Engine) -> None:
    """Wait for an allowed decision during which no lookup failed."""
    lookups = engine.directory.lookups
    assert lookups is not None

    def is_allowed() -> bool:
        before = lookups.failures
        return engine.decide(READ).allowed and lookups.failures == before

    wait_until(is_allowed)


def is_denied_soon(engine: Engine) -> bool:
    """Return whether a decision is denied within ten times the timeout. After a slower one, the database is asked
    again."""

    def decide() -> None:
        decision = engine.decide(READ)
        assert decision.outcome == "deny"
        assert decision.unknown

    return is_usually_within(2.0, decide)


def test_a_paused_database_does_not_block_decisions(mortal, engine, caplog):
    mortal.pause()
    try:
        first, second = is_denied_soon(engine), is_denied_soon(engine)
    finally:
        mortal.resume()
    assert first
    assert second
    until_allowed(engine)
    assert PASSWORD not in caplog.text


def test_a_stopped_database_makes_facts_unknown_until_it_returns(mortal, engine, caplog):
    mortal.stop()
    wait_until(lambda: is_denied_soon(engine) and caplog.records)  # a decision that begins too late does not ask it
    mortal.start()
    until_allowed(engine)
    told = [record.getMessage() for record in caplog.records if record.name == "policyengine"]
    assert len(told) == 2
    assert f"127.0.0.1:{mortal.port}/postgres` does not answer" in told[0]
    assert "answers again" in told[1]
    assert PASSWORD not in caplog.text


def test_terminated_idle_database_connections_are_reopened(mortal, tmp_path):
    engine = shop(read(mapped(tmp_path, mortal.url, lookup=True, ttl="0s", timeout="20s")))
    assert engine.decide(READ).allowed
    mortal.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'policyengine'")
    assert engine.decide(READ).allowed


def test_a_missing_database_table_makes_facts_unknown(mortal, engine):
    mortal.run("alter table approvers rename to gone")
    try:
        assert engine.decide(READ).outcome == "deny"
    finally:
        mortal.run("alter table gone rename to approvers")
    until_allowed(engine)


def test_a_locked_database_table_does_not_block_decisions(mortal, engine):
    import psycopg

    where = f"host=127.0.0.1 port={mortal.port} user=postgres password={PASSWORD} dbname=postgres"
    with psycopg.connect(where) as other:
        other.execute("lock table people in access exclusive mode")
        assert is_denied_soon(engine)
    until_allowed(engine)
