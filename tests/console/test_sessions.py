"""Sessions: how they begin and end, how many there are, and what a stolen or planted cookie is worth."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from stat import S_IRUSR

import pytest

from policyengine.identity.login.open_id_client import Person
from policyengine.server.console.cookies import CookieSeal
from policyengine.server.console.sessions import MAX_SESSIONS, MAX_SESSIONS_PER_PERSON, ConsoleSession, ConsoleSessions
from policyengine.server.console.spent_states import MAX_SPENT_STATES, SpentStates
from policyengine.server.console.throttle import MAX_ADDRESSES, AttemptThrottle
from tests.console.world import Provider, StartedLogin, Visitor, World, console

ALICE, BOB = Person("alice", "acme"), Person("bob", "acme")


class Table:
    """A table of sessions with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ended: list[tuple[str, str]] = []

        def ended(session: ConsoleSession, why: str) -> None:
            self.ended.append((session.person.user, why))

        self.table = ConsoleSessions(timedelta(minutes=30), timedelta(hours=12), ended, lambda: self.now)


def test_a_session_ends_when_it_is_idle() -> None:
    kept = Table()
    name, session = kept.table.open(ALICE)
    kept.now = 1_799
    assert kept.table.find(name) is session
    kept.now += 1_799
    assert kept.table.find(name) is session
    kept.now += 1_800
    assert kept.table.find(name) is None
    assert kept.ended == [("alice", "idle")]


def test_a_script_in_the_background_does_not_keep_a_session_alive() -> None:
    kept = Table()
    name, _ = kept.table.open(ALICE)
    for _ in range(3):
        kept.now += 599
        assert kept.table.find(name, touch=False)
    kept.now += 599
    assert kept.table.find(name, touch=False) is None


def test_a_session_ends_after_its_longest_time_however_much_it_is_used() -> None:
    kept = Table()
    name, _ = kept.table.open(ALICE)
    while kept.now < 43_200 - 900:
        kept.now += 900
        assert kept.table.find(name)
    kept.now = 43_200
    assert kept.table.find(name) is None
    assert kept.ended == [("alice", "expired")]


def test_a_sweep_ends_sessions_that_nobody_uses() -> None:
    kept = Table()
    kept.table.open(ALICE)
    kept.now = 1_800
    kept.table.sweep()
    assert kept.ended == [("alice", "idle")]
    assert len(kept.table) == 0


def test_a_person_has_a_bounded_number_of_sessions() -> None:
    kept = Table()
    other, _ = kept.table.open(BOB)
    names = [kept.table.open(ALICE)[0] for _ in range(MAX_SESSIONS_PER_PERSON + 2)]
    assert [kept.table.find(name) is None for name in names] == [True] * 2 + [False] * MAX_SESSIONS_PER_PERSON
    assert kept.table.find(other) is not None
    assert kept.ended == [("alice", "displaced")] * 2


def test_a_flood_of_sessions_is_bounded() -> None:
    kept = Table()
    for number in range(MAX_SESSIONS + 50):
        kept.table.open(Person(f"user-{number}", "acme"))
    assert len(kept.table) == MAX_SESSIONS
    assert len(kept.ended) == 50


@pytest.mark.parametrize("name", [None, "", "x", "\udcff", "x" * 5_000])
def test_an_unknown_id_is_no_session(name: str | None) -> None:
    kept = Table()
    kept.table.open(ALICE)
    assert kept.table.find(name) is None


def test_the_table_does_not_keep_the_ids() -> None:
    kept = Table()
    name, session = kept.table.open(ALICE)
    assert name not in repr(session)
    assert session.csrf not in repr(session)
    assert name.encode() not in session.key


def test_a_sealed_value_opens_only_for_its_purpose_and_process() -> None:
    seal = CookieSeal(clock=lambda: 100.0)
    sealed = seal.seal("login", {"state": "s"}, 10)
    assert seal.open("login", sealed) == {"state": "s", "exp": "110"}
    assert seal.open("form", sealed) is None
    assert CookieSeal().open("login", sealed) is None
    changed = ("A" if sealed[0] != "A" else "B") + sealed[1:]  # not the last character: some of its bits say nothing
    for other in (changed, sealed[:-4], "", "é", "====", None):
        assert seal.open("login", other) is None


def test_a_state_is_spent_once_and_forgotten_later() -> None:
    spent = SpentStates()
    assert spent.spend("a", until=10, now=0)
    assert not spent.spend("a", until=10, now=9)
    assert spent.spend("b", until=20, now=10)
    assert len(spent._spent) == 1
    for number in range(MAX_SPENT_STATES + 5):
        spent.spend(str(number), until=100, now=10)
    assert len(spent._spent) == MAX_SPENT_STATES


def test_attempts_are_bounded_by_address_and_in_total() -> None:
    now = 0.0
    throttle = AttemptThrottle(per_address=2, total=5, clock=lambda: now)
    assert [throttle.admit("a") for _ in range(3)] == [True, True, False]
    assert [throttle.admit("b") for _ in range(3)] == [True, True, False]
    assert [throttle.admit("c") for _ in range(2)] == [True, False]
    now = 60.0
    assert throttle.admit("a")
    for number in range(MAX_ADDRESSES + 10):
        throttle.admit(str(number))
    assert len(throttle._by_address) == MAX_ADDRESSES


# ── Over HTTP ─────────────────────────────────────────────────────────────────────────────────


def test_the_cookie_of_a_session_is_for_this_host_and_no_script(world: World) -> None:
    visitor = world.visitor()
    page = visitor.sign_in_with(world.links[0])
    [cookie] = [one for one in page.cookies if "session" in one]
    assert cookie.partition("; ")[2] == "HttpOnly; Path=/; SameSite=lax"
    assert visitor.session is not None
    assert len(visitor.session) == 43


def test_over_https_the_cookies_have_the_host_prefix(tmp_path: Path) -> None:
    with console(tmp_path, public_url="https://console.example.com") as world:
        visitor = world.visitor()
        page = visitor.get("/sign-in", Host="console.example.com")
        assert page.headers["Strict-Transport-Security"] == "max-age=31536000"
        form = {"csrf": page.field("csrf"), "secret": world.links[0].partition("secret=")[2]}
        page = visitor.post("/sign-in/link", form, Host="console.example.com", Origin="https://console.example.com")
        [cookie] = [one for one in page.cookies if "session" in one]
        assert cookie.startswith("__Host-policyengine-session=")
        assert "; Secure" in cookie
        assert "Domain" not in cookie
        assert world.links[0].startswith("https://console.example.com/sign-in/link?")


def test_a_planted_session_id_is_not_adopted(world: World) -> None:
    """Session fixation: the attacker plants a cookie before the victim signs in."""
    name = world.server.console.cookies.name("session")
    attacker = world.operator()
    for planted in ("a" * 43, attacker.session):
        victim = Visitor(world.url, {name: str(planted)})
        page = victim.sign_in_with(world.new_link())
        assert page.status == 303
        assert victim.session not in (planted, None)
        assert Visitor(world.url, {name: str(planted)}).get("/").status == 303


def test_two_cookies_of_one_name_are_none(world: World) -> None:
    visitor = world.operator()
    name = world.server.console.cookies.name("session")
    for both in (f"{name}=planted; {name}={visitor.session}", f"{name}={visitor.session}; {name}=planted"):
        assert Visitor(world.url).get("/", Cookie=both).status == 303
    assert Visitor(world.url).get("/", Cookie=f"{name}={visitor.session}").status == 200


def test_after_signing_out_the_cookie_is_worth_nothing(world: World) -> None:
    visitor = world.operator()
    thief = Visitor(world.url, dict(visitor.cookies))
    page = visitor.post("/sign-out", {"csrf": visitor.get("/").field("csrf")})
    assert (page.status, page.location) == (303, "/sign-in")
    assert visitor.session is None
    assert "Clear-Site-Data" in page.headers
    assert thief.get("/").status == 303
    assert thief.get("/counts").status == 303


def test_the_script_of_the_overview_does_not_keep_a_session_alive(world: World) -> None:
    visitor, sessions = world.operator(), world.server.console.sessions
    began = sessions._clock()
    for minutes, path, status in ((20, "/counts", 200), (29, "/log", 200), (49, "/counts", 200), (59, "/", 303)):
        sessions._clock = lambda passed=60 * minutes: began + passed
        assert visitor.get(path).status == status
    assert world.records()[-1] == ("console_signed_out", {"user": "operator", "why": "idle"})


def test_a_flood_of_started_sign_ins_takes_no_memory(signing: World, provider: Provider) -> None:
    for _ in range(15):
        StartedLogin.of(signing.visitor())
    console_ = signing.server.console
    assert len(console_.sessions) == 0
    assert len(console_.spent._spent) == 0


def test_nobody_signs_in_if_it_cannot_be_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.engine.log is not None
    monkeypatch.setattr(world.engine.log.system, "_write", lambda details, moment: False)
    visitor = world.visitor()
    assert visitor.sign_in_with(world.links[0]).status == 503
    assert visitor.session is None


def test_without_a_log_people_can_sign_in(tmp_path: Path) -> None:
    with console(tmp_path, log=False) as world:
        visitor = world.operator()
        assert visitor.get("/").status == 200
        assert "writes no decision log" in visitor.get("/log").text


def test_every_act_is_recorded_however_many_there_are(world: World) -> None:
    from policyengine.audit import SystemEvent

    for _ in range(50):
        assert world.server.console.records.act(SystemEvent.CONSOLE_SIGNED_IN, ALICE)
    assert len(world.records()) == 50
    assert world.log.stat().st_mode & S_IRUSR
