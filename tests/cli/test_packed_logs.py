"""Commands that decide a log again read its packed file, and print the same."""

import gzip
import json
import re

import duckdb
import pytest

from policyengine.audit import DecisionLog, Rotation
from policyengine.audit.query import duck
from policyengine.audit.query.pack import pack_log
from policyengine.engine import Engine

SHOP = """language 1
package shop
issuer acme { url "https://login.example"   scopes none }
entity order { open: bool }
agent "bot" { issued by acme   acts alone   may GET /v1/orders, GET /v1/orders/{id: order} }
guard "only open orders" on GET /v1/orders/{id: order} { require resource.open }
guard "not twice" on GET /v1/orders { deny when count of (GET /v1/orders) within 1h >= 1 }
rate "few" per agent.id on GET /v1/** { 3/1m }
"""
PACKED = "shop.parquet"


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A rotated log with entities, a history, a limit, and lines that were cut off; and the ID of a decision."""
    folder = tmp_path_factory.mktemp("logged")
    (folder / "shop.policy").write_text(SHOP)
    rows = [{"type": "order", "id": id_, "attributes": {"open": id_ == "1"}} for id_ in "12"]
    (folder / "shop.json").write_text(json.dumps({"entities": rows}))
    log = folder / "shop.jsonl"
    writer = DecisionLog(log, rotation=Rotation(size=4_000))
    engine = Engine.load(folder / "shop.policy", entities=folder / "shop.json", log=writer)
    ids = []
    for name in ("orders/1", "orders/2", "orders", "orders", "stock", "orders/1"):
        question = {"request": {"method": "GET", "path": f"/v1/{name}"}, "agent": {"id": "bot", "issuer": "acme"}}
        ids.append(engine.decide(question).id)
    writer.close()
    rotated = sorted(folder.glob("shop.jsonl.2*"))
    assert rotated
    rotated[0].with_name(f"{rotated[0].name}.gz").write_bytes(gzip.compress(rotated[0].read_bytes()))
    rotated[0].unlink()
    first, last = log.read_bytes().split(b"\n", 1)
    log.write_bytes(first + b'\n{"v":2,"ti\n\n\xff\n' + last[:90] + last + last[:70])
    pack_log([log], folder / PACKED)
    return folder, ids[1]


@pytest.fixture
def shop(run, logged, tmp_path):
    """The ID of a decision of a log beside its packed file, which are in the current folder."""
    for file in logged[0].iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return logged[1]


COMMANDS = [
    ("record", "shop.policy", "--log", "LOG", "--format", "json"),
    ("suggest", "shop.policy", "--log", "LOG", "--format", "json"),
    ("diff", "shop.policy", "other.policy", "--log", "LOG", "--format", "json"),
    ("simulate", "shop.policy", "--entities", "shop.json", "--trace", "LOG", "--format", "json"),
    ("why", "ID", "shop.policy", "--log", "LOG"),
    ("explain", "shop.policy", "--log", "LOG", "--id", "ID", "--format", "json"),
    ("audit", "export", "LOG", "--format", "csv"),
]


def without_names(output: str) -> str:
    """Return output without the names of files and what it says about a missing seal."""
    output = re.sub(r"(the log|a packed log) has no seal: [^\n\"]*", "no seal", output)
    return re.sub(r"shop\.(parquet|jsonl(\.[0-9TZ.]+(gz)?)?)", "LOG", output)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_packed_log_gives_the_same_output(run, shop, tmp_path, command):
    (tmp_path / "other.policy").write_text(SHOP.replace("resource.open", "not resource.open"))
    ended = [run(*({"LOG": log, "ID": shop}.get(part, part) for part in command)) for log in ("shop.jsonl", PACKED)]
    assert ended[0].code == ended[1].code
    assert without_names(ended[0].out) == without_names(ended[1].out)
    assert ended[0].out
    skipped = [[line.partition(": ")[0] for line in each.err.splitlines() if ": skipped" in line] for each in ended]
    assert len(skipped[0]) == len(skipped[1])


def test_packing_keeps_every_line(run, shop, tmp_path):
    files = [*sorted(tmp_path.glob("shop.jsonl.2*")), tmp_path / "shop.jsonl"]
    raw = b"".join(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes() for file in files)
    rows = duckdb.connect().execute("SELECT line, kind FROM read_parquet($1)", [PACKED]).fetchall()
    lines = [(line or "").encode().rstrip(b"\n") for line, _ in rows]
    assert lines == [line.replace(b"\xff", b"not UTF-8: \\xff") for line in raw.split(b"\n")]
    assert [line for line, kind in zip(lines, (kind for _, kind in rows), strict=True) if kind is None] == [
        b'{"v":2,"ti', b"", b"not UTF-8: \\xff", lines[-1]
    ]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS[::2], ids=" ".join)
def test_without_duckdb_the_hint_names_the_extra(run, shop, monkeypatch, tmp_path, command):
    (tmp_path / "other.policy").write_text(SHOP)
    monkeypatch.setattr(duck, "has_duckdb", lambda: False)
    ended = run(*({"LOG": PACKED, "ID": shop}.get(part, part) for part in command))
    assert ended.code == (3 if command[0] == "diff" else 1)
    assert "error: packed logs are read with DuckDB\nhint: in a checkout of policyengine: `pip install" in ended.err


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-50]), f"`{PACKED}` cannot be read: "),
        (lambda file: file.write_bytes(b"PAR1\n"), f"`{PACKED}` cannot be read: "),
        (lambda file: file.unlink() or duckdb.execute(f"COPY (SELECT 1 AS x) TO '{file}'"),
         f"`{PACKED}` is not a packed log\nhint: create a packed log with `policyengine audit pack`"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [COMMANDS[0], COMMANDS[3]], ids=" ".join)
def test_a_damaged_or_foreign_file_is_one_message(run, shop, tmp_path, command, break_, message):
    break_(tmp_path / PACKED)
    ended = run(*({"LOG": PACKED}.get(part, part) for part in command))
    assert (ended.code, ended.out if "json" not in command else "") == (1, "")
    assert message in ended.err
    assert "Traceback" not in ended.err
