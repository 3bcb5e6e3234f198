"""Witnesses: values, times, texts and memberships for which conditions come out as wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from policyengine import kernel as k
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime import calendar_windows
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.solver.witness.addresses import fitting_addresses
from policyengine.solver.witness.draft_from_states import StateFiller, find_world
from policyengine.solver.witness.editor import DraftEditor
from policyengine.solver.witness.finder import WitnessFinder
from policyengine.solver.witness.pools import ValuePools
from policyengine.solver.witness.texts import TextQuestion, sample_texts
from policyengine.solver.witness.times import fitting_time
from policyengine.solver.witness.values import MONDAY
from policyengine.spec.evaluate import build_facts, evaluate
from policyengine.typesystem import EntityRef, Type

USER = EntityRef("user", "alice")
BERLIN = ZoneInfo("Europe/Berlin")
POLICY = """
enum plan = free < team < enterprise
entity team in team
entity user {{ roles: set<string>   tenant: string   plan: plan   manager: user?   level: int? }} in team
facts on POST /x {{
  body.amount: number   body.count: int   body.note: string?   body.mail: string?   body.tags: list<string>?
  body.parts: list<{{ to: string   sum: number }}>?   body.at: time?   body.limit: duration?   body.free: bool?
}}
issuer acme {{ scopes none }}
user any {{ may POST /x }}
guard "g" on POST /x {{ deny when {condition} }}
"""


@dataclass(slots=True)
class UserDraft:
    """A request of one user, which takes whatever it is given."""

    facts: dict[tuple[str, ...], Any] = field(default_factory=dict)
    rows: dict[EntityRef, dict[str, Any]] = field(default_factory=dict)
    parents: dict[EntityRef, list[EntityRef]] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    now: datetime = MONDAY

    def read_fact(self, path: tuple[str, ...], type_: Type) -> Any:
        return USER if path == ("user",) else self.now if path == ("time",) else self.facts.get(path)

    def write_fact(self, path: tuple[str, ...], value: Any) -> bool:
        if path == ("time",):
            self.now = value
        elif path[0] != "user":
            self.facts[path] = value
        return path[0] != "user"

    def remove_fact(self, path: tuple[str, ...]) -> bool:
        return self.facts.pop(path, None) is not None

    def read_attribute(self, holder: EntityRef, name: str, type_: Type) -> Any:
        return self.rows.get(holder, {}).get(name)

    def write_attribute(self, holder: EntityRef, name: str, value: Any) -> bool:
        self.rows.setdefault(holder, {})[name] = value
        return True

    def remove_attribute(self, holder: EntityRef, name: str) -> bool:
        return self.rows.get(holder, {}).pop(name, None) is not None

    def add_row(self, ref: EntityRef) -> None:
        self.rows.setdefault(ref, {})

    def remove_row(self, ref: EntityRef) -> None:
        self.rows.pop(ref, None)

    def has_row(self, ref: EntityRef) -> bool:
        return ref in self.rows

    def add_parent(self, child: EntityRef, parent: EntityRef) -> None:
        self.parents.setdefault(child, []).append(parent)

    def remove_parent(self, child: EntityRef, parent: EntityRef) -> None:
        self.parents[child] = [one for one in self.parents.get(child, ()) if one != parent]

    def truth(self, kernel: k.Kernel, condition: k.Expr) -> object:
        """What the specification says of the condition for this request."""
        question: dict[str, Any] = {"request": {"method": "POST", "path": "/x"}, "user": {"id": USER.id}}
        for (root, *names), value in self.facts.items():
            question.setdefault(root, {})[".".join(names)] = value
        rows = [EntityData(ref, row, tuple(self.parents.get(ref, ()))) for ref, row in self.rows.items()]
        facts = build_facts(kernel, Request.from_mapping(question), Snapshot(EntityStore(rows)), self.now)
        return evaluate(condition, facts)


def condition_of(text: str) -> tuple[k.Kernel, k.Expr]:
    kernel = Engine.from_text(POLICY.format(condition=text)).kernel
    [guard] = kernel.guards
    [effect] = guard.effects
    assert isinstance(effect, k.Deny)
    assert effect.condition is not None
    return kernel, effect.condition


CONDITIONS = [
    "body.amount > 500",
    "body.amount * 2 - 3 > 10",
    "body.count + 1 == 3",
    "body.amount > body.count",
    'body.note == "a"',
    'body.note like "*.env"',
    'body.note matches "[a-c]{2,3}-x"',
    'starts_with(body.note, "id_")',
    'contains(body.note, "..")',
    'domain(body.mail) == "acme.example"',
    "size(body.tags) > 2",
    'body.tags has "x"',
    'body.tags overlaps ["x", "y"]',
    'body.tags subset of ["x", "y"]',
    "body.free",
    "user.plan >= team",
    "user.level + 1 > 4",
    'user.tenant != "acme"',
    'user.manager == user "bob"',
    'user in team "legal"',
    'user below team "legal"',
    "body.at + 1h < time",
    'time within mon..fri 08:00..18:00 "Europe/Berlin"',
    'body.at within sat..sun "Europe/Berlin"',
    "request.ip within [10.0.0.0/8, 192.168.0.0/16]",
    "any p in body.parts: p.sum > 100",
    'all t in body.tags: t like "x-*"',
    'body.amount > 10 and (user.plan == free or body.note == "b")',
]


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("text", CONDITIONS)
def test_the_finder_makes_a_condition_true_or_false(text: str, wanted: bool) -> None:
    kernel, condition = condition_of(text)
    draft = UserDraft()
    WitnessFinder(DraftEditor(draft, ValuePools.of([condition]))).make(condition, wanted)
    assert draft.truth(kernel, condition) is wanted


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("text", CONDITIONS)
def test_the_state_filler_makes_a_condition_true_or_false(text: str, wanted: bool) -> None:
    kernel, condition = condition_of(text)
    draft, world = UserDraft(), find_world([(condition, wanted)])
    assert world is not None
    StateFiller(DraftEditor(draft, ValuePools()), constants=world[1]).fill(world[0])
    assert draft.truth(kernel, condition) is wanted


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("text", ['any t in body.tags: t == "a"', 'all t in body.tags: t == "a"'])
def test_an_empty_list_gets_an_element_where_one_is_wanted(text: str, wanted: bool) -> None:
    kernel, condition = condition_of(text)
    draft = UserDraft({("body", "tags"): ()})
    WitnessFinder(DraftEditor(draft, ValuePools.of([condition]))).make(condition, wanted)
    assert draft.truth(kernel, condition) is wanted


@pytest.mark.parametrize("wanted", [True, False])
def test_a_list_of_facts_is_read_with_their_values(wanted: bool) -> None:
    kernel, condition = condition_of("body.note in [body.mail, user.tenant]")
    draft = UserDraft({("body", "mail"): "a@acme.example", ("body", "note"): "x"}, {USER: {"tenant": "acme"}})
    WitnessFinder(DraftEditor(draft, ValuePools.of([condition]))).make(condition, wanted)
    assert draft.truth(kernel, condition) is wanted


def test_the_gentle_finder_keeps_facts_that_already_fit() -> None:
    _, condition = condition_of('body.amount > 500 and body.note like "a*"')
    draft = UserDraft({("body", "amount"): 700, ("body", "note"): "abc"})
    WitnessFinder(DraftEditor(draft, ValuePools.of([condition])), gently=True).make(condition, True)
    assert draft.facts == {("body", "amount"): 700, ("body", "note"): "abc"}


# ── Addresses, times and texts ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("network", ["10.0.0.0/8", "203.0.113.9/32", "255.255.255.0/24", "2001:db8::/32"])
def test_fitting_addresses_are_inside_or_outside_a_network(network: str, wanted: bool) -> None:
    known = IPv6Network(network) if ":" in network else IPv4Network(network)
    addresses = fitting_addresses(known, wanted)
    assert addresses
    assert all((one in known) is wanted for one in addresses)


def test_no_fitting_address_is_outside_of_all_networks() -> None:
    assert not fitting_addresses((IPv4Network("0.0.0.0/0"), IPv6Network("::/0")), False)


OFFICE = calendar_windows.Daily(frozenset(range(5)), 8 * 60, 18 * 60, BERLIN)
NIGHT = calendar_windows.Daily(None, 22 * 60 + 10, 6 * 60, BERLIN)
FREEZE = calendar_windows.Absolute(datetime(2027, 12, 24, tzinfo=UTC), datetime(2028, 1, 2, tzinfo=UTC), BERLIN)
QUARTER = calendar_windows.Weekly(4, 16 * 60, 0, 8 * 60, BERLIN)


def time_wishes() -> Iterator[list[tuple[calendar_windows.Window, bool]]]:
    for first in (True, False):
        yield [(OFFICE, first)]
        for second in (True, False):
            yield [(FREEZE, first), (OFFICE, second)]
            yield [(QUARTER, first), (NIGHT, second), (FREEZE, True)]


@pytest.mark.parametrize("wanted", [*time_wishes()])
def test_a_fitting_time_is_inside_and_outside_the_wanted_windows(
    wanted: list[tuple[calendar_windows.Window, bool]],
) -> None:
    moment = fitting_time(MONDAY, wanted)
    assert moment is not None
    assert [calendar_windows.contains(window, moment) for window, _ in wanted] == [inside for _, inside in wanted]


def test_a_time_that_already_fits_is_kept() -> None:
    assert fitting_time(MONDAY, [(OFFICE, True), (FREEZE, False)]) == MONDAY


def test_disjoint_windows_have_no_fitting_time() -> None:
    day = calendar_windows.Daily(None, 8 * 60, 9 * 60, BERLIN)
    assert fitting_time(MONDAY + timedelta(days=3), [(day, True), (NIGHT, True)]) is None


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize(
    "question", [TextQuestion("like", "/p/*"), TextQuestion("ends_with", ".env"), TextQuestion("matches", "(a|b)+")]
)
def test_sample_texts_fit_the_question_and_are_unique(question: TextQuestion, wanted: bool) -> None:
    texts = sample_texts(question, wanted)
    assert texts
    assert len({*texts}) == len(texts)
    assert all(question.holds(text) is wanted for text in texts)
