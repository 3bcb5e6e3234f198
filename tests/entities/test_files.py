"""Entities in files: JSON, JSON Lines and CSV say the same, and whatever is wrong is told with its place."""

from __future__ import annotations

import json
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path

import pytest

from policyengine import EntitiesError
from policyengine.diagnostics.catalog import CODES
from policyengine.engine import Engine
from policyengine.entities import json_files
from policyengine.entities.store import EntityStore
from policyengine.runtime import decode
from policyengine.runtime.entities import read_entity_row
from policyengine.typesystem import EntityRef
from tests.entities.shop import OUTCOMES, PAY, POLICY, TEAM, USER, outcomes, plain, read, shop, tables

ROWS = [
    {"type": "team", "id": "company"},
    {"type": "team", "id": "legal", "in": [{"type": "team", "id": "company"}]},
    {"type": "team", "id": "emea", "in": [{"type": "team", "id": "legal"}]},
    {
        "type": "user",
        "id": "alice",
        "attributes": {"roles": ["clerk", "boss"], "plan": "team"},
        "in": [{"type": "team", "id": "emea"}],
    },
    {
        "type": "user",
        "id": "bob",
        "attributes": {"roles": ["clerk"], "plan": "free", "manager": "alice"},
        "in": [{"type": "team", "id": "legal"}],
    },
    {"type": "user", "id": "cy", "in": [{"type": "team", "id": "company"}]},
    {
        "type": "invoice",
        "id": "42",
        "attributes": {"owner": "bob", "approvers": [{"type": "team", "id": "legal"}, {"type": "user", "id": "zed"}]},
    },
    {"type": "invoice", "id": "43", "attributes": {"owner": "bob", "approvers": [{"type": "user", "id": "bob"}]}},
]


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_entities_from_json_jsonl_ndjson_and_csv_give_the_same_decisions(tmp_path):
    (tmp_path / "e.json").write_text(json.dumps({"entities": ROWS}))
    (tmp_path / "e.jsonl").write_text(lines(ROWS))
    (tmp_path / "e.ndjson").write_text("\ufeff" + lines(ROWS).replace("\n", "\r\n\r\n"))
    for given in ("e.json", "e.jsonl", "e.ndjson"):
        assert outcomes(shop(read(tmp_path / given))) == OUTCOMES
    assert outcomes(shop(read(tables(tmp_path / "csv")))) == OUTCOMES


def test_several_sources_form_one_entity_store(tmp_path):
    folder = tables(tmp_path / "csv", team=TEAM, user=USER)
    (tmp_path / "e.jsonl").write_text(lines(ROWS[-2:]))
    (tmp_path / "shop.policy").write_text(POLICY)
    engine = Engine.load(tmp_path / "shop.policy", entities=[folder, str(tmp_path / "e.jsonl")])
    assert outcomes(engine) == OUTCOMES


def test_a_csv_cell_is_read_as_the_declared_type(tmp_path):
    header = "id,in,roles,plan,manager,since,seats,share,active,limit,home,nets"
    row = "al,\"\",'[]',team,bob,2027-01-01T09:00:00Z,5,0.25,TRUE,15m,10.0.0.1,10.0.0.0/8; 192.168.0.0/16".replace(
        "'", ""
    )
    folder = tables(tmp_path / "csv", user=f"{header}\n{row}\n")
    found = read(folder).row(EntityRef("user", "al"))
    assert found is not None
    told = dict(found.attributes)
    assert told["roles"] == ()
    assert (told["plan"], told["manager"]) == ("team", EntityRef("user", "bob"))
    assert (told["seats"], told["share"], told["active"]) == (5, Decimal("0.25"), True)
    assert (told["since"], told["limit"], told["home"]) == ("2027-01-01T09:00:00Z", "15m", "10.0.0.1")
    assert told["nets"] == (ip_network("10.0.0.0/8"), ip_network("192.168.0.0/16"))


def test_an_empty_cell_has_no_value_and_a_json_list_may_contain_separators(tmp_path):
    user = 'id,roles,seats\nal,"[""a;b"", ""c,d""]",\nbo,,\n'
    found = read(tables(tmp_path / "csv", user=user))
    assert plain(found) == {'user "al"': ({"roles": ("a;b", "c,d")}, set()), 'user "bo"': ({}, set())}


def test_csv_files_may_have_a_bom_crlf_and_quoted_line_breaks(tmp_path):
    user = '\ufeffid,roles\r\n"al","clerk;\nboss"\r\n\r\nbo,clerk'
    found = read(tables(tmp_path / "csv", user=user))
    assert plain(found) == {
        'user "al"': ({"roles": ("clerk", "boss")}, set()),
        'user "bo"': ({"roles": ("clerk",)}, set()),
    }


MISTAKES = [
    ("id,id\na,b\n", "E182", 1, "id", "the column `id` appears twice", None),
    ("name,plan\na,free\n", "E182", 1, None, "there is no column `id`", "name the column with the ids `id`"),
    ("ID,plan\na,free\n", "E182", 1, None, "there is no column `id`", "did you mean `ID`?"),
    ("", "E181", 1, None, "the header is missing", "begin with `id` and the attribute names"),
    ("id,plan\na,free,x\n", "E182", 2, None, "cells: 3, but the header has 2", "is a comma or a quote missing?"),
    ("id,plan\na\n", "E182", 2, None, "cells: 1, but the header has 2", "is a comma or a quote missing?"),
    ("id,plan\na,free\n,free\n", "E183", 3, "id", "`id`: it is empty", "give each row its own id"),
    ("id,plan\na,gold\n", "E183", 2, "plan", "`plan`: not a value of plan", "write one of `free`, `team`"),
    ("id,seats\na,many\n", "E183", 2, "seats", "`seats`: expected int, got string",
     "write digits, with a point before the fraction"),
    ("id,seats\na,99999999999999999999\n", "E183", 2, "seats", "`seats`: beyond 64 bits",
     "write digits, with a point before the fraction"),
    ("id,share\na,1e\n", "E183", 2, "share", "`share`: expected number, got string",
     "write digits, with a point before the fraction"),
    ("id,active\na,yes\n", "E183", 2, "active", "`active`: expected bool, got string", "write `true` or `false`"),
    ("id,since\na,yesterday\n", "E183", 2, "since", "`since`: not a valid time",
     "write a time such as `2027-01-01T09:00:00Z`"),
    ("id,limit\na,soon\n", "E183", 2, "limit", "`limit`: not a valid duration", "write a duration such as `15m`"),
    ("id,home\na,here\n", "E183", 2, "home", "`home`: not a valid ip", "write an address such as `10.0.0.1`"),
    ('id,roles\na,"[1"\n', "E183", 2, "roles", "not valid JSON at line 1, column 3: the text ends too early",
     "write it as JSON"),
    ('id,roles\na,"[5]"\n', "E183", 2, "roles", "`roles`: expected string, got int",
     'separate the elements with `;`, or write a JSON list: `["a", "b"]`'),
    ('id,roles\na,"clerk\n', "E181", 2, None, "not valid CSV: unexpected end of data",
     'put a cell that contains `,` or a quote in quotes, and double the quotes in it: `"a ""b"", c"`'),
    ('id,roles\na,"x"y\n', "E181", 2, None, "not valid CSV: ',' expected after '\"'",
     'put a cell that contains `,` or a quote in quotes, and double the quotes in it: `"a ""b"", c"`'),
    ("id,roles\na,b\0\n", "E181", 2, None, "a NUL character", "is this UTF-16? write it as UTF-8"),
    ("id,roles\na,x\na,y\n", "E184", 3, None, 'user "a" is given twice',
     "keep one row of each entity: `{}:2` already has one"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "row", "column", "message", "hint"), MISTAKES)
def test_a_mistake_in_a_csv_table_is_reported_with_line_and_column(tmp_path, text, code, row, column, message, hint):
    folder = tables(tmp_path / "csv", user=text)
    with pytest.raises(EntitiesError) as told:
        read(folder)
    error, file = told.value, str(folder / "user.csv")
    assert (error.file, error.row, error.column, error.message) == (file, row, column, message)
    assert error.hint == (None if hint is None else hint.replace("{}", file))
    assert error.code == code
    assert code in CODES


def test_a_reference_without_a_type_is_rejected_if_several_types_are_possible(tmp_path):
    folder = tables(tmp_path / "csv", invoice="id,approvers\n1,bob\n")
    with pytest.raises(EntitiesError, match=r"`bob` does not begin with its type \(team or user\)"):
        read(folder)


def test_a_csv_line_that_is_not_utf8_is_reported(tmp_path):
    folder = tables(tmp_path / "csv")
    (folder / "user.csv").write_bytes(b"id,roles\nal,clerk\nj\xfcrgen,clerk\n")
    with pytest.raises(EntitiesError) as told:
        read(folder)
    assert (told.value.row, told.value.message) == (3, "not valid UTF-8 at character 2")


@pytest.mark.parametrize("name", ["user.csv", "e.jsonl"])
def test_an_overlong_line_is_rejected_without_reading_it_all(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.write(b"id,roles")
        file.truncate(2**30)  # a hole: it takes no room
    with pytest.raises(EntitiesError, match="a line of more than"):
        read(tmp_path / name)


def test_an_unclosed_csv_quote_is_rejected_at_the_row_limit(tmp_path, monkeypatch):
    from policyengine.entities import csv_files as module

    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1_000)
    (tmp_path / "user.csv").write_text('id,roles\na,"b\n' + "c,d\n" * 1_000)
    with pytest.raises(EntitiesError, match="a row of more than 1,000 bytes"):
        read(tmp_path / "user.csv")


def test_a_table_of_an_undeclared_entity_is_reported(tmp_path):
    folder = tables(tmp_path / "csv", users="id\na\n")
    with pytest.raises(EntitiesError) as told:
        read(folder)
    assert (told.value.code, told.value.hint) == ("E185", "did you mean `user.csv`?")
    other = tables(tmp_path / "other", user="id\na\n", warehouse="id\nb\n")
    assert read(other).notes == (f"`{other / 'warehouse.csv'}` is left out: the policy declares no entity `warehouse`",)
    with pytest.raises(EntitiesError, match="the policy declares no entity `warehouse`"):
        read(other / "warehouse.csv")


def test_only_a_misspelled_csv_column_is_reported(tmp_path):
    folder = tables(tmp_path / "csv", user="id,seets,phone\na,5,123\n")
    found = read(folder)
    assert found.notes == (f"`{folder / 'user.csv'}`: the policy declares no attribute `seets`; did you mean `seats`?",)
    assert plain(found) == {'user "a"': ({}, set())}


def test_an_in_column_for_an_entity_without_parents_is_rejected(tmp_path):
    folder = tables(tmp_path / "csv", invoice="id,in\n1,legal\n")
    with pytest.raises(EntitiesError, match="the policy declares no parent of `invoice`"):
        read(folder)


@pytest.mark.parametrize(
    ("line", "member", "message"),
    [
        ('{"type": "user"', "", "not valid JSON at column 16: the text ends too early"),
        ("[]", "", "`the row` must be an object, got list"),
        ('{"type": "user"}', "id", "`id` is missing"),
        ('{"type": "user", "id": ""}', "id", "`id` is missing"),
        ('{"type": "user", "id": "a", "rolles": []}', "rolles", "unknown member `rolles`"),
        ('{"type": "user", "id": "a", "id": "b"}', "id", "`id` must be a string, got a duplicate key"),
        ('{"type": "user", "id": "a", "in": ["x"]}', "in[0]", "`in[0]` must be an object, got string"),
        ('{"type": "user", "id": "alice"}', "", 'user "alice" is given twice'),
    ],
)
def test_a_broken_jsonl_line_is_reported_with_its_number(tmp_path, line, member, message):
    file = tmp_path / "e.jsonl"
    file.write_text(lines(ROWS[:4]) + line + "\n")
    with pytest.raises(EntitiesError) as told:
        read(file)
    assert (told.value.row, told.value.member, told.value.message) == (5, member, message)


def test_a_duplicate_entity_is_reported_with_both_places(tmp_path):
    (tmp_path / "e.json").write_text(json.dumps({"entities": ROWS}))
    folder = tables(tmp_path / "csv", user=USER)
    with pytest.raises(EntitiesError) as told:
        read([folder, tmp_path / "e.json"])
    assert (told.value.member, told.value.message) == ("entities[3]", 'user "alice" is given twice')
    assert told.value.hint == f"keep one row of each entity: `{folder / 'user.csv'}:2` already has one"


@pytest.mark.parametrize(
    ("given", "message"),
    [("nowhere.json", "no such file or directory"), ("nowhere", "no such file or directory"),
     ("", "this folder contains no `.csv` file"),
     ("p.txt", "the format of this source is unknown"), ("\0.json", "a file name cannot contain NUL")],
)  # fmt: skip
def test_an_unreadable_entity_source_is_reported_with_its_cause(tmp_path, given, message):
    (tmp_path / "p.txt").write_text("")
    with pytest.raises(EntitiesError) as told:
        read(f"{tmp_path}/{given}" if given else tmp_path)
    assert (told.value.code, told.value.message) == ("E180", message)


def test_a_pipe_as_entity_file_is_rejected_without_waiting(tmp_path):
    import os

    os.mkfifo(tmp_path / "user.csv")
    with pytest.raises(EntitiesError, match="not a regular file"):
        read(tmp_path / "user.csv")


PLAIN = [
    *ROWS,
    {"type": "user", "id": "ü"},
    {"type": "user", "id": "e\u0301"},
    {"type": "user", "id": "a", "attributes": {"x": 2**63, "y": [1, None, True, "a"], "z": {"a": 1}}},
    {"type": "user", "id": "a", "attributes": {"x": [["a"]], "é": "ü"}},
    {"type": "user", "id": "a", "attributes": None, "in": None},
    {"type": "user", "id": 5},
    {"type": "user", "id": "a", "in": [{"type": "team"}]},
    {"type": "user", "id": "a", "in": {"type": "team", "id": "b"}},
    {"type": "user", "id": "a", "attributes": []},
    {"type": "user", "id": "a" * 70_000},
    {"type": "user", "id": "a", "partial": True},
]


@pytest.mark.parametrize("row", PLAIN)
def test_the_fast_row_parser_agrees_with_the_slow_one(row):
    tree = decode.json_tree(json.dumps(row))
    plain = json_files.parse_plain_row(tree)
    if plain is not None:
        assert plain == read_entity_row(decode.clean(tree), "")
        assert type(next(iter(plain.attributes.values()), None)) is not list
    assert (plain is not None) == (row in ROWS or row == PLAIN[12])


def test_a_decision_reads_loaded_entities(tmp_path):
    assert shop(read(tables(tmp_path / "csv"))).decide(PAY).allowed
    assert not shop(EntityStore(loaded=False)).decide(PAY).allowed


def test_an_entity_file_in_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EntitiesError, match="no such file"):
        read(tmp_path / "gone" / "user.csv")
