"""Resources, templates and prompts of MCP servers to policies: what is listed can be granted, and nothing else."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine import Engine
from policyengine.cli import main
from policyengine.http.resource_uris import canonical_uri
from policyengine.importers import ApiImportError, import_policies, read_tools
from policyengine.importers.uri_patterns import TemplateError, is_like, read_template
from tests.depth import examples, scaled
from tests.importers.bringing import assert_sound, contents
from tests.importers.test_hostile import INJECTED, declared

OPEN = datetime(2000, 6, 1, tzinfo=UTC)  # before the blocks of a new project ended
TOOL = {"name": "look", "annotations": {"readOnlyHint": True}}


def offers(folder, *, name="desk", tools=(TOOL,), **lists):
    (folder / "offers.json").write_text(json.dumps({"tools": list(tools), **lists}))
    return read_tools(str(folder / "offers.json"), name)


def question(uri):
    return {
        "action": {"name": "read"}, "resource": {"type": "mcp_resource", "id": uri}, "context": {"server": "desk"},
        "agent": {"id": "example-agent", "issuer": "login"}, "user": {"id": "alice"},
        "credential": {"kind": "jwt", "lifetime": "10m"},
    }  # fmt: skip


def allows(engine, uri):
    return engine.decide(question(uri)).allowed


def brought(folder, *, check=False, **lists):
    return import_policies(folder / "p", offers(folder, **lists), "policyengine init", check=check)


# ── Templates ─────────────────────────────────────────────────────────────────────────────────


TEMPLATES = [
    ("notes://{box}/x", ["notes://a/x"], ["notes://a/b/x", "notes://a/y", "notes://a/x?q=1", "other://a/x"]),
    ("NOTES://a%20b/{x}", ["notes://a b/1"], ["NOTES://a b/1", "notes://a%20b/1"]),
    ("notes://{a,b}", ["notes://1,2"], ["notes://1/2"]),
    ("notes://{a}/{b}", ["notes://1/2"], ["notes://1", "notes://1/2/3"]),
    ("notes://{a}-{b}", ["notes://1-2"], ["notes://1", "notes://1/-2"]),
    ("file:///{+path}", ["file:///a", "file:///a/b/c"], ["file:///a?q", "http://a/"]),
    ("x://{a}/{+rest}", ["x://a/b", "x://a/b/c"], ["x://a"]),
    ("x://{+rest}/{a}", ["x://a/b", "x://a/b/c"], ["x://a"]),
    ("x://{a}/m/{+rest}", ["x://a/m/b/c"], ["x://a/b/m/c", "x://a/n/b"]),
    ("x://a{/b}", ["x://a/1"], ["x://a", "x://a/1/2"]),
    ("x://a{/b*}", ["x://a/1", "x://a/1/2"], ["x://a", "x://b/1"]),
    ("x://a{.ext}", ["x://a.json"], ["x://a", "x://a.b/c"]),
    ("x://s{?q,limit}", ["x://s", "x://s?q=1", "x://s?q=1&limit=2"], ["x://s/t", "x://st"]),
    ("x://s?q={q}", ["x://s?q=a", "x://s?q=a/b"], ["x://s?q=a&admin=1", "x://s"]),
    ("x://s?q={q}{&more}", ["x://s?q=a", "x://s?q=a&more=b"], ["x://s", "x://s?r=a"]),
    ("notes://{name:3}", ["notes://abc"], ["notes://a/b"]),
]


@pytest.mark.parametrize(("template", "matching", "others"), TEMPLATES)
def test_a_template_becomes_patterns_of_exactly_its_uris(template, matching, others):
    def covered(uri):
        return any(pattern.matches(uri) for pattern in read_template(template))

    assert [uri for uri in matching if not covered(uri)] == []
    assert [uri for uri in others if covered(uri)] == []
    for pattern in read_template(template):
        assert pattern.matches(pattern.sample)
        assert canonical_uri(pattern.sample) == pattern.sample


def test_a_policy_can_name_every_template(tmp_path):
    brought(tmp_path, resourceTemplates=[{"uriTemplate": template} for template, _, _ in TEMPLATES])
    assert_sound(tmp_path / "p")
    engine = Engine.load(tmp_path / "p", clock=lambda: OPEN)
    for _, matching, _ in TEMPLATES:
        assert [uri for uri in matching if not allows(engine, uri)] == []
    assert [uri for uri in ("notes://a/b/c/d", "y://a") if allows(engine, uri)] == []


UNWRITABLE = [
    "{+anything}", "{scheme}://x", "x://a*/{b}", "x://%2A/{b}", "x://{a;b}", "x://{a", "x://a}", "x://{}", "x://{ a}",
    "x://a{#part}", "x://a{;p}", "x://../{a}", "x://a/./{b}", "x://%2e%2e/{a}", "x://a%2Fb/{c}", "x://a//{b}",
    "x://%zz/{a}", "x://%ff/{a}", "x://{a}/#/b", "no uri {a}", "http://user@{host}/", "x://{a}\u202e",
]  # fmt: skip


@pytest.mark.parametrize("template", UNWRITABLE)
def test_a_template_that_no_pattern_expresses_is_left_out_with_a_reason(tmp_path, template):
    api = offers(tmp_path, resourceTemplates=[{"uriTemplate": template}, {"uriTemplate": "ok://{a}"}])
    [note] = api.notes
    assert "it is left out and stays denied" in note
    assert [one.name for one in api.offers.listed] == ["ok://*"]


def test_what_is_left_out_is_a_comment_that_says_why(tmp_path):
    brought(tmp_path, resourceTemplates=[{"uriTemplate": one} for one in [*UNWRITABLE, "ok://{a}"] * 3])
    text = (tmp_path / "p/offers/resources.policy").read_text()
    assert '# Left out, and denied: the template "{+anything}": it begins with a variable' in text
    assert f"# Left out, and denied: {3 * len(UNWRITABLE) - 50} more" in text
    assert_sound(tmp_path / "p")


PARTS = ["a", "/", "b", "{x}", "{y}", "?q=", "&z=", ".", "-"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "/", "b", "{x}", "{y}", "?q=", "&z=", ".", "-"]), min_size=1, max_size=8), st.data()
)
def test_every_filled_template_with_plain_values_matches_its_pattern(parts, data):
    template = "x://h/" + "".join(parts)
    try:
        patterns = read_template(template)
    except TemplateError:
        return
    value = st.text("abc123", min_size=1, max_size=4)
    uri = canonical_uri(re.sub(r"\{\w+\}", lambda _: data.draw(value), template))
    if isinstance(uri, str):
        assert any(pattern.matches(uri) for pattern in patterns)


@pytest.mark.parametrize(
    ("text", "pattern", "holds"),
    [("a", "a", True), ("ab", "a*", True), ("a\nb", "a*b", True), ("a.b", "a*c", False), ("a+b", "a+b", True),
     ("aab", "a+b", False)],
)  # fmt: skip
def test_patterns_are_compared_as_the_language_compares_them(text, pattern, holds):
    quoted = json.dumps(pattern)
    engine = Engine.from_text(
        f"facts on GET /x {{ body.t: string }}\nanyone {{ may GET /x when body.t like {quoted} }}"
    )
    asked = {"request": {"method": "GET", "path": "/x"}, "body": {"t": text}}
    assert is_like(text, pattern) is engine.decide(asked).allowed is holds


# ── What an import writes ─────────────────────────────────────────────────────────────────────

LISTS = {
    "resources": [{"uri": "notes://readme", "title": "Read me"}, {"uri": "notes://b"}],
    "resourceTemplates": [{"uriTemplate": "notes://{box}/{name}"}],
    "prompts": [{"name": "greet", "arguments": [{"name": "who"}, {"name": "in"}, {"name": "b c"}]}, {"name": "sum up"}],
}


def test_everything_that_a_server_offers_can_be_granted_and_nothing_is_allowed_yet(tmp_path):
    outcome = brought(tmp_path, **LISTS, capabilities={"logging": {}})
    assert outcome.new == (
        "TOOL desk/look", "ACTION read mcp_resource notes://readme", "ACTION read mcp_resource notes://b",
        "ACTION read mcp_resource notes://*/*", "ACTION get mcp_prompt greet", "ACTION get mcp_prompt sum up",
        "ACTION log mcp_client desk",
    )  # fmt: skip
    assert_sound(tmp_path / "p")
    prompts = (tmp_path / "p/offers/prompts.policy").read_text()
    assert "  args.who: string?\n" in prompts
    assert "args.in" not in prompts
    engine = Engine.load(tmp_path / "p")
    asked = {
        "action": {"name": "read"}, "resource": {"type": "mcp_resource", "id": "notes://readme"},
        "context": {"server": "desk"}, "agent": {"id": "example-agent", "issuer": "login"}, "user": {"id": "alice"},
    }  # fmt: skip
    assert not engine.decide(asked).allowed


def test_what_a_server_offers_is_in_scopes_for_an_issuer_whose_tokens_have_scopes(tmp_path):
    brought(tmp_path, **LISTS, capabilities={"logging": {}})
    doors = tmp_path / "p/doors.policy"
    text = doors.read_text()
    assert "   scopes none" in text
    doors.write_text(text.replace("   scopes none", ""))
    engine = Engine.load(tmp_path / "p", clock=lambda: OPEN)
    asked = question("notes://readme")
    assert not engine.decide(asked).allowed
    for scopes, allowed in ((["tools.read"], False), (["resources.read"], True)):
        assert engine.decide({**asked, "credential": {**asked["credential"], "scopes": scopes}}).allowed is allowed


def test_a_server_without_tools_is_imported_too(tmp_path):
    for lists in ({"prompts": LISTS["prompts"]}, {"resources": LISTS["resources"]}):
        (tmp_path / "only.json").write_text(json.dumps(lists))
        folder = tmp_path / next(iter(lists))
        import_policies(folder, read_tools(str(tmp_path / "only.json"), "desk"), "policyengine init")
        assert_sound(folder)
        request = folder / "request.json"
        assert main(["decide", str(folder), "--request", str(request)]) == 10


def test_an_action_that_a_tool_declares_cannot_stand_for_a_resource(tmp_path):
    evaluation = {"action": {"name": "read"}, "resource": {"type": "mcp_resource", "id": "$params.arguments.id"}}
    schema = {
        "type": "object",
        "properties": {"id": {"type": "string"}},
        "x-authzen-mapping": {"evaluation": evaluation},
    }
    outcome = brought(tmp_path, tools=[{"name": "look", "inputSchema": schema}], **LISTS)
    assert "`ACTION read mcp_resource` is left out, because it names what the server lists" in outcome.notes
    assert_sound(tmp_path / "p")


def test_a_list_of_tools_alone_is_imported_as_before(tmp_path):
    brought(tmp_path)
    assert not [name for name in contents(tmp_path / "p") if name.startswith("offers/")]


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        ({"resources": {}}, "at `#/resources`: `resources` must be a list"),
        ({"resources": [{}]}, "at `#/resources/0`: this resource has no `uri`"),
        ({"resourceTemplates": [{"uri": "x://a"}]}, "this template has no `uriTemplate`"),
        ({"prompts": [{"name": 7}]}, "at `#/prompts/0/name`: `name` must be a string"),
        ({"prompts": [{"name": "a", "arguments": 7}]}, "`arguments` must be a list"),
        ({"resources": [{"uri": f"x://{i}"} for i in range(5_001)]}, "more than 5,000 resources"),
        ({"resourceTemplates": [{"uriTemplate": f"x{i}://{{a}}"} for i in range(201)]}, "more than 200"),
    ],
)
def test_a_broken_list_is_reported_with_its_place(tmp_path, lists, told):
    with pytest.raises(ApiImportError) as raised:
        offers(tmp_path, **lists)
    assert told in str(raised.value)


@scaled
def test_the_largest_lists_are_imported(tmp_path):
    count = examples(400, 5_000)
    brought(
        tmp_path,
        resources=[{"uri": f"x://{i}"} for i in range(count)],
        resourceTemplates=[{"uriTemplate": f"x{i}://{{a}}/{{b}}"} for i in range(200)],
    )
    assert (tmp_path / "p/offers/resources.policy").read_text().count("\n") > count + 200


@pytest.mark.parametrize(
    "uri",
    ["notes://box/../secret", "notes://box/%2e%2e/x", "notes://a%2Fb", "notes://%61", "notes://a#b", "", " x://a",
     "x://a\u202eb", "x://a\u200bb", "x://a\nb", "/etc/passwd", "file://host/etc/passwd", "x://" + "a" * 600],
)  # fmt: skip
def test_a_resource_uri_that_escapes_or_hides_something_is_left_out(tmp_path, uri):
    api = offers(tmp_path, resources=[{"uri": uri}, {"uri": "ok://a"}])
    [note] = api.notes
    assert "it is left out and stays denied" in note
    assert [one.name for one in api.offers.listed] == ["ok://a"]


def test_names_listed_twice_count_once(tmp_path):
    twice = {name: [*items, items[0]] for name, items in LISTS.items()}
    outcome = brought(tmp_path, **twice)
    assert [note for note in outcome.notes if "is listed twice: the first one is used" in note] == list(outcome.notes)
    assert len(outcome.notes) == 3
    assert_sound(tmp_path / "p")


FEW = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = st.one_of(st.sampled_from(INJECTED), st.text(max_size=20))


@FEW
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=4))
def test_text_of_a_server_cannot_inject_policy(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("server")
    brought(
        folder,
        resources=[{"uri": f"x://{name}", "title": title} for name, title, _ in texts],
        resourceTemplates=[
            {"uriTemplate": f"y://{name}/{{{inner}}}", "description": title} for name, title, inner in texts
        ],
        prompts=[{"name": name, "title": title, "arguments": [{"name": inner}]} for name, title, inner in texts],
    )
    assert_sound(folder / "p")
    kinds = {type(one).__name__ for one in declared(folder / "p")}
    assert kinds <= {"EntityDecl", "FactsDecl", "DefineDecl", "IssuerDecl", "UserDecl", "AgentDecl", "ScopeDecl"}


# ── Later imports ─────────────────────────────────────────────────────────────────────────────


def test_a_new_resource_is_denied_even_if_a_granted_pattern_matches_it(tmp_path):
    brought(tmp_path, **LISTS)
    before = contents(tmp_path / "p")
    new = {**LISTS, "resources": [*LISTS["resources"], {"uri": "notes://box/new"}], "prompts": [{"name": "new prompt"}]}
    seen = brought(tmp_path, check=True, **new)
    assert seen.new == ("ACTION read mcp_resource notes://box/new", "ACTION get mcp_prompt new prompt")
    assert [key for key, _ in seen.removed] == ["ACTION get mcp_prompt greet", "ACTION get mcp_prompt sum up"]
    brought(tmp_path, **new)
    after = contents(tmp_path / "p")
    assert {name for name in before if before[name] != after[name]} == {"imported.json"}
    assert_sound(tmp_path / "p")
    engine = Engine.load(tmp_path / "p", clock=lambda: OPEN)
    assert (allows(engine, "notes://box/old"), allows(engine, "notes://box/new")) == (True, False)
    assert not brought(tmp_path, check=True, **new).new


def test_a_changed_title_or_argument_is_reported(tmp_path):
    brought(tmp_path, **LISTS)
    changed = json.loads(json.dumps(LISTS))
    changed["resources"][0]["title"] = "Read me before anything else"
    changed["prompts"][0]["arguments"].append({"name": "whom"})
    found = {one.key: one.said for one in brought(tmp_path, check=True, **changed).changed}
    assert found == {
        "ACTION read mcp_resource notes://readme": ("the description changed",),
        "ACTION get mcp_prompt greet": ("`args.whom` was nothing, is string?",),
    }


def test_a_resource_that_the_author_has_named_is_not_new(tmp_path):
    brought(tmp_path, resources=LISTS["resources"])
    (tmp_path / "p/mine.policy").write_text(
        'language 1\npackage desk\nuser "bob" { may ACTION read mcp_resource when resource.id == "notes://mine" }\n'
    )
    outcome = brought(tmp_path, check=True, resources=[*LISTS["resources"], {"uri": "notes://mine"}])
    assert outcome.new == ()
    assert "is already named at" in outcome.notes[0]
