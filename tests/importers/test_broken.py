"""Anything at all in place of any part of a description: it is told, or left out; nothing else happens."""

import copy
import json

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policyengine.importers import ApiImportError, import_policies, read_openapi, read_tools
from tests.depth import examples, scaled
from tests.importers.bringing import findings

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
REFERENCES = st.sampled_from(
    [{"$ref": "#"}, {"$ref": "#/paths"}, {"$ref": ""}, {"$ref": "x.json"}, {"$ref": 7}, {"$ref": "#/a/0"}]
)
SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "Shop"},
    "servers": [{"url": "https://{a}.example/v1", "variables": {"a": {"default": "b"}}}],
    "security": [{"oauth": ["read"]}],
    "paths": {
        "/things/{thingId}": {
            "parameters": [{"name": "thingId", "in": "path"}],
            "get": {"tags": ["things"], "summary": "s", "deprecated": False},
            "post": {
                "security": [{"oauth": ["a", "b"]}],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
            },
        }
    },
    "components": {
        "securitySchemes": {"oauth": {"type": "oauth2"}},
        "schemas": {
            "Thing": {
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "list": {"type": "array", "items": {"type": "string"}}},
                "allOf": [{"oneOf": [{"properties": {"x": {"type": "integer"}}}]}],
            }
        },
    },
}
TOOLS = {
    "tools": [
        {
            "name": "look",
            "description": "d",
            "annotations": {"readOnlyHint": True},
            "inputSchema": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        }
    ]
}
SOME = settings(max_examples=examples(20, 60), suppress_health_check=[HealthCheck.function_scoped_fixture])


def places(value, at=()):
    yield at
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*at, key))


def spoilt(document, place, value):
    found = copy.deepcopy(document)
    if not place:
        return value
    inside = found
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return found


@scaled
@SOME
@given(st.sampled_from(list(places(SPEC))), ANYTHING | REFERENCES)
def test_a_mutated_specification_is_read_or_rejected_with_a_place(tmp_path_factory, place, value):
    folder = tmp_path_factory.getbasetemp()
    (folder / "spoilt.json").write_text(json.dumps(spoilt(SPEC, place, value)))
    try:
        read_openapi(str(folder / "spoilt.json"))
    except ApiImportError as problem:
        assert problem.place  # noqa: PT017


@scaled
@SOME
@given(st.sampled_from(list(places(TOOLS))), ANYTHING | REFERENCES)
def test_a_mutated_tool_list_is_read_or_rejected_with_a_place(tmp_path_factory, place, value):
    folder = tmp_path_factory.getbasetemp()
    (folder / "spoilt_tools.json").write_text(json.dumps(spoilt(TOOLS, place, value)))
    try:
        read_tools(str(folder / "spoilt_tools.json"))
    except ApiImportError as problem:
        assert problem.place  # noqa: PT017


SEGMENTS = st.sampled_from(["pets", "{id}", "{petId}", "{x}", "all", "v{n}", "{a}-{b}", "things"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@scaled
@example(["/v{n}"], ["/{id}"])
@example(["/pets/pets/{id}/{id}"], ["/pets/pets/pets/{id}", "/pets/pets/pets/v{n}"])
@settings(max_examples=examples(6, 12), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PATHS, min_size=1, max_size=8, unique=True), st.lists(PATHS, max_size=4, unique=True))
def test_overlapping_path_templates_import_and_reimport_without_findings(tmp_path_factory, before, added):
    folder = tmp_path_factory.mktemp("templates")
    for paths in (before, [*before, *added]):
        methods = {"get": {}, "delete": {"security": [{"oauth": ["a"]}]}}
        document = {**SPEC, "paths": dict.fromkeys(paths, methods)}
        (folder / "api.json").write_text(json.dumps(document))
        try:
            import_policies(folder / "p", read_openapi(str(folder / "api.json")), "policyengine init")
        except ApiImportError as problem:
            assert "no operation that a policy can name" in problem.message  # noqa: PT017
            return
        # What is new is denied, also where it is wider than what was there: that this shuts old doors is told.
        assert [one for one in findings(folder / "p") if "guard `new with import" not in one] == []
