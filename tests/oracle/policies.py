"""Policies of permits, forbids and a hierarchy, in both languages, each for one kind of principal.

| Cedar | here |
|---|---|
| `permit`, by the principal | a `user`, `agent` or `anyone` block |
| `forbid`, for every caller | a `guard` that denies |
| `action in Action::"reading"` | a scope |
| `resource in endpoint::"/v1"` | the place `/v1/**` |
| `when`, `unless` | `when`, `when not` and `unless` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.oracle import writing as w
from tests.oracle.writing import Writer

ACTIONS = ("view", "list", "edit", "share")
READING = ("view", "list")  # the group of actions, and the scope
METHODS = ("GET", "POST", "DELETE")
PATHS = ("/v1", "/v1/notes", "/v1/notes/7", "/v1/notes/7/drafts", "/v1/admin", "/v2", "/v2/notes", "/health")

VOCABULARY = """
package acme.oracle
entity team { open: bool } in team
entity user {
  suspended: bool   level: int   name: string   roles: set<string>   since: time   quota: duration   score: number
  home: team   manager: user?
} in team
entity agent { tier: int   home: team }
entity folder { label: string   owner: user   editors: set<user or team> } in folder
entity doc {
  public: bool   size: int   title: string   tags: set<string>   owner: user   editors: set<user or team>   due: time
} in folder
facts {
  context.flag: bool   context.n: int   context.m: int   context.zone: string   context.tags: set<string>
  context.ip: ip   context.moment: time   context.wait: duration   context.risk: number   context.hint: string?
  context.limit: int?
}
scope reading { ACTION view doc   ACTION list doc   ACTION view folder   ACTION list folder }
issuer main { scopes none }
""".strip()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `name` is that of the guard, if it forbids."""

    name: str | None
    cedar: str
    ours: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The same rules in both languages; `kind` is the kind of caller: `user` or `agent`."""

    kind: str
    rules: tuple[Rule, ...]

    @property
    def cedar(self) -> str:
        return "\n".join(rule.cedar for rule in self.rules)

    @property
    def ours(self) -> str:
        return "\n".join((VOCABULARY, *(rule.ours for rule in self.rules))) + "\n"


def policy(random: Random) -> Policy:
    kind = random.choice(["user", "user", "agent"])
    permits = [permit(random, kind) for _ in range(random.randint(2, 8))]
    forbids = [forbid(random, kind, f"f{number}") for number in range(random.choice([0, 1, 2, 3]))]
    return Policy(kind, (known_to_all(kind), *permits, *forbids))


def known_to_all(kind: str) -> Rule:
    """Return a rule by which every caller is known: here a caller without any block learns nothing about guards; in
    Cedar every caller learns which rules forbade."""
    head = "user any {" if kind == "user" else 'agent "*" {\n  issued by main\n  acts alone\n '
    return Rule(
        None,
        'permit(principal, action == Action::"nothing", resource is doc);',
        f"{head} may ACTION nothing doc }}",
    )


# ── Where: the action and the resource ────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Where:
    """`cedar` are the heads for action and resource; `may` and `on` name places, `tests` are the conditions that a
    place cannot express."""

    cedar: str
    may: str
    on: str
    about: str  # whose attributes may be read
    tests: tuple[str, ...] = ()


def where(random: Random, closing: bool) -> Where:
    """Return a place; a forbid may cover everything."""
    form = random.choice(["doc", "doc", "folder", "any", "endpoint", "endpoint", "everything"])
    if form == "everything" and closing:
        return Where("action, resource", "", "", "endpoint")
    if form in ("endpoint", "everything"):
        return endpoint(random)
    return thing(random, form)


def thing(random: Random, form: str) -> Where:
    kinds = ("doc", "folder") if form == "any" else (form,)
    action, verbs = actions(random)
    places = "reading" if verbs == READING and form == "any" else ", ".join(
        f"ACTION {verb} {kind}" for kind in kinds for verb in verbs
    )  # fmt: skip
    resource, tests = named(random, form)
    return Where(f"{action}, {resource}", places, f" on {places}", form, tests)


def actions(random: Random) -> tuple[str, Sequence[str]]:
    """Return all actions, one, some, or a group: as in Cedar, and one by one."""
    form = random.choice(["all", "one", "some", "group", "group"])
    if form == "group":
        return 'action in Action::"reading"', READING
    if form == "all":
        return "action", ACTIONS
    chosen = random.sample(ACTIONS, 1 if form == "one" else 2)
    listed = ", ".join(f'Action::"{verb}"' for verb in chosen)
    return (f"action == {listed}" if form == "one" else f"action in [{listed}]"), chosen


def named(random: Random, form: str) -> tuple[str, tuple[str, ...]]:
    """Return which entity of its kind: any, one, or all in a folder."""
    folder = w.entity("folder", random.choice(w.FOLDERS))
    if form == "any":
        return f"resource in {folder.cedar}", (f"(resource in {folder.ours})",)
    match random.choice(["kind", "kind", "one", "in"]):
        case "one":
            one = w.entity(form, random.choice(w.DOCS if form == "doc" else w.FOLDERS))
            return f"resource == {one.cedar}", (f"(resource == {one.ours})",)
        case "in":
            return f"resource is {form} in {folder.cedar}", (f"(resource in {folder.ours})",)
        case _:
            return f"resource is {form}", ()


def endpoint(random: Random) -> Where:
    methods = random.choice([METHODS, ("GET",), ("GET", "POST"), ("DELETE",)])
    heads = [f'Action::"{method}"' for method in methods]
    action = f"action in [{', '.join(heads)}]"
    path = random.choice(["", *PATHS])
    if path and random.random() < 0.4:
        resource, place = f'resource == endpoint::"{path}"', path
    else:
        resource, place = f'resource in endpoint::"{path or "/"}"', f"{path}/**"
    places = f"{'|'.join(methods)} {place}"
    return Where(f"{action}, {resource}", places, f" on {places}", "endpoint")


# ── Who ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Who:
    """`cedar` is the head for the principal; `block` grants here, `tests` are the same as conditions."""

    cedar: str
    block: str
    tests: tuple[str, ...] = ()
    cedar_clause: str = ""


def who(random: Random, kind: str) -> Who:
    return user(random) if kind == "user" else agent(random)


def user(random: Random) -> Who:
    team, name = random.choice(w.TEAMS), random.choice(w.USERS)
    member = f'(user in team "{team}")'
    return random.choice([
        Who("principal is user", "user any"),
        Who("principal is user", "user any"),
        Who(f'principal == user::"{name}"', f'user "{name}"', (f'(user == user "{name}")',)),
        Who(f'principal in team::"{team}"', f"user where {member}", (member,)),
        Who(f'principal is user in team::"{team}"', f"user where {member}", (member,)),
    ])  # fmt: skip


def agent(random: Random) -> Who:
    group, name = random.choice(w.GROUPS), random.choice(w.AGENTS)
    glob = random.choice(["b*", "*er", "*", "b*t"])
    fits = (f'(agent.id like "{glob}")',)
    return random.choice([
        Who("principal is agent", 'agent "*"'),
        Who(f'principal == agent::"{name}"', f'agent "{name}"', (f'(agent.id == "{name}")',)),
        Who(f'principal in group::"{group}"', f'agent group "{group}"', (f'(agent.groups has "{group}")',)),
        Who("principal is agent", f'agent "{glob}"', fits, f' when {{ principal.id like "{glob}" }}'),
    ])  # fmt: skip


# ── Rules ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition as a Cedar clause and in our language: after `when` or after `unless`. Both are empty without a
    condition."""

    cedar: str = ""
    word: str = ""
    ours: str = ""

    @property
    def holds(self) -> list[str]:
        """Return the condition that has to be true, for joining with others."""
        return [f"(not {self.ours})" if self.word == "unless" else self.ours] if self.word else []


def clause(random: Random, kind: str | None, about: str) -> Clause:
    """Return a clause over the facts of this kind of principal and this place."""
    atoms = w.merged(w.CONTEXT, w.PRINCIPALS[kind] if kind else {}, w.RESOURCES[about])
    one = Writer(random, atoms, random.choice([0, 1, 2, 3])).condition()
    word = random.choice(["when", "when", "when", "unless", ""])
    return Clause(f" {word} {{ {one.cedar} }}", word, one.ours) if word else Clause()


def permit(random: Random, kind: str) -> Rule:
    """Return a permit, sometimes for anyone, whose block has no principal."""
    place, anybody = where(random, closing=False), random.random() < 0.12
    named = Who("principal", "anyone") if anybody else who(random, kind)
    condition = clause(random, None if anybody else kind, place.about)
    tests = [*place.tests, *condition.holds]
    block, when = named.block, joined(tests)
    if block == "user any" and place.about == "endpoint" and tests and random.random() < 0.5:
        block, when = f"user where {' and '.join(tests)}", ""  # a block may say what its `may` would
    asked = "  issued by main\n  acts alone\n" if block.startswith("agent") else ""
    return Rule(
        None,
        f"permit({named.cedar}, {place.cedar}){named.cedar_clause}{condition.cedar};",
        f"{block} {{\n{asked}  may {place.may}{when}\n}}",
    )


def forbid(random: Random, kind: str, name: str) -> Rule:
    place, named = where(random, closing=True), who(random, kind)
    condition = clause(random, kind, place.about)
    tests = [*place.tests, *named.tests]
    acts = joined([*tests, *condition.holds])
    if condition.word == "unless" and not tests:
        acts = f" unless {condition.ours}"
    return Rule(
        name,
        f"forbid({named.cedar}, {place.cedar}){named.cedar_clause}{condition.cedar};",
        f'guard "{name}"{place.on} {{ deny{acts} }}',
    )


def joined(tests: Sequence[str]) -> str:
    return f" when {' and '.join(tests)}" if tests else ""
