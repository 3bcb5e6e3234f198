"""`--entities` of commands: tables and databases, several together, followed while they are served."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policyengine.cli.commands.decide import EXIT_CODES
from tests import forking
from tests.entities.conftest import sqlite_of
from tests.entities.shop import POLICY, READ, SQL, TEAM, USER, mapped, tables
from tests.processes import stop, wait_until

ASK = json.dumps(READ).encode()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.policy").write_text(POLICY)
    tables(tmp_path / "csv")
    return tmp_path / "shop.policy"


def test_decide_and_explain_accept_csv_tables(run, shop):
    for command in ("decide", "explain"):
        assert "allow" in run(command, shop, "-r", "-", "-e", "csv", stdin=ASK).out


def test_the_entities_option_can_be_repeated(run, shop):
    ended = run(
        "decide", shop, "-r", "-", "-e", "csv/team.csv", "-e", "csv/user.csv", "-e", "csv/invoice.csv", stdin=ASK
    )
    assert (ended.code, ended.err) == (EXIT_CODES["allow"], "")


def test_an_invalid_csv_cell_is_reported_with_its_place_as_json(run, shop, tmp_path):
    (tmp_path / "csv" / "user.csv").write_text("id,plan\nalice,gold\n")
    ended = run("decide", shop, "-r", "-", "-e", "csv", "--format", "json", stdin=ASK)
    assert ended.code == 1
    assert ended.json == {
        "error": {
            "kind": "entities", "message": "`csv/user.csv:2`: `plan`: not a value of plan",
            "hint": "write one of `free`, `team`", "code": "E183", "file": "csv/user.csv", "row": 2, "column": "plan",
        }
    }  # fmt: skip


def test_a_misspelled_csv_column_is_reported(run, shop, tmp_path):
    (tmp_path / "csv" / "user.csv").write_text(USER.replace("plan", "plann"))
    ended = run("decide", shop, "-r", "-", "-e", "csv", stdin=ASK)
    assert ended.err == "warning: `csv/user.csv`: the policy declares no attribute `plann`; did you mean `plan`?\n"


def test_a_database_url_uses_the_mapping_of_the_project(run, shop, tmp_path):
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed: pip install '.[sql]'")
    url = sqlite_of(tmp_path / "shop.db", SQL)
    ended = run("decide", shop, "-r", "-", "-e", url, stdin=ASK)
    assert ended.err.splitlines()[0] == "error: `sqlite:`: no mapping for this database"
    mapped(tmp_path, "sqlite:///elsewhere.db", lookup=True).rename(tmp_path / "policyengine.toml")
    ended = run("decide", shop, "-r", "-", "-e", url, stdin=ASK)
    assert (ended.code, ended.err) == (EXIT_CODES["allow"], "")


@pytest.fixture
def served(shop: Path, tmp_path: Path) -> Iterator[str]:
    command = [*forking.command(), "serve"]
    options = [str(shop), "--port", "0", "--format", "json", "-e", str(tmp_path / "csv")]
    with (
        (tmp_path / "err").open("w") as err,
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=err, text=True) as server,
    ):
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["listening"]
        finally:
            stop(server)


def decided(url: str) -> str:
    asked = urllib.request.Request(f"{url}/decide", ASK, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        told: dict[str, Any] = json.load(answer)
    return str(told["outcome"])


def until(url: str, outcome: str) -> None:
    wait_until(lambda: decided(url) == outcome)


def test_serve_reloads_changed_tables_and_keeps_the_last_good_ones(served, tmp_path):
    assert decided(served) == "allow"
    (tmp_path / "csv" / "team.csv").write_text(TEAM.replace("emea,legal", "emea,company"))
    until(served, "deny")
    (tmp_path / "csv" / "user.csv").write_text("id,plan\nalice,gold\n")
    wait_until(lambda: "`plan`: not a value of plan" in (tmp_path / "err").read_text())
    assert decided(served) == "deny"
    (tmp_path / "csv" / "user.csv").write_text(USER)
    (tmp_path / "csv" / "team.csv").write_text(TEAM)
    until(served, "allow")
