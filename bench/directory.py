"""`directory`: load time of 100,000 users in 10,000 teams nested five deep, and the cost of membership in a decision.

The same rows are written as JSON, JSON Lines, CSV and SQLite; nothing is timed unless all formats load equal rows.
"""

from __future__ import annotations

import gc
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TypeAlias

from bench.report import Section, Target
from bench.trial import format_number
from policyengine import Engine
from policyengine.entities.sources import EntitySources
from policyengine.entities.store import EntityStore
from policyengine.runtime.entities import EntityData
from policyengine.typesystem import EntityRef

TEAMS, USERS, DEPTH = 10_000, 100_000, 5
LOADS = 3
CALLS, ROUNDS, FEW = 3_000, 40, 300
WITHOUT, WITH = "decide without membership", "decide with `user in resource.approvers`"
CACHED_ROW, FETCHED_ROW = "decide by a row looked up before", "decide by a row looked up each time, SQLite"
MAX_LOAD_SECONDS, MAX_ADDED_MICROSECONDS = 3.0, 0.2
Say = Callable[[str], None]
Team: TypeAlias = tuple[str, str]  # id and parent
User: TypeAlias = tuple[str, str, str, str]  # id, team, plan, tenant

POLICY = """language 1
package bench.directory
enum plan = free < team
entity team in team
entity user { plan: plan   tenant: string } in team
entity invoice { tenant: string   approvers: set<user or team> }
scope read as "read" { GET /v1/invoices/{id: invoice} }
issuer acme { url "https://acme.example"   audience "bench" }
user any { may read when CONDITION }
agent "bot" { issued by acme   acts for any user   may read }
"""
PLAIN = "user.tenant == resource.tenant"
MEMBER = f"{PLAIN} and user in resource.approvers"
MAPPING = """[directory]
url = "sqlite:///people.db"
[directory.team]
table = "team"
in = "parent"
[directory.user]
table = "user"
in = "team"
attributes = ["plan", "tenant"]
"""


def generate_people(seed: int = 1) -> tuple[list[Team], list[User]]:
    """Return teams in `DEPTH` levels of equal size, each inside a random team of the level above, and users inside the
    lowest teams."""
    random, storey = Random(seed), TEAMS // DEPTH

    def parent(number: int) -> str:
        above = number // storey * storey - storey
        return f"t{random.randrange(above, above + storey)}" if above >= 0 else ""

    teams = [(f"t{number}", parent(number)) for number in range(TEAMS)]
    lowest = range(TEAMS - storey, TEAMS)
    return teams, [
        (f"u{n}", f"t{random.choice(lowest)}", random.choice(["free", "team"]), f"org{n % 50}") for n in range(USERS)
    ]


def entity_rows(teams: list[Team], users: list[User]) -> Iterator[dict[str, Any]]:
    for id_, parent in teams:
        yield {"type": "team", "id": id_, **({"in": [{"type": "team", "id": parent}]} if parent else {})}
    for id_, team, plan, tenant in users:
        attributes = {"plan": plan, "tenant": tenant}
        yield {"type": "user", "id": id_, "attributes": attributes, "in": [{"type": "team", "id": team}]}


def write_files(folder: Path, teams: list[Team], users: list[User]) -> dict[str, Path]:
    found = list(entity_rows(teams, users))
    (folder / "people.json").write_text(json.dumps({"entities": found}))
    (folder / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    tables = folder / "tables"
    tables.mkdir()
    (tables / "team.csv").write_text("id,in\n" + "".join(f"{id_},{parent}\n" for id_, parent in teams))
    (tables / "user.csv").write_text("id,in,plan,tenant\n" + "".join(",".join(user) + "\n" for user in users))
    with sqlite3.connect(folder / "people.db") as database:
        database.execute("create table team (id text primary key, parent text)")
        database.execute("create table user (id text primary key, team text, plan text, tenant text)")
        database.executemany("insert into team values (?, nullif(?, ''))", teams)
        database.executemany("insert into user values (?, ?, ?, ?)", users)
    database.close()
    (folder / "people.toml").write_text(MAPPING)
    return {
        "CSV": tables, "JSON": folder / "people.json", "JSON Lines": folder / "people.jsonl",
        "SQLite": folder / "people.toml",
    }  # fmt: skip


def time_load(source: Path, engine: Engine) -> tuple[float, EntityStore]:
    """Return the best load time in seconds; the files are in the operating system's cache."""
    best, directory = float("inf"), EntityStore()
    for _ in range(LOADS):
        gc.collect()
        began = perf_counter()
        directory = EntitySources.of(source).read(engine.kernel.entities)
        best = min(best, perf_counter() - began)
    return best, directory


def question(user: str) -> dict[str, Any]:
    return {
        "request": {"method": "GET", "path": "/v1/invoices/42"},
        "agent": {"id": "bot", "issuer": "acme"},
        "user": {"id": user},
        "credential": {"kind": "jwt", "issuer": "acme", "scopes": ["read"]},
    }


def top_team(directory: EntityStore, user: str) -> EntityRef:
    """Return the top team of the teams that the user is in."""
    return directory.ancestors(EntityRef("user", user)).refs[-1]


def time_membership(directory: EntityStore) -> tuple[float, float]:
    """Return microseconds of a decision without and with membership in a team five levels up, measured side by side."""
    user = "u7"
    invoice = EntityData(EntityRef("invoice", "42"), {"tenant": "org7", "approvers": (top_team(directory, user),)})
    world = EntityStore([*directory, invoice])
    plain, member = (Engine.from_text(POLICY.replace("CONDITION", text), directory=world) for text in (PLAIN, MEMBER))
    asked = question(user)
    assert plain.decide(asked).allowed
    assert member.decide(asked).allowed
    assert not member.decide(question("u57")).allowed or top_team(directory, "u57") == top_team(directory, user)
    rounds = [(time_decision(plain, asked), time_decision(member, asked)) for _ in range(ROUNDS)]
    return median(one for one, _ in rounds), median(two for _, two in rounds)


def time_decision(engine: Engine, asked: dict[str, Any], calls: int = CALLS) -> float:
    decide = engine.decide
    began = perf_counter()
    for _ in range(calls):
        decide(asked)
    return (perf_counter() - began) / calls * 1e6


def time_lookup(folder: Path) -> tuple[float, float]:
    """Return microseconds of a decision whose user is looked up in SQLite: cached, and looked up for each decision."""
    found = []
    for ttl in ("1h", "0s"):
        text = MAPPING.replace("[directory.team]", f'ttl = "{ttl}"\n[directory.team]', 1).replace(
            "[directory.user]", "[directory.user]\nlookup = true"
        )
        (folder / "looking.toml").write_text(text)
        engine = Engine.from_text(POLICY.replace("CONDITION", 'user.tenant == "org7"'))
        engine.replace_directory(EntitySources.of(folder / "looking.toml").read(engine.kernel.entities))
        asked = question("u7")
        assert engine.decide(asked).allowed
        found.append(median(time_decision(engine, asked, FEW) for _ in range(LOADS)))
    return found[0], found[1]


def run(say: Say) -> Section:
    engine = Engine.from_text(POLICY.replace("CONDITION", MEMBER))
    say(f"directory: writing {TEAMS + USERS:,} rows")
    seconds: dict[str, float] = {}
    known: set[int] = set()
    with TemporaryDirectory() as folder:
        directory = EntityStore()
        for name, source in write_files(Path(folder), *generate_people()).items():
            say(f"directory: reading {name}")
            seconds[name], directory = time_load(source, engine)
            rows = ((row.ref, row.parents, tuple(sorted(row.attributes.items()))) for row in directory)
            known.add(hash(frozenset(rows)))
        if len(known) != 1:
            raise AssertionError("two formats loaded different rows")
        say("directory: timing membership")
        timings = (*time_membership(directory), *time_lookup(Path(folder)))
    return section(seconds, timings)


def section(seconds: dict[str, float], timings: tuple[float, ...]) -> Section:
    slowest = max(seconds, key=lambda name: seconds[name])
    asked = dict(zip((WITHOUT, WITH, CACHED_ROW, FETCHED_ROW), timings, strict=True))
    return Section(
        name="directory",
        title=f"{USERS:,} users in {TEAMS:,} teams nested {DEPTH} deep: loading with closures, and membership",
        columns=("what", "seconds", "µs"),
        rows=(
            *((f"load {name}", format_number(each), "") for name, each in seconds.items()),
            *((what, "", format_number(each)) for what, each in asked.items()),
        ),
        data=(
            *({"what": f"load {name}", "seconds": round(each, 3)} for name, each in seconds.items()),
            *({"what": what, "us": round(each, 3)} for what, each in asked.items()),
        ),
        targets=(
            Target(f"to load {slowest}, the slowest", MAX_LOAD_SECONDS, seconds[slowest], "s"),
            Target("`user in resource.approvers` adds", MAX_ADDED_MICROSECONDS, timings[1] - timings[0], "µs"),
        ),
        notes=(
            f"The best of {LOADS} loads; medians of {ROUNDS} rounds of {CALLS:,} decisions, side by side.",
            "Nothing is timed unless all sources load the same rows.",
        ),
    )
