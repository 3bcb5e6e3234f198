"""The name of a policy: the same for the same meaning, another for another one."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.check import check
from policyengine.diagnostics.model import render_all
from policyengine.kernel.fingerprint import canonical_text
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.typesystem import EntityRef

DECLARATIONS = [
    'issuer acme { url "https://x"   records chains }',
    "issuer free { scopes none }",
    "enum plan = free_plan < paid",
    "entity team in team",
    "entity user { roles: set<string>   plan: plan   tenant: string? } in team",
    "entity invoice { tenant: string   owner: user }",
    "facts { body.n: number   context.risk: number? }",
    "define same = user.tenant == resource.tenant",
    "scope read { GET /v1/{id: invoice}   GET /v1 }",
    "scope write { include read   POST /v1/{id: invoice} }",
    'user where user.roles has "clerk" { may write   may GET /x }',
    'user "root" { may read when same }',
    "anyone { may GET /health }",
    'agent "a" { issued by acme   acts for any user   may read when same   may write  may delegate read to group "b" }',
    'agent "b" { issued by acme, free   acts alone   credential { bound   kind in [jwt, mtls] }   may read }',
    "delegation { depth <= 2 }",
    'guard "one" on /v1/{id}/** { require same   confirm by user when body.n > 5 }',
    'guard "two" on write, GET /x except GET /v1 { deny when user.plan == free_plan and context.risk > 3 }',
]


def kernel(*texts: str) -> k.Kernel:
    parsed = [parse(Source(f"{number}.policy", text)) for number, text in enumerate(texts)]
    found = check([module for module, _ in parsed if module], [finding for _, some in parsed for finding in some])
    assert found.kernel is not None, render_all(found.diagnostics)
    return found.kernel


WHOLE = kernel("\n".join(DECLARATIONS))


def test_a_revision_is_a_digest() -> None:
    assert len(WHOLE.revision) == len("sha256:") + 64
    assert WHOLE.revision.startswith("sha256:")


def test_another_semantics_version_gives_another_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was approved, kept or logged under one meaning does not count under another."""
    text = "\n".join(DECLARATIONS)
    monkeypatch.setattr("policyengine.kernel.fingerprint.SEMANTICS_VERSION", 1)
    assert kernel(text).revision != WHOLE.revision


@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_the_order_of_declarations_and_files_does_not_change_the_kernel(shuffle: random.Random, files: int) -> None:
    order = list(DECLARATIONS)
    shuffle.shuffle(order)
    texts = ["\n".join(order[number::files]) for number in range(files)]
    assert kernel(*texts) == WHOLE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("issuer acme { url", "# who they are\n\n\nissuer acme {    url"),
        ("GET /v1/{id: invoice}   GET /v1 }", "GET /v1   GET /v1/{id: invoice} }"),
        ("issued by acme, free", "issued by free, acme"),
        ("kind in [jwt, mtls]", "kind in [mtls, jwt]"),
        ("may read when same   may write", "may write   may read when same"),
        ("on write, GET /x", "on GET /x, write"),
    ],
)
def test_an_equivalent_policy_has_the_same_revision(before: str, after: str) -> None:
    text = "\n".join(DECLARATIONS)
    assert before in text
    assert kernel(text.replace(before, after)).revision == WHOLE.revision


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("body.n > 5", "body.n > 6"),
        ("body.n > 5", "body.n >= 5"),
        ("GET /health", "GET /healthz"),
        ("depth <= 2", "depth <= 3"),
        ("bound   kind", "kind"),
        ("records chains", ""),
        ("free_plan < paid", "paid < free_plan"),
        ("roles: set<string>   plan", "roles: set<string> inherited   plan"),
        ("roles: set<string>   plan", "roles: set<string> inherited else []   plan"),
        ("tenant: string?", "tenant: string"),
        ('guard "one"', 'guard "uno"'),
        ('agent "b" { issued', 'agent "c" { issued'),
        ("acts alone", "acts for any user"),
        ("except GET /v1 ", ""),
        ("include read ", ""),
        ("{ may GET /health }", "{ may GET /health when context.risk < 1 }"),
        ("same   confirm by user", "same   confirm by role boss"),
    ],
)
def test_a_policy_with_another_meaning_has_another_revision(before: str, after: str) -> None:
    text = "\n".join(DECLARATIONS)
    assert before in text
    assert kernel(text.replace(before, after)).revision != WHOLE.revision


def test_the_name_of_a_condition_does_not_change_the_revision() -> None:
    one = "define night = time > 2026-01-01\nanyone { may GET /a when night }"
    assert kernel(one).revision == kernel(one.replace("night", "dark")).revision
    assert kernel(one).revision == kernel("anyone { may GET /a when time > 2026-01-01 }").revision


def test_the_location_of_a_policy_file_does_not_change_the_revision() -> None:
    module, _ = parse(Source("elsewhere/other.policy", "\n\n" + "\n".join(DECLARATIONS)))
    assert module is not None
    found = check([module]).kernel
    assert found is not None
    assert found.revision == WHOLE.revision


def test_the_order_of_packages_does_not_change_the_revision() -> None:
    one, two = "package a\nanyone { may GET /a }", "package b\nanyone { may GET /b }"
    assert kernel(one, two).revision == kernel(two, one).revision
    assert (kernel(one, two).package, kernel(two, one).package) == ("a", "b")


def test_an_entity_id_cannot_imitate_several_ids_in_the_canonical_text() -> None:
    spelling = EntityRef("user", 'a"),EntityRef(user "b')
    assert canonical_text((spelling,)) != canonical_text((EntityRef("user", "a"), EntityRef("user", "b")))
