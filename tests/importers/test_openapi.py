"""Specifications to operations: what each version says in its own way, and what is told when it is broken."""

import json
import re

import pytest

from policyengine.importers import ApiImportError, ApiOperationKind, read_openapi
from tests.importers.bringing import api_of, asking, saved, spec

PETS_30 = """\
openapi: 3.0.3
info: {title: Pet Store, version: "1"}
servers:
  - url: https://{host}.example.com/{version}
    variables: {host: {default: api}, version: {default: v1}}
security: [{oauth: ["read:pets"]}]
paths:
  /pets:
    get: {tags: [pets], summary: List pets}
    post:
      tags: [pets]
      security: [{oauth: ["write:pets"]}]
      requestBody:
        content:
          application/json: {schema: {$ref: "#/components/schemas/Pet"}}
  /pets/{petId}:
    parameters: [{name: petId, in: path, required: true, schema: {type: string}}]
    get: {tags: [pets]}
    delete: {tags: [pets], security: [{oauth: ["write:pets"]}]}
components:
  securitySchemes:
    oauth: {type: oauth2, flows: {}}
  schemas:
    Pet:
      required: [name]
      properties: {name: {type: string}, tag: {type: string, nullable: true}, born: {type: string, format: date-time}}
"""
PETS_31 = PETS_30.replace("3.0.3", "3.1.0").replace("{type: string, nullable: true}", '{type: [string, "null"]}')
PETS_2 = """\
swagger: "2.0"
info: {title: Pet Store, version: "1"}
basePath: /v1
security: [{oauth: ["read:pets"]}]
paths:
  /pets:
    get: {tags: [pets], summary: List pets}
    post:
      tags: [pets]
      security: [{oauth: ["write:pets"]}]
      parameters: [{in: body, name: pet, schema: {$ref: "#/definitions/Pet"}}]
  /pets/{petId}:
    parameters: [{name: petId, in: path, required: true, type: string}]
    get: {tags: [pets]}
    delete: {tags: [pets], security: [{oauth: ["write:pets"]}]}
securityDefinitions:
  oauth: {type: oauth2, flow: implicit, authorizationUrl: "https://x.example", scopes: {}}
definitions:
  Pet:
    required: [name]
    properties: {name: {type: string}, tag: {type: string}, born: {type: string, format: date-time}}
"""
READ, WRITE = (frozenset(["read:pets"]),), (frozenset(["write:pets"]),)


@pytest.mark.parametrize("text", [PETS_30, PETS_31, PETS_2], ids=["3.0", "3.1", "2.0"])
def test_every_specification_version_yields_the_same_operations(tmp_path, text):
    api = read_openapi(saved(tmp_path, text, "pets.yaml"))
    assert (api.name, api.notes) == ("pet_store", ())
    assert [(one.endpoint.written, one.kind, one.area, one.asks) for one in api.operations] == [
        ("GET /v1/pets", ApiOperationKind.READ, "pets", READ),
        ("POST /v1/pets", ApiOperationKind.WRITE, "pets", WRITE),
        ("GET /v1/pets/{petId: pet}", ApiOperationKind.READ, "pets", READ),
        ("DELETE /v1/pets/{petId: pet}", ApiOperationKind.DELETE, "pets", WRITE),
    ]
    facts = [fact.written for fact in api.operations[1].facts]
    assert facts == ["body.name: string", "body.tag: string?", "body.born: time?"]


def only(api):
    [operation] = api.operations
    return operation


def body_of(schema, **more):
    return {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}, **more}}


# ── Paths ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("template", "written"),
    [
        ("/", "GET /"),
        ("/a/", "GET /a"),
        ("/companies/{id}", "GET /companies/{id: company}"),
        ("/boxes/{boxId}", "GET /boxes/{boxId: box}"),
        ("/users/{userId}", "GET /users/{userId: user}"),
        ("/agents/{id}", "GET /agents/{id}"),
        ("/reports/{year}", "GET /reports/{year}"),
        ("/{tenant}/notes/{note-id}", "GET /{tenant}/notes/{note_id: note}"),
        ("/a/{id}/b/{id}", "GET /a/{id: a}/b/{id_4}"),
        ("/models/{name}:predict", "GET /models/{name}:predict"),
        ("/models/v{n}", "GET /models/v{n}"),
        ("/files/{path:path}", "GET /files/{path}"),
        ("/files/{rest*}", "GET /files/{rest}"),
        ("/a/{from}-{to}", "GET /a/{from_to}"),
    ],
)
def test_a_path_template_becomes_the_closest_pattern(tmp_path, template, written):
    assert only(api_of(tmp_path, {template: {"get": {}}})).endpoint.written == written


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("pets", "does not begin with a slash"),
        ("/café", "no pattern can match: `caf?`"),
        ("/a b", "no pattern can match: `a b`"),
        ("/a//b", "an empty segment"),
        ("/a-{b}", "no pattern can match"),
        ("/a;b", "no pattern can match"),
        ("/a/../b", "never a canonical path"),
        ("/a?x=1", "a query"),
        ("/{a", "no pattern can match"),
        ("/a%2Fb", "no pattern can match"),
        ("/*", "no pattern can match"),
        ("/**", "no pattern can match"),
    ],
)
def test_a_path_without_a_pattern_is_omitted_and_reported(tmp_path, template, told):
    api = api_of(tmp_path, {template: {"get": {}}, "/fine": {"get": {}}})
    assert [one.endpoint.written for one in api.operations] == ["GET /fine"]
    assert len(api.notes) == 1
    assert told in api.notes[0]
    assert api.notes[0].endswith("it is left out and stays denied")


def test_a_parameter_over_several_segments_is_reported(tmp_path):
    assert api_of(tmp_path, {"/f/{rest:path}": {"get": {}}}).notes == (
        "`GET /f/{rest:path}` `{rest:path}` is exactly one segment here",
    )


def test_a_head_operation_becomes_a_single_get(tmp_path):
    api = api_of(tmp_path, {"/a": {"head": {}}, "/b": {"get": {}, "head": {}}})
    assert [one.endpoint.written for one in api.operations] == ["GET /a", "GET /b"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"servers": [{"url": "/api/v3/"}]}, "GET /api/v3/x"),
        ({"servers": [{"url": "https://a.example"}]}, "GET /x"),
        ({}, "GET /x"),
    ],
)
def test_the_server_url_sets_the_base_path(tmp_path, given, expected):
    assert only(api_of(tmp_path, {"/x": {"get": {}}}, **given)).endpoint.written == expected


def test_the_nearest_servers_entry_sets_the_base_path(tmp_path):
    item = {"servers": [{"url": "/b"}], "get": {}, "post": {"servers": [{"url": "/c"}]}}
    api = api_of(tmp_path, {"/x": item}, servers=[{"url": "/a"}])
    assert [one.endpoint.written for one in api.operations] == ["GET /b/x", "POST /c/x"]


def test_several_base_paths_are_reported_and_can_be_overridden(tmp_path):
    source = saved(tmp_path, spec({"/x": {"get": {}}}, servers=[{"url": "/a"}, {"url": "/b"}]))
    api = read_openapi(source)
    assert only(api).endpoint.written == "GET /a/x"
    assert "several base paths, `/a`, `/b`" in api.notes[0]
    assert only(read_openapi(source, "/c")).endpoint.written == "GET /c/x"


# ── Kinds and scopes ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "path", "identifier", "kind"),
    [
        ("get", "/x", "", ApiOperationKind.READ),
        ("options", "/x", "", ApiOperationKind.READ),
        ("put", "/x", "", ApiOperationKind.WRITE),
        ("patch", "/x", "", ApiOperationKind.WRITE),
        ("delete", "/x", "listThings", ApiOperationKind.DELETE),
        ("post", "/x", "purgeAll", ApiOperationKind.DELETE),
        ("post", "/x", "XDelete", ApiOperationKind.DELETE),
        ("post", "/x/{id}/terminate", "", ApiOperationKind.DELETE),
        ("get", "/x/delete", "", ApiOperationKind.DELETE),
        ("post", "/deleted-things", "", ApiOperationKind.WRITE),
        ("get", "/x", "getDropdown", ApiOperationKind.READ),
    ],
)
def test_operations_are_classified_by_method_and_by_destructive_words(tmp_path, method, path, identifier, kind):
    assert only(api_of(tmp_path, {path: {method: {"operationId": identifier}}})).kind is kind


def test_alternative_scope_sets_are_kept(tmp_path):
    security = [{"oauth": ["a", "b"]}, {"oauth": ["c"]}]
    assert only(api_of(tmp_path, {"/x": {"get": {"security": security}}})).asks == (frozenset("ab"), frozenset("c"))


def test_a_security_alternative_without_scopes_does_not_relax_the_others(tmp_path):
    schemes = {"oauth": {"type": "oauth2"}, "key": {"type": "apiKey"}}
    paths = {"/x": {"get": {"security": [{}, {"key": []}, {"oauth": ["a"]}]}}}
    assert only(api_of(tmp_path, paths, components={"securitySchemes": schemes})).asks == (frozenset("a"),)


def test_an_operation_can_override_the_global_security(tmp_path):
    paths = {"/x": {"get": {"security": []}}, "/y": {"get": {}}}
    assert [one.asks for one in api_of(tmp_path, paths, security=asking("a")).operations] == [(), (frozenset("a"),)]


def test_scopes_of_openid_connect_are_imported(tmp_path):
    components = {"securitySchemes": {"oidc": {"type": "openIdConnect", "openIdConnectUrl": "https://x.example"}}}
    paths = {"/x": {"get": {"security": [{"oidc": ["profile"]}]}}}
    assert only(api_of(tmp_path, paths, components=components)).asks == (frozenset(["profile"]),)


def test_an_invalid_scope_is_omitted_and_reported(tmp_path):
    api = api_of(tmp_path, {"/x": {"get": {"security": asking('a "b"')}}})
    assert only(api).asks == ()
    assert "no token can carry it" in api.notes[0]


# ── Bodies ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("schema", "fact"),
    [
        ({"type": "integer"}, "body.x: int?"),
        ({"type": "number"}, "body.x: number?"),
        ({"type": "boolean"}, "body.x: bool?"),
        ({"type": "string", "format": "ipv4"}, "body.x: ip?"),
        ({"type": "string", "enum": ["a"]}, "body.x: string?"),
        ({"type": "array", "items": {"type": "string"}}, "body.x: list<string>?"),
        ({"type": "array", "items": {"type": "object"}}, None),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, None),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, "body.x: { a: string }?"),
        ({"type": "object"}, None),
        ({"type": ["string", "integer"]}, None),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, None),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "body.x: string?"),
        ({}, None),
        (
            {"$ref": "#/components/schemas/Loop"},
            "body.x: { a: string?   loop: { a: string?   loop: { a: string? }? }? }?",
        ),
    ],
)
def test_a_schema_becomes_a_fact_type_if_the_language_has_one(tmp_path, schema, fact):
    loop = {"properties": {"a": {"type": "string"}, "loop": {"$ref": "#/components/schemas/Loop"}}}
    paths = {"/p": body_of({"type": "object", "properties": {"x": schema}})}
    found = only(api_of(tmp_path, paths, components={"schemas": {"Loop": loop}})).facts
    assert [one.written for one in found] == ([fact] if fact else [])


STRING, INT = {"type": "string"}, {"type": "integer"}


@pytest.mark.parametrize(
    ("schema", "facts"),
    [
        (
            {"allOf": [{"properties": {"a": STRING}}, {"properties": {"b": INT}, "required": ["a", "b"]}]},
            ["body.a: string?", "body.b: int"],
        ),
        (
            {
                "oneOf": [
                    {"properties": {"a": STRING, "b": INT}, "required": ["a"]},
                    {"properties": {"a": STRING}, "required": ["a"]},
                ]
            },
            ["body.a: string", "body.b: int?"],
        ),
        ({"anyOf": [{"properties": {"a": STRING}}, {"properties": {"a": INT}}]}, []),
        ({"properties": {"a": STRING, "b-c": STRING, "$d": STRING}}, ["body.a: string?"]),
        ({"type": "array", "items": STRING}, []),
    ],
)
def test_combined_schemas_become_facts_if_they_agree(tmp_path, schema, facts):
    assert [one.written for one in only(api_of(tmp_path, {"/p": body_of(schema)})).facts] == facts


def test_only_json_request_bodies_become_facts(tmp_path):
    schema = {"properties": {"a": STRING}}
    for media, known in [("application/merge-patch+json", 1), ("text/plain", 0), ("multipart/form-data", 0)]:
        paths = {"/p": {"post": {"requestBody": {"content": {media: {"schema": schema}}}}}}
        assert len(only(api_of(tmp_path, paths)).facts) == known


# ── References ────────────────────────────────────────────────────────────────────────────────


def test_a_reference_to_a_file_below_the_specification_is_followed(tmp_path):
    (tmp_path / "parts").mkdir()
    saved(tmp_path / "parts", {"Pet": {"properties": {"owner": {"$ref": "other.json#/Owner"}}}}, "pet.json")
    saved(tmp_path / "parts", {"Owner": {"type": "string"}}, "other.json")
    paths = {"/p": body_of({"$ref": "parts/pet.json#/Pet"})}
    assert [one.written for one in only(api_of(tmp_path, paths)).facts] == ["body.owner: string?"]


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("../secret.json#/a", "leads out of the folder of the specification"),
        ("/etc/passwd", "is outside the folder of the specification"),
        ("file:///etc/passwd", "is outside the folder of the specification"),
        ("http://127.0.0.1:1/x.json", "is outside the folder of the specification"),
        ("link.json", "leads out of the folder of the specification"),
        ("nothing.json", "the file does not exist"),
        ("#/components/schemas/Gone", "refers to nothing"),
        ("#/components/schemas/Round", "follows too many other references"),
    ],
)
def test_a_reference_outside_the_folder_or_to_nothing_is_reported_not_followed(tmp_path, reference, told):
    folder = tmp_path / "own"
    folder.mkdir()
    saved(tmp_path, {"a": {"properties": {"x": STRING}}}, "secret.json")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    components = {"schemas": {"Round": {"$ref": "#/components/schemas/Round"}}}
    api = api_of(folder, {"/p": body_of({"$ref": reference})}, components=components)
    assert only(api).facts == ()
    assert told in api.notes[0]
    with pytest.raises(ApiImportError, match=re.escape(told)):
        api_of(folder, {"/p": {"$ref": reference}}, components=components)


# ── What is broken ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("", "`api.json`: this is not a specification"),
        ("[]", "`api.json`: this is not a specification"),
        ("{}", "it has neither `openapi` nor `swagger`"),
        ('{"openapi": "4.0.0", "paths": {}}', "`openapi: 4.0.0` is not supported"),
        ('{"swagger": "1.2"}', "`swagger: 1.2` is not supported"),
        ('{"openapi": "3.0.0", "paths": {}}', "describes no operations"),
        ('{"openapi": "3.0.0", "paths": []}', "at `#/paths`: `paths` must be a mapping, but this is a list"),
        ('{"openapi": "3.0.0", "paths": {"/x": []}}', "at `#/paths/~1x`: a path must be a mapping, but this is a list"),
        (
            '{"openapi": "3.0.0", "paths": {"/x": {"get": 7}}}',
            "at `#/paths/~1x/get`: an operation must be a mapping, but this is a number",
        ),
        (
            '{"openapi": "3.0.0", "paths": {"/x": {"get": {"tags": "a"}}}}',
            "at `#/paths/~1x/get/tags`: `tags` must be a list, but this is a string",
        ),
        (
            '{"openapi": "3.0.0", "paths": {"/x": {"get": {"security": {}}}}}',
            "`security` must be a list, but this is a mapping",
        ),
        ('{"openapi": "3.0.0", "paths": {"/x": {', "`api.json`:1:"),
        ('{"openapi": "3.0.0", "openapi": "3.0.0"}', "a mapping contains the key `openapi` twice"),
        (
            "openapi: 3.0.0\npaths:\n  /x:\n    get: 7\n",
            "`api.json`:4 at `#/paths/~1x/get`: an operation must be a mapping",
        ),
        ("openapi: 3.0.0\npaths: {a: [}\n", "`api.json`:2:"),
    ],
)
def test_a_broken_specification_is_reported_with_its_place(tmp_path, monkeypatch, document, told):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, document)
    with pytest.raises(ApiImportError) as raised:
        read_openapi("api.json")
    assert told in str(raised.value)


def test_a_duplicate_endpoint_is_imported_once(tmp_path):
    api = api_of(tmp_path, {"/x/{a}": {"get": {"summary": "one"}}, "/x/{b}": {"get": {}}})
    assert only(api).summary == '"one"'
    assert "the first one is used" in api.notes[0]


def test_path_extensions_are_ignored(tmp_path):
    assert only(api_of(tmp_path, {"x-internal": 7, "/x": {"get": {}, "x-a": 1, "summary": "s"}})).key == "GET /x"


def test_a_json_specification_is_read(tmp_path):
    document = spec({"/x": {"get": {"deprecated": True}}})
    assert read_openapi(saved(tmp_path, json.dumps(document, indent=1))).operations[0].deprecated
