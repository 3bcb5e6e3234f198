"""Guards with conditions on history, in every form, over the facts at the guard and at the earlier request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from tests.generate.expressions import atoms_at
from tests.generate.vocabulary import PLANS

WITHIN = ("10s", "1m", "10m", "1h", "24h")
KEYS = ("agent.id", "user.id", "user.id, agent.id", "request.ip", "request.method, user.tenant", "request.path",
        "address(request.ip)")  # fmt: skip
KINDS = ("string", "int", "number", "bool", "plan", "user", "invoice", "ip")
CONSTANTS = {"string": '"acme"', "int": "7", "number": "500", "bool": "true", "plan": PLANS[1], "user": 'user "alice"',
             "invoice": 'invoice "42"', "ip": "10.0.0.1"}  # fmt: skip
OUTCOMES = (
    "past.status < 400", "past.status >= 400", "past.status == 200", "past.status is present", "past.status is absent",
    "(past.status else 500) < 400", "past.output.score is present", "past.output.score is absent",
    "past.output.score > 2", "(past.output.score else 3) > 2", 'past.output.state == "done"',
    "past.output.id is absent", '(past.output.state else "done") != "done"',
)  # fmt: skip
COUNTED_OUTCOMES = {
    "sum": ("past.status", "(past.status else 1)", "past.output.score", "(past.output.score else 2)",
            "(past.output.score else past.status else 0.5)"),
    "distinct": ("past.status", "(past.status else 0)", "past.output.state", '(past.output.state else "none")',
                 "(past.output.score else 0)"),
}  # fmt: skip
Places = Mapping[str, tuple[str, ...]]


def histories(random: Random, places: Places, events: Places) -> Iterator[str]:
    for number in range(random.choice([1, 1, 2, 3])):
        place, groups = random.choice(sorted(places.items()))
        on = f" on {place}" if place else ""
        yield f'guard "h{number}"{on} {{\n  {Past(random, groups, events).rule()}\n}}'


class Past:
    """Writes conditions on history, with the facts of `groups`."""

    def __init__(self, random: Random, groups: Sequence[str], events: Places) -> None:
        self.random, self.events = random, events
        self.own = named(groups)

    def rule(self) -> str:
        act = self.random.choice(["deny when", "deny unless", "require", "confirm by role boss when", "warn when"])
        return f"{act} {self.condition()}"

    def condition(self) -> str:
        parts = [self.part() for _ in range(self.random.choice([1, 1, 1, 2]))]
        return self.random.choice([" and ", " or "]).join(f"({one})" if len(parts) > 1 else one for one in parts)

    def part(self) -> str:
        form = self.random.random()
        if form < 0.55:
            return f"{self.random.choice(['after', 'no'])} {self.history(self.events)}"
        bound = f"{self.random.choice(['>', '>=', '<', '=='])} {self.random.choice(['0', '1', '2', '3'])}"
        if form < 0.75:
            return f"count of {self.history(self.events)} {bound}"
        fields = {"sum": ("int", "number"), "distinct": KINDS}
        function = self.random.choice(sorted(fields))
        usable = {target: groups for target, groups in self.events.items() if some(named(groups), fields[function])}
        target = self.random.choice(sorted(usable))
        counted = self.counted(function, named(usable[target]), fields[function])
        return f"{function} {counted} of {self.history({target: usable[target]})} {bound}"

    def counted(self, function: str, known: Mapping[str, list[str]], kinds: Sequence[str]) -> str:
        """Return a fact of the earlier request, with or without a default."""
        form = self.random.random()
        if form < 0.3:
            return self.random.choice(COUNTED_OUTCOMES[function])
        kind = self.random.choice([kind for kind in kinds if kind in known])
        field = f"past.{self.random.choice(known[kind])}"
        return field if form < 0.7 else f"({field} else {CONSTANTS[kind]})"

    def history(self, among: Places) -> str:
        since = f" since {self.event(self.events)}" if self.random.random() < 0.3 else ""
        per = f" per ({self.random.choice(KEYS)})" if self.random.random() < 0.4 else ""
        return f"{self.event(among)} within {self.random.choice(WITHIN)}{since}{per}"

    def event(self, among: Places) -> str:
        target, groups = self.random.choice(sorted(among.items()))
        denied = "denied " if self.random.random() < 0.2 else ""
        whose = self.random.choice(["", "", "", " by any user", " by another user"])
        where = f" where {self.where(groups)}" if self.random.random() < 0.5 else ""
        return f"({denied}{target}{whose}{where})" if denied or whose or where else target

    def where(self, groups: Sequence[str]) -> str:
        parts = [self.relation(named(groups)) for _ in range(self.random.choice([1, 1, 2]))]
        return self.random.choice([" and ", " or "]).join(parts)

    def relation(self, then: Mapping[str, list[str]]) -> str:
        if self.random.random() < 0.2:
            return self.random.choice(OUTCOMES)
        kind = self.random.choice([kind for kind in KINDS if then.get(kind) and self.own.get(kind)])
        past = f"past.{self.random.choice(then[kind])}"
        other = self.random.choice([*self.own[kind], CONSTANTS[kind]])
        same = past.removeprefix("past.")
        other = same if same in self.own[kind] and self.random.random() < 0.5 else other
        operators = ["==", "==", "!="] + ([">", "<="] if kind in ("int", "number", "plan") else [])
        return f"{past} {self.random.choice(operators)} {other}"


def named(groups: Sequence[str]) -> dict[str, list[str]]:
    """Return the plain names of facts by kind."""
    names = {kind: [one.text for one in atoms if is_name(one.text)] for kind, atoms in atoms_at(groups).items()}
    return {kind: found for kind, found in names.items() if found}


def some(known: Mapping[str, list[str]], kinds: Sequence[str]) -> list[str]:
    return [name for kind in kinds for name in known.get(kind, ())]


def is_name(text: str) -> bool:
    """Return whether the fact is constant while a request is decided."""
    return text.replace(".", "").replace("_", "").isalnum() and text[0].isalpha() and "." in text
