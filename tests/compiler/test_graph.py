"""The rules of a program as boxes: what stands where, for everybody, for one agent, at one endpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policyengine.compiler.graph.box import Box, BoxKind
from policyengine.compiler.graph.draw import draw, natural_sort_key
from policyengine.compiler.graph.selection import SelectionError, agent_reach, read_endpoint
from policyengine.compiler.tree import tree_of
from policyengine.engine import Engine
from policyengine.explain.endpoint_words import endpoint_words
from policyengine.kernel import InGroup, Kernel
from policyengine.runtime.decision import Gate
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, MalformedEndpoint, ToolEndpoint
from policyengine.runtime.format_values import format_value
from policyengine.spec.match_endpoint import match_pattern, place_covers
from tests.generate.cases import cases

EXAMPLES = Path(__file__).parent.parent.parent / "policies" / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
HEAD = 'issuer idp { url "https://login.example" scopes none }\nusers unrestricted\n'


def kernel_of(text: str) -> Kernel:
    return Engine.from_text(HEAD + text).kernel


def example(name: str) -> Kernel:
    return Engine.load(EXAMPLES / name).kernel


def drawn(kernel: Kernel, endpoint: str | None = None, agent: str | None = None, groups: tuple[str, ...] = ()) -> Box:
    pattern = None if endpoint is None else read_endpoint(endpoint)
    reach = None if agent is None else agent_reach(kernel, agent, groups)
    return draw(kernel, tree_of(kernel), pattern, reach)


def at(root: Box, *labels: str) -> Box:
    """The box that is reached by labels."""
    for label in labels:
        (root,) = (child for child in root.children if child.label == label)
    return root


def labels(box: Box) -> list[str]:
    return [child.label for child in box.children]


def of_kind(box: Box, *kinds: BoxKind) -> list[str]:
    return [part.label for part in box.walk() if part.kind in kinds]


# ── The whole tree ────────────────────────────────────────────────────────────────────────────


def test_a_drawing_leads_from_the_endpoint_to_the_method_to_the_caller_to_the_rules():
    root = drawn(example("payments"))
    refunds = at(root, "paths", "/v1", "/invoices", "/{id: invoice}", "/refunds", "POST")
    assert labels(refunds) == [
        'agent "invoice-bot"',
        'user where user.roles has "clerk" and agent.id is present',
        'guard "large refunds need a human"',
        'guard "no money by night"',
        'budget "daily refunds"',
    ]
    door = at(refunds, 'agent "invoice-bot"', "may refunds.create when same_tenant and user.plan >= team")
    assert (door.detail, door.at) == ('scope "create:refunds"', "payments.policy:39")
    assert [child.kind for child in at(refunds, 'guard "large refunds need a human"').children] == ["deny", "confirm"]


def rules(kernel: Kernel) -> Iterator[str]:
    """The place of every rule."""
    for block in (*kernel.agents, *kernel.users, *kernel.anyones):
        yield from (grant.span.at for grant in block.grants)
    yield from (delegate.span.at for block in kernel.agents for delegate in block.delegates)
    yield from (effect.span.at for guard in kernel.guards for effect in guard.effects)


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_is_drawn_somewhere(name):
    kernel = example(name)
    assert set(rules(kernel)) <= {box.at for box in drawn(kernel).walk()}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_policy_gives_the_same_drawing(name):
    assert drawn(example(name)) == drawn(example(name))


def test_requirements_on_agents_are_shown_with_their_blocks():
    agents = at(drawn(example("payments")), "agents")
    assert at(agents, 'agent "archivist"').detail == "issued by acme; acts for any user; attested by lab"


def test_guards_without_a_place_apply_everywhere():
    root = drawn(kernel_of('guard "inside" { require request.ip within [10.0.0.0/8] }'))
    assert labels(at(root, "everywhere", 'guard "inside"')) == ["require request.ip within [10.0.0.0/8]"]


def test_methods_with_the_same_rules_are_one_box():
    root = drawn(kernel_of('anyone { may GET|POST /x, GET|POST|PUT /y, GET /y when request.host == "h" }'))
    assert labels(at(root, "paths", "/x")) == ["GET|POST"]
    assert labels(at(root, "paths", "/y")) == ["GET", "POST|PUT"]


def test_a_place_that_a_guard_leaves_out_says_so():
    root = drawn(kernel_of('anyone { may GET /a/x }\nguard "g" on /a/** except /a/x { deny }'))
    assert at(root, "paths", "/a", "/**", "any method", 'guard "g"').detail == "except /a/x"
    assert labels(at(root, "paths", "/a", "/x", "any method")) == ['guard "g" does not apply here']


def test_segments_without_rules_of_their_own_are_drawn_with_the_next():
    root = drawn(kernel_of("anyone { may GET /a/b/c, GET /a/b/d }"))
    assert labels(at(root, "paths")) == ["/a/b"]
    assert labels(at(root, "paths", "/a/b")) == ["/c", "/d"]


def test_the_root_of_all_paths_is_a_box_if_rules_apply_at_it():
    root = drawn(kernel_of("anyone { may GET /, GET /a }"))
    assert labels(at(root, "paths", "/")) == ["GET", "/a"]


@pytest.mark.parametrize(
    ("paths", "label"),
    [
        ("GET /a/{id}", "/a/{id}"),
        ("GET /a/*", "/a/*"),
        ("GET /a/{id}.json", "/a/{id}.json"),
        ("GET /a/{id}, PUT /a/{name}", "/a/{id|name}"),
        ("GET /a/{id}, PUT /a/*", "/a/{id}"),
    ],
)
def test_wild_segments_are_drawn_as_policies_write_them(paths, label):
    assert labels(at(drawn(kernel_of(f"anyone {{ may {paths} }}")), "paths")) == [label]


def test_siblings_are_in_the_order_of_their_numbers():
    root = drawn(kernel_of("anyone { may GET /s10, GET /s9, GET /s100, GET /a }"))
    assert labels(at(root, "paths")) == ["/a", "/s9", "/s10", "/s100"]


def test_a_number_of_many_digits_is_ordered_without_being_read():
    assert natural_sort_key("9" * 8_000) != natural_sort_key("9" * 7_999)


def test_bindings_of_with_are_shown():
    tool = at(drawn(example("payments")), "tools", "billing/refund_invoice")
    assert tool.children[0].label == "with body.amount = args.amount, resource = invoice(args.invoice_id)"


# ── One endpoint ──────────────────────────────────────────────────────────────────────────────

ASKED: list[tuple[str, str, Endpoint]] = [
    ("payments", "GET /v1/invoices/42", HttpEndpoint("GET", "/v1/invoices/42", ("v1", "invoices", "42"))),
    ("payments", "DELETE /v1/invoices/42", HttpEndpoint("DELETE", "/v1/invoices/42", ("v1", "invoices", "42"))),
    ("payments", "GET /health/", HttpEndpoint("GET", "/health", ("health",))),
    ("payments", "TOOL billing/refund_invoice", ToolEndpoint("billing", "refund_invoice")),
    ("payments", "ACTION view invoice", ActionEndpoint("view", "invoice")),
    ("payments", "PUT /nowhere", HttpEndpoint("PUT", "/nowhere", ("nowhere",))),
    ("admin-guardrails", "GET /clusters/c/logs", HttpEndpoint("GET", "/clusters/c/logs", ("clusters", "c", "logs"))),
    ("admin-guardrails", "DELETE /clusters/c", HttpEndpoint("DELETE", "/clusters/c", ("clusters", "c"))),
    ("mcp-tools", "TOOL mail/draft", ToolEndpoint("mail", "draft")),
    ("mcp-tools", "TOOL fs/read", ToolEndpoint("fs", "read")),
]


@pytest.mark.parametrize(("name", "asked", "endpoint"), ASKED, ids=[f"{name} {asked}" for name, asked, _ in ASKED])
def test_an_endpoint_shows_exactly_what_the_specification_finds_there(name, asked, endpoint):
    kernel = example(name)
    root = drawn(kernel, asked)
    guards = {f'guard "{guard.name}"' for guard in kernel.guards if place_covers(guard.place, endpoint)}
    doors = {
        block.label
        for block in (*kernel.agents, *kernel.users, *kernel.anyones)
        for grant in block.grants
        if any(match_pattern(opening.pattern, endpoint) is not None for opening in grant.openings)
    }
    assert set(of_kind(root, BoxKind.GUARD)) == guards
    assert {box.label for box in root.children if of_kind(box, BoxKind.MAY)} == doors
    assert (of_kind(root, BoxKind.NOTE) == ["no grant here: denied by default"]) == (not doors)


def test_at_an_endpoint_rules_say_through_which_pattern_they_apply():
    root = drawn(example("payments"), "GET /v1/invoices/42")
    assert at(root, 'guard "tenants are islands"').detail == "on /v1/invoices/{id}/**"
    bot = at(root, 'agent "invoice-bot"')
    assert "acts for users where" in bot.detail
    assert bot.children[0].detail == 'on GET /v1/invoices/{id: invoice}, scope "read:invoices" or "write:invoices"'


def test_a_guard_that_leaves_the_endpoint_out_is_named():
    root = drawn(example("admin-guardrails"), "GET /clusters/c")
    assert 'guard "every change is recorded" does not apply here' in labels(root)


def test_a_pattern_shows_all_that_meets_it():
    kernel = kernel_of("anyone { may GET /a/x, GET /a/{id}, POST /a/{id}, GET /b }")
    assert of_kind(drawn(kernel, "GET /a/{id}"), BoxKind.MAY) == ["may GET /a/{id}", "may GET /a/x"]


def test_an_area_is_drawn_as_a_tree():
    root = drawn(example("payments"), "/v1/**")
    assert labels(root) == ["agents", "every chain", "paths"]
    assert labels(at(root, "paths")) == ["/v1"]


def test_an_area_of_tools_leaves_others_out():
    assert labels(at(drawn(example("mcp-tools"), "TOOL mail/*"), "tools")) == ["*", "mail/draft", "mail/send"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("", "`` is not an endpoint"),
        ("GET", "`GET` is not an endpoint"),
        ("get /x", "`get /x` is not an endpoint: `get` is not a method"),
        ("GET v1", "`GET v1` is not an endpoint"),
        ("GET /a//b", "`GET /a//b` is not an endpoint: an empty segment matches no path"),
        ("/a/../b", "`/a/../b` is not an endpoint: `..` matches no path: a dot segment"),
        ("/a%2fb", "`/a%2fb` is not an endpoint: `a%2fb` contains a percent escape"),
        ("/**/a", "`/**/a` is not an endpoint: `**` is valid only at the end of a path"),
        ("/{a}{b}", "`/{a}{b}` is not an endpoint: `{a}{b}` contains two captures"),
        ("/a" * 129, f"`{'/a' * 129}` is not an endpoint: a path can have at most 128 segments"),
        ("TOOL", "`TOOL` is not an endpoint: the name is empty"),
        ("TOOL /x", "`TOOL /x` is not an endpoint: a slash separates a server and a name"),
        ("ACTION view", "`ACTION view` is not an endpoint: an action must consist of a verb and a type"),
    ],
)
def test_text_that_is_not_an_endpoint_is_reported(asked, why):
    with pytest.raises(SelectionError) as caught:
        read_endpoint(asked)
    assert (caught.value.kind, caught.value.message) == ("endpoint", why)


# ── One agent ─────────────────────────────────────────────────────────────────────────────────

CREW = """
agent "bot" { issued by idp acts alone may GET /bot }
agent "bo*" { issued by idp acts alone may GET /glob }
agent "other" { issued by idp acts alone may GET /other }
agent group "ops" { issued by idp acts alone may GET /ops }
agent where agent.publisher == "acme" { issued by idp acts alone may GET /acme }
anyone { may GET /health }
user where user.id == "u" { may GET /bot, GET /elsewhere }
guard "here" on /b*/** { deny when request.size > 10 }
guard "bot" on /{any}/** { deny when request.size > 9 }
guard "elsewhere" on /other/** { deny when request.size > 8 }
"""


def paths(root: Box) -> list[str]:
    return labels(at(root, "paths"))


@pytest.fixture(scope="module")
def crew() -> Kernel:
    return kernel_of(CREW.replace("/b*/**", "/bot/**"))


def test_an_agent_sees_its_own_grants_and_those_of_anyone(crew):
    assert of_kind(drawn(crew, agent="bot"), BoxKind.MAY) == [
        "may GET /acme",
        "may GET /bot",
        "may GET /bot",
        "may GET /glob",
        "may GET /health",
    ]


def test_users_are_drawn_for_an_agent_only_where_it_has_a_grant(crew):
    root = drawn(crew, agent="bot")
    assert labels(at(root, "paths", "/bot", "GET")) == ['agent "bot"', 'user where user.id == "u"']
    assert "/elsewhere" not in paths(root)


def test_only_guards_that_cover_the_grants_of_an_agent_are_drawn(crew):
    assert of_kind(drawn(crew, agent="bot"), BoxKind.GUARD) == ['guard "here"', 'guard "bot"']


def test_groups_that_an_agent_may_be_in_are_named_but_not_drawn(crew):
    root = drawn(crew, agent="bot")
    assert labels(at(root, "groups")) == ['agent group "ops"']
    assert "/ops" not in paths(root)


def test_a_group_that_is_given_counts(crew):
    root = drawn(crew, agent="bot", groups=("ops",))
    assert "/ops" in paths(root)
    assert "groups" not in labels(root)


def test_an_agent_at_an_endpoint_sees_only_itself_there(crew):
    root = drawn(crew, "GET /bot", agent="bot")
    assert labels(root)[:2] == ['agent "bot"', 'user where user.id == "u"']
    assert of_kind(drawn(crew, "GET /other", agent="bot"), BoxKind.NOTE) == ["no grant here: denied by default"]


def test_an_agent_that_only_a_group_block_matches_is_selected_with_its_group():
    kernel = kernel_of('agent group "ops" { issued by idp acts alone may GET /ops }')
    assert paths(drawn(kernel, agent="new", groups=("ops",))) == ["/ops"]


@pytest.mark.parametrize(
    ("name", "groups", "message", "hint"),
    [
        ("otter", (), "no block names agent `otter`", "did you mean `other`?"),
        ("bot", ("opps",), "no block names group `opps`", "did you mean `ops`?"),
    ],
)
def test_names_that_no_block_matches_are_reported(crew, name, groups, message, hint):
    with pytest.raises(SelectionError) as caught:
        agent_reach(crew, name, groups)
    assert (caught.value.kind, caught.value.message, caught.value.hint) == ("agent", message, hint)


def test_an_agent_that_only_a_condition_may_match_can_be_selected(crew):
    assert paths(drawn(crew, agent="zzz")) == ["/acme", "/health", "/{any}"]


def test_without_groups_nobody_is_sent_to_them():
    kernel = kernel_of('agent "bot" { issued by idp acts alone may GET /bot }')
    with pytest.raises(SelectionError) as caught:
        agent_reach(kernel, "zzz", ())
    assert caught.value.hint is None


def test_a_guard_covers_its_endpoint_in_another_case_but_a_grant_does_not():
    kernel = kernel_of('anyone { may GET /Docs }\nguard "g" on /docs { deny when request.size > 1 }')
    assert of_kind(drawn(kernel, "GET /DOCS"), BoxKind.GUARD) == ['guard "g"']
    assert of_kind(drawn(kernel, "GET /DOCS"), BoxKind.MAY) == []
    assert of_kind(drawn(kernel, "GET /Docs"), BoxKind.MAY) != []


# ── Held to the specification ─────────────────────────────────────────────────────────────────

SEEDS = range(22)


def known_groups(kernel: Kernel, agent: dict[str, Any]) -> tuple[str, ...]:
    known = {block.who.group for block in kernel.agents if isinstance(block.who, InGroup)}
    groups = agent.get("groups")
    return tuple(group for group in known if isinstance(groups, list) and group in groups)


def passages(kernel: Kernel, asked: str, agent: dict[str, Any]) -> set[str]:
    """Whose doors an agent finds at an endpoint; one that no block names finds those of anyone."""
    try:
        root = drawn(kernel, asked, agent["id"], known_groups(kernel, agent))
    except SelectionError:
        return {"anyone"} if of_kind(drawn(kernel, asked), BoxKind.ANYONE) else set()
    return {
        str(box.kind)
        for box in root.walk()
        if box.kind in (BoxKind.AGENT, BoxKind.ANYONE) and of_kind(box, BoxKind.MAY)
    }


def test_what_the_specification_decides_by_is_in_the_drawing():
    doors = guards = 0
    for case in (case for seed in SEEDS for case in cases(seed, questions=12)):
        decision, endpoint = case.decide(), case.request.endpoint
        if isinstance(endpoint, MalformedEndpoint):
            continue
        asked = endpoint_words(endpoint)
        stopped = [f"guard {format_value(one.rule)}" for one in decision.reasons if one.gate is Gate.GUARD]
        assert set(stopped) <= set(of_kind(drawn(case.kernel, asked), BoxKind.GUARD)), str(case)
        guards += len(stopped)
        agent = case.question.get("agent")
        if decision.allowed and agent:
            passed = passages(case.kernel, asked, agent)
            assert passed, str(case)
            doors += "agent" in passed
    assert min(doors, guards) > 20


# ── Rates and budgets ─────────────────────────────────────────────────────────────────────────

LIMITS = """
language 1
package shop
facts on /pay { body.amount: number }
anyone { may POST /pay, GET /pay/{id}, GET /health }
rate "often" per request.ip on /pay { 9/1m burst 2   clamp 1/1m for 5m when body.amount > 5   counting denials }
rate "always" per request.ip on ANY /** except GET /health { at most 2 at once for 5m }
budget "much" per (request.ip, request.host) on /pay when request.host == "a" { sum body.amount <= 5 within 1h }
"""


def limits_in(box: Box) -> list[tuple[str, str, list[str]]]:
    kinds = (BoxKind.RATE, BoxKind.BUDGET)
    return [(one.label, one.detail, [inner.label for inner in one.children]) for one in box.walk() if one.kind in kinds]


def test_an_endpoint_names_its_rates_and_budgets_with_their_keys() -> None:
    assert sorted(limits_in(drawn(Engine.from_text(LIMITS).kernel, "POST /pay"))) == [
        ('budget "much"', 'per request.ip, request.host on /pay when request.host == "a"',
         ["sum body.amount <= 5 within 1h"]),
        ('rate "always"', "per request.ip on ANY /** except GET /health", ["at most 2 at once for 5m"]),
        ('rate "often"', "per request.ip on /pay",
         ["9/1m burst 2", "clamp 1/1m for 5m when body.amount > 5", "counting denials"]),
    ]  # fmt: skip


def test_a_rate_that_excepts_an_endpoint_is_not_drawn_there() -> None:
    assert limits_in(drawn(Engine.from_text(LIMITS).kernel, "GET /health")) == []


def test_the_tree_shows_the_location_of_each_limit() -> None:
    root = drawn(Engine.from_text(LIMITS).kernel)
    assert sorted(label for label, _, _ in limits_in(root)) == ['budget "much"', 'rate "always"', 'rate "often"']


# ── Orders of calls ───────────────────────────────────────────────────────────────────────────

ORDERED = """
agent "report-*" { issued by idp   acts alone   may POST /auth, GET /data/**, POST /report }
profile "reporting" for agent "report-*" {
  expect POST /auth -> (GET /data/** | GET /data/{id}) repeated -> POST /report
}
profile "other" for agent "other" { expect GET /data/** repeated optional }
profile "unordered" for agent "x" { learn 14d }
guard "order" { deny when not behavior.sequence }
"""


def test_a_drawing_shows_the_states_of_each_order_of_calls():
    boxes = at(drawn(kernel_of(ORDERED)), "orders of calls").children
    assert [box.label for box in boxes] == [
        'profile "other" for agent "other"',
        'profile "reporting" for agent "report-*"',
    ]
    assert [(state.label, state.detail) for state in boxes[1].children] == [
        ("0: start", "POST /auth → 1"),
        ("1: after POST /auth", "GET /data/** or GET /data/** + GET /data/{id} → 2"),
        (
            "2: after GET /data/** or GET /data/{id}",
            "GET /data/** or GET /data/** + GET /data/{id} → 2; POST /report → 3",
        ),
        ("3: after POST /report", "the run may end; no call may follow"),
    ]
    assert [(state.label, state.detail) for state in boxes[0].children] == [("0: start", "GET /data/** → 0")]


def test_a_drawing_for_one_agent_shows_only_its_order_and_one_of_an_endpoint_shows_none():
    kernel = kernel_of(ORDERED)
    (box,) = at(drawn(kernel, agent="report-7"), "orders of calls").children
    assert box.label == 'profile "reporting" for agent "report-*"'
    assert "orders of calls" not in labels(drawn(kernel, "GET /data/**"))
    assert "orders of calls" not in labels(drawn(kernel_of("anyone { may GET /a }")))


def test_a_step_that_no_rule_uses_is_not_drawn_as_an_endpoint():
    without = ORDERED[: ORDERED.index("profile")]
    paths = of_kind(drawn(kernel_of(without)), BoxKind.PATH)
    assert of_kind(drawn(kernel_of(ORDERED)), BoxKind.PATH) == paths
