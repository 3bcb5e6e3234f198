"""Entities that are replaced during a reload: no order of events brings older rows back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice, permutations
from pathlib import Path
from threading import Thread

import pytest

from policyengine.engine import Engine
from policyengine.entities import sources
from policyengine.entities.merge import RowCollector
from policyengine.entities.sources import EntitySources
from policyengine.entities.store import EntityStore
from policyengine.entities.watch import EntityWatcher
from policyengine.reload import Candidate, ReloadableEngine, ReloadSource, prepare_candidate
from policyengine.reload.candidate import read_candidate
from policyengine.reload.scheduler import ReloadScheduler
from policyengine.server.workers.reload import (
    AbortReload,
    CommitReload,
    PrepareReload,
    ReloadCoordinator,
    ReloadParticipant,
    WorkerChannel,
)
from tests.depth import examples, scaled
from tests.entities.conftest import sqlite_of
from tests.reload.conftest import QUIET

POLICY = """language 1
package shop
entity user {
  roles: set<string>
  level: string?
}
anyone { may GET /x }
guard "clerks" on GET /x { require user.roles has "clerk" }
"""
MORE = POLICY + 'guard "audited" on GET /x { audit full }\n'
RETYPED = MORE.replace("level: string?", "level: int?")
QUESTION = {"request": {"method": "GET", "path": "/x"}, "user": {"id": "alice"}}
DATABASE = """
[directory]
refresh = "60s"

[directory.user]
table = "people"
id = "id"

[directory.user.attributes]
roles = "roles"
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Shop:
    """A policy file, an entity file, and the engine and watcher of a server."""

    def __init__(self, folder: Path, name: str = "entities.json") -> None:
        self.policy, self.file = folder / "shop.policy", folder / name
        self.policy.write_text(POLICY)
        self.write("clerk")
        self.held = ReloadableEngine.load(self.policy, entities=self.file, rules=QUIET)
        assert self.held.origin is not None
        assert self.held.origin.entities is not None
        self.origin: ReloadSource = self.held.origin
        self.sources: EntitySources = self.held.origin.entities
        self.watcher = EntityWatcher(self.sources, lambda: self.held.current)

    def write(self, *roles: str, more: str = "") -> None:
        if self.file.suffix == ".csv":
            self.file.write_text(f"id,roles,level\nalice,{';'.join(roles)},7\n{more}")
        else:
            row = {"type": "user", "id": "alice", "attributes": {"roles": list(roles)}}
            self.file.write_text(json.dumps({"entities": [row]}))

    def look(self) -> bool:
        """Look twice, because what has changed is read once it stays as it is."""
        return self.watcher.look() or self.watcher.look()

    def revoke(self) -> None:
        """Revoke the role; the watcher replaces the entities."""
        self.write()
        assert self.look()
        assert not self.allows

    def prepare(self, policy: str = MORE) -> Candidate:
        self.policy.write_text(policy)
        return prepare_candidate(self.origin)

    @property
    def allows(self) -> bool:
        return self.held.current.decide(QUESTION).allowed

    @property
    def reloaded(self) -> bool:
        return "audited" in {guard.name for guard in self.held.current.kernel.guards}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def table(tmp_path: Path) -> Shop:
    """A shop whose entities are a table, which is read as the policies declare it."""
    return Shop(tmp_path, "user.csv")


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something once, after the next read of entities has read its files and before it ends."""
    directory = RowCollector.directory

    def use(act: Callable[[], object]) -> None:
        acts = [act]

        def slow(self: RowCollector) -> EntityStore:
            if acts:
                acts.pop()()
            return directory(self)

        monkeypatch.setattr(RowCollector, "directory", slow)

    return use


# ── The watcher replaces entities during a reload ─────────────────────────────────────────────


def test_entities_that_were_replaced_after_the_candidate_was_read_are_kept(shop: Shop) -> None:
    def prepare(origin: ReloadSource) -> Candidate:
        found = prepare_candidate(origin)
        shop.revoke()
        return found

    shop.policy.write_text(MORE)
    assert shop.held.reload(prepare)
    assert (shop.reloaded, shop.allows) == (True, False)


def test_entities_that_were_replaced_while_the_gate_compared_are_kept(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = shop.held.gate.check

    def slow(*given: object) -> None:
        shop.revoke()
        check(*given)  # type: ignore[arg-type]

    scheduler = ReloadScheduler(shop.held, watching=False, prepare=prepare_candidate)
    shop.policy.write_text(MORE)
    monkeypatch.setattr(shop.held.gate, "check", slow)
    scheduler.ask()
    candidate = scheduler.candidate() or scheduler.candidate()
    assert candidate is not None
    shop.held.replace(shop.held.engine_of(candidate))
    assert (shop.reloaded, shop.allows) == (True, False)


def test_entities_that_were_replaced_between_preparing_and_swapping_are_kept(shop: Shop) -> None:
    engine = shop.held.engine_of(shop.prepare())
    shop.revoke()
    shop.held.replace(engine)
    assert (shop.reloaded, shop.allows) == (True, False)


def test_a_successor_without_entities_of_its_own_takes_those_of_the_swap(shop: Shop) -> None:
    engine = shop.held.current.successor(Engine.from_text(MORE).kernel)
    shop.revoke()
    shop.held.replace(engine)
    assert (shop.reloaded, shop.allows) == (True, False)


def test_a_successor_takes_the_entities_that_replaced_those_it_inherited_however_old_they_are(shop: Shop) -> None:
    older = EntityStore()
    shop.held.current.replace_directory(shop.sources.read(shop.held.current.kernel.entities))
    engine = shop.held.current.successor(Engine.from_text(MORE).kernel)
    shop.held.current.replace_directory(older)
    shop.held.replace(engine)
    assert (shop.reloaded, shop.held.current.directory) == (True, older)


def test_entities_that_were_replaced_by_hand_during_a_reload_are_kept(shop: Shop) -> None:
    candidate = shop.prepare()
    shop.held.current.replace_directory(EntityStore())
    shop.held.replace(shop.held.engine_of(candidate))
    assert (shop.reloaded, len(shop.held.current.directory)) == (True, 0)


def test_database_rows_that_were_replaced_during_a_reload_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed: pip install '.[sql]'")
    create = "create table people (id text primary key, roles text); insert into people values ('alice', '{}');"
    url, file, policy = sqlite_of(tmp_path / "a.db", create.format("clerk")), tmp_path / "a.toml", tmp_path / "a.policy"
    file.write_text(DATABASE.replace("[directory]\n", f'[directory]\nurl = "{url}"\n', 1))
    policy.write_text(POLICY)
    held, clock = ReloadableEngine.load(policy, entities=file, rules=QUIET), Clock()
    assert held.origin is not None
    assert held.origin.entities is not None
    watcher = EntityWatcher(held.origin.entities, lambda: held.current, files=False, clock=clock)
    assert held.current.decide(QUESTION).allowed
    policy.write_text(MORE)
    candidate = prepare_candidate(held.origin)
    sqlite_of(tmp_path / "a.db", create.format(""))
    clock.now = 60.0
    assert watcher.look()
    held.replace(held.engine_of(candidate))
    assert not held.current.decide(QUESTION).allowed


def test_a_candidate_with_older_entities_and_the_same_policies_is_not_new(shop: Shop) -> None:
    assert shop.held.reload()
    candidate = shop.prepare(POLICY)
    shop.revoke()
    assert not shop.held.is_new(candidate)


def test_a_candidate_that_was_prepared_but_not_swapped_in_is_new(shop: Shop) -> None:
    candidate = shop.prepare()
    engine = shop.held.engine_of(candidate)
    shop.held.replace(shop.held.current.successor(shop.held.current.kernel))
    assert shop.held.current is not engine
    assert shop.held.is_new(candidate)


def test_a_candidate_with_newer_entities_takes_effect(shop: Shop) -> None:
    shop.revoke()
    shop.write("clerk")
    candidate = shop.prepare()
    shop.held.replace(shop.held.engine_of(candidate))
    assert (shop.reloaded, shop.allows) == (True, True)


def test_reads_at_the_same_time_are_followed_by_a_third_read(
    shop: Shop, during: Callable[[Callable[[], object]], None]
) -> None:
    """Files that change during a read are refused; databases change unseen."""
    during(shop.revoke)
    shop.policy.write_text(MORE)
    candidate = read_candidate(shop.origin)
    shop.held.replace(shop.held.engine_of(candidate))
    assert (shop.reloaded, shop.allows) == (True, False)


def test_a_candidate_that_began_first_and_read_last_is_not_older(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    read, began = sources._read_source, False

    def slow(*given: object) -> None:
        nonlocal began
        if not began:
            began = True
            assert shop.look()
            shop.write()
        read(*given)  # type: ignore[arg-type]

    shop.write("clerk", "guest")
    shop.policy.write_text(MORE)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_read_source", slow)
        candidate = read_candidate(shop.origin)
    assert (began, shop.allows) == (True, True)
    shop.held.replace(shop.held.engine_of(candidate))
    assert (shop.reloaded, shop.allows) == (True, False)


def test_a_newer_candidate_is_used_although_an_older_read_ended_last(
    shop: Shop, during: Callable[[Callable[[], object]], None]
) -> None:
    """The watcher has read the role before it was revoked, and the candidate afterwards."""
    found: list[Candidate] = []

    def revoke() -> None:
        shop.write()
        found.append(shop.prepare())

    shop.write("clerk", "guest")
    during(revoke)
    assert shop.look()
    assert shop.allows
    shop.held.replace(shop.held.engine_of(found[0]))
    assert (shop.reloaded, shop.allows) == (True, False)


# ── A reload swaps the engine while the watcher reads ─────────────────────────────────────────


def test_the_watcher_does_not_undo_a_reload_that_ended_during_its_read(
    shop: Shop, during: Callable[[Callable[[], object]], None]
) -> None:
    def revoke() -> None:
        shop.write()
        shop.policy.write_text(MORE)
        assert shop.held.reload()

    shop.write("clerk", "guest")
    during(revoke)
    shop.look()
    assert (shop.reloaded, shop.allows) == (True, False)


def test_entities_reach_the_engine_that_a_reload_installed_during_the_read(
    shop: Shop, during: Callable[[Callable[[], object]], None]
) -> None:
    candidate = shop.prepare()
    shop.write()
    during(lambda: shop.held.replace(shop.held.engine_of(candidate)))
    assert shop.look()
    assert (shop.reloaded, shop.allows) == (True, False)


def test_entities_that_were_replaced_by_hand_during_a_read_of_the_watcher_are_read_again(
    shop: Shop, during: Callable[[Callable[[], object]], None]
) -> None:
    def revoke() -> None:
        shop.write()
        shop.held.current.replace_directory(shop.sources.read(shop.held.current.kernel.entities))

    shop.write("clerk", "guest")
    during(revoke)
    assert shop.look()
    assert not shop.allows


def test_the_watcher_looks_again_when_every_read_was_overtaken(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads = EntitySources.read, 0

    def overtaken(self: EntitySources, declared: object) -> EntityStore:
        nonlocal reads
        reads += 1
        found = read(self, declared)  # type: ignore[arg-type]
        shop.held.replace(shop.held.current.successor(shop.held.current.kernel))
        return found

    shop.write()
    assert not shop.watcher.look()
    with monkeypatch.context() as patch:
        patch.setattr(EntitySources, "read", overtaken)
        assert not shop.watcher.look()
    assert (reads > 1, shop.allows) == (True, True)
    assert shop.watcher.look()
    assert not shop.allows


# ── Policies that declare other entities ──────────────────────────────────────────────────────


def test_policies_with_other_declarations_read_replaced_entities_again(table: Shop) -> None:
    candidate = table.prepare(RETYPED)
    table.revoke()
    table.held.replace(table.held.engine_of(candidate))
    assert not table.allows
    [row] = table.held.current.directory
    assert row.attributes["level"] == 7  # a string by the old declaration


def test_a_reload_that_read_again_may_not_lose_rows(table: Shop) -> None:
    candidate = table.prepare(RETYPED)
    table.revoke()
    table.file.write_text("id,roles,level\n")
    revision = table.held.current.revision

    assert not table.held.reload(lambda _: candidate)
    assert table.held.current.revision == revision
    assert (table.held.reloads.why, table.held.reloads.refused) == ("rows of 1 entity type are gone", 1)
    assert table.held.reload(lambda _: candidate, allow=["removed-entities"])


def test_a_reload_is_refused_if_the_entities_cannot_be_read_again(table: Shop) -> None:
    engine = table.held.engine_of(candidate := table.prepare(RETYPED))
    table.revoke()
    table.file.write_text("id,id\n")
    revision = table.held.current.revision
    assert not table.held.reload(lambda _: candidate)
    assert (table.held.current.revision, table.held.reloads.why) == (revision, "the entities cannot be used")
    with pytest.raises(Exception, match="the entities cannot be used"):
        table.held.replace(engine)
    table.write()
    assert table.held.reload()
    assert table.held.reloads.done == 1


# ── The gate ──────────────────────────────────────────────────────────────────────────────────


def test_older_rows_are_not_a_loss_because_they_are_not_used(shop: Shop) -> None:
    team = {"type": "team", "id": "legal"}
    shop.policy.write_text(POLICY.replace("anyone", "entity team {}\nanyone"))
    assert shop.held.reload()
    candidate = shop.prepare(MORE.replace("anyone", "entity team {}\nanyone"))
    rows = json.loads(shop.file.read_text())["entities"]
    shop.file.write_text(json.dumps({"entities": [*rows, team]}))
    assert shop.look()
    assert shop.held.reload(lambda _: candidate)
    assert len(shop.held.current.directory) == 2


def test_rows_that_the_watcher_added_after_the_check_may_not_be_lost(shop: Shop) -> None:
    """The candidate was read later than the rows that the watcher had read, and was checked before they took effect."""
    text = POLICY.replace("anyone", "entity team {}\nanyone")
    shop.policy.write_text(text)
    assert shop.held.reload()
    before = shop.file.read_text()
    rows = [*json.loads(before)["entities"], {"type": "team", "id": "legal"}]
    shop.file.write_text(json.dumps({"entities": rows}))
    with_team = shop.sources.read(shop.held.current.kernel.entities)
    shop.file.write_text(before)
    candidate = shop.prepare(MORE.replace("anyone", "entity team {}\nanyone"))
    shop.held.check(candidate)
    shop.held.current.replace_directory(with_team)
    with pytest.raises(Exception, match="rows of 1 entity type are gone"):
        shop.held.engine_of(candidate)


# ── Every order of events ─────────────────────────────────────────────────────────────────────


def orders() -> Iterator[tuple[str, ...]]:
    """Every order of two writes, two looks, and a reload in its three steps, of which a look is not the first and not
    the last."""
    for order in sorted(set(permutations(["write", "write", "look", "look", "step", "step", "step"]))):
        steps = iter(["read", "prepare", "swap"])
        found = tuple(next(steps) if event == "step" else event for event in order)
        if "look" in found[found.index("read") : found.index("swap")]:
            yield found


@scaled
@pytest.mark.parametrize("policy", [MORE, RETYPED], ids=["same declarations", "other declarations"])
def test_no_order_of_events_brings_older_rows_back(tmp_path: Path, policy: str) -> None:
    for number, order in enumerate(islice(orders(), 0, None, examples(5, 1))):
        folder = tmp_path / str(number)
        folder.mkdir()
        shop, version, candidate, engine, seen = Shop(folder, "user.csv"), 0, None, None, [0]
        for event in order:
            match event:
                case "write":
                    version += 1
                    shop.write("clerk", f"{version}")
                case "look":
                    shop.look()
                case "read":
                    candidate = shop.prepare(policy)
                case "prepare":
                    assert candidate is not None
                    engine = shop.held.engine_of(candidate)
                case "swap":
                    assert engine is not None
                    shop.held.replace(engine)
            [row] = shop.held.current.directory
            seen.append(max((int(role) for role in row.attributes["roles"] if role != "clerk"), default=0))  # type: ignore[attr-defined]
        assert seen == sorted(seen), order
        shop.look()
        [row] = shop.held.current.directory
        assert str(version) in row.attributes["roles"], order  # type: ignore[operator]


# ── Several workers ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def participant(shop: Shop) -> Iterator[ReloadParticipant]:
    """The worker's side of a reload, which this thread gives its orders."""
    ends = WorkerChannel.pair()
    yield ReloadParticipant(shop.held, ends[0])
    for end in ends:
        end.close()


def test_a_worker_keeps_entities_that_were_replaced_after_the_candidate_was_read(shop: Shop) -> None:
    here, there = WorkerChannel.pair()
    thread = ReloadParticipant(shop.held, there).start()
    supervisor = ReloadableEngine.load(shop.policy, entities=shop.file, rules=QUIET)
    candidate = shop.prepare()
    shop.revoke()
    ReloadCoordinator(supervisor, [here], longest=20).take(candidate)
    here.close()
    thread.join(20)
    assert (shop.reloaded, shop.allows) == (True, False)
    assert shop.held.reloads.done == 1


def test_a_worker_keeps_entities_that_were_replaced_between_the_two_steps(
    shop: Shop, participant: ReloadParticipant
) -> None:
    assert participant._done(PrepareReload(shop.prepare())) is None
    shop.revoke()
    assert participant._done(CommitReload(shop.held.reloads)) is None
    assert (shop.reloaded, shop.allows) == (True, False)


@pytest.mark.parametrize("commits", [True, False])
def test_the_watcher_of_a_worker_waits_between_the_two_steps(
    shop: Shop, participant: ReloadParticipant, commits: bool
) -> None:
    engine = shop.held.current
    assert participant._done(PrepareReload(shop.prepare())) is None
    shop.write()
    looking = Thread(target=shop.look)
    assert not acquired_elsewhere(engine)
    looking.start()
    done = participant._done((CommitReload if commits else AbortReload)(shop.held.reloads))
    looking.join(20)
    assert (done, shop.reloaded, shop.allows) == (None, commits, False)
    assert acquired_elsewhere(engine)


def test_a_worker_that_refused_a_candidate_can_replace_its_entities(shop: Shop, participant: ReloadParticipant) -> None:
    candidate = shop.prepare()
    refused = participant._done(PrepareReload(Candidate(b"nonsense", candidate.directory, candidate.inventory)))
    assert refused is not None
    assert acquired_elsewhere(shop.held.current)


def acquired_elsewhere(engine: Engine) -> bool:
    """Return whether another thread could replace the entities now."""
    found: list[bool] = []

    def use() -> None:
        found.append(engine.directory_lock.acquire(blocking=False))
        if found[0]:
            engine.directory_lock.release()

    thread = Thread(target=use)
    thread.start()
    thread.join()
    return found[0]


def test_a_candidate_that_a_worker_refused_is_new_when_it_is_read_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = WorkerChannel.pair()
    worker = ReloadableEngine.load(shop.policy, entities=shop.file, rules=QUIET)
    thread = ReloadParticipant(worker, there).start()
    crew, candidate = ReloadCoordinator(shop.held, [here], longest=20), shop.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(worker, "engine_of", lambda _: 1 / 0)
        crew.take(candidate)
    assert (shop.reloaded, shop.held.is_new(candidate)) == (False, True)
    crew.take(candidate)
    here.close()
    thread.join(20)
    assert (shop.reloaded, shop.held.is_new(candidate)) == (True, False)
