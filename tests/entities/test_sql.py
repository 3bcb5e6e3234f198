"""Entities in databases, on SQLite and on a real PostgreSQL: loaded whole, and looked up by key."""

from __future__ import annotations

import json
import pickle

import pytest

from policyengine import EntitiesError
from policyengine.diagnostics.catalog import CODES
from policyengine.entities.database_config import read_database_config
from policyengine.entities.store import NO_ANSWER
from policyengine.runtime.values import Invalid
from policyengine.typesystem import EntityRef
from tests.entities.postgres import PASSWORD
from tests.entities.shop import OUTCOMES, PAY, READ, SQL, asking, mapped, outcomes, plain, read, shop, tables

pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed: pip install '.[sql]'")


@pytest.mark.parametrize("lookup", [False, True])
def test_entities_from_a_database_give_the_same_decisions_as_csv_tables(database, tmp_path, lookup):
    assert outcomes(shop(read(mapped(tmp_path, database, lookup=lookup)))) == OUTCOMES


def test_rows_loaded_from_a_database_equal_those_of_csv_tables(database, tmp_path):
    loaded = plain(read(mapped(tmp_path, database)))
    written = plain(read(tables(tmp_path / "csv")))
    written['user "cy"'][0]["roles"] = ()  # nothing in a table of roles is an empty set
    for rows in (loaded, written):
        for attributes, _ in rows.values():
            attributes |= {name: set(one) for name, one in attributes.items() if isinstance(one, tuple)}
    assert loaded == written


def test_loaded_and_looked_up_types_can_be_combined(database, tmp_path):
    """Who is in which team is looked up, what is above a team is not."""
    text = mapped(tmp_path, database, lookup=True).read_text()
    text = text.replace('in = "parent"\nlookup = true', 'in = "parent"\nlookup = false')
    (tmp_path / "directory.toml").write_text(text)
    engine = shop(read(tmp_path / "directory.toml"))
    assert len(engine.directory) == 3
    assert outcomes(engine) == OUTCOMES


def test_a_database_url_can_take_its_mapping_from_a_file(database, tmp_path):
    mapping = mapped(tmp_path, database)
    mapping.write_text("\n".join(line for line in mapping.read_text().splitlines() if not line.startswith("url")))
    assert outcomes(shop(read(database, mapping))) == OUTCOMES
    with pytest.raises(EntitiesError, match="the `url` of the database is missing"):
        read(mapping)
    with pytest.raises(EntitiesError, match="no mapping for this database"):
        read(database)


def test_a_database_change_is_seen_after_the_ttl(made, tmp_path):
    engine = shop(read(mapped(tmp_path, made(SQL), lookup=True, ttl="0s")))
    assert engine.decide(READ).allowed
    made(SQL.replace("('alice', 'emea')", "('alice', 'company')"))
    assert not engine.decide(READ).allowed


@pytest.mark.parametrize("user", ["bob' or '1'='1", "b\0b", "é", "x" * 5_000, "alice;bob"])
def test_hostile_user_ids_are_looked_up_verbatim(database, tmp_path, user):
    directory = read(mapped(tmp_path, database, lookup=True))
    assert not shop(directory).decide(asking("/v1/invoices/42", user)).allowed
    assert directory.lookups is not None
    assert directory.lookups.failures == 0


@pytest.mark.parametrize("id", ["042", "42.0", "+42", "4_2", " 42", "99999999999999999999", "forty-two"])
def test_a_numeric_id_in_a_non_canonical_form_is_not_found(database, tmp_path, id):
    directory = read(mapped(tmp_path, database, lookup=True))
    looking = directory.looking()
    assert looking is not None
    ref = EntityRef("invoice", id)
    looking.row(ref)
    looking.fetch()
    assert looking.found == {ref: None}


NO_KEY = SQL.replace("login varchar(40) primary key", "login varchar(40)")
WRONG = [
    ({"plan": "update people set plan = 'gold' where login = 'bob'"}, "plan", "`plan`: not a value of plan"),
    ({"plan": "update people set boss = '' where login = 'bob'"}, None, None),
    ({"who": "update approvers set who = 'bob' where invoice = 43"}, "who",
     "`bob` does not begin with its type (team or user)"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "column", "why"), WRONG)
def test_a_database_value_of_a_wrong_type_is_rejected_on_load(made, tmp_path, change, column, why):
    url = made(f"{SQL} {next(iter(change.values()))};")
    if column is None:
        assert "manager" not in plain(read(mapped(tmp_path, url)))['user "bob"'][0]
        return
    with pytest.raises(EntitiesError) as told:
        read(mapped(tmp_path, url))
    assert (told.value.code, told.value.column) == ("E183", column)
    assert told.value.message.endswith(why)
    assert told.value.message.startswith(("user", "invoice"))


def test_a_looked_up_value_of_a_wrong_type_is_unknown(made, tmp_path, caplog):
    url = made(f"{SQL} update people set plan = 'gold' where login = 'bob';")
    looking = read(mapped(tmp_path, url, lookup=True)).looking()
    assert looking is not None
    ref = EntityRef("user", "bob")
    looking.attribute(ref, "plan")
    looking.fetch()
    assert looking.attribute(ref, "plan") == Invalid("`plan`: not a value of plan")
    assert looking.attribute(ref, "manager") == EntityRef("user", "alice")


def test_a_duplicate_id_is_rejected_on_load_and_unknown_on_lookup(made, tmp_path):
    url = made(
        SQL.replace("login varchar(40) primary key", "login varchar(40)")
        + "insert into people values ('bob', null, null);"
    )
    with pytest.raises(EntitiesError, match='user "bob" is given twice'):
        read(mapped(tmp_path, url))
    looking = read(mapped(tmp_path, url, lookup=True)).looking()
    assert looking is not None
    looking.row(EntityRef("user", "bob"))
    looking.fetch()
    assert looking.found == {EntityRef("user", "bob"): NO_ANSWER}


def test_a_database_row_without_an_id_is_rejected(made, tmp_path):
    url = made(
        SQL.replace("login varchar(40) primary key", "login varchar(40)")
        + "insert into people values (null, null, null);"
    )
    with pytest.raises(EntitiesError, match="the id of a user: it is missing"):
        read(mapped(tmp_path, url))


ABSENT = [
    ({'table = "people"': 'table = "peeple"'}, "there is no table `peeple`", "did you mean `people`?"),
    ({'plan = "plan"': 'plan = "plann"'}, "there is no column `plann`", "did you mean `plan`?"),
    ({'value = "role" }': 'value = "rolle" }'}, "there is no column `rolle`", "did you mean `role`?"),
    ({'id = "no"': 'id = "nr"'}, "there is no column `nr`", "columns: `no`, `owner`"),
]


@pytest.mark.parametrize(("change", "message", "hint"), ABSENT)
@pytest.mark.parametrize("lookup", [False, True])
def test_a_mapping_to_a_missing_table_or_column_is_rejected_at_startup(
    database, tmp_path, change, message, hint, lookup
):
    with pytest.raises(EntitiesError) as told:
        read(mapped(tmp_path, database, lookup=lookup, **change))
    assert (told.value.message, told.value.hint, told.value.code) == (message, hint, "E187")


def test_an_invalid_query_of_a_mapping_is_rejected(database, tmp_path):
    with pytest.raises(EntitiesError) as told:
        read(mapped(tmp_path, database, **{"select no, owner from": "select no, owner frm"}))
    assert "syntax error" in told.value.message
    assert told.value.member == "invoice.query"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:{}@host/db", "this kind of database is not supported"),
        ("sqlite://", "this kind of database is not supported"),
        ("sqlite:///nowhere/at/all.db", "unable to open database file"),
        ("postgresql://u:{}@127.0.0.1:1/db", "connection failed"),
        ("postgresql://u:{}@[::", "this is not a database URL"),
    ],
)
def test_an_unusable_database_is_reported_without_its_password(tmp_path, url, message):
    with pytest.raises(EntitiesError, match=message) as told:
        read(mapped(tmp_path, url.format("hush-hush")))
    assert "hush" not in str(told.value) + repr(told.value.__dict__)
    assert not list(tmp_path.glob("*.db"))


def test_a_wrong_database_password_is_reported_without_quoting_it(postgres, tmp_path):
    with pytest.raises(EntitiesError, match="password authentication failed") as told:
        read(mapped(tmp_path, postgres.url.replace(PASSWORD, "hush-hush")))
    assert "hush" not in str(told.value) + repr(told.value.__dict__)


def test_database_queries_are_read_only(postgres, tmp_path):
    postgres.fresh(SQL)
    postgres.run(
        "grant all on people to reader;"
        "create function leave() returns bigint language sql as"
        " 'with gone as (delete from people returning 1) select count(*) from gone';"
    )
    change = {"select no, owner from invoices": "select no, owner from invoices where leave() >= 0"}
    with pytest.raises(EntitiesError, match=r"cannot execute .* in a read-only transaction"):
        read(mapped(tmp_path, postgres.url, **change))
    assert len(read(mapped(tmp_path, postgres.url))) == 8


def test_a_missing_sqlite_file_is_not_created(tmp_path):
    file = tmp_path / "none.db"
    with pytest.raises(EntitiesError, match="unable to open database file"):
        read(mapped(tmp_path, f"sqlite:///{file}"))
    assert not file.exists()


def test_postgres_types_are_converted_on_load_and_lookup(postgres, tmp_path):
    postgres.fresh(
        "create table people (login uuid primary key, roles text[], active boolean, seats bigint, share numeric,"
        " since timestamptz, span interval, home inet, nets cidr[]);"
        "insert into people values ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{clerk,boss}', true, 7, 0.10,"
        " '2027-01-01T09:00:00Z', '15 minutes', '10.0.0.1', '{10.0.0.0/8}');"
    )
    for lookup in ("false", "true"):
        file = tmp_path / "d.toml"
        file.write_text(
            f'[directory]\nurl = "{postgres.url}"\n'
            f'[directory.user]\ntable = "people"\nid = "login"\nlookup = {lookup}\n'
            'attributes = { roles = "roles", active = "active", seats = "seats", share = "share", since = "since",'
            ' limit = "span", home = "home", nets = "nets" }\n'
        )
        looking = read(file)
        ref = EntityRef("user", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")
        if lookup == "true":
            looking = looking.looking()
            looking.row(ref)
            looking.fetch()
        row = looking.row(ref)
        told = json.dumps({name: str(value) for name, value in row.attributes.items()})
        assert json.loads(told) == {
            "roles": "('clerk', 'boss')", "active": "True", "seats": "7", "share": "0.10",
            "since": "2027-01-01 09:00:00+00:00", "limit": "0:15:00", "home": "10.0.0.1",
            "nets": "(IPv4Network('10.0.0.0/8'),)",
        }  # fmt: skip


MAPPINGS = [
    ("", "directory", "the table `[directory]` is missing"),
    ("[directory]\n", "directory", "no entity is mapped"),
    ("[directory]\nuri = 'x'\n", "directory.uri", "unknown key `uri`"),
    ("[directory]\ntimeout = 5\n", "directory.timeout", "`timeout` is not a valid duration here"),
    ("[directory]\ntimeout = '2h'\n", "directory.timeout", "`timeout` is not a valid duration here"),
    ("[directory]\nconnections = 0\n", "directory.connections", "`connections` must be a whole number from 1 to 64"),
    ("[directory.user]\nid = 'x'\n", "directory.user", "an entity needs either a `table` or a `query`"),
    ("[directory.user]\ntable = 't'\nquery = 'q'\n", "directory.user", "an entity needs either a `table` or a `query`"),
    ("[directory.user]\ntabel = 't'\n", "directory.user.tabel", "unknown key `tabel`"),
    ("[directory.user]\ntable = 't'\nlookup = 1\n", "directory.user.lookup", "`lookup` must be `true` or `false`"),
    ("[directory.user]\ntable = 't'\nattributes = 'plan'\n", "directory.user.attributes",
     "attributes must be a list of columns, or a table of attributes and their columns"),
    ("[directory.user]\ntable = 't'\nin = { table = 'm' }\n", "directory.user.in.id", "`id` must be a quoted string"),
    ("[directory.user]\ntable = 't'\nattributes = ['plann']\n", "directory.user.attributes.plann",
     "`user` has no attribute `plann`"),
    ("[directory.usr]\ntable = 't'\n", "directory.usr", "the policy declares no entity `usr`"),
    ("[directory.invoice]\ntable = 't'\nin = 'x'\n", "directory.invoice.in",
     "the policy declares no parent of `invoice`"),
    ("[directory\n", "", "expected ']' at the end of a table declaration (at line 1, column 11)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "member", "message"), MAPPINGS)
def test_a_mistake_in_a_database_mapping_is_reported_with_its_key(tmp_path, text, member, message):
    file = tmp_path / "d.toml"
    file.write_text(text)
    with pytest.raises(EntitiesError) as told:
        read("sqlite:///x.db", file)
    assert (told.value.member, told.value.message) == (member, message)
    assert told.value.code in CODES


def test_a_database_mapping_sets_timeouts_and_limits(tmp_path):
    file = tmp_path / "d.toml"
    more = "timeout = '250ms'\nttl = '1m'\nmost = 5\nconnections = 2\nrefresh = '1h'\nload_timeout = '2m'\n"
    file.write_text(f"[directory]\n{more}[directory.user]\ntable = 't'\n")
    found = read_database_config(file)
    assert (found.timeout, found.ttl, found.most, found.connections) == (0.25, 60, 5, 2)
    assert (found.refresh, found.load_timeout) == (3600, 120)


def test_a_looked_up_type_in_another_source_is_rejected(database, tmp_path):
    mapping = mapped(tmp_path, database, lookup=True)
    folder = tables(tmp_path / "csv", user="id\nzed\n")
    with pytest.raises(EntitiesError, match='user "zed": `user` is looked up in `'):
        read([mapping, folder])
    with pytest.raises(EntitiesError, match="`invoice` is already looked up in `"):
        read([mapping, mapping])


def test_entities_of_a_request_count_only_if_the_entity_store_has_no_row(database, tmp_path):
    """A caller's word on who is in which team does not replace the directory's."""
    engine = shop(read(mapped(tmp_path, database, lookup=True)))
    claim = {"type": "user", "id": "cy", "in": [{"type": "team", "id": "legal"}]}
    assert not engine.decide({**asking("/v1/invoices/42", "cy"), "entities": [claim]}).allowed
    unheard = {**claim, "id": "dora"}
    assert engine.decide({**asking("/v1/invoices/42", "dora"), "entities": [unheard]}).allowed


def test_a_batch_looks_up_entities(database, tmp_path):
    engine = shop(read(mapped(tmp_path, database, lookup=True)))
    assert [one.allowed for one in engine.decide_many([READ, PAY, asking("/v1/invoices/43", "cy")])] == [
        True,
        True,
        False,
    ]


def test_a_pickled_entity_store_looks_up_in_the_other_process(database, tmp_path):
    """Reloading checks apart, and hands on what it found: what is looked up is asked for where decisions are made."""
    here = read(mapped(tmp_path, database, lookup=True))
    there = pickle.loads(pickle.dumps(here))
    assert outcomes(shop(there)) == OUTCOMES
    assert there.same_as(here)
    assert not there.same_as(read(mapped(tmp_path, database, lookup=True, ttl="1s")))
    assert not there.same_as(read(mapped(tmp_path, database)))


def test_a_pickled_entity_store_denies_if_its_table_is_gone(made, tmp_path):
    there = pickle.loads(pickle.dumps(read(mapped(tmp_path, made(SQL), lookup=True))))
    made(SQL.replace("people", "persons"))
    assert {outcome for _, *told in outcomes(shop(there)) for outcome in told} == {"deny"}
