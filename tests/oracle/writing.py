"""Conditions in Cedar and in our language, over facts that are always present and well typed. Cedar skips a rule whose
condition fails, and here an unknown fact grants nothing: other tests cover that difference. Generated conditions never
fail: optional facts are read after a presence test, and numbers are small."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias

USERS, TEAMS = ("alice", "bob", "carol", "dave"), ("all", "staff", "legal", "finance")
DOCS, FOLDERS = ("d1", "d2", "d3"), ("top", "a", "b")
AGENTS, GROUPS = ("bot", "batch", "reader"), ("ops", "night")
WORDS = ("acme", "evil", "acme-1", "", "é", "a*b")
NETWORKS, MOMENTS = ("10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32"), ("2026-12-31T23:00:00Z", "2027-01-04T12:00:00Z")
DURATIONS, DECIMALS = ("5m", "1h30m", "2d", "0s"), ("0.5", "1.0", "99.99", "-3.25")


@dataclass(frozen=True, slots=True)
class Both:
    """One expression in both languages."""

    cedar: str
    ours: str

    def __str__(self) -> str:
        return f"{self.cedar}  ⇔  {self.ours}"


Atoms: TypeAlias = Mapping[str, tuple[Both, ...]]
Form: TypeAlias = Callable[[], Both | None]


def facts(root: str, ours: str, rows: str) -> dict[str, tuple[Both, ...]]:
    """Parse lines of the form `type: member member? …`: members of one root, which Cedar calls `root`; `?` may be
    absent."""
    found: dict[str, tuple[Both, ...]] = {}
    for row in rows.strip().splitlines():
        kind, _, names = row.strip().partition(": ")
        found[kind] = tuple(Both(f"{root}.{name}", f"{ours}.{name}") for name in names.split())
    return found


def merged(*tables: Atoms) -> dict[str, tuple[Both, ...]]:
    kinds = sorted({kind for table in tables for kind in table})
    return {kind: tuple(atom for table in tables for atom in table.get(kind, ())) for kind in kinds}


CONTEXT = facts(
    "context",
    "context",
    """
    bool: flag
    int: n m
    string: zone
    strings: tags
    ip: ip
    time: moment
    duration: wait
    number: risk
    string?: hint
    int?: limit
    """,
)
USER = merged(
    facts(
        "principal",
        "user",
        """
        bool: suspended
        int: level
        string: name
        strings: roles
        time: since
        duration: quota
        number: score
        team: home
        user?: manager
        """,
    ),
    {"user": (Both("principal", "user"),)},
)
AGENT = facts("principal", "agent", "int: tier\nteam: home\nstring: id")
OWNED = facts("resource", "resource", "user: owner")  # what documents and folders have alike
DOC = facts(
    "resource",
    "resource",
    """
    bool: public
    int: size
    string: title
    strings: tags
    user: owner
    people: editors
    time: due
    """,
)
FOLDER = facts("resource", "resource", "string: label\nuser: owner\npeople: editors")
PRINCIPALS = {"user": USER, "agent": AGENT}
RESOURCES: dict[str, Atoms] = {"doc": DOC, "folder": FOLDER, "endpoint": {}, "any": OWNED}


def text(value: str) -> Both:
    return Both(f'"{value}"', f'"{value}"')


def entity(kind: str, name: str) -> Both:
    return Both(f'{kind}::"{name}"', f'{kind} "{name}"')


def extension(function: str, value: str) -> Both:
    return Both(f'{function}("{value}")', value)


LITERALS: dict[str, tuple[Both, ...]] = {
    "bool": (Both("true", "true"), Both("false", "false")),
    "int": tuple(Both(str(n), str(n)) for n in (0, 1, 2, 5, 500)),
    "string": tuple(text(word) for word in WORDS),
    "time": tuple(extension("datetime", moment) for moment in MOMENTS),
    "duration": tuple(extension("duration", lasting) for lasting in DURATIONS),
    "number": tuple(extension("decimal", number) for number in DECIMALS),
    "user": tuple(entity("user", name) for name in USERS),
    "team": tuple(entity("team", name) for name in TEAMS),
}


def joined(cedar: str, ours: str, *parts: Both) -> Both:
    """Join the parts with an operator, in parentheses."""
    return Both(
        "(" + f" {cedar} ".join(part.cedar for part in parts) + ")",
        "(" + f" {ours} ".join(part.ours for part in parts) + ")",
    )


SIGNS = ("==", "!=", "<", "<=", ">", ">=")
METHODS = {"<": "lessThan", "<=": "lessThanOrEqual", ">": "greaterThan", ">=": "greaterThanOrEqual"}


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes conditions from one random source; `depth` limits the nesting."""

    random: Random
    atoms: Atoms
    depth: int = 3

    def condition(self) -> Both:
        if self.depth > 0 and self.random.random() < 0.5:
            return self.random.choice([self.connected, self.connected, self.negated, self.chosen])()
        return self.relation()

    def connected(self) -> Both:
        cedar, ours = self.random.choice([("&&", "and"), ("||", "or")])
        return joined(cedar, ours, *(self._deeper().condition() for _ in range(self.random.choice([2, 2, 3]))))

    def negated(self) -> Both:
        one = self._deeper().condition()
        return Both(f"!{one.cedar}", f"(not {one.ours})")

    def chosen(self) -> Both:
        test, yes, no = (self._deeper().condition() for _ in range(3))
        cedar = f"(if {test.cedar} then {yes.cedar} else {no.cedar})"
        return Both(cedar, f"(({test.ours} and {yes.ours}) or ((not {test.ours}) and {no.ours}))")

    def relation(self) -> Both:
        forms: list[Form] = [
            self._flag, self._integers, self._integers, self._moments, self._decimals, self._equal, self._equal,
            self._like, self._element, self._sets, self._empty, self._network, self._in, self._in, self._in_people,
            self._manager, self._optional, self._default,
        ]  # fmt: skip
        for form in self.random.sample(forms, len(forms)):
            found = form()
            if found is not None:
                return found
        raise AssertionError("facts of the context are everywhere")

    # ── Relations, each None where there is no fact of its type ───────────────────────────────

    def _flag(self) -> Both | None:
        return self._fact("bool")

    def _integers(self) -> Both | None:
        return self._infix(self.random.choice(SIGNS), self._integer(), self._integer(literal=True))

    def _moments(self) -> Both | None:
        kind = self.random.choice(["time", "duration"])
        left, right = self._fact(kind), self.random.choice([*self.atoms.get(kind, ()), *LITERALS[kind]])
        if left and kind == "time" and self.random.random() < 0.4:
            wait, sign = self.random.choice(LITERALS["duration"]), self.random.choice("+-")
            moved = {"+": wait.cedar, "-": wait.cedar.replace('("', '("-')}[sign]
            left = Both(f"{left.cedar}.offset({moved})", f"({left.ours} {sign} {wait.ours})")
        return self._infix(self.random.choice(SIGNS), left, right)

    def _decimals(self) -> Both | None:
        left, right = self._fact("number"), self.random.choice([*LITERALS["number"], *self.atoms.get("number", ())])
        sign = self.random.choice(SIGNS)
        if left is None or left == right:
            return None
        if sign in METHODS:
            return Both(f"{left.cedar}.{METHODS[sign]}({right.cedar})", f"({left.ours} {sign} {right.ours})")
        return self._infix(sign, left, right)

    def _equal(self) -> Both | None:
        kind = self.random.choice(["string", "bool", "user", "team", "strings", "people"])
        pool = [*self.atoms.get(kind, ()), *LITERALS.get(kind, ())]
        return self._infix(self.random.choice(["==", "!="]), self._fact(kind), self.random.choice(pool or [None]))

    def _like(self) -> Both | None:
        one = self._fact("string")
        parts = self.random.choice([["ac", ""], ["", "e"], ["", ""], ["a", "1"], ["", "-", ""], ["a", "b"], ["acme"]])
        pattern = "*".join(parts)
        return one and Both(f'({one.cedar} like "{pattern}")', f'({one.ours} like "{pattern}")')

    def _element(self) -> Both | None:
        known, one = self._fact("strings"), self._string()
        if known is None:
            return None
        words = self.random.choice([f"({one.ours} in {known.ours})", f"({known.ours} has {one.ours})"])
        return Both(f"{known.cedar}.contains({one.cedar})", words)

    def _sets(self) -> Both | None:
        known, other = self._fact("strings"), self._strings()
        if known is None or known == other:
            return None
        return self.random.choice([
            Both(f"{known.cedar}.containsAll({other.cedar})", f"({other.ours} subset of {known.ours})"),
            Both(f"{other.cedar}.containsAll({known.cedar})", f"({known.ours} subset of {other.ours})"),
            Both(f"{known.cedar}.containsAny({other.cedar})", f"({known.ours} overlaps {other.ours})"),
        ])  # fmt: skip

    def _empty(self) -> Both | None:
        known = self._fact("strings")
        return known and Both(f"{known.cedar}.isEmpty()", f"(size({known.ours}) == 0)")

    def _network(self) -> Both | None:
        one, network = self._fact("ip"), self.random.choice(NETWORKS)
        return one and Both(f'{one.cedar}.isInRange(ip("{network}"))', f"({one.ours} within {network})")

    def _in(self) -> Both | None:
        """Return membership at any depth, including the entity itself."""
        item, above = self._fact(self.random.choice(["user", "team"])), self._team()
        return None if item is None or item == above else self._infix("in", item, above)

    def _in_people(self) -> Both | None:
        """Return membership in one of several entities."""
        people, item = self._fact("people"), self.random.choice([*self.atoms.get("user", ()), *LITERALS["user"]])
        return people and self._infix("in", item, people)

    def _manager(self) -> Both | None:
        return self._behind_a_test("manager", "user?", self._about_the_manager)

    def _about_the_manager(self, manager: Both) -> Both:
        level = Both(f"{manager.cedar}.level", f"{manager.ours}.level")
        return self.random.choice([
            joined(">", ">", level, self.random.choice(LITERALS["int"])),
            joined("in", "in", manager, self._team()),
            joined("==", "==", manager, self.random.choice(LITERALS["user"])),
        ])  # fmt: skip

    def _optional(self) -> Both | None:
        sign = self.random.choice(SIGNS)
        return self._behind_a_test(
            "limit", "int?", lambda limit: joined(sign, sign, limit, self.random.choice(LITERALS["int"]))
        )

    def _behind_a_test(self, name: str, kind: str, about: Callable[[Both], Both]) -> Both | None:
        known = [atom for atom in self.atoms.get(kind, ()) if atom.cedar.endswith(f".{name}")]
        if not known:
            return None
        fact = known[0]
        given = Both(f"({fact.cedar.removesuffix('.' + name)} has {name})", f"({fact.ours} is present)")
        absent = Both(f"!{given.cedar}", f"({fact.ours} is absent)")
        return self.random.choice([
            given, absent, joined("&&", "and", given, about(fact)), joined("||", "or", absent, about(fact)),
        ])  # fmt: skip

    def _default(self) -> Both | None:
        """Return a default; `else` covers absence only, as `has` does."""
        hint, other, against = self._fact("string?"), *self.random.sample(LITERALS["string"], 2)
        if hint is None:
            return None
        cedar = f"(if context has hint then {hint.cedar} else {other.cedar})"
        return self._infix(self.random.choice(["==", "!="]), Both(cedar, f"({hint.ours} else {other.ours})"), against)

    # ── Values ────────────────────────────────────────────────────────────────────────────────

    def _fact(self, kind: str) -> Both | None:
        return self.random.choice(self.atoms[kind]) if self.atoms.get(kind) else None

    def _integer(self, literal: bool = False) -> Both | None:
        if literal and self.random.random() < 0.6:
            return self.random.choice(LITERALS["int"])
        one = self._fact("int")
        if one is None or self.random.random() < 0.7:
            return one
        if self.random.random() < 0.2:
            return Both(f"(-{one.cedar})", f"(-{one.ours})")
        sign = self.random.choice("+-*")
        return joined(sign, sign, one, self.random.choice([*LITERALS["int"], *self.atoms["int"]]))

    def _string(self) -> Both:
        return self.random.choice([*self.atoms.get("string", ()), *LITERALS["string"]])

    def _strings(self) -> Both:
        if self.random.random() < 0.4:
            return self.random.choice(self.atoms["strings"])
        items = self.random.sample(LITERALS["string"], self.random.choice([1, 2, 3]))
        return Both(f"[{', '.join(one.cedar for one in items)}]", f"[{', '.join(one.ours for one in items)}]")

    def _team(self) -> Both:
        return self.random.choice([*self.atoms.get("team", ()), *LITERALS["team"], *LITERALS["team"]])

    def _infix(self, sign: str, left: Both | None, right: Both | None) -> Both | None:
        """Return None also if both sides are the same: the checker refuses constant conditions."""
        return None if left is None or right is None or left == right else joined(sign, sign, left, right)

    def _deeper(self) -> Writer:
        return replace(self, depth=self.depth - 1)
