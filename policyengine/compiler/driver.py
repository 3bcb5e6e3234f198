"""Questions of one form → the function that answers them: straight lines, with no check that the form has settled.

The form of a question is which members its roots have. A client's questions have few forms, so each gets a function of
its own, written here. It answers where every fact that matters is there and plain; where it is not sure it returns
None, and the request is decided with care. A question of another form is MISSED: `quick.py` then finds its own
function. Names of members come from the table of roots, never from a question or a policy.

Whatever is compared, looked up by or remembered is exactly a `str` before that: an object of another class may say that
it equals anything, and something else the next time. Who asks by one is answered with care, from a copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from policyengine.compiler.reads import only_str
from policyengine.runtime.values import MAX_ELEMENTS
from policyengine.vocabulary import ROOTS

Question: TypeAlias = dict[str, Any]
# The roots of a question and the members of each, both sorted; None for roots that are free or not restricted here.
Form: TypeAlias = tuple[tuple[str, tuple[str, ...] | None], ...]

MEMBERS = {root: None if members is None else frozenset(members) for root, members in ROOTS.items()}
# How to answer: whether it may spend does not matter but where there are limits to be charged.
MEMBERS["options"] = frozenset({"consume", "explain", "obligations_supported"})
MEMBERS["pending"] = None  # the one root that is a list
# What is read into a variable of its own.
USED = {
    ("agent", "id"): "agent", ("agent", "issuer"): "issuer", ("agent", "groups"): "groups", ("user", "id"): "user",
    ("credential", "issuer"): "credential_issuer", ("credential", "subject"): "subject",
    ("credential", "scopes"): "scopes", ("request", "method"): "method", ("request", "path"): "path",
}  # fmt: skip
WHO = "q, parts, agent, issuer, user, subject, carried, moment"


class Missed:
    """The question has another form."""


MISSED = Missed()


def form_of(question: Question) -> Form | None:
    """None for what is decided with care: unknown members, approvals, rows, options, no one endpoint."""
    if not only_str(map(type, question)):
        return None
    form = []
    for root in sorted(question):
        given = question[root]
        if root not in MEMBERS or type(given) is not (list if root == "pending" else dict):
            return None
        if not only_str(map(type, given)):
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
    waives: bool  # whether users whom an agent serves need no door of their own
    spends: bool  # whether an allowed request is charged to its limits
    recalls: bool = False  # whether the past is asked for, or anything is remembered
    at_once: bool = False  # whether what may take long is left to others
    choosy: bool = False  # whether some issuers speak for some users only
    bounded: bool | None = True  # whether tasks bound: None where some packages say that they do not
    lines: list[str] = field(default_factory=list)

    def text(self) -> str:
        members = dict(self.form)
        self.lines.append("def driver(q):")
        self.roots()
        self.who(members)
        self.where(members)
        if self.recalls:
            self.add("seen = changes() if leaf.recalls else 0")
        self.doors("agent" in members)
        self.served("agent" in members and "user" in members)
        self.add(GUARDS)
        if self.bounded is not False and {"tools", "entities"} & {*(members.get("task") or ())}:
            self.add(TASK if self.bounded else TASK_IN_DOUBT)
        self.end("agent" in members, "agent" in members and "user" in members)
        return "\n".join(self.lines) + "\n"

    def add(self, text: str, depth: int = 1) -> None:
        self.lines += ["    " * depth + line for line in text.strip("\n").split("\n")]

    # ── What is given ─────────────────────────────────────────────────────────────────────────

    def roots(self) -> None:
        """Every name is exactly a string, and every member is read: if there are as many as there should be, there are
        no others."""
        self.add("try:")
        self.named_as("q", len(self.form))
        for root, _ in self.form:
            self.add(f'{root}_ = q["{root}"]', depth=2)
        plain = [f"type({root}_) is not {'list' if root == 'pending' else 'dict'}" for root, _ in self.form]
        free = [root for root, names in self.form if names is None]
        plain += [f"len({root}_) > {MAX_ELEMENTS}" for root in free]
        self.add(f"if {' or '.join(plain)}: return None", depth=2)
        for root, names in self.form:
            if names is not None:
                self.named_as(f"{root}_", len(names))
        for root, names in self.form:
            for name in names or ():
                used = USED.get((root, name))
                self.add(f'{used} = {root}_["{name}"]' if used else f'{root}_["{name}"]', depth=2)
        self.add("except (KeyError, ValueError): return MISSED")
        roots = {root for root, _ in self.form}
        for root in free:
            if root != "body" or roots & {"tool", "action", "pending"}:  # else it is looked at for overrides
                self.exactly_strings(f"{root}_")

    def exactly_strings(self, of: str) -> None:
        """A loop is quicker than anything else for the few that there are."""
        self.add(f"for one in {of}:")
        self.add("if type(one) is not str: return None", depth=2)

    def named_as(self, of: str, many: int) -> None:
        """The names of the members of an object, so many as there are: nothing is looked up before their types are."""
        if not many:
            self.add(f"if {of}: return MISSED", depth=2)
            return
        names = [f"k{number}" for number in range(many)]
        self.add(f"{', '.join(names)}{',' if many == 1 else ''} = {of}", depth=2)
        self.add(f"if not {' is '.join(f'type({name})' for name in names)} is str: return None", depth=2)

    def who(self, members: dict[str, tuple[str, ...] | None]) -> None:
        for (root, name), used in USED.items():
            if name not in (members.get(root) or ()) and root != "request":
                self.add(f"{used} = None")
        credential, agent = members.get("credential") or (), members.get("agent") or ()
        if "agent" in members:  # an agent without a name is nobody, whatever its groups
            self.add("if type(agent) is not str: return None")
        if "user" in members:
            self.add("if type(user) is not str or not user or not user.isascii() or len(user) > 999: return None")
        if "subject" in credential:
            self.add("if subject is not None and not named(subject): return None")
        if "refused" in credential:
            self.add('if credential_["refused"] is not None: return None')
        if "issuer" in agent:
            self.add("if issuer is not None and type(issuer) is not str: return None")
        if "issuer" in credential:
            self.add("""
if credential_issuer is not None:
    if type(credential_issuer) is not str: return None
    if issuer is None: issuer = credential_issuer
    elif credential_issuer != issuer: return None
""")
        if self.choosy and "user" in members:  # a user of whom the issuer may not speak is unknown
            self.add("if issuer in choosy and not speaks_for(choosy[issuer], user): return None")
        for name in ("consume", "explain"):
            if name in (members.get("options") or ()):
                self.add(f'if options_["{name}"] is not True and options_["{name}"] is not False: return None')
        if "obligations_supported" in (members.get("options") or ()):
            self.add('if not all_named(options_["obligations_supported"]): return None')
        if {"issued_at", "expires_at"} & {*credential}:
            self.add("if not in_force(credential_, instant(now())): return None")
        if "claims" in credential:
            self.add('if not free(credential_["claims"]): return None')
        if "chain" in members:
            self.add('hops = chain_.get("hops")')
            self.add("if hops is not None and (type(hops) is not list or hops): return None")
        if self.limited and "agent" in members:
            self.add("if issuer not in recording: return None")
        self.add(SCOPES if "scopes" in credential else "carried = ()")

    # ── Where ─────────────────────────────────────────────────────────────────────────────────

    def where(self, members: dict[str, tuple[str, ...] | None]) -> None:
        request = members.get("request") or ()
        for name in ("headers", "query"):
            if name in request:
                self.add(f'if not tame(request_["{name}"]): return None')
        if "pending" in members:
            self.add("if not well_said(pending_, q): return None")
        if "tool" in members or "action" in members:
            self.place(members)
            self.add(ELSEWHERE)
            self.add(SMALL if self.at_once else SMALL_ENOUGH)
            return
        if "body" in members:
            self.add("if not tame(body_): return None")
        if {"method", "path"} - {*request}:
            self.add("return None")
        self.add(WALK)
        self.add(SMALL if self.at_once else SMALL_ENOUGH)

    def place(self, members: dict[str, tuple[str, ...] | None]) -> None:
        """What a tool or an action is known by, once it has been looked at."""
        kind = "tool" if "tool" in members else "action"
        parts = {"tool": (("tool", "server"), ("tool", "name")), "action": (("action", "name"), ("resource", "type"))}
        for variable, (root, name) in zip(("of", "name"), parts[kind], strict=True):
            self.add(f'{variable} = {root}_["{name}"]' if name in (members.get(root) or ()) else f"{variable} = None")
        self.add("if type(name) is not str or (of is not None and type(of) is not str): return None")
        self.add(f'key = "{kind}", of, name')

    # ── Doors, guards, and what follows ───────────────────────────────────────────────────────

    def doors(self, by_agent: bool) -> None:
        side, name = ("agents", "agent") if by_agent else ("users", "user")
        self.add(DOORS.replace("SIDE", side).replace("NAME", name))

    def served(self, asked: bool) -> None:
        self.add("served = True" if not asked or self.waives else SERVED)

    def end(self, by_agent: bool, served: bool) -> None:
        says_what_it_supports = "obligations_supported" in (dict(self.form).get("options") or ())
        met = MET if says_what_it_supports else ""
        charge = CHARGE.replace("KEY", "agent if leaf.by_agent else " if by_agent else "")
        says_whether_it_spends = "consume" in (dict(self.form).get("options") or ())
        spends = self.spends and not says_whether_it_spends
        self.add(
            END.format(
                plain_agent="(known(agent) or plain(agent))" if by_agent else "True",
                met=met,
                nothing=NOTHING_REMEMBERED if self.recalls else NOTHING_TAKEN,
                noted=NOTED if self.recalls and spends else "",
                limits=charge if spends else "return None",
                some="(leaf.limits or leaf.records) is not None" if self.recalls else "leaf.limits is not None",
            )
        )
        asked = served and not self.waives
        kind, name = ("agents", "agent") if by_agent else ("users", "user")
        if not asked:
            self.add(DENIED.replace("KIND", kind).replace("NAME", name))
        self.add(f"answer = denied(leaf, {by_agent}, opened, {asked}, acting, groups, scopes, ({WHO}))")
        self.add("return answer and Decision(answer, (agent, issuer, user), (moment, take()))")


SCOPES = """
carried = ()
if scopes is not None:
    if (type(scopes) is not list and type(scopes) is not tuple) or len(scopes) >= 1000: return None
    for one in scopes:
        if type(one) is not str: return None
    carried = scopes
"""

# The collection is mostly known, and what is new is the last segment; else the path is walked from its root. A segment
# that no literal stands for, however it is spelled, must be canonical as it is.
WALK = """
if not type(method) is type(path) is str: return None
moment = now()
head, _, tail = path.rpartition("/")
leaf = parts = None
branch = heads.get(head)
if branch is not None:
    then = branch.next.get(tail) if branch.next else None
    if then is not None: leaf = then.ends.get(method)
    elif tail.isalnum() and tail.isascii() and len(tail) < 256 and tail.lower() not in branch.cased:
        leaf = branch.last.get(method)
if leaf is None:
    place = walk(method, path)
    if place is None: return None
    leaf, parts = place
elif leaf.takes_parts: parts = path.split("/")
"""

# Tools and actions that the policy names are known by their names; others are looked at each time.
ELSEWHERE = """
moment = now()
place = places.get(key) or elsewhere(key)
if place is None: return None
leaf, parts = place
"""

# What could take more steps than a decision has is decided with care, which counts them.
SMALL_ENOUGH = "if leaf.sizes is not None and leaf.sizes.exceeded(q): return None"
SMALL = "if leaf.sizes is not None and leaf.sizes.takes_long(q): return None"

# An agent goes through most doors by its name or by a group.
DOORS = f"""
side = leaf.SIDE
opened = to_anyone = leaf.anyone is not None and leaf.anyone({WHO}) is True
asked = False
if not opened:
    rule = side.names.get(NAME)
    if rule is not None:
        if type(rule) is tuple: rule = side.names.made(NAME)
        opened = rule({WHO}) is True
        asked = True
    if not opened and side.more:
        rules = side.groups
        if rules and (type(groups) is list or type(groups) is tuple):
            for group in groups:
                if type(group) is not str: return None
            for group in rules if len(rules) < 4 else groups:
                rule = rules.get(group) if group in groups else None
                if rule is not None:
                    if type(rule) is tuple: rule = rules.made(group)
                    asked = True
                    if rule({WHO}) is True and plain_strings(groups):
                        opened = True
                        break
        if side.others is not None and not opened and NAME is not None: opened = side.others({WHO}) is True
        if side.globs and not opened: opened = opened_by_globs(side, NAME, ({WHO}))
"""
SERVED = f"""
served = to_anyone
if opened and not served:
    side = leaf.served
    rule = side.names.get(user)
    if rule is not None:
        if type(rule) is tuple: rule = side.names.made(user)
        served = rule({WHO}) is True
    if not served and side.others is not None: served = side.others({WHO}) is True
"""

GUARDS = f"""
acting = 0
if leaf.guards is not None:
    acting = leaf.guards({WHO})
    if acting is None: return None
"""

# What is open to anyone is not bounded by a task, and a package may leave it to guards: which door it is, is then told
# with care.
TASK = f"""
outside = 0 if leaf.task is None else leaf.task({WHO})
if outside is None or (outside and leaf.anyone is not None): return None
acting += outside
"""
TASK_IN_DOUBT = f"""
if leaf.task is not None and leaf.task({WHO}) != 0: return None
"""

# Where it is allowed the limits are charged, if there are any; where it is not, some rates count denials: with care.
END = """
if opened and served and (issuer in issuers or plain(issuer)) and {plain_agent}:
    answer = ALLOW if not acting else leaf.verdicts.get((OPEN, acting)) or verdict(leaf, OPEN, acting){met}
    if {nothing}:
        return Decision(answer, (agent, issuer, user), (moment, take()))
    if answer.outcome is not ALLOWED: return None{noted}
    {limits}
if leaf.counting or (opened and served and {some}): return None
"""
# That there is nothing more to do: an allow takes and leaves nothing, and what is denied is not counted.
NOTHING_TAKEN = "leaf.limits is None or (answer.outcome is not ALLOWED and not leaf.counting)"
NOTHING_REMEMBERED = "leaf.limits is None and leaf.records is None if answer.outcome is ALLOWED else not leaf.counting"
NOTED = f"""
    if leaf.recalls: return noted(leaf, answer, (agent, issuer, user), (moment, take()), ({WHO}), seen)"""
CHARGE = f"""charges = KEYleaf.limits({WHO})
    if charges is None: return None
    if leaf.take is not None:
        stood = leaf.take(charges, moment)
        if stood is not None: return Decision(answer, (agent, issuer, user), (moment, take()), stood)
        charges = leaf.taker.charges(charges)
    return charge(answer, (agent, issuer, user), (moment, take()), charges)"""

MET = """
    if not met(answer, options_["obligations_supported"]): return None"""

# The commonest deny: no door here is for the caller, or the conditions of one do not hold. Every block that may be
# about the caller is asked what it tells, as it may have a doubt of its own; two lists of scopes are told with care.
DENIED = f"""
side = leaf.told_KIND
if not opened and not side.globs and leaf.told_anyone is None and issuer in issuers:
    closed = False
    rule = side.names.get(NAME) if asked else None
    if rule is not None:
        if type(rule) is tuple: rule = side.names.made(NAME)
        closed = rule({WHO})
        if closed is None: return None
    rules = side.groups
    if rules:
        if (type(groups) is not list and type(groups) is not tuple) or not only_str(map(type, groups)): return None
        if not known_groups.issuperset(groups) and not plain_strings(groups): return None
        if asked:
            for group in rules if len(rules) < 4 else groups:
                rule = rules.get(group) if group in groups else None
                if rule is not None:
                    if type(rule) is tuple: rule = rules.made(group)
                    answer = rule({WHO})
                    if answer is None or (answer and closed): return None
                    if answer is not False: closed = answer or closed or ()
    if side.others is not None and NAME is not None:
        answer = side.others({WHO})
        if answer is None or (answer and closed): return None
        if answer is not False: closed = answer or closed or ()
    if closed is False:
        side = leaf.standing_KIND
        rule = side.names.get(NAME)
        if rule is not None:
            if type(rule) is tuple: rule = side.names.made(NAME)
            closed = rule({WHO})
        if closed is False and side.others is not None and NAME is not None: closed = side.others({WHO})
    if closed is not False and closed is not None and NAME is not None and (known(NAME) or plain(NAME)):
        answer = None
        if not closed and not acting: answer = NOTHING_OPENS
        elif not closed or plain_strings(scopes):
            doors = (True, False, closed, True)
            answer = leaf.verdicts.get((doors, acting)) or verdict(leaf, doors, acting)
        return answer and Decision(answer, (agent, issuer, user), (moment, take()))
"""
