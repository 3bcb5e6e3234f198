"""Names and descriptions of strangers: whatever they hold, the policy says what was described and nothing more."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyengine.importers import ApiImportError, import_policies, read_openapi, read_tools
from policyengine.importers.sanitize import RESERVED_NAMES, quoted_comment, safe_name
from policyengine.policy_files import load_sources
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.parse import parse
from tests.importers.bringing import asking, assert_sound, findings, read, spec

INJECTED = (
    'x"\n}\nanyone { may ANY /** }\n#',
    "lint: allow no-door because so",
    "a\u2028anyone { may GET /x }",
    "\u202eevil",
    "\r\nusers unrestricted",
    "{body.x}",
    "}}{{",
    "*",
    "/**",
    "a`b",
    "\\",
    "\x00",
    "ß",
    "ｆｕｌｌ",
    "",
    "a" * 500,
)
TEXTS = st.one_of(st.sampled_from([*INJECTED, *sorted(RESERVED_NAMES)]), st.text(max_size=30))
FEW = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


def declared(folder):
    """Every declaration of the project, by kind, without its tests."""
    modules = [parse(source)[0] for source in load_sources([folder], tests=False)[0]]
    return [declaration for module in modules for declaration in module.declarations]


@FEW
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS), min_size=1, max_size=4))
def test_text_of_a_specification_cannot_inject_policy(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("spec")
    paths = {}
    for number, (tag, summary, scope, member) in enumerate(texts):
        schema = {
            "type": "object",
            "properties": {
                member: {"type": "string"},
                "o": {"type": "object", "properties": {member: {"type": "integer"}}},
            },
        }
        paths[f"/things{number}/{{{member}}}"] = {
            "post": {
                "tags": [tag],
                "summary": summary,
                "operationId": summary,
                "security": asking(scope),
                "requestBody": {"content": {"application/json": {"schema": schema}}},
            },
            "get": {"tags": [tag], "description": summary},
        }
    (folder / "api.json").write_text(json.dumps(spec(paths, info={"title": texts[0][0]})))
    try:
        api = read_openapi(str(folder / "api.json"))
        import_policies(folder / "p", api, "policyengine init")
    except ApiImportError as problem:
        assert "no operation" in problem.message  # noqa: PT017
        assert not (folder / "p").exists()
        return
    assert findings(folder / "p") == []
    assert_only_what_was_described(folder / "p", [one.endpoint.written for one in api.operations])


@FEW
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=4))
def test_text_of_a_tool_cannot_inject_policy(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("tools")
    tools = [
        {"name": name, "description": said, "inputSchema": {"properties": {member: {"type": "string"}}}}
        for name, said, member in texts
    ]
    (folder / "tools.json").write_text(json.dumps({"tools": tools}))
    api = read_tools(str(folder / "tools.json"))
    try:
        import_policies(folder / "p", api, "policyengine init")
    except ApiImportError as problem:
        assert "no tools" in problem.message  # noqa: PT017
        return
    assert findings(folder / "p") == []
    assert_only_what_was_described(folder / "p", [one.endpoint.written for one in api.operations])
    names = {name for name, _, _ in texts}
    assert {one.endpoint.name for one in api.operations} <= names


def assert_only_what_was_described(folder, endpoints):
    found = declared(folder)
    written = [
        item.endpoint.span.text
        for declaration in found
        if isinstance(declaration, ast.ScopeDecl)
        for item in declaration.items
        if isinstance(item, ast.ScopeEndpoint)
    ]
    assert sorted(written) == sorted(endpoints)
    doors = [one for one in found if isinstance(one, ast.AgentDecl | ast.UserDecl | ast.AnyoneDecl)]
    assert [type(one) for one in doors] == [ast.UserDecl, ast.AgentDecl]
    assert all(any(isinstance(item, ast.ValidityPeriod) for item in door.items) for door in doors)
    kinds = ast.ScopeDecl | ast.FactsDecl | ast.GuardDecl | ast.EntityDecl | ast.IssuerDecl
    assert all(isinstance(one, kinds) for one in found if one not in doors)


@given(TEXTS)
def test_any_text_is_converted_to_a_valid_name(text):
    module, problems = parse(
        Source("x.policy", f"scope {safe_name(text, 'x')}.read {{ GET /x }}\nentity {safe_name(text, 'x')} {{}}")
    )
    assert problems == []
    assert module is not None
    assert len(module.declarations) == 2


@given(TEXTS)
def test_any_text_is_quoted_as_a_single_line_comment(text):
    said = quoted_comment(text)
    module, problems = parse(Source("x.policy", f"anyone {{ may GET /x }} # {said}\nanyone {{ may GET /y }}\n"))
    assert problems == []
    assert module is not None
    assert len(module.declarations) == 2
    assert said == "" or (said.startswith('"') and said.endswith('"'))


def test_every_reserved_word_can_be_a_tag_a_member_and_a_capture(tmp_path):
    paths = {}
    for kept in RESERVED_NAMES:
        inner = {"type": "object", "properties": {kept: {"type": "string"}, "x": {"type": "string"}}}
        body = {"type": "object", "properties": {kept: {"type": "string"}, "o": inner}}
        content = {"application/json": {"schema": body}}
        paths[f"/{kept}s/{{{kept}}}/{{{kept}Id}}"] = {"post": {"tags": [kept], "requestBody": {"content": content}}}
    (tmp_path / "api.json").write_text(json.dumps(spec(paths)))
    import_policies(tmp_path / "p", read_openapi(str(tmp_path / "api.json")), "policyengine init")
    policy = read(tmp_path / "p")
    assert policy.ok
    assert {f"body.{kept}" for kept in RESERVED_NAMES} <= {fact.name for fact in policy.schema.facts}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("*", "would match other names too"),
        ("read_*", "would match other names too"),
        ("", "empty"),
        (" read", "white space"),
        ("a\u200bb", "invisible characters"),
        ("a\nb", "invisible characters"),
        ("rеad", "ambiguous characters"),  # a Cyrillic letter
        ("a;b", "ambiguous characters"),
        ("a" * 129, "more than 128"),
    ],
)
def test_a_tool_without_an_exact_pattern_stays_denied_and_is_reported(tmp_path, name, why):
    (tmp_path / "tools.json").write_text(json.dumps([{"name": name}, {"name": "fine"}]))
    api = read_tools(str(tmp_path / "tools.json"))
    assert [one.endpoint.name for one in api.operations] == ["fine"]
    assert any(why in note and "stays denied" in note for note in api.notes)


def test_a_tool_name_with_quotes_and_spaces_is_matched_exactly(tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps([{"name": 'say "hi", friend'}]))
    import_policies(tmp_path / "p", read_tools(str(tmp_path / "tools.json"), "desk"), "policyengine init")
    assert_sound(tmp_path / "p")
    assert r'TOOL "desk/say \"hi\", friend"' in (tmp_path / "p/tools/tools.policy").read_text()
