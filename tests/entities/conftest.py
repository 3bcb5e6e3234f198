"""Databases with the rows of the shop: a SQLite file, and a PostgreSQL that is started for these tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.entities.postgres import Postgres, running
from tests.entities.shop import SQL

Made = Callable[[str], str]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """Create a database from statements; return its URL."""
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed: pip install '.[sql]'")
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")

        def fresh(statements: str) -> str:
            server.fresh(statements)
            return server.url

        return fresh
    return lambda statements: sqlite_of(tmp_path / "shop.db", statements)


def sqlite_of(file: Path, statements: str) -> str:
    file.unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executescript(statements)
    return f"sqlite:///{file}"


@pytest.fixture
def database(made: Made) -> str:
    return made(SQL)
