"""Questions of one form → the function that answers them: straight lines, with no check that the form has settled.

The form of a question is which members its roots have. A client's questions have few forms, so each gets a function of
its own, written here. It answers where every fact that matters is there and plain; where it is not sure it returns None,
and the request is decided with care. A question of another form is MISSED: `quick.py` then finds its own function. Names
of members come from the table of roots, never from a question or a policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from policyengine.runtime.request import ROOTS

Question: TypeAlias = dict[str, Any]
# The roots of a question and the members of each, both sorted; None for roots that are free or not restricted here.
Form: TypeAlias = tuple[tuple[str, tuple[str, ...] | None], ...]

LONGEST_PATH = 256  # characters: it has fewer segments than any bound; a longer one is decided with care
MEMBERS = {root: None if members is None else frozenset(members) for root, members in ROOTS.items()}
WHO = "q, parts, agent, issuer, user, subject, carried, moment"


class Missed:
    """The question has another form."""


MISSED = Missed()


def form_of(question: Question) -> Form | None:
    """None for what is decided with care: unknown members, approvals, rows, pending facts, options, no one endpoint."""
    form = []
    for root in sorted(question):
        given = question[root]
        if root not in MEMBERS or type(given) is not dict:
            return None
        allowed = MEMBERS[root]
        if allowed is not None and not allowed.issuperset(given):
            return None
        form.append((root, None if allowed is None else tuple(sorted(given))))
    roots = dict(form)
    http = {"method", "path"} & {*(roots.get("request") or ())}
    return tuple(form) if bool(http) + ("tool" in roots) + ("action" in roots) == 1 else None


@dataclass(slots=True)
class Driver:
    """Writes the function for one form."""

    form: Form
    limited: bool  # whether the policy limits delegation
    waives: bool | None  # whether users need no door of their own; None: it depends on the block
    lines: list[str] = field(default_factory=list)

    def text(self) -> str:
        members = dict(self.form)
        self.lines.append("def driver(q):")
        self.roots(members)
        self.who(members)
        self.where(members)
        self.doors("agent" in members)
        self.served("agent" in members and "user" in members)
        self.guards()
        self.end("agent" in members)
        return "\n".join(self.lines) + "\n"

    def add(self, text: str, depth: int = 1) -> None:
        self.lines += ["    " * depth + line for line in text.strip("\n").split("\n")]

    # ── What is given ─────────────────────────────────────────────────────────────────────────

    def roots(self, members: dict[str, tuple[str, ...] | None]) -> None:
        for root, names in self.form:
            self.add(f'{root}_ = q["{root}"]')
            if not names:  # free, or without members: nothing below would notice what is no object
                self.add(f"if type({root}_) is not dict: return MISSED")
            if names is not None:
                self.add(f"if len({root}_) != {len(names)}: return MISSED")
        read = {"agent": ("id", "issuer", "groups"), "user": ("id",), "request": ("method", "path")}
        read["credential"] = ("issuer", "subject", "scopes")
        for root, names in self.form:
            for name in names or ():
                reading = f'{root}_["{name}"]'
                self.add(f"{root}_{name} = {reading}" if name in read.get(root, ()) else reading)

    def who(self, members: dict[str, tuple[str, ...] | None]) -> None:
        def given(root: str, name: str) -> str:
            return f"{root}_{name}" if name in (members.get(root) or ()) else "None"

        credential = members.get("credential") or ()
        self.add(
            f"agent, user, subject = {given('agent', 'id')}, {given('user', 'id')}, {given('credential', 'subject')}"
        )
        self.add(f"issuer, groups = {given('agent', 'issuer')}, {given('agent', 'groups')}")
        self.add(f"scopes = {given('credential', 'scopes')}")
        if "agent" in members and given("agent", "id") == "None":
            self.add("return None")
        if "user" in members:
            self.add("if not named(user): return None")
        if "subject" in credential:
            self.add("if subject is not None and not named(subject): return None")
        if "issuer" in credential:
            self.add("""
if issuer is None: issuer = credential_issuer
elif credential_issuer is not None and credential_issuer != issuer: return None
""")
        if {"issued_at", "expires_at"} & {*credential}:
            self.add("if not in_force(credential_, instant(now())): return None")
        if "claims" in credential:
            self.add('if type(credential_["claims"]) is not dict: return None')
        if "chain" in members:
            self.add('if chain_.get("hops"): return None')
        if self.limited and "agent" in members:
            self.add("if issuer not in recording: return None")
        self.add(
            """
if scopes is None: carried = ()
elif (type(scopes) is list or type(scopes) is tuple) and len(scopes) < 1000: carried = scopes
else: return None
"""
            if "scopes" in credential
            else "carried = ()"
        )

    # ── Where ─────────────────────────────────────────────────────────────────────────────────

    def where(self, members: dict[str, tuple[str, ...] | None]) -> None:
        request = members.get("request") or ()
        for name in ("headers", "query"):
            if name in request:
                self.add(f'if not tame(request_["{name}"]): return None')
        if "tool" in members or "action" in members:
            self.add("""
place = elsewhere(q, leaves)
if place is None: return None
leaf, parts = place
moment = now()
""")
            return
        if "body" in members:
            self.add("if not tame(body_): return None")
        if {"method", "path"} - {*request}:
            self.add("return None")
        self.add(WALK)

    # ── Doors, guards, and what follows ───────────────────────────────────────────────────────

    def doors(self, by_agent: bool) -> None:
        side, name = ("agents", "agent") if by_agent else ("users", "user")
        self.add(DOORS.replace("SIDE", side).replace("NAME", name))

    def served(self, asked: bool) -> None:
        if not asked or self.waives:
            self.add("served = True")
            return
        self.add(SERVED)
        if self.waives is None:
            self.add("if not served: return None")

    def guards(self) -> None:
        self.add(GUARDS)

    def end(self, by_agent: bool) -> None:
        side, name = ("standing_agents", "agent") if by_agent else ("standing_users", "user")
        self.add(END.replace("SIDE", side).replace("NAME", name))


# The collection is mostly known, and what is new is the last segment; else the path is walked from its root. A segment
# that no literal stands for must be canonical as it is.
WALK = """
moment = now()
head, _, tail = request_path.rpartition("/")
branch, leaf, parts = heads.get(head), None, None
if branch is not None:
    then = branch.next.get(tail)
    if then is not None: leaf = then.ends.get(request_method)
    elif tail.isalnum() and tail.isascii() and len(tail) < 256:
        then = branch.wild
        leaf = branch.beyond.get(request_method) if then is None else then.ends.get(request_method)
if leaf is None:
    place = walk(request_method, request_path)
    if place is None: return None
    leaf, parts = place
elif leaf.takes_parts: parts = request_path.split("/")
"""

DOORS = f"""
sure = True
opened = to_anyone = closed = False
if leaf.anyone is not None:
    answer = leaf.anyone({WHO})
    if answer is True: opened = to_anyone = True
    elif answer is None: sure = False
if not opened:
    side = leaf.SIDE
    rule = side.names.get(NAME)
    if rule is not None:
        if type(rule) is tuple: rule = side.names.made(NAME)
        answer = rule({WHO})
        if answer is True: opened = True
        elif answer is None: sure = False
        else: closed = answer
    elif NAME is not None and (type(NAME) is not str or not NAME or not NAME.isascii() or len(NAME) > 999): return None
    if not opened and side.more:
        if side.groups:
            if type(groups) is list or type(groups) is tuple:
                for group in groups:
                    if type(group) is not str or not group.isascii() or len(group) > 999:
                        sure = False
                        continue
                    rule = side.groups.get(group)
                    if rule is None: continue
                    if type(rule) is tuple: rule = side.groups.made(group)
                    answer = rule({WHO})
                    if answer is True:
                        opened = True
                        break
                    if answer is None or (answer and closed): sure = False
                    elif closed is False or answer: closed = answer
            else: sure = False
        if not opened and (side.globs or side.others is not None):
            for rule in asked_each(side, NAME):
                answer = rule({WHO})
                if answer is True:
                    opened = True
                    break
                if answer is None or (answer and closed): sure = False
                elif closed is False or answer: closed = answer
"""

SERVED = f"""
served = to_anyone
if not served:
    side = leaf.served
    rule = side.names.get(user)
    if rule is not None:
        if type(rule) is tuple: rule = side.names.made(user)
        answer = rule({WHO})
        if answer is True: served = True
        elif answer is None: sure = False
    if not served and side.others is not None:
        answer = side.others({WHO})
        if answer is True: served = True
        elif answer is None: sure = False
"""

GUARDS = f"""
acting = 0
if leaf.guards is not None:
    acting = leaf.guards({WHO})
    if acting is None: return None
"""

END = f"""
if opened and served:
    if to_anyone and not (plain(agent) and plain(issuer)): return None
    answer = ALLOW if not acting else leaf.verdicts.get((OPEN, acting)) or verdict(leaf, OPEN, acting)
    return Decision(answer, (agent, issuer, user), (moment, take()))
if not sure: return None
if closed is False and not opened:
    stands = standing(leaf.SIDE, NAME, groups, ({WHO}))
    if stands is None or not plain(issuer): return None
    answer = NOTHING_OPENS if stands and served and not acting else verdict(leaf, (stands, False, (), served), acting)
else:
    if not plain(issuer) or (closed and not plain_strings(scopes)): return None
    if not closed and not opened and served and not acting: answer = NOTHING_OPENS
    else:
        doors = (True, opened, closed or (), served)
        answer = leaf.verdicts.get((doors, acting)) or verdict(leaf, doors, acting)
return Decision(answer, (agent, issuer, user), (moment, take()))
"""
