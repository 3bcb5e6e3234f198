"""What declarations become in the kernel."""

from datetime import UTC, datetime, timedelta

import pytest

from policyengine import kernel as k
from policyengine.check import CheckResult, check
from policyengine.diagnostics.model import render_all
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.typesystem import EntityRef, RefType, Scalar

ISSUERS = 'issuer acme { url "https://x"   records chains }\nissuer free { scopes none }\nusers unrestricted\n'


def checked(*texts: str) -> CheckResult:
    parsed = [parse(Source(f"{number}.policy", text)) for number, text in enumerate(texts)]
    return check([module for module, _ in parsed if module], [finding for _, found in parsed for finding in found])


def kernel(*texts: str) -> k.Kernel:
    found = checked(*texts)
    assert found.kernel is not None, render_all(found.diagnostics)
    return found.kernel


def spelled(pattern: k.Pattern) -> str:
    match pattern:
        case k.HttpPattern(methods, segments, rest):
            path = "".join(f"/{s.prefix}{'*' if s.wild else ''}{s.suffix}" for s in segments) + ("/**" if rest else "")
            return f"{'|'.join(methods) if methods else 'every'} {path or '/'}"
        case k.ToolPattern(glob):
            return f"TOOL {glob}"
        case k.ActionPattern(verb, type_):
            return f"ACTION {verb} {type_}"


def opened(grant: k.Grant) -> dict[str, tuple[str, ...]]:
    return {spelled(opening.pattern): opening.carriers for opening in grant.openings}


# ── What `may` opens ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "pattern"),
    [
        ("GET /", "GET /"),
        ("GET /**", "GET /**"),
        ("GET /a/**", "GET /a/**"),
        ("HEAD /a", "GET /a"),
        ("POST|GET|HEAD /a", "GET|POST /a"),
        ("ANY /a", "DELETE|GET|PATCH|POST|PUT /a"),
        ("ANY|OPTIONS /a", "DELETE|GET|OPTIONS|PATCH|POST|PUT /a"),
        ("GET /v{n}:run/x", "GET /v*:run/x"),
        ("TOOL mail/*", "TOOL mail/*"),
        ("TOOL *", "TOOL *"),
        ("ACTION view user", "ACTION view user"),
    ],
)
def test_an_endpoint_in_a_may_lowers_to_its_pattern(written: str, pattern: str) -> None:
    [block] = kernel(f"anyone {{ may {written} }}").anyones
    assert [spelled(opening.pattern) for opening in block.grants[0].openings] == [pattern]


def test_any_and_a_bare_path_mean_every_method_in_a_guard() -> None:
    [guard] = kernel('anyone { may GET /a }\nguard "g" on /a, ANY /a/** { deny when time > 2026-01-01 }').guards
    assert [spelled(pattern) for pattern in guard.place.patterns or ()] == ["every /a", "every /a/**"]


def test_any_in_a_scope_means_every_method_in_a_guard_on_the_scope() -> None:
    text = 'scope s { ANY /a }\nuser any { may s }\nguard "g" on s { deny when time > 2026-01-01 }'
    found = kernel(text)
    assert [spelled(pattern) for pattern in found.guards[0].place.patterns or ()] == ["every /a"]
    assert list(opened(found.users[0].grants[0])) == ["DELETE|GET|PATCH|POST|PUT /a"]


def test_the_carriers_of_a_scope_are_itself_and_the_scopes_that_include_it() -> None:
    text = """
    scope read as "read:a" { GET /a }
    scope write as "write:a" { include read   POST /a }
    scope all { include write }
    user any { may write }
    user "root" { may all, read, GET /b }
    """
    whole, some = kernel(text).users if kernel(text).users[0].label == 'user "root"' else kernel(text).users[::-1]
    assert opened(some.grants[0]) == {"GET /a": ("all", "read:a", "write:a"), "POST /a": ("all", "write:a")}
    assert opened(whole.grants[0])["GET /b"] == ()
    assert opened(whole.grants[0])["GET /a"] == ("all", "read:a", "write:a")


def test_an_endpoint_of_two_scopes_is_carried_by_either() -> None:
    text = "scope a { GET /x }\nscope b { GET /x }\nuser any { may a, b }"
    assert opened(kernel(text).users[0].grants[0]) == {"GET /x": ("a", "b")}


def test_an_exported_scope_is_carried_by_importing_scopes_that_include_it() -> None:
    common = "package acme.common\nexport scope read { GET /a }"
    mine = """
    package acme.pay
    import acme.common
    scope more as "more" { include common.read   GET /b }
    user any { may common.read, more }
    """
    [block] = kernel(mine, common).users
    assert opened(block.grants[0]) == {"GET /a": ("more", "read"), "GET /b": ("more",)}


# ── Blocks ────────────────────────────────────────────────────────────────────────────────────


def test_lowering_keeps_every_part_of_an_agent_block() -> None:
    text = f"""{ISSUERS}
    attester lab {{ url "https://l"   age <= 1h   model "m" sha256:00ff   environment in ["tdx"] }}
    entity user {{ roles: set<string> }}
    scope read {{ GET /a }}
    agent "bot" {{
      issued by acme   acts for users where user.roles has "clerk"
      credential {{ kind in [jwt, mtls]   lifetime <= 15m   age <= 5m   bound }}
      attested by lab   valid from 2026-01-01 until 2027-01-01
      may read when credential.bound
      may delegate read to agent "helper" for 30m when user.roles has "boss"
    }}
    agent "helper" {{ issued by acme   acts for any user   may read }}
    delegation {{ depth <= 3   lifetime <= 1h   no cycles }}
    """
    found = kernel(text)
    bot = next(block for block in found.agents if block.label == 'agent "bot"')
    assert bot.who == k.ExactName("bot")
    issued, acts, kinds, lifetime, age, bound, attested, valid = bot.requirements
    assert isinstance(issued, k.IssuedBy)
    assert issued.issuers == ("acme",)
    assert isinstance(acts, k.ActsFor)
    assert isinstance(acts.condition, k.Relation)
    assert isinstance(kinds, k.CredentialKinds)
    assert kinds.kinds == ("jwt", "mtls")
    assert isinstance(lifetime, k.CredentialLifetime)
    assert lifetime.limit == timedelta(minutes=15)
    assert isinstance(age, k.CredentialAge)
    assert age.limit == timedelta(minutes=5)
    assert isinstance(bound, k.ProofOfPossession)
    assert isinstance(attested, k.AttestedBy)
    assert attested.attesters == ("lab",)
    assert isinstance(valid, k.ValidityPeriod)
    assert (valid.start, valid.end) == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    [delegate] = bot.delegates
    assert (delegate.scopes, delegate.to, delegate.lifetime) == (
        ("read",),
        k.ExactName("helper"),
        timedelta(minutes=30),
    )
    assert [spelled(pattern) for pattern in delegate.patterns] == ["GET /a"]
    assert isinstance(delegate.when, k.Relation)
    assert bot.span.text == 'agent "bot"'
    [limits] = found.delegation
    assert (limits.depth, limits.lifetime, limits.no_cycles) == (3, timedelta(hours=1), True)
    lab = found.attesters["lab"]
    assert (lab.age, lab.models, lab.environments) == (timedelta(hours=1), (("m", "sha256:00ff"),), ("tdx",))
    assert found.unrestricted == ("main",)
    assert found.issuers["acme"].records_chains
    assert found.issuers["free"].scopes_none


@pytest.mark.parametrize(
    ("head", "label", "who"),
    [
        ('agent "a  b"', 'agent "a  b"', k.ExactName("a  b")),
        ('agent group "ops"', 'agent group "ops"', k.InGroup("ops")),
    ],
)
def test_the_head_of_a_block_lowers_to_its_agent_matcher(head: str, label: str, who: object) -> None:
    [block] = kernel(f"{ISSUERS}{head} {{ issued by free   acts alone   may GET /a }}").agents
    assert (block.label, block.who) == (label, who)


def test_issuer_claims_map_to_user_attributes() -> None:
    text = "entity user { tenant: string }\nissuer a { claims { org -> user.tenant } }\n" + (
        'agent "b" { issued by a   acts alone   may r when user.tenant == "x" }\nscope r { GET /a }'
    )
    assert kernel(text).issuers["a"].claims == (("org", ("user", "tenant")),)


# ── What is bound ─────────────────────────────────────────────────────────────────────────────


def test_the_last_typed_capture_is_the_resource() -> None:
    [binder] = kernel("entity org\nentity invoice\nanyone { may GET /{org: org}/{id: invoice}/{page} }").binders
    assert binder.resource == ("invoice", "id")


def test_a_guard_can_use_the_resource_bound_by_a_scope() -> None:
    text = """
    entity invoice { tenant: string }
    scope read { GET /v1/{id: invoice} }
    user any { may read }
    guard "g" on /v1/{id}/** { deny when resource.tenant == "x" and params.id == invoice "66" }
    """
    deny = kernel(text).guards[0].effects[0]
    assert isinstance(deny, k.Deny)
    assert deny.condition is not None
    facts = {node.path: node.type for node in k.walk(deny.condition) if isinstance(node, k.Fact)}
    assert facts == {("resource",): RefType(frozenset({"invoice"})), ("params", "id"): RefType(frozenset({"invoice"}))}


def test_a_capture_of_two_entity_types_is_a_string() -> None:
    text = """
    entity invoice
    entity folder
    anyone { may GET /invoices/{id: invoice}, GET /folders/{id: folder} }
    guard "g" { deny when params.id == "66" }
    """
    deny = kernel(text).guards[0].effects[0]
    assert isinstance(deny, k.Deny)
    assert deny.condition is not None
    assert [node.type for node in k.walk(deny.condition) if isinstance(node, k.Fact)] == [Scalar.STRING]


def test_an_action_pattern_determines_the_type_of_its_resource() -> None:
    text = "entity folder { open: bool }\nanyone { may ACTION view folder when resource.open }"
    assert kernel(text).binders == ()


def test_with_binds_the_resource_and_facts_of_a_tool() -> None:
    text = """
    entity invoice { open: bool }
    facts { args.id: string   args.n: number   body.n: number }
    scope pay { POST /{id: invoice}/pay   TOOL pay with resource = invoice(args.id), body.n = args.n }
    user any { may pay when resource.open and body.n < 5 }
    """
    binder = next(b for b in kernel(text).binders if isinstance(b.pattern, k.ToolPattern))
    assert [path for path, _ in binder.facts] == [("body", "n"), ("resource",)]


def test_the_same_capture_in_two_patterns_is_not_a_conflict() -> None:
    text = """
    entity invoice { open: bool }
    scope read { GET /v1/{id: invoice}   GET /v1/{id: invoice}/pages/{n} }
    user any { may read }
    guard "g" on /v1/{id: invoice}/** { require resource.open }
    """
    assert len(kernel(text).binders) == 3


# ── Guards ────────────────────────────────────────────────────────────────────────────────────

PAY = """
entity team
entity user { roles: set<string>   boss: user   tenant: string } in team
entity invoice { owner: user   approvers: set<user or team> }
facts on POST /v1/{id: invoice}/pay { body.n: number   body.card: string   body.by: user }
anyone { may POST /v1/{id: invoice}/pay }
"""


def effects(items: str) -> tuple[k.Effect, ...]:
    [guard] = kernel(f'{PAY}guard "g" on POST /v1/{{id: invoice}}/pay {{ {items} }}').guards
    return guard.effects


def test_require_and_deny_unless_lower_to_a_negated_deny() -> None:
    require, unless, when = effects("require body.n < 5   deny unless body.n < 6   deny when body.n > 7")
    assert isinstance(require, k.Deny)
    assert isinstance(unless, k.Deny)
    assert isinstance(when, k.Deny)
    assert isinstance(require.condition, k.Not)
    assert isinstance(unless.condition, k.Not)
    assert isinstance(when.condition, k.Relation)
    assert [e.words for e in (require, unless, when)] == [
        "require body.n < 5", "deny unless body.n < 6", "deny when body.n > 7",
    ]  # fmt: skip


def test_effects_keep_the_order_of_the_source() -> None:
    kinds = [type(effect).__name__ for effect in effects("audit full   deny when body.n > 5   confirm by user   warn")]
    assert kinds == ["ObligationEffect", "Deny", "Confirm", "ObligationEffect"]


def test_the_words_of_an_effect_are_joined_to_one_line() -> None:
    [deny] = effects("deny   when\n   body.n > 5")
    assert deny.words == "deny when body.n > 5"


@pytest.mark.parametrize(
    ("by", "of", "count"),
    [
        ("user", k.ServedUser(), 1),
        ("role finance", k.RoleHolder("finance"), 1),
        ("2 of role finance", k.RoleHolder("finance"), 2),
    ],
)
def test_lowering_reads_the_approvers_and_the_time_limit_of_a_confirm(by: str, of: object, count: int) -> None:
    [confirm] = effects(f"confirm by {by} within 5m when body.n > 5")
    assert isinstance(confirm, k.Confirm)
    assert (confirm.approvers.of, confirm.approvers.count, confirm.approvers.words) == (of, count, by)
    assert confirm.within == timedelta(minutes=5)


@pytest.mark.parametrize("by", ["resource.owner", "resource.approvers", "resource.owner.boss", 'team "x"', "body.by"])
def test_an_entity_expression_can_name_the_approvers(by: str) -> None:
    [confirm] = effects(f"confirm by {by} when body.n > 5")
    assert isinstance(confirm, k.Confirm)
    assert isinstance(confirm.approvers.of, k.MemberOf)


def test_an_approving_entity_literal_lowers_to_a_constant() -> None:
    [confirm] = effects('confirm by 2 of team "x" when body.n > 5')
    assert isinstance(confirm, k.Confirm)
    assert isinstance(confirm.approvers.of, k.MemberOf)
    assert isinstance(confirm.approvers.of.expression, k.Constant)
    assert confirm.approvers.of.expression.value == EntityRef("team", "x")


def test_obligations_carry_their_arguments() -> None:
    found = effects(
        'audit brief   redact body.card, body.n   notify "soc"   step_up mfa   header "X-A" "b"   warn message "odd"'
    )
    assert [(e.kind, e.arguments) for e in found if isinstance(e, k.ObligationEffect)] == [
        ("audit", ("brief",)),
        ("redact", ("body.card", "body.n")),
        ("notify", ("soc",)),
        ("step_up", ("mfa",)),
        ("header", ("X-A", "b")),
        ("warn", ()),
    ]


def said(message: str) -> list[str | tuple[str, bool]]:
    [deny] = effects(f"deny when body.n > 5 message {message}")
    assert isinstance(deny, k.Deny)
    return [part if isinstance(part, str) else (part.span.text, part.to_caller) for part in deny.message or ()]


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ('"no"', ["no"]),
        ('"{{x}} {{"', ["{x} {"]),
        ('"at {body.n}!"', ["at ", ("{body.n}", True), "!"]),
        ('"{body.n}{user.id}"', [("{body.n}", True), ("{user.id}", True)]),
        ('"{ body.n }"', [("{ body.n }", True)]),
        ('"{user.tenant}"', [("{user.tenant}", False)]),
        ('"{resource}"', [("{resource}", True)]),
        ('"{resource.id}"', [("{resource.id}", True)]),
        ('"{resource.owner}"', [("{resource.owner}", False)]),
        ('"{resource.owner.id}"', [("{resource.owner.id}", False)]),
        ('"{body.by}"', [("{body.by}", True)]),
        ('"{body.by.tenant}"', [("{body.by.tenant}", False)]),
        ('"{body.by.boss.id}"', [("{body.by.boss.id}", False)]),
        ('"{agent.id}"', [("{agent.id}", True)]),
        ('"{agent.model}"', [("{agent.model}", False)]),
        ('"{params.id}"', [("{params.id}", True)]),
        ('"{request.method}"', [("{request.method}", True)]),
        ('"{chain.root}"', [("{chain.root}", False)]),
        ('"{time}"', [("{time}", False)]),
    ],
)
def test_a_message_shows_the_caller_only_facts_of_the_request(message: str, parts: list[object]) -> None:
    assert said(message) == parts


@pytest.mark.parametrize("header", ["authorization", "cookie", "x-api-key", "dpop"])
def test_a_message_with_a_secret_header_is_rejected(header: str) -> None:
    text = f'{PAY}guard "g" {{ warn message "{{request.headers[\\"{header}\\"]}}" }}'
    assert [finding.code for finding in checked(text).diagnostics if finding.is_error] == ["E503"]


def test_a_message_can_show_a_header_that_is_not_secret() -> None:
    text = f'{PAY}guard "g" {{ warn message "{{request.headers[\\"x-id\\"]}}" }}'
    [warn] = kernel(text).guards[0].effects
    assert isinstance(warn, k.ObligationEffect)
    assert warn.message is not None
    assert isinstance(warn.message[0], k.MessageFact)
    assert warn.message[0].to_caller


# ── Packages ──────────────────────────────────────────────────────────────────────────────────


def test_guards_of_every_package_are_in_the_kernel() -> None:
    found = kernel(
        'package b\nanyone { may GET /b }\nguard "g" { deny when time > 2026-01-01 }',
        'package a\nanyone { may GET /a }\nguard "g" { deny when time < 2026-01-01 }',
    )
    assert [(guard.package, guard.name) for guard in found.guards] == [("a", "g"), ("b", "g")]
    assert (found.package, found.packages) == ("b", ("a", "b"))


def test_an_issuer_declared_by_two_packages_is_rejected() -> None:
    found = checked("package a\nissuer x { scopes none }", "package b\nissuer x { scopes none }").diagnostics
    [finding] = [finding for finding in found if finding.code == "E413"]
    assert finding.message == "the issuer `x` is already declared by package `a`"
    assert (finding.span.text, finding.related[0].span.source.name) == ("x", "0.policy")


SHOP = "package acme.shop\nissuer login { scopes none }\nscope orders { GET /o }\nuser any { may orders }\n"
SHOPS = """package acme.shops
agent "bot" { issued by login   acts for any user   may orders }
guard "g" on orders { deny when body.kind == "x" }
test "t" { given agent "bot" from login for user "alice"  GET /o => allow }
"""


def test_a_probably_misspelled_package_is_reported_once_without_follow_up_errors() -> None:
    [finding] = checked(SHOP, SHOPS).diagnostics
    assert (finding.code, finding.span.text, finding.related[0].span.text) == ("E257", "acme.shops", "acme.shop")
    assert finding.message == (
        "package `acme.shops` declares no `login`, `orders`, but `acme.shop` does: did you mean `acme.shop`?"
    )
    assert finding.hint == ("write `package acme.shop`; a separate package needs `import acme.shop` to use its exports")


@pytest.mark.parametrize(
    ("first", "second", "codes"),
    [
        pytest.param(SHOP, SHOPS.replace("acme.shops", "acme.billing"), {"E207"}, id="names that are not alike"),
        pytest.param(SHOP, SHOPS.replace("shops\n", "shops\nimport acme.shop\n"), {"E207"}, id="an import"),
        pytest.param(SHOP, SHOPS.replace("orders", "orderz"), {"E257"}, id="one name that is there"),
        pytest.param(SHOP.replace("login", "acme").replace("orders", "o"), SHOPS, {"E207"}, id="none that is there"),
    ],
)
def test_unknown_names_are_reported_unless_a_similar_package_declares_them(
    first: str, second: str, codes: set[str]
) -> None:
    found = {one.code for one in checked(first, second).diagnostics if one.code in ("E207", "E257")}
    assert found == codes


def test_a_may_with_a_private_scope_of_another_package_is_rejected() -> None:
    found = checked("package a\nimport b\nuser any { may b.read }", "package b\nscope read { GET /a }").diagnostics
    assert [(finding.code, finding.span.text) for finding in found] == [("E208", "b.read")]


def test_a_user_block_of_any_package_applies_to_agents_of_all_packages() -> None:
    agent = 'package a\nissuer x { scopes none }\nagent "a" { issued by x   acts for any user   may GET /a }'
    assert checked(agent, "package b\nuser any { may GET /a }").kernel is not None
    assert [f.code for f in checked(agent, "package b\nusers unrestricted").diagnostics] == ["E404"]
