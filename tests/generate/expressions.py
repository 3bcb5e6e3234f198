"""Well-typed conditions of every form, over the facts that exist at their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from tests.generate.vocabulary import (
    DEFINED,
    EVERYWHERE,
    GLOBS,
    GROUPS_OF_FACTS,
    LITERALS,
    REGEXES,
    WINDOWS,
    Atom,
)

ORDERED = ("int", "number", "plan", "duration", "time")
EQUAL = (
    *ORDERED,
    "bool",
    "string",
    "kind",
    "ip",
    "user",
    "team",
    "invoice",
    "doc",
    "org",
    "folder",
    "strings",
    "plans",
    "host",
)
REFERENCES = ("user", "team", "folder", "invoice", "doc", "org", "tool")
ELEMENTS = {"strings": "string", "plans": "plan", "numbers": "number", "members": "user", "cidrs": "cidr"}
ABOVE = {"user": ("team",), "team": ("team",), "folder": ("folder",), "invoice": ("folder",), "doc": ("folder",)}
Atoms = Mapping[str, tuple[Atom, ...]]


def atoms_at(groups: Iterable[str] = (), roots: frozenset[str] | None = None) -> dict[str, tuple[Atom, ...]]:
    """Return the readable facts where these groups of facts exist, limited to some roots."""
    found: dict[str, tuple[Atom, ...]] = {}
    for table in (EVERYWHERE, *(GROUPS_OF_FACTS[name] for name in groups)):
        for kind, atoms in table.items():
            kept = tuple(atom for atom in atoms if roots is None or atom.roots <= roots)
            found[kind] = tuple(dict.fromkeys(found.get(kind, ()) + kept))
    return found


@dataclass(frozen=True)
class Writer:
    """Writes expressions from one random source; `depth` limits the nesting; compounds are in parentheses."""

    random: Random
    atoms: Atoms
    roots: frozenset[str] | None = None
    depth: int = 3
    approvals: bool = False
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    definitions: bool = True

    # ── Conditions ────────────────────────────────────────────────────────────────────────────

    def condition(self) -> str:
        """Return any condition. Quantifiers extend as far as they can, so they are in parentheses, too."""
        if self.depth > 0 and self.random.random() < 0.45:
            return self.random.choice([self.connected, self.connected, self.negated, self.quantified])()
        return self.relation()

    def connected(self) -> str:
        word = self.random.choice(["and", "or"])
        parts = [self._deeper().condition() for _ in range(self.random.randint(2, 3))]
        return "(" + f" {word} ".join(parts) + ")"

    def negated(self) -> str:
        return f"(not {self._deeper().condition()})"

    def quantified(self) -> str:
        domain = self._first(["rows", "numbers", "strings", "members", "hops", "plans"])
        if domain is None or "hop" in self.variables or "x" in self.variables:
            return self.relation()
        kind, text = domain
        variable = "x"
        inner = self._deeper()._with(kind, variable)
        return f"({self.random.choice(['any', 'all'])} {variable} in {text}: {inner.condition()})"

    def relation(self) -> str:
        forms: list[Callable[[], str | None]] = [
            self._flag, self._defined, self._equal, self._ordered, self._presence, self._membership, self._below,
            self._row, self._network, self._window, self._text, self._sets, self._function, self._ordered, self._equal,
            self._thing,
        ]  # fmt: skip
        for form in self.random.sample(forms, len(forms)):
            found = form()
            if found is not None:
                return found
        return "time > 2026-01-01"

    def _flag(self) -> str | None:
        if self.approvals and self.random.random() < 0.5:
            return "approval.granted"
        return self._lead("bool") if self._any("bool") else None

    def _defined(self) -> str | None:
        if not self.definitions:
            return None
        known = [name for name, reads in DEFINED.items() if self.roots is None or reads <= self.roots]
        return self.random.choice(known) if known else None

    def _equal(self) -> str | None:
        kinds = [kind for kind in EQUAL if self._any(kind)]
        if not kinds:
            return None
        kind = self.random.choice(kinds)
        return self._compared(kind, self.random.choice(["==", "!="]))

    def _ordered(self) -> str | None:
        kinds = [kind for kind in ORDERED if self._any(kind)]
        if not kinds:
            return None
        kind = self.random.choice(kinds)
        return self._compared(kind, self.random.choice(["<", "<=", ">", ">="]))

    def _presence(self) -> str | None:
        known = [atom.text for atoms in self.atoms.values() for atom in atoms if atom.optional]
        return f"({self.random.choice(known)} is {self.random.choice(['present', 'absent'])})" if known else None

    def _row(self) -> str | None:
        kinds = [kind for kind in REFERENCES if self._any(kind)]
        return f"({self._lead(self.random.choice(kinds))} is known)" if kinds else None

    def _membership(self) -> str | None:
        found = self._first(["strings", "plans", "numbers", "members", "list"])
        if found is None:
            return None
        kind, text = found
        if kind == "list":
            return self._in_list()
        item = self.value(ELEMENTS[kind] if kind != "members" else self.random.choice(["user", "team"]))
        return self.random.choice([f"({item} in {text})", f"({item} not in {text})", f"({text} has {item})"])

    def _in_list(self) -> str | None:
        kinds = [kind for kind in ("string", "host", "plan", "kind", "user", "int", "number") if self._any(kind)]
        if not kinds:
            return None
        kind = self.random.choice(kinds)
        listed = self.random.sample(LITERALS[kind], self.random.randint(1, 3))
        listed += [self._reference(kind)] if self.random.random() < 0.3 else []
        return f"({self._lead(kind)} {self.random.choice(['in', 'not in'])} [{', '.join(listed)}])"

    def _below(self) -> str | None:
        kinds = [kind for kind in ABOVE if self._any(kind)]
        if not kinds:
            return None
        kind = self.random.choice(kinds)
        above = self.value(self.random.choice(ABOVE[kind]))
        item = self._lead(kind)
        if item == above:
            return None
        return self.random.choice([f"({item} in {above})", f"({item} below {above})", f"({above} has {item})"])

    def _thing(self) -> str | None:
        """Return a condition that an entity of one of several types is among mixed entities, or None."""
        kinds = [kind for kind in REFERENCES if self._any(kind)]
        if not kinds or not self._any("things"):
            return None
        item, things = self._reference(self.random.choice(kinds)), self._reference("things")
        return self.random.choice([f"({item} in {things})", f"({things} has {item})"])

    def _network(self) -> str | None:
        if not self._any("ip"):
            return None
        nets = ["internal", self.random.choice(LITERALS["cidr"]), f"[{', '.join(LITERALS['cidr'][:2])}, 8.8.8.8]"]
        nets += [atom.text for kind in ("cidr", "cidrs") for atom in self.atoms.get(kind, ())]
        return f"({self._lead('ip')} within {self.random.choice(nets)})"

    def _window(self) -> str | None:
        return f"({self._lead('time')} within {self.random.choice(WINDOWS)})" if self._any("time") else None

    def _text(self) -> str | None:
        if not self._any("string"):
            return None
        word, pattern = self.random.choice([("like", GLOBS), ("matches", REGEXES)])
        return f"({self._lead('string')} {word} {self.random.choice(pattern)})"

    def _sets(self) -> str | None:
        kinds = [kind for kind in ("strings", "plans", "members") if self._any(kind)]
        if not kinds:
            return None
        kind = self.random.choice(kinds)
        one, other = self._reference(kind), self._reference(kind)
        if kind != "members" and self.random.random() < 0.5:
            other = f"[{', '.join(self.random.sample(LITERALS[ELEMENTS[kind]], 2))}]"
        return None if one == other else f"({one} {self.random.choice(['overlaps', 'subset of'])} {other})"

    def _function(self) -> str | None:
        if not self._any("string"):
            return None
        name = self.random.choice(["starts_with", "ends_with", "contains"])
        return f"{name}({self._lead('string')}, {self.random.choice(LITERALS['string'])})"

    # ── Values ────────────────────────────────────────────────────────────────────────────────

    def value(self, kind: str) -> str:
        """Return an expression of a kind: a fact, a literal, or a computed value."""
        if self.depth > 0 and self.random.random() < 0.3:
            computed = self._computed(kind)
            if computed is not None:
                return computed
        if self._any(kind) and self.random.random() < 0.8:
            return self._reference(kind)
        return self.random.choice(LITERALS[kind]) if kind in LITERALS else self._reference(kind)

    def _computed(self, kind: str) -> str | None:
        inner = self._deeper()
        optional = [atom.text for atom in self.atoms.get(kind, ()) if atom.optional]
        forms = (
            [f"({self.random.choice(optional)} else {self._fallback(kind)})"] if optional and kind in LITERALS else []
        )
        match kind:
            case "number" | "int":
                a, b = inner.value(kind), inner.value(kind)
                forms += [f"({a} {sign} {b})" for sign in "+-*"]
                forms += [f"(-{a})", f"(-{a})", f"abs({a})", f"min({a}, {b})", f"max({a}, {b})"]
                if kind == "int" and self._any("string"):
                    forms += [f"size({inner._reference('string')})", f"bucket({inner._reference('string')}, 10)"]
                if kind == "int" and self._any("strings"):
                    forms += [f"size({inner._reference('strings')})"]
            case "duration":
                a, b = inner.value(kind), inner.value(kind)
                forms += [f"({a} + {b})", f"({a} - {b})", f"({a} * 2)", f"max({a}, {b})", f"(-{a})"]
            case "time":
                forms += [f"({inner.value('time')} {sign} {inner.value('duration')})" for sign in "+-"]
            case "string":
                a = inner.value(kind)
                forms += [f"{name}({a})" for name in ("lower", "upper", "host", "domain")]
            case _:
                pass
        return self.random.choice(forms) if forms else None

    def _fallback(self, kind: str) -> str:
        return self.random.choice(LITERALS[kind])

    def _lead(self, kind: str) -> str:
        """Return the first side of a relation: rarely a literal, because the checker refuses constant conditions."""
        computed = self._computed(kind) if self.depth > 0 and self.random.random() < 0.3 else None
        return computed or self._reference(kind)

    def _compared(self, kind: str, sign: str) -> str | None:
        """Return two different sides."""
        left, right = self._lead(kind), self.value(kind)
        return None if left == right else f"({left} {sign} {right})"

    def _reference(self, kind: str) -> str:
        known = [*(atom.text for atom in self.atoms.get(kind, ())), *self.variables.get(kind, ())]
        if self.variables.get(kind) and self.random.random() < 0.6:  # a quantifier is mostly about its variable
            return self.random.choice(self.variables[kind])
        return self.random.choice(known) if known else self.random.choice(LITERALS[kind])

    def _any(self, kind: str) -> bool:
        return bool(self.atoms.get(kind)) or bool(self.variables.get(kind))

    def _first(self, kinds: list[str]) -> tuple[str, str] | None:
        known = [kind for kind in kinds if kind == "list" or self._any(kind)]
        if not known:
            return None
        kind = self.random.choice(known)
        return kind, "" if kind == "list" else self._reference(kind)

    def _deeper(self) -> Writer:
        return replace(self, depth=self.depth - 1)

    def _with(self, domain: str, variable: str) -> Writer:
        """Return the writer inside a quantifier, whose variable is an element or a record with members."""
        known = dict(self.variables)
        members: dict[str, tuple[str, ...]]
        match domain:
            case "rows":
                members = {"number": (f"{variable}.n",), "string": (f"{variable}.note",), "user": (f"{variable}.who",)}
            case "hops":
                members = {"string": (f"{variable}.agent", f"{variable}.issuer"), "strings": (f"{variable}.scopes",)}
            case "members":
                members = {}
            case _:
                members = {ELEMENTS[domain]: (variable,)}
        for kind, names in {**members, "x": (variable,)}.items():
            known[kind] = known.get(kind, ()) + names * 2
        return replace(self, variables=known)
