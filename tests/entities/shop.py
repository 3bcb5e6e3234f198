"""One small policy about people, teams and invoices, and the same rows in every format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policyengine.engine import Engine
from policyengine.entities.sources import EntitySources, SourcesArgument
from policyengine.entities.store import EntityStore

POLICY = """
package shop
enum plan = free < team
entity team in team
entity user {
  roles: set<string>  plan: plan?  manager: user?  since: time?  seats: int?  share: number?  active: bool?
  limit: duration?  home: ip?  nets: set<cidr>?
} in team
entity invoice { owner: user  approvers: set<user or team> }
scope inv.read as "inv.read" { GET /v1/invoices/{id: invoice} }
scope inv.pay as "inv.pay" { POST /v1/invoices/{id: invoice}/pay }
issuer acme { url "https://login.acme.example" }
user any {
  may inv.read when user in resource.approvers
  may inv.pay when user in team "legal" and resource.owner.manager == user
}
agent "bot" { issued by acme  acts for any user  may inv.read, inv.pay }
"""
ENTITIES = Engine.from_text(POLICY).kernel.entities
TEAM = "id,in\ncompany,\nlegal,company\nemea,legal\n"
USER = "id,in,roles,plan,manager\nalice,emea,clerk;boss,team,\nbob,legal,clerk,free,alice\ncy,company,,,\n"
INVOICE = "id,owner,approvers\n42,bob,team:legal;user:zed\n43,bob,user:bob\n"
SQL = """
create table teams (name varchar(40) primary key, parent varchar(40));
insert into teams values ('company', null), ('legal', 'company'), ('emea', 'legal');
create table people (login varchar(40) primary key, plan varchar(40), boss varchar(40));
insert into people values ('alice', 'team', null), ('bob', 'free', 'alice'), ('cy', null, null);
create table roles (login varchar(40), role varchar(40));
insert into roles values ('alice', 'clerk'), ('alice', 'boss'), ('bob', 'clerk');
create table members (login varchar(40), team varchar(40));
insert into members values ('alice', 'emea'), ('bob', 'legal'), ('cy', 'company');
create table invoices (no integer primary key, owner varchar(40));
insert into invoices values (42, 'bob'), (43, 'bob');
create table approvers (invoice integer, who varchar(40));
insert into approvers values (42, 'team:legal'), (42, 'user:zed'), (43, 'user:bob');
"""
MAPPING = """
[directory]
url = "{url}"
timeout = "{timeout}"
ttl = "{ttl}"

[directory.team]
table = "teams"
id = "name"
in = "parent"
lookup = {lookup}

[directory.user]
table = "people"
id = "login"
in = {{ table = "members", id = "login", value = "team" }}
lookup = {lookup}

[directory.user.attributes]
plan = "plan"
manager = "boss"
roles = {{ table = "roles", id = "login", value = "role" }}

[directory.invoice]
query = "select no, owner from invoices"
id = "no"
lookup = {lookup}
attributes = {{ owner = "owner", approvers = {{ table = "approvers", id = "invoice", value = "who" }} }}
"""


def asking(path: str, user: str, method: str = "GET") -> dict[str, Any]:
    return {
        "request": {"method": method, "path": path},
        "agent": {"id": "bot", "issuer": "acme"},
        "user": {"id": user},
        "credential": {"issuer": "acme", "scopes": ["inv.read", "inv.pay"]},
    }


READ = asking("/v1/invoices/42", "alice")
PAY = asking("/v1/invoices/42/pay", "alice", "POST")
OUTCOMES = [  # by user: may read 42, read 43, pay 42
    ("alice", "allow", "deny", "allow"),
    ("bob", "allow", "allow", "deny"),
    ("cy", "deny", "deny", "deny"),
    ("nobody", "deny", "deny", "deny"),
]


def outcomes(engine: Engine) -> list[tuple[str, ...]]:
    """Return what each user may do; objects, JSON and `explain` must agree."""
    found = []
    for user, *_ in OUTCOMES:
        asked = [
            asking("/v1/invoices/42", user), asking("/v1/invoices/43", user),
            asking("/v1/invoices/42/pay", user, "POST"),
        ]  # fmt: skip
        told = [str(engine.decide(one).outcome) for one in asked]
        assert told == [str(engine.decide(json.dumps(one)).outcome) for one in asked]
        assert told == [str(engine.explain(one).decision.outcome) for one in asked]
        found.append((user, *told))
    return found


def read(given: SourcesArgument, mapping: Path | None = None) -> EntityStore:
    sources = EntitySources.of(given)
    return (EntitySources(sources.where, mapping) if mapping else sources).read(ENTITIES)


def shop(directory: EntityStore) -> Engine:
    return Engine.from_text(POLICY, directory=directory)


def tables(folder: Path, **texts: str) -> Path:
    """Write a folder of tables; without `texts` those of the shop."""
    folder.mkdir(exist_ok=True)
    for name, text in (texts or {"team": TEAM, "user": USER, "invoice": INVOICE}).items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def mapped(folder: Path, url: str, *, lookup: bool = False, timeout: str = "5s", ttl: str = "30s", **more: str) -> Path:
    """Return the mapping of a database; `more` replaces parts of it."""
    text = MAPPING.format(url=url, lookup=str(lookup).lower(), timeout=timeout, ttl=ttl)
    for old, new in more.items():
        text = text.replace(old, new)
    file = folder / "directory.toml"
    file.write_text(text)
    return file


def plain(directory: EntityStore) -> Mapping[str, Any]:
    """Return the rows in a form that can be compared."""
    return {str(row.ref): (dict(row.attributes), set(map(str, row.parents))) for row in directory}
