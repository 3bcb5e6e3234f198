"""`policyengine behavior show`, `forget` and `release` with `--store`, on every store that processes share."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine import Engine
from policyengine.audit import DecisionLog
from policyengine.behavior.shared import SharedTracker
from policyengine.behavior.shared_keys import SharedKeys, sign_model
from policyengine.behavior.shared_releases import sign_releases
from policyengine.behavior.state import BehaviorState
from policyengine.cli import main
from policyengine.cli.commands.behavior import show_store
from policyengine.stores import clock_skew
from policyengine.stores.behavior import MODEL, RELEASES
from policyengine.stores.sql.session import upsert
from policyengine.stores.sql.store import SqlStore
from policyengine.stores.sqlite.store import SqliteStore
from tests.behavior.reporting_agents import BEGIN, POLICY, FakeClock, facts_of_last, question
from tests.ports import free_port
from tests.stores.conftest import VALKEY, of_cluster, of_postgres, of_server
from tests.stores.learned import CALLER, KEY, engine_of, learn_ten_days, teach, told
from tests.stores.servers import Server

KEYS = SharedKeys(KEY)
PROFILE = "profile reporting"
SHARED = ("sqlite", "redis", VALKEY, "cluster", "postgres")
NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `policyengine behavior` in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLICYENGINE_TRACEBACK", "")

    def run_command(*words: str) -> Ended:
        capsys.readouterr()
        code = main(["behavior", *words])
        return Ended(code, *capsys.readouterr())

    return run_command


@pytest.fixture(autouse=True)
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedTracker, "start", lambda self: None)


@pytest.fixture(scope="module")
def ten_days() -> BehaviorState:
    return learn_ten_days()


@dataclass
class Place:
    """An empty store, and its URL."""

    store: Any
    url: str

    def content(self) -> object:
        """Return everything in the store."""
        if isinstance(self.store, SqliteStore):
            with sqlite3.connect(self.store.path) as connection:
                found = sorted(line for line in connection.iterdump() if "INSERT INTO clock" not in line)
            connection.close()
            return found
        if isinstance(self.store, SqlStore):
            return self.store.content()  # type: ignore[attr-defined]
        client = self.store._client
        return {name: client.dump(name) for name in sorted(client.scan_iter())}

    def put(self, name: str, number: int, raw: bytes) -> None:
        """Write a document without any check."""
        if isinstance(self.store, SqlStore):
            with self.store.step() as connection:
                connection.execute(upsert("behavior", ("name",), ("number", "value")), (name, number, raw))
        else:
            self.store._client.hset(f"policyengine:behavior:{name}", mapping={"number": number, name: raw})


@pytest.fixture(params=SHARED)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        path = tmp_path / "store.db"
        yield Place(SqliteStore(path), f"sqlite:///{path}?timeout=20s")
    elif request.param == "postgres":
        postgres = request.getfixturevalue("postgres_server")
        for fresh in of_postgres(postgres):
            yield Place(fresh(), f"{postgres.store_url}?timeout=20s")
    elif request.param == "cluster":
        servers = request.getfixturevalue("redis_cluster")
        for fresh in of_cluster(servers):
            yield Place(fresh(), f"redis+cluster://127.0.0.1:{servers[0].port}?timeout=20s")
    else:
        server = request.getfixturevalue(f"{request.param}_server")
        for fresh in of_server(server):
            yield Place(fresh(), f"{server.url}?timeout=20s")


@pytest.fixture
def learned(place: Place, ten_days: BehaviorState) -> Place:
    """A store with the behavior of ten days."""
    teach(place.store, ten_days)
    return place


@pytest.fixture
def clock() -> FakeClock:
    clock = FakeClock()
    clock.now = BEGIN + timedelta(days=10, hours=9)
    return clock


def shown_url(place: Place) -> str:
    return re.sub("//.*@", "//", place.url.partition("?")[0])


# ── Show ──────────────────────────────────────────────────────────────────────────────────────


def test_the_classes_are_shown_without_names(run: Run, learned: Place) -> None:
    before = learned.content()
    ended = run("show", "--store", learned.url)
    assert ended.code == 0
    head, row, model = ended.out.splitlines()
    assert head.split() == ["class", "issuer", "callers", "ready", "runs", "endpoints", "margins", "burst"]
    assert row.split()[:5] == ["profile", "reporting", "idp", "4", "4"]
    assert model.startswith("model 11, learned 2026-01-15T")
    assert re.fullmatch(r".*Z, \d+d ago", model)
    assert "the settings of `profile reporting` are not known" in ended.err
    assert learned.content() == before


def test_the_classes_are_shown_as_json(run: Run, learned: Place) -> None:
    ended = run("show", "--store", learned.url, "--format", "json")
    assert set(ended.json) == {
        "store", "model", "model_number", "model_learned", "total", "callers", "classes", "damaged", "releases",
        "groups",
    }  # fmt: skip
    assert ended.json["store"] == shown_url(learned)
    assert (ended.json["total"], ended.json["callers"], ended.json["releases"]) == (4, [], [])
    [found] = ended.json["classes"]
    assert (found["issuer"], found["class"], found["callers"], found["ready"]) == ("idp", PROFILE, 4, 4)
    assert found["class_ready"]
    assert run("show", "--store", learned.url, "--issuer", "x", "--format", "json").json["classes"] == []


def test_a_caller_is_shown_as_from_a_folder(run: Run, learned: Place, tmp_path: Path) -> None:
    (tmp_path / "p.policy").write_text(POLICY)
    before = learned.content()
    ended = run("show", "report-1", "--store", learned.url, "--policies", "p.policy")
    assert ended.err == ""
    assert ended.out.startswith("report-1 of idp\n")
    assert "  ready        yes\n" in ended.out
    assert "  active days  10 of the last 14\n" in ended.out
    assert "a burst above" in ended.out
    assert "2026-01-14  GET /data/**\n" in ended.out
    assert "its class is ready: 236 runs of 4 callers, 1 endpoint" in ended.out
    assert learned.content() == before


def test_a_caller_is_shown_as_json(run: Run, learned: Place) -> None:
    ended = run("show", "report-1", "--issuer", "idp", "--store", learned.url, "--format", "json")
    [found] = ended.json["callers"]
    assert (found["agent"], found["issuer"], found["class"], found["ready"]) == ("report-1", "idp", PROFILE, True)
    assert [one["endpoint"] for one in found["endpoints"]] == [None]
    assert found["pace"][9] == 5


def test_a_caller_without_a_saved_row_is_shown_without_its_class(run: Run, place: Place, clock: FakeClock) -> None:
    engine = engine_of(place.store, clock)
    for _ in range(3):
        engine.decide(question())
    ended = run("show", "report-0", "--issuer", "idp", "--store", place.url)
    assert "  class        unknown: the store has it after the first 16 requests\n" in ended.out
    assert "3 requests and reports of failures" in ended.out
    ended = run("show", "report-0", "--issuer", "idp", "--store", place.url, "--format", "json")
    assert ended.json["callers"][0]["class"] is None
    assert run("show", "--store", place.url).out == "nothing is known about any caller yet\n"


def test_before_the_first_model_a_caller_is_found_at_the_issuers_of_rows(
    run: Run, place: Place, clock: FakeClock
) -> None:
    engine = engine_of(place.store, clock)
    for _ in range(20):
        clock.now += timedelta(seconds=5)
        engine.decide(question())
    assert run("show", "report-0", "--store", place.url).out.startswith("report-0 of idp\n")


def test_all_versions_of_a_caller_are_shown(run: Run, place: Place, clock: FakeClock) -> None:
    text = POLICY.replace("ready 20", 'version by request.headers["x-v"]   ready 20')
    engine = Engine.from_text(text, clock=clock, store=place.store)
    for version in ("one", "two"):
        for _ in range(18):
            clock.now += timedelta(minutes=1)
            asked = question()
            asked["request"]["headers"] = {"x-v": version}
            engine.decide(asked)
    assert engine.behavior is not None
    versions = [f"{engine.behavior.tag(version):08x}" for version in ("two", "one")]
    ended = run("show", "report-0", "--store", place.url, "--format", "json")
    assert [one["version"] for one in ended.json["callers"]] == versions
    assert run("forget", "report-0", "--store", place.url, "--format", "json").json["rows"] == 2
    assert run("show", "report-0", "--issuer", "idp", "--store", place.url).code == 1


@pytest.mark.parametrize("words", [["report-l"], ["report-1", "--issuer", "x"], ["report-1", "--instance", "i"]])
@pytest.mark.parametrize("command", ["show", "forget"])
def test_an_unknown_caller_is_an_error(run: Run, learned: Place, command: str, words: list[str]) -> None:
    ended = run(command, *words, "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "caller")
    assert "the store contains no names" in ended.json["error"]["hint"]


def test_a_name_at_several_issuers_is_refused_with_the_list(run: Run, place: Place, clock: FakeClock) -> None:
    tracker = SharedTracker(place.store.behavior)
    for issuer in ("idp", "partner"):
        text = POLICY.replace("issuer idp", f"issuer {issuer}").replace("issued by idp", f"issued by {issuer}")
        engine = Engine.from_text(text, store=place.store, behavior=tracker, clock=clock)
        for _ in range(20):
            clock.now += timedelta(seconds=5)
            asked = question()
            asked["agent"]["issuer"] = issuer
            engine.decide(asked)
    for command in ("show", "forget"):
        ended = run(command, "report-0", "--store", place.url, "--format", "json")
        assert ended.json["error"]["message"] == "`report-0` is the name of 2 callers"
        assert "report-0 of partner" in ended.err
    ended = run("forget", "report-0", "--issuer", "partner", "--store", place.url)
    assert ended.out == "forgot report-0 of partner\n"
    assert run("show", "report-0", "--store", place.url).out.startswith("report-0 of idp\n")


# ── Forget ────────────────────────────────────────────────────────────────────────────────────


def test_a_caller_is_forgotten_for_running_processes(run: Run, learned: Place, clock: FakeClock) -> None:
    engine = engine_of(learned.store, clock)
    assert told(engine.decide(question(task="a"))) == "allow 180"
    ended = run("forget", "report-0", "--store", learned.url)
    assert (ended.code, ended.out) == (0, "forgot report-0 of idp\n")
    assert told(engine.decide(question(task="a"))) == "allow 100"
    assert told(engine.decide(question(1, task="a"))) == "allow 180"
    assert run("forget", "report-2", "--store", learned.url, "--format", "json").json == {
        "store": shown_url(learned), "rows": 1, "forgotten": True, "server": False,
    }  # fmt: skip
    assert run("forget", "report-2", "--store", learned.url).code == 1


def test_all_callers_are_forgotten(run: Run, learned: Place) -> None:
    assert run("forget", "--all", "--store", learned.url).out == "forgot all 4 callers and their classes\n"
    ended = run("show", "--store", learned.url, "--format", "json")
    assert (ended.json["total"], ended.json["classes"], ended.json["model_number"]) == (0, [], 12)


# ── Release ───────────────────────────────────────────────────────────────────────────────────


def test_a_planned_change_is_followed_and_ended(run: Run, learned: Place, tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    clock = FakeClock()
    clock.now = datetime.now(UTC)
    engine = Engine.from_text(POLICY, clock=clock, store=learned.store, log=log)
    tracker = engine.behavior
    assert isinstance(tracker, SharedTracker)
    ended = run("release", "reporting", "--until", "2d", "--store", learned.url)
    assert ended.code == 0
    assert ended.out.startswith("planned a change of profile reporting until ")
    assert ended.out.endswith(", in 2d; processes that use the store apply this within ten seconds\n")
    tracker.keep()
    engine.decide(question())
    assert facts_of_last(engine).released
    shown = run("show", "--store", learned.url)
    assert "planned change of profile reporting until 20" in shown.out
    [release] = run("show", "report-1", "--store", learned.url, "--format", "json").json["releases"]
    assert release["class"] == PROFILE
    ended = run("release", PROFILE, "--end", "--store", learned.url, "--format", "json")
    assert ended.json == {"store": shown_url(learned), "class": PROFILE, "until": None, "server": None}
    tracker.keep()
    engine.decide(question())
    assert not facts_of_last(engine).released
    assert run("release", PROFILE, "--end", "--store", learned.url).code == 1
    log.close()


def test_a_planned_change_of_an_unknown_class_is_refused(run: Run, learned: Place) -> None:
    ended = run("release", "report", "--until", "2d", "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "behavior")
    assert ended.json["error"]["hint"] == "did you mean `reporting`?"
    ended = run("release", "other", "--end", "--store", learned.url)
    assert "no change of `other` is planned" in ended.err
    assert learned.store.behavior.document(RELEASES, 0) == (0, b"")


def test_forged_planned_changes_are_reported_and_replaced(run: Run, learned: Place) -> None:
    number = int(NOW.timestamp() * 1_000) + 10**9
    learned.put(RELEASES, number, sign_releases(number, [], b"x" * 32))
    ended = run("show", "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["releases"]) == (0, [])
    assert "the planned changes in the store are ignored: they were not signed with this key" in ended.err
    assert run("release", "reporting", "--until", "2d", "--store", learned.url).code == 0
    assert learned.store.behavior.document(RELEASES, 0)[0] == number + 1
    learned.put(RELEASES, 2**53, b"x")
    ended = run("release", "reporting", "--until", "2d", "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "behavior")
    assert "cannot be replaced" in ended.err


def test_a_change_is_not_planned_with_a_wrong_clock(run: Run, learned: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(learned.store, SqlStore):
        pytest.skip("the clock of a file is that of its processes")
    wrong = clock_skew.time_ns() + 60 * 10**9
    monkeypatch.setattr(clock_skew, "time_ns", lambda: wrong)
    ended = run("release", "reporting", "--until", "2d", "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "store")
    assert "the clock of this machine is" in ended.json["error"]["message"]
    assert learned.store.behavior.document(RELEASES, 0) == (0, b"")


# ── Stores that cannot be used ────────────────────────────────────────────────────────────────

COMMANDS = [["show"], ["show", "x"], ["forget", "x"], ["forget", "--all"], ["release", "x", "--until", "2d"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_without_learned_behavior_is_an_error_and_is_not_changed(
    run: Run, place: Place, command: list[str]
) -> None:
    before = place.content()
    ended = run(*command, "--store", place.url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "behavior")
    assert ended.json["error"]["message"] == f"the store at `{shown_url(place)}` has no learned behavior"
    assert place.content() == before


@pytest.mark.parametrize("command", [["show"], ["show", "report-1"], ["release", "x", "--until", "2d"]])
def test_a_damaged_model_is_one_error(run: Run, learned: Place, command: list[str]) -> None:
    learned.put(MODEL, 90, sign_model(learn_nothing(), b"another key"))
    ended = run(*command, "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "behavior")
    assert "cannot be used: it was not signed with this key" in ended.json["error"]["message"]
    assert ended.json["error"]["store"] == shown_url(learned)
    assert run("forget", "--all", "--store", learned.url).code == 0
    assert run("show", "--store", learned.url).code == 0


def learn_nothing() -> Any:
    from policyengine.behavior.model import EMPTY_MODEL

    return EMPTY_MODEL


def damage_row(learned: Place, key: str) -> None:
    if isinstance(learned.store, SqlStore):
        with learned.store.step() as connection:
            connection.execute("UPDATE caller_row SET row = ? WHERE key = ?", (b"\xff damaged", key))
    else:
        learned.store._client.set(f"policyengine:behavior:row:{{{key}}}", b"\xff damaged")


def test_a_damaged_row_is_one_error_and_can_be_forgotten(run: Run, learned: Place) -> None:
    key = KEYS.key_of(CALLER)
    damage_row(learned, key)
    ended = run("show", "report-0", "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "behavior")
    assert "the row of a caller is damaged" in ended.json["error"]["message"]
    ended = run("show", "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["total"]) == (0, 3)
    assert ended.json["damaged"] == [key]
    assert "left out 1 damaged caller, whose facts are unknown until they are forgotten" in ended.err
    assert key in ended.err
    assert run("forget", "report-0", "--store", learned.url).code == 0
    assert run("show", "report-1", "--store", learned.url).code == 0
    assert run("show", "--store", learned.url, "--format", "json").json["damaged"] == []


def damage_state(learned: Place, key: str) -> None:
    if isinstance(learned.store, SqlStore):
        with learned.store.step() as connection:
            connection.execute("UPDATE caller SET state = ? WHERE key = ?", (b"\xc1", key))
    else:
        learned.store._client.set(f"policyengine:behavior:{{{key}}}", b"\xc1")


@pytest.mark.parametrize("named_by", ["name", "key"])
def test_a_damaged_caller_is_named_and_can_be_forgotten(run: Run, learned: Place, named_by: str) -> None:
    key = KEYS.key_of(CALLER)
    name = "report-0" if named_by == "name" else key
    damage_state(learned, key)
    ended = run("show", "report-0", "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "behavior")
    assert "the state of a caller is damaged" in ended.json["error"]["message"]
    ended = run("show", "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["total"], ended.json["damaged"]) == (0, 3, [key])
    ended = run("show", key, "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "caller")
    assert ended.json["error"]["hint"] == f"`behavior forget {key}` forgets the caller"
    ended = run("forget", name, "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["rows"]) == (0, 1)
    assert run("forget", name, "--store", learned.url, "--format", "json").json["error"]["kind"] == "caller"
    ended = run("show", "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["total"], ended.json["damaged"]) == (0, 3, [])


def test_damaged_callers_are_forgotten_with_all_others(run: Run, learned: Place) -> None:
    damage_state(learned, KEYS.key_of(CALLER))
    ended = run("forget", "--all", "--store", learned.url, "--format", "json")
    assert (ended.code, ended.json["rows"]) == (0, 4)
    assert run("show", "--store", learned.url, "--format", "json").json["damaged"] == []


def test_many_damaged_callers_are_one_line(run: Run, learned: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show_store, "MAX_SHOWN", 2)
    for agent in range(3):
        damage_state(learned, KEYS.key_of(CALLER._replace(agent=f"report-{agent}")))
    ended = run("show", "--store", learned.url)
    assert "left out 3 damaged callers" in ended.err
    assert " and 1 more" in ended.err


def test_a_damaged_caller_hides_no_other_before_the_first_model(run: Run, place: Place) -> None:
    """Before the first model, issuers and classes are read from the rows of all callers."""
    engine = engine_of(place.store, FakeClock())
    for agent in range(3):
        for _ in range(20):
            engine.decide(question(agent))
    key = engine.behavior.key_of(CALLER)  # type: ignore[union-attr]
    for damage in (damage_row, damage_state):
        damage(place, key)
        assert run("show", "report-1", "--store", place.url).code == 0
        assert run("release", "other", "--until", "2d", "--store", place.url).code == 1
        assert "known: `reporting`" in run("release", "other", "--until", "2d", "--store", place.url).err
    assert run("forget", "report-1", "--store", place.url).code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_does_not_exist_is_not_created(run: Run, tmp_path: Path, command: list[str]) -> None:
    ended = run(*command, "--store", "sqlite:///missing.db", "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "store")
    assert "`missing.db` does not exist" in ended.json["error"]["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"text" * 999, b"SQLite format 3\x00"])
def test_a_file_that_is_no_store_is_not_changed(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    ended = run("show", "--store", "sqlite:///other", "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "store")
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("other", content)]


def test_another_database_is_not_changed(run: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE behavior (name)")
    connection.close()
    before = (tmp_path / "other.db").read_bytes()
    ended = run("show", "--store", "sqlite:///other.db")
    assert (ended.code, ended.out) == (1, "")
    assert "is not a store of policyengine" in ended.err
    assert (tmp_path / "other.db").read_bytes() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unreachable_store_is_one_error_without_its_password(run: Run, command: list[str]) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}"
    ended = run(*command, "--store", url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (1, "store")
    assert "cannot be used" in ended.json["error"]["message"]
    assert "secret" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory:", "a memory store belongs to one process"),
        ("mysql://host", "`mysql:` is not a known kind of store"),
        ("redis://host/prod", "`/prod` is not a database number"),
        ("", "`` is not a known kind of store"),
    ],
)
def test_a_wrong_url_is_one_error(run: Run, url: str, message: str) -> None:
    ended = run("show", "--store", url, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"], ended.json["error"]["message"]) == (1, "store", message)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("places", [[], ["--store", "sqlite:///a.db", "--behavior", "folder"]])
def test_a_folder_and_a_store_exclude_each_other(run: Run, command: list[str], places: list[str]) -> None:
    ended = run(*command, *places, "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (2, "usage")
    assert ended.json["error"]["hint"] == "write `--behavior FOLDER` or `--store URL`"


def test_an_instance_needs_a_caller(run: Run, tmp_path: Path) -> None:
    ended = run("show", "--instance", "i", "--store", "sqlite:///a.db", "--format", "json")
    assert (ended.code, ended.json["error"]["kind"]) == (2, "usage")


def test_a_server_that_stops_answering_is_one_error(run: Run, redis_server: Server, ten_days: BehaviorState) -> None:
    for fresh in of_server(redis_server):
        teach(fresh(), ten_days)
    redis_server.pause()
    try:
        ended = run("show", "--store", redis_server.url, "--format", "json")
    finally:
        redis_server.resume()
    assert (ended.code, ended.json["error"]["kind"]) == (1, "store")
