"""Policies over the shared vocabulary, which always check: every enforced construct, in random combinations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from tests.generate import vocabulary as v
from tests.generate.expressions import Writer, atoms_at
from tests.generate.history import Past, histories
from tests.generate.limits import limits

ABOUT_AGENTS = frozenset({"agent", "time", "context"})
ABOUT_USERS_SERVED = ABOUT_AGENTS | {"user"}
ABOUT_USERS = ABOUT_USERS_SERVED | {"credential", "attestation", "task", "request", "chain"}

# What a `may` can name, and the groups of facts that exist there.
SCOPES: dict[str, tuple[str, ...]] = {
    "notes.read": (), "invoices.read": (), "invoices.write": (), "invoice.one": ("invoice", "captured"),
    "refunds": ("invoice", "amount"), "docs": ("doc",), "mail": ("mail",), "run": ("model",), "everything": (),
    "c.ping": (), "any.of": ("invoice",),
}  # fmt: skip
ENDPOINTS: dict[str, tuple[str, ...]] = {
    "GET /health": (), "GET /notes/**": (), "ANY /notes/*": (), "GET|POST /v1/invoices": (),
    "GET|DELETE /v1/invoices/{id: invoice}": ("invoice", "captured"), "TOOL mail/*": ("mail",), "TOOL *": (),
    "OPTIONS /notes": (), "ACTION view invoice": ("invoice",), "POST /models/{name}:predict": ("model",),
    "TOOL billing/refund": ("invoice", "amount", "tool"), "GET /v1/orgs/{org: org}/docs/{doc: doc}": ("doc",),
    "POST /v1/invoices/{id: invoice}/refunds": ("captured", "invoice", "amount", "refund"), "GET|POST /**": (),
    "GET /Notes/**": (), "GET /V1/{rest}/*": (),
}  # fmt: skip
PLACES: dict[str, tuple[str, ...]] = {
    "": (), "/v1/**": (), "/notes/** except GET /notes/7": (), "ANY /v1/invoices/*": (), "TOOL *": (),
    "GET /v1/orgs/**, TOOL mail/* except TOOL mail/draft": (), "everything except refunds": (),
    "/health, /notes": (),
    **{name: SCOPES[name] for name in ("invoices.read", "invoice.one", "refunds", "docs", "run")},
    "/v1/invoices/{id: invoice}": ("invoice", "captured"), "mail": ("mail",), "POST /models/{name}:predict": ("model",),
    "TOOL billing/refund": ("invoice", "amount", "tool"), "ACTION view invoice": ("invoice",),
    "POST /v1/invoices/{id: invoice}/refunds": ("captured", "invoice", "amount", "refund"),
    "/v1/orgs/{org: org}/docs/{doc: doc}": ("doc",), "/NOTES/** except /Notes/7, /notes/a/**": (),
    "/V1/Invoices/{id: invoice}": ("invoice", "captured"), "GET|POST /Health": (),
    "POST /MODELS/{name}:Predict": ("model",),
}  # fmt: skip
# Constants that are interchangeable everywhere.
CONSTANTS = (
    ('"acme"', '"evil"', '"acme-1"', '"é"'), ("499.99", "0.5"), (" 500", " 10_000"), ('user "alice"', 'user "bob"'),
    ('team "legal"', 'team "sales"'), ("2027-01-04T12:00:00Z", "2026-12-31T23:00:00+02:00"), ("10.0.0.1", "8.8.8.8"),
    (" 5m", " 1h30m"),
)  # fmt: skip
MESSAGES = {
    "": "not now",
    "refund": "{body.amount} to {body.note}",
    "model": "model {params.name}",
    "invoice": "for {resource.tenant}",
}

SOME_USERS = 'users like "bob", "*li*"'

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class File:
    head: str
    declarations: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join((self.head, *self.declarations)) + "\n"


@dataclass(frozen=True, slots=True)
class Policy:
    """The files of one policy; the first package is the one that is asked."""

    files: tuple[File, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(file.text for file in self.files)

    def shuffled(self, random: Random) -> Policy:
        """Return the same declarations and files in another order."""
        files = [File(file.head, tuple(_shuffled(random, file.declarations))) for file in self.files]
        return Policy(tuple(_shuffled(random, files)))

    def split(self) -> Policy:
        """Return the same declarations in twice as many files."""
        halves = [File(f.head, f.declarations[start::2]) for f in self.files for start in (0, 1)]
        return Policy(tuple(half for half in halves if half.declarations))

    def without(self, declaration: str) -> Policy:
        files = tuple(replace(f, declarations=tuple(d for d in f.declarations if d != declaration)) for f in self.files)
        return Policy(tuple(file for file in files if file.declarations))


def policy(random: Random) -> Policy:
    """Return a policy that checks. The same state of `random` gives the same policy."""
    heads = "package acme.app\nimport acme.common as c"
    return Policy((File(heads, tuple(_app(random))), File("package acme.common", tuple(_common(random)))))


def remembering(random: Random) -> Policy:
    """Return either kind of policy, with guards that read history."""
    head, *others = random.choice([gateway, policy])(random).files
    asking = tuple(histories(random, PLACES, {**SCOPES, **ENDPOINTS}))
    return Policy((replace(head, declarations=(*head.declarations, *asking)), *others))


def recalling(random: Random) -> Policy:
    """Return a policy that opens a few endpoints to everybody, with guards there that read the history of the same
    endpoints."""
    opened = f"may {', '.join(RECALLED)}"
    if random.random() < 0.4:
        opened = "\n  ".join(
            f"may {place} when {Past(random, RECALLED[place], RECALLED).condition()}" for place in RECALLED
        )
    declarations = (
        v.ENTITIES, *(f"define {name} = context.flag" for name in v.DEFINED), *_anchors(random), *_scopes(random),
        _block("user any", [opened]), _block('agent "*"', ["issued by open, c.partner", "acts for any user", opened]),
        *histories(random, RECALLED, RECALLED), *limits(random, RECALLED, plain=True),
    )  # fmt: skip
    heads = "package acme.app\nimport acme.common as c"
    return Policy((File(heads, declarations), File("package acme.common", tuple(_common(random)))))


RECALLED: dict[str, tuple[str, ...]] = {
    place: ENDPOINTS[place]
    for place in ("GET /notes/**", "GET|POST /v1/invoices", "GET|DELETE /v1/invoices/{id: invoice}", "TOOL mail/*")
}


def gateway(random: Random) -> Policy:
    """Return a policy of many short rules of few shapes, as at gateways."""
    heads = "package acme.app\nimport acme.common as c"
    return Policy((File(heads, tuple(_gateway(random))), File("package acme.common", tuple(_common(random)))))


def _lines(random: Random) -> Iterable[str]:
    """Return the items that apply to a whole package."""
    yield from ("paths ignore case",) if random.random() < 0.25 else ()
    yield from ("tasks advisory",) if random.random() < 0.2 else ()


def _gateway(random: Random) -> Iterable[str]:
    yield v.ENTITIES
    yield from _lines(random)
    yield from (f"define {name} = context.flag" for name in v.DEFINED)
    yield from _anchors(random)
    yield from _scopes(random)
    yield from ("users unrestricted",) if random.random() < 0.1 else ()
    served = random.choice(["any", "any", *(f'"{name}"' for name in v.USERS)])
    yield _block(f"user {served}", ["may everything", "may refunds, docs"])
    for _ in range(random.randint(3, 9)):
        heads = [*(f'"{name}"' for name in (*v.AGENTS * 3, *v.AGENT_GLOBS)), *(f'group "{name}"' for name in v.GROUPS)]
        issued = ", ".join(dict.fromkeys(_some(random, ["acme", "plain", "open", "c.partner"], 2)))
        acts = random.choice(["acts alone", "acts for any user", "acts for any user"])
        may = [_plain_may(random) for _ in range(random.randint(1, 4))]
        yield _block(f"agent {random.choice(heads)}", _valid(random, [f"issued by {issued}", acts, *may]))
    for number in range(random.choice([1, 2, 3, 4])):
        place, groups = random.choice([one for one in sorted(PLACES.items()) if "except" in one[0] or number])
        on = f" on {place}" if place else ""
        yield _block(f'guard "p{number}"{on}', [f"{_act(random, groups)} {_plain_condition(random, groups)}"])
    yield from limits(random, PLACES, plain=True)


ACTS = (
    "deny when", "deny unless", "require", "require", "audit full when", 'header "X-Checked" "yes" when', "warn when",
    "step_up mfa when", 'notify "soc" when',
)  # fmt: skip


def _act(random: Random, groups: Sequence[str]) -> str:
    paths = _redactable(groups)
    return f"redact {paths} when" if paths and random.random() < 0.3 else random.choice(ACTS)


REDACTED = {"refund": "body.note, body.card.number", "amount": "body.amount", "mail": "args.to"}


def _redactable(groups: Sequence[str]) -> str | None:
    """Return the facts of a place that may be redacted, if any."""
    return next((REDACTED[group] for group in reversed(groups) if group in REDACTED), None)


def _plain_may(random: Random) -> str:
    target = random.choice(sorted(SCOPES))
    return f"may {target}" + (f" when {_plain_condition(random, SCOPES[target])}" if random.random() < 0.7 else "")


PLAIN = (
    "bool", "int", "number", "string", "plan", "kind", "duration", "time", "strings", "ip", "user", "doc", "tool",
    "members",
)  # fmt: skip


def _plain_condition(random: Random, groups: Iterable[str]) -> str:
    """Return up to three relations of plain facts, joined by `and` or `or`."""
    atoms = {kind: found for kind, found in atoms_at(groups).items() if kind in PLAIN}
    writer = Writer(random, atoms, None, 0, definitions=False)
    parts = [writer.relation() for _ in range(random.choice([1, 1, 2, 3]))]
    return random.choice([" and ", " or "]).join(parts)


def _app(random: Random) -> Iterable[str]:
    yield v.ENTITIES
    yield from _lines(random)
    yield from _definitions(random)
    yield from _anchors(random)
    yield from _scopes(random)
    restricted = random.random() < 0.8
    yield from ("users unrestricted",) if not restricted or random.random() < 0.2 else ()
    yield from (_user(random) for _ in range(random.randint(1 if restricted else 0, 3)))
    yield from (_agent(random) for _ in range(random.randint(1, 5)))
    yield from (_anyone(random) for _ in range(random.choice([0, 0, 1, 2])))
    yield from (_delegation(random) for _ in range(random.choice([0, 0, 1])))
    yield from (_guard(random, f"g{number}") for number in range(random.choice([0, 1, 2, 3, 4])))
    yield from limits(random, PLACES)


def _common(random: Random) -> Iterable[str]:
    yield from _lines(random)
    yield 'export issuer partner { scopes none   records chains   claims { plan -> user.plan   "x-age" -> user.age } }'
    yield "export scope ping { GET /ping   POST /ping/{name} }"
    yield 'export let nobody = "nobody"'
    yield "export define soon = time < 2028-01-01"
    yield 'export attester notary { url "https://notary.example" }'
    if random.random() < 0.5:
        general = _writer(random, ())
        place = random.choice(["ping", "/notes/**", "TOOL *"])
        yield f'guard "of common" on {place} {{ require {_plain(general)} }}'
    if random.random() < 0.2:
        yield "delegation { depth <= 3 }"


def _plain(writer: Writer) -> str:
    """Return a condition that is valid in a package without the vocabulary of the other."""
    return writer.random.choice(
        ["soon", "credential.bound", "request.ip within 10.0.0.0/8", "(agent.id != nobody)", "attestation.verified"]
    )


def with_twins(random: Random, found: Policy) -> Policy:
    """Repeat each block and guard once or twice with other constants: rules of one shape, which an engine may share."""
    head, *others = found.files
    twins = [
        _twin(random, declaration, number)
        for number, declaration in enumerate(head.declarations * 2)
        if declaration.startswith(("agent", "user ", "guard", "anyone"))
    ]
    return Policy((replace(head, declarations=(*head.declarations, *twins)), *others))


def _twin(random: Random, declaration: str, number: int) -> str:
    def other(found: re.Match[str]) -> str:
        return random.choice(next(pool for pool in CONSTANTS if found[0] in pool))

    head, brace, body = declaration.partition("{")
    if head.startswith("guard"):
        head = head.replace('guard "', f'guard "{number}', 1)
    return head + brace + re.sub("|".join(re.escape(one) for pool in CONSTANTS for one in pool), other, body)


# ── Vocabulary, anchors, scopes ───────────────────────────────────────────────────────────────


def _writer(
    random: Random,
    groups: Sequence[str],
    roots: frozenset[str] | None = None,
    approvals: bool = False,
    definitions: bool = True,
) -> Writer:
    depth = random.choice([0, 1, 2, 3])
    return Writer(random, atoms_at(groups, roots), roots, depth, approvals, definitions=definitions)


def _definitions(random: Random) -> Iterable[str]:
    for name, roots in v.DEFINED.items():
        yield f"define {name} = {_writer(random, (), roots, definitions=False).condition()}"


def _users_like(random: Random) -> str:
    return f"   {SOME_USERS}" if _aside(random).random() < 0.25 else ""


def _aside(random: Random) -> Random:
    """Return a separate random source, so that later random choices do not change."""
    aside = Random()
    aside.setstate(random.getstate())
    return aside


def _anchors(random: Random) -> Iterable[str]:
    url = 'url "https://login.acme.example"   audience "payments"   ' if random.random() < 0.3 else ""
    yield f"issuer acme {{ {url}records chains   claims {{ tenant -> user.tenant   roles -> user.roles }} }}"
    yield f"issuer plain {{ {random.choice(['', 'claims { score -> user.score }'])}{_users_like(random)} }}"
    yield f"issuer open {{ scopes none   {random.choice(['', 'records chains'])}{_users_like(random)} }}"
    items = [
        f"age <= {random.choice(['5m', '1h'])}", 'model "m1" sha256:00ff', 'model "m2"',
        'environment in ["tdx", "snp"]',
        'url "https://lab.example"',
    ]  # fmt: skip
    yield f"attester lab {{ {'   '.join(_some(random, items, 0))} }}"


def _scopes(random: Random) -> Iterable[str]:
    def named(name: str, items: str) -> str:
        renamed = random.choice(["", "", f'as "x:{name}" '])
        return f"scope {name} {renamed}{{ {items} }}"

    yield named("notes.read", "GET /notes   GET /notes/**")
    yield named("invoices.read", "GET /v1/invoices   GET /v1/invoices/{id: invoice}   ACTION view invoice")
    yield named("invoices.write", "include invoices.read   POST|PUT|DELETE /v1/invoices/{id: invoice}")
    yield named("invoice.one", f"{random.choice(['GET', 'ANY', 'GET|PATCH'])} /v1/invoices/{{id: invoice}}")
    yield named(
        "refunds",
        "POST /v1/invoices/{id: invoice}/refunds\n"
        "  TOOL billing/refund with resource = invoice(args.invoice), body.amount = args.amount",
    )
    yield named("docs", "GET|PUT /v1/orgs/{org: org}/docs/{doc: doc}")
    yield named("mail", 'TOOL mail/*   TOOL "mail/odd name"')
    yield named("run", "POST /models/{name}:predict")
    yield named("any.of", "GET|POST /v1/*/*   GET /v1/others")
    several = _some(random, ["notes.read", "invoices.write", "refunds", "docs", "mail", "run", "c.ping"], 2)
    yield named("everything", f"include {', '.join(several)}   GET /health")


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


def _may(random: Random, scopeless: bool) -> str:
    """Return a `may`; if it grants several endpoints, its condition reads facts that exist at all of them."""
    pool = {**SCOPES, **(ENDPOINTS if scopeless else {})}
    targets = random.sample(sorted(pool), random.choice([1, 1, 1, 2, 3]))
    groups = set(pool[targets[0]]).intersection(*(pool[target] for target in targets))
    when = f" when {_writer(random, sorted(groups)).condition()}" if random.random() < 0.5 else ""
    return f"may {', '.join(targets)}{when}"


def _user(random: Random) -> str:
    who = random.choice(["any", "any", *(f'"{name}"' for name in v.USERS), "where"])
    if who == "where":
        who = f"where {_writer(random, (), ABOUT_USERS).condition()}"
    items = [_may(random, True) for _ in range(random.randint(1, 3))]
    if random.random() < 0.6:
        items.append("may everything, invoices.write, refunds, docs")
    return _block(f"user {who}", _valid(random, items))


def _anyone(random: Random) -> str:
    return _block("anyone", [_may(random, True)])


def _agent(random: Random) -> str:
    named = [*v.AGENTS * 2, *v.AGENT_GLOBS]
    head = random.choice([*(f'"{name}"' for name in named), *(f'group "{name}"' for name in v.GROUPS), "where"])
    if head == "where":
        head = f"where {_writer(random, (), ABOUT_AGENTS).condition()}"
    issuers = _some(random, ["acme", "acme", "plain", "open", "c.partner"], 1)
    acts = ["acts alone", "acts for any user", "acts for any user"]
    acts += [f"acts for users where {_writer(random, (), ABOUT_USERS_SERVED).condition()}"]
    items = [f"issued by {', '.join(dict.fromkeys(issuers))}", random.choice(acts)]
    items += [_credential(random)] if random.random() < 0.25 else []
    items += [f"attested by {random.choice(['lab', 'c.notary', 'lab, c.notary'])}"] if random.random() < 0.2 else []
    items += [_may(random, bool({"open", "c.partner"} & set(issuers))) for _ in range(random.randint(1, 3))]
    items += ["may everything, refunds"] if random.random() < 0.5 else []
    items += [_delegate(random) for _ in range(random.choice([0, 1, 1, 2]))]
    return _block(f"agent {head}", _valid(random, items))


def _credential(random: Random) -> str:
    items = [f"kind in [{', '.join(_some(random, v.KINDS, 1))}]", "lifetime <= 15m", "age <= 1h", "bound"]
    return f"credential {{ {'   '.join(_some(random, items, 1))} }}"


def _delegate(random: Random) -> str:
    scopes = random.sample(sorted(SCOPES), random.choice([1, 2]))
    to = random.choice([*(f'agent "{name}"' for name in (*v.AGENTS, *v.AGENT_GLOBS)), 'group "ops"'])
    groups = set(SCOPES[scopes[0]]).intersection(*(SCOPES[scope] for scope in scopes))
    lasting = random.choice(["", "", " for 30m"])
    when = f" when {_writer(random, sorted(groups)).condition()}" if random.random() < 0.3 else ""
    return f"may delegate {', '.join(scopes)} to {to}{lasting}{when}"


def _valid(random: Random, items: list[str]) -> list[str]:
    dates = ["valid until 2028-01-01", "valid from 2026-01-01", "valid from 2026-01-01 until 2027-01-04T12:00:00Z"]
    return [*items, random.choice(dates)] if random.random() < 0.15 else items


def _delegation(random: Random) -> str:
    limits = [f"depth <= {random.randint(1, 3)}", f"lifetime <= {random.choice(['10m', '1h'])}", "no cycles"]
    return f"delegation {{ {'   '.join(_some(random, limits, 1))} }}"


# ── Guards ────────────────────────────────────────────────────────────────────────────────────


def _guard(random: Random, name: str) -> str:
    place, groups = random.choice(sorted(PLACES.items()))
    items = [_item(random, groups) for _ in range(random.randint(1, 3))]
    if not place and len(items[0]) % 3 == 0:  # sometimes, if there are endpoints that bind none
        items.append('require resource is absent or resource.id != "7"')
    return _block(f'guard "{name}"' + (f" on {place}" if place else ""), items)


def _item(random: Random, groups: tuple[str, ...]) -> str:
    def condition(optional: bool = True, approvals: bool = True) -> str:
        if optional and random.random() < 0.25:
            return ""
        written = _writer(random, groups, approvals=approvals).condition()
        return f" {random.choice(['when', 'unless'])} {written}"

    shown = next((MESSAGES[group] for group in reversed(groups) if group in MESSAGES), MESSAGES[""])
    message = f' message "{shown}"' if random.random() < 0.3 else ""
    redact = _redactable(groups)
    within = random.choice(["", " within 15m"])
    forms: list[Callable[[], str]] = [
        lambda: f"deny{condition(optional=False)}{message}",
        lambda: f"require {_writer(random, groups, approvals=True).condition()}{message}",
        lambda: f"require {_writer(random, groups, approvals=True).condition()}{message}",
        *[
            lambda: (
                f"confirm by {_approver(random, groups)}{_from(random)}{within}{_bound(random)}"
                f"{condition(approvals=False)}{message}"
            )
        ]
        * 4,
        lambda: f"audit {random.choice(['full', 'brief', 'none'])}{condition()}",
        lambda: f'notify "soc"{condition()}',
        lambda: f"warn{condition()}{message}",
        lambda: f"step_up {random.choice(['high', 'mfa'])}{condition()}",
        lambda: f'header "X-Checked" "yes"{condition()}',
        *([lambda: f"redact {redact}{condition()}"] if redact else []),
    ]
    return random.choice(forms)()


def _approver(random: Random, groups: tuple[str, ...]) -> str:
    forms = [
        "user",
        f"role {random.choice(v.ROLES)}",
        'team "legal"',
        "user.manager",
        '2 of team "all"',
        "2 of role boss",
    ]
    forms += ["resource.approvers", "resource.owner", "2 of resource.approvers"] if "invoice" in groups else []
    forms += ["resource.editors", "params.org.admins"] if "doc" in groups else []
    return random.choice(forms)


def _from(random: Random) -> str:
    aside = _aside(random)
    several = aside.sample(["acme", "plain", "open"], aside.randint(1, 2))
    return f" from {', '.join(several)}" if aside.random() < 0.4 else ""


def _bound(random: Random) -> str:
    """Return a binding: usually the default one; no rule reads what is left out."""
    if random.random() < 0.6:
        return ""
    items = [
        random.choice(["body", "body except body.trace_id", 'body except (body.trace_id, body["x-id"])']),
        random.choice(["args", "args except args.trace_id", "args except args.options.dry"]),
        random.choice(["context", "request.query", 'request.query except request.query["page"]']),
        random.choice(["request.headers", 'request.headers["x-trace"]', "request.host", "request.ip", "user.id"]),
        "resource",
    ]
    return f" bound to ({', '.join(random.sample(items, random.randint(1, 3)))})"


# ── Choosing ──────────────────────────────────────────────────────────────────────────────────


def _block(head: str, items: Sequence[str]) -> str:
    return f"{head} {{\n" + "".join(f"  {item}\n" for item in items) + "}"


def _some(random: Random, items: Sequence[str], least: int) -> list[str]:
    return random.sample(list(items), random.randint(least, len(items)))


def _shuffled(random: Random, items: Sequence[Item]) -> list[Item]:
    return random.sample(items, len(items))
