"""What an import writes, and what the next one does beside an author who went on working."""

import json
import re
import shutil
import time
from datetime import UTC, datetime

import pytest

from policyengine import Engine
from policyengine.importers import ApiImportError, import_policies, read_tools
from tests.importers.bringing import (
    api_of,
    asking,
    assert_sound,
    assert_tests_pass,
    brought,
    contents,
    findings,
    opened,
)

BODY = {"content": {"application/json": {"schema": {"properties": {"name": {"type": "string"}}}}}}
SHOP = {
    "/pets": {
        "get": {"tags": ["pets"], "security": asking("read:pets")},
        "post": {"tags": ["pets"], "security": asking("write:pets"), "requestBody": BODY},
    },
    "/pets/{petId}": {
        "get": {"tags": ["pets"], "security": asking("read:pets")},
        "delete": {"tags": ["pets"], "security": asking("write:pets")},
    },
    "/orders/{orderId}": {"get": {"tags": ["orders"], "security": asking("read:orders", "read:pets")}},
}


def decide(folder, method, path, scopes=("read:pets", "write:pets")):
    engine = Engine.load(folder, clock=lambda: datetime(2027, 1, 1, tzinfo=UTC))
    asked = {
        "request": {"method": method, "path": path},
        "agent": {"id": "example-agent", "issuer": "login"},
        "user": {"id": "alice"},
        "credential": {"kind": "jwt", "issuer": "login", "scopes": list(scopes), "lifetime": "10m"},
    }
    return engine.decide(asked).outcome.value


# ── The first import ────────────────────────────────────────────────────────────────────────────


def test_a_newly_imported_project_passes_all_checks(tmp_path):
    outcome = brought(tmp_path, SHOP)
    assert_sound(tmp_path / "shop")
    assert {path.relative_to(tmp_path / "shop").as_posix() for path in outcome.created} == set(
        contents(tmp_path / "shop")
    )
    assert len(outcome.new) == 5


def test_an_imported_project_denies_until_the_author_opens_it(tmp_path):
    brought(tmp_path, SHOP)
    assert decide(tmp_path / "shop", "GET", "/pets") == "deny"
    opened(tmp_path / "shop")
    assert decide(tmp_path / "shop", "GET", "/pets") == "allow"


def test_a_generated_test_provides_every_required_fact(tmp_path):
    members = {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "born": {"type": "string", "format": "date-time"},
        "marks": {"type": "array", "items": {"type": "string"}},
        "home": {"type": "object", "properties": {"street": {"type": "string"}}},
        "note": {"type": "string"},
    }
    body = {"type": "object", "required": [name for name in members if name != "note"], "properties": members}
    content = {"application/json": {"schema": body}}
    brought(tmp_path, {"/pets": {"post": {"tags": ["pets"], "requestBody": {"content": content}}}})
    assert_sound(tmp_path / "shop")
    [tests] = (tmp_path / "shop").rglob("pets_test.policy")
    line = 'POST /pets { body.name: "x1", body.age: 1, body.born: 2000-06-01, body.marks: [] } => allow'
    assert line in tests.read_text(encoding="utf-8")
    [area] = (tmp_path / "shop").rglob("pets.policy")
    needs = 'guard "grown" on POST /pets { require body.age >= 1 and body.name != "" message "too young" }\n'
    area.write_text(area.read_text(encoding="utf-8") + needs, encoding="utf-8")
    assert_tests_pass(tmp_path / "shop")


def test_a_destructive_operation_confirms_by_default(tmp_path):
    brought(tmp_path, SHOP)
    opened(tmp_path / "shop")
    assert decide(tmp_path / "shop", "DELETE", "/pets/7") == "confirm"


def test_imported_grants_require_the_scopes_of_the_specification(tmp_path):
    brought(tmp_path, SHOP)
    opened(tmp_path / "shop")
    shop = tmp_path / "shop"
    assert decide(shop, "POST", "/pets", ["write:pets"]) == "allow"
    assert decide(shop, "POST", "/pets", ["read:pets"]) == "deny"
    assert decide(shop, "GET", "/orders/7", ["read:orders", "read:pets"]) == "allow"
    assert decide(shop, "GET", "/orders/7", ["read:orders"]) == "deny"
    assert decide(shop, "GET", "/orders/7", ["read:pets"]) == "deny"


def test_a_template_grants_no_overlapping_path_with_another_scope(tmp_path):
    paths = {**SHOP, "/pets/export": {"get": {"tags": ["admin"], "security": asking("admin")}}}
    brought(tmp_path, paths)
    assert_sound(tmp_path / "shop")
    opened(tmp_path / "shop")
    assert decide(tmp_path / "shop", "GET", "/pets/export", ["read:pets"]) == "deny"
    assert decide(tmp_path / "shop", "GET", "/pets/export", ["admin"]) == "allow"


def test_overlapping_paths_without_distinct_scopes_are_reported(tmp_path):
    paths = {"/pets/{id}": {"get": {"tags": ["pets"]}}, "/pets/export": {"get": {"tags": ["admin"]}}}
    [note] = brought(tmp_path, paths).notes
    assert "a wider pattern in `pets.read` also matches `GET /pets/export` of `admin.read`" in note


def test_crossing_path_patterns_are_reported(tmp_path):
    paths = {"/a/{x}/c": {"get": {"tags": ["one"]}}, "/a/b/{y}": {"get": {"tags": ["two"]}}}
    [note] = brought(tmp_path, paths).notes
    assert note.endswith("a grant of the first includes a part of the second")


def test_an_operation_without_a_scope_is_reported_if_others_have_one(tmp_path):
    outcome = brought(tmp_path, {**SHOP, "/health": {"get": {"tags": ["health"]}}})
    assert "no OAuth scope represents `health.read`" in outcome.notes[0]
    assert_sound(tmp_path / "shop")


def test_a_template_whose_pattern_matches_other_endpoints_is_omitted(tmp_path):
    paths = {"/a/{x}-{y}": {"get": {}}, "/a/secret": {"get": {}}}
    outcome = brought(tmp_path, paths)
    assert outcome.new == ("GET /a/secret",)
    assert any("would also match other endpoints" in note for note in outcome.notes)


def test_a_capture_is_not_wider_because_of_its_name(tmp_path):
    outcome = brought(tmp_path, {"/a/{any text+}": {"get": {}}, "/a/secret": {"get": {}}})
    assert len(outcome.new) == 2


@pytest.mark.parametrize(
    "paths",
    [
        {"/{kind}/{id}": {"get": {}}, "/pets/{petId}": {"get": {}}, "/pets/{petId}/x": {"get": {}}},
        {"/a/{id}/{x}": {"get": {}}, "/{x}/{id}/b": {"get": {}}, "/{id}/{y}/b": {"get": {}}},
        {"/as/{id}/bs/{bId}": {"get": {}}, "/as/{aId}/{what}/{id}": {"get": {}}, "/{a}/{b}/{c}/{d}": {"get": {}}},
        {"/users/{userId}": {"delete": {}}, "/users/me": {"delete": {}}, "/{x}/{y}": {"delete": {}}},
    ],
)
def test_overlapping_templates_make_a_valid_project(tmp_path, paths):
    brought(tmp_path, paths)
    assert_sound(tmp_path / "shop")


def test_conflicting_facts_of_overlapping_templates_are_omitted(tmp_path):
    other = {
        "content": {
            "application/json": {"schema": {"properties": {"name": {"type": "integer"}, "x": {"type": "string"}}}}
        }
    }
    brought(tmp_path, {"/p/{id}": {"post": {"requestBody": BODY}}, "/p/all": {"post": {"requestBody": other}}})
    assert_sound(tmp_path / "shop")
    assert "body.name" not in "".join(contents(tmp_path / "shop").values()).replace("imported", "")


def test_an_import_writes_nothing_if_a_target_file_exists(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/README.md").write_text("mine")
    with pytest.raises(ApiImportError, match=r"`.*README.md` already exists, so nothing was written"):
        brought(tmp_path, SHOP)
    assert contents(tmp_path / "shop") == {"README.md": "mine"}


@pytest.mark.parametrize("there", ["api", "api/wide"])
def test_a_failed_import_leaves_no_files(tmp_path, there):
    (tmp_path / "shop" / there).parent.mkdir(parents=True)
    (tmp_path / "shop" / there).write_text("mine")
    paths = {f"/wide/part{i // 10}/x{i}": {"get": {"tags": ["wide"]}} for i in range(60)}
    with pytest.raises(ApiImportError, match="nothing was written"):
        brought(tmp_path, {**SHOP, **paths})
    assert contents(tmp_path / "shop") == {there: "mine"}
    assert sorted(path.name for path in (tmp_path / "shop").iterdir()) == ["api"]


def test_an_import_into_a_folder_with_foreign_policies_is_rejected(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/own.policy").write_text("anyone { may GET /x }\n")
    with pytest.raises(ApiImportError, match="policies that no import wrote"):
        brought(tmp_path, SHOP)
    assert list(contents(tmp_path / "shop")) == ["own.policy"]


def test_an_import_below_a_settings_file_writes_none(tmp_path):
    (tmp_path / "policyengine.toml").write_text("")
    brought(tmp_path, SHOP)
    assert not (tmp_path / "shop/policyengine.toml").exists()


# ── And again ─────────────────────────────────────────────────────────────────────────────────

MORE = {
    **SHOP,
    "/pets/{petId}/photos": {"get": {"tags": ["pets"], "security": asking("read:pets")}},
    "/pets/all": {"delete": {"tags": ["pets"], "security": asking("write:pets")}},
}


def test_repeating_an_import_changes_nothing(tmp_path):
    brought(tmp_path, SHOP)
    before = contents(tmp_path / "shop")
    assert not brought(tmp_path, SHOP).differs
    assert contents(tmp_path / "shop") == before


def test_the_confirm_message_shows_the_request_path(tmp_path):
    brought(tmp_path, {"/pets/{petId}/toys/{toy}": {"delete": {"responses": {}}}})
    [policy] = (tmp_path / "shop" / "api").glob("*s.policy")
    assert 'message "DELETE /pets/{params.petId}/toys/{params.toy}"' in policy.read_text()
    assert_sound(tmp_path / "shop")


def test_a_later_import_does_not_change_files_of_the_author(tmp_path):
    brought(tmp_path, SHOP)
    shop = tmp_path / "shop"
    for path in [*shop.rglob("*.policy"), shop / "README.md"]:
        path.write_text(path.read_text() + "# mine\n")
    before = contents(shop)
    brought(tmp_path, MORE)
    after = contents(shop)
    assert {name for name in before if after[name] != before[name]} == {"imported.json"}
    assert_sound(shop)


def test_a_new_operation_is_denied_even_if_an_old_pattern_grants_it(tmp_path):
    brought(tmp_path, SHOP)
    opened(tmp_path / "shop")
    assert decide(tmp_path / "shop", "DELETE", "/pets/all") == "confirm"
    outcome = brought(tmp_path, MORE)
    assert outcome.new == ("GET /pets/{}/photos", "DELETE /pets/all")
    assert decide(tmp_path / "shop", "DELETE", "/pets/all") == "deny"
    assert decide(tmp_path / "shop", "GET", "/pets/7/photos") == "deny"
    assert findings(tmp_path / "shop") == []


def test_a_new_operation_is_denied_even_if_the_author_grants_everything(tmp_path):
    brought(tmp_path, SHOP)
    (tmp_path / "shop/own.policy").write_text("package shop\n\nanyone { may GET /** }\n")
    assert decide(tmp_path / "shop", "GET", "/pets/7/photos") == "allow"
    brought(tmp_path, MORE)
    assert decide(tmp_path / "shop", "GET", "/pets/7/photos") == "deny"


def test_a_new_wider_template_does_not_deny_existing_paths(tmp_path):
    brought(
        tmp_path,
        {
            "/pets/all": {"get": {"security": asking("read:pets")}},
            "/x/{a}/c": {"get": {"security": asking("read:pets")}},
        },
    )
    opened(tmp_path / "shop")
    new = {
        "/pets/{petId}": {"get": {"security": asking("read:pets")}},
        "/x/b/{c}": {"get": {"security": asking("read:pets")}},
    }
    brought(
        tmp_path,
        {
            "/pets/all": {"get": {"security": asking("read:pets")}},
            "/x/{a}/c": {"get": {"security": asking("read:pets")}},
            **new,
        },
    )
    shop = tmp_path / "shop"
    assert (decide(shop, "GET", "/pets/all"), decide(shop, "GET", "/x/b/c")) == ("allow", "allow")
    assert (decide(shop, "GET", "/pets/7"), decide(shop, "GET", "/x/b/d")) == ("deny", "deny")
    assert_tests_pass(shop)


def test_a_later_import_does_not_extend_an_existing_scope(tmp_path):
    brought(tmp_path, SHOP)
    scopes = (tmp_path / "shop/api/pets.policy").read_text()
    brought(tmp_path, MORE)
    assert (tmp_path / "shop/api/pets.policy").read_text() == scopes
    new = (tmp_path / "shop/api/pets_new_2.policy").read_text()
    assert "scope pets.read.new_2 {" in new
    assert "# Requires read:pets: add `include pets.read.new_2` to the scope with this alias." in new


def test_each_import_adds_its_own_scopes_and_guard(tmp_path):
    brought(tmp_path, SHOP)
    brought(tmp_path, MORE)
    brought(tmp_path, {**MORE, "/pets/third": {"get": {"tags": ["pets"]}}})
    assert "scope pets.read.new_3 {" in (tmp_path / "shop/api/pets_new_3.policy").read_text()
    assert findings(tmp_path / "shop") == []


def test_a_later_import_does_not_restore_removed_files(tmp_path):
    brought(tmp_path, SHOP)
    file = tmp_path / "shop/api/orders.policy"
    file.unlink()
    (tmp_path / "shop/api/orders_test.policy").unlink()
    doors = tmp_path / "shop/doors.policy"
    doors.write_text(doors.read_text().replace("  may orders.read\n", ""))
    tokens = tmp_path / "shop/tokens.policy"
    pets = tokens.read_text().replace("  include orders.read\n", "")
    tokens.write_text(re.sub(r"scope tokens.read_orders .*\n\}\n", "", pets))
    assert not brought(tmp_path, SHOP).differs
    assert not file.exists()


def test_a_removed_operation_is_reported_until_no_rule_names_it(tmp_path):
    brought(tmp_path, SHOP)
    less = {path: item for path, item in SHOP.items() if path != "/orders/{orderId}"}
    [(key, at)] = brought(tmp_path, less).removed
    assert key == "GET /orders/{}"
    assert at.endswith("shop/api/orders.policy:8")
    assert brought(tmp_path, less, check=True).differs
    shutil.rmtree(tmp_path / "shop/api")
    for name in ("doors.policy", "doors_test.policy", "tokens.policy"):
        (tmp_path / "shop" / name).unlink()
    assert not brought(tmp_path, less).differs
    assert "orders" not in (tmp_path / "shop/imported.json").read_text()


def test_a_changed_operation_is_reported_once(tmp_path):
    brought(tmp_path, SHOP)
    changed = json.loads(json.dumps(SHOP).replace('"name": {"type": "string"}', '"name": {"type": "integer"}'))
    changed["/pets"]["get"]["security"] = asking("list:pets")
    told = {change.key: change.said for change in brought(tmp_path, changed).changed}
    assert told == {
        "GET /pets": ("required `read:pets`, requires `list:pets`",),
        "POST /pets": ("`body.name` was string?, is int?",),
    }
    assert not brought(tmp_path, changed).differs


def test_an_import_check_writes_nothing(tmp_path):
    brought(tmp_path, SHOP)
    before = contents(tmp_path / "shop")
    assert brought(tmp_path, MORE, check=True).new == ("GET /pets/{}/photos", "DELETE /pets/all")
    assert contents(tmp_path / "shop") == before


def test_an_import_check_before_the_first_import_is_rejected(tmp_path):
    with pytest.raises(ApiImportError, match="nothing has been imported here yet"):
        brought(tmp_path, SHOP, check=True)


def test_new_templates_omit_types_that_conflict_with_the_author(tmp_path):
    brought(tmp_path, SHOP)
    own = "package shop\n\nentity photo {}\nscope own { GET /pets/{x}/{y}/{z: photo} }\nuser any { may own }\n"
    (tmp_path / "shop/own.policy").write_text(own)
    outcome = brought(
        tmp_path, {**SHOP, "/{kind}/{id}/photos/{x}": {"get": {}}, "/pets/{x}/photos/{photoId}": {"get": {}}}
    )
    assert len(outcome.new) == 2
    assert findings(tmp_path / "shop") == []


def test_an_endpoint_already_named_by_the_author_is_not_imported(tmp_path):
    brought(tmp_path, SHOP)
    (tmp_path / "shop/own.policy").write_text("package shop\n\nanyone { may GET /hours/{day} }\n")
    outcome = brought(tmp_path, {**SHOP, "/hours/{weekday}": {"get": {}}})
    assert (outcome.new, outcome.created) == ((), ())
    assert outcome.notes[-1].startswith("`GET /hours/{}` is already named at ")
    assert decide(tmp_path / "shop", "GET", "/hours/monday") == "allow"
    assert not brought(tmp_path, {**SHOP, "/hours/{weekday}": {"get": {}}}, check=True).differs


def test_a_later_import_works_after_the_author_renames_a_fixture(tmp_path):
    brought(tmp_path, SHOP)
    for path in (tmp_path / "shop").rglob("*.policy"):
        path.write_text(path.read_text().replace("example_agent", "our_bot"))
    brought(tmp_path, MORE)
    assert_tests_pass(tmp_path / "shop")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda shop: (shop / "imported.json").write_text("{}"), "this file was not written by an import"),
        (lambda shop: (shop / "imported.json").write_text("no"), "this file was not written by an import"),
        (lambda shop: (shop / "doors.policy").write_text("agent {"), r"E\d+ .*"),
        (lambda shop: (shop / "own.policy").write_text("anyone { may nothing.at.all }"), r"E\d+ .*"),
        (
            lambda shop: (shop / "api/pets_new_2.policy").write_text("package shop\nlet a = 1\n"),
            "already exists, so nothing was written",
        ),
    ],
)
def test_an_obstacle_to_an_import_is_reported_and_nothing_changes(tmp_path, spoil, told):
    brought(tmp_path, SHOP)
    spoil(tmp_path / "shop")
    before = contents(tmp_path / "shop")
    with pytest.raises(ApiImportError, match=told):
        brought(tmp_path, MORE)
    assert contents(tmp_path / "shop") == before


def test_a_folder_of_openapi_imports_rejects_an_mcp_import(tmp_path):
    from policyengine.importers import read_tools

    brought(tmp_path, SHOP)
    (tmp_path / "tools.json").write_text('[{"name": "x"}]')
    with pytest.raises(ApiImportError, match="`openapi` was imported here, but this is `mcp`"):
        import_policies(tmp_path / "shop", read_tools(str(tmp_path / "tools.json")), "policyengine init")


# ── A large one ───────────────────────────────────────────────────────────────────────────────


def large(count):
    thing = {"properties": {f"f{i}": {"type": "string"} for i in range(8)}}
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}
    paths = {}
    for i in range(count // 5):
        tag = f"area{i % 20}"
        op = {"tags": [tag], "security": asking(f"read:{tag}")}
        change = {"tags": [tag], "security": asking(f"write:{tag}"), "requestBody": body}
        paths[f"/{tag}/things{i}"] = {"get": op, "post": change}
        paths[f"/{tag}/things{i}/{{thingId}}"] = {"get": op, "put": change, "delete": {**change, "requestBody": {}}}
    components = {"securitySchemes": {"oauth": {"type": "oauth2"}}, "schemas": {"Thing": thing}}
    return paths, components


@pytest.mark.parametrize("count", [100, pytest.param(1_000, marks=pytest.mark.deep)])
def test_a_large_import_takes_bounded_time_and_writes_short_files(tmp_path, count):
    paths, components = large(count)
    begun = time.process_time()
    outcome = import_policies(tmp_path / "shop", api_of(tmp_path, paths, components=components), "policyengine init")
    assert len(outcome.new) == count
    assert findings(tmp_path / "shop") == []
    assert time.process_time() - begun < 10
    lines = {path: path.read_text().count("\n") for path in (tmp_path / "shop").rglob("*.policy")}
    assert max(lines.values()) < 400


def test_a_large_area_is_split_into_a_folder(tmp_path):
    paths = {f"/big/part{i // 10}/x{i}": {"get": {"tags": ["big"]}} for i in range(60)}
    brought(tmp_path, paths)
    assert {path.name for path in (tmp_path / "shop/api/big").glob("part?.policy")} == {
        f"part{i}.policy" for i in range(6)
    }
    assert_sound(tmp_path / "shop")


# ── What stands beside the policies ───────────────────────────────────────────────────────────


def test_agents_of_the_author_work_next_to_the_example_agent(tmp_path):
    brought(tmp_path, SHOP)
    doors = (tmp_path / "shop/doors.policy").read_text().replace("example-agent", "ours")
    kept = [line for line in doors.splitlines() if "valid until" not in line and "issuer login" not in line]
    (tmp_path / "shop/agents.policy").write_text("\n".join(line for line in kept if ".write" not in line) + "\n")
    assert_tests_pass(tmp_path / "shop")
    asked = json.loads((tmp_path / "shop/request.json").read_text())
    assert asked["request"]["method"] == "GET"
    engine = Engine.load(tmp_path / "shop")
    outcomes = {
        who: engine.decide({**asked, "agent": {"id": who, "issuer": "login"}}).outcome.value
        for who in ("ours", "example-agent")
    }
    assert outcomes == {"ours": "allow", "example-agent": "deny"}


def test_the_readme_shows_the_command_that_serves_the_project(tmp_path):
    brought(tmp_path, SHOP)
    assert "`policyengine serve .`" in (tmp_path / "shop/README.md").read_text()
    (tmp_path / "tools.json").write_text('[{"name": "look"}]')
    import_policies(tmp_path / "tools", read_tools(str(tmp_path / "tools.json"), "a'b"), "policyengine init")
    readme = (tmp_path / "tools/README.md").read_text()
    assert "mcp-gateway . --server 'a'\"'\"'b' --upstream" in readme
    assert "\n1 tool, 1 scope, and nothing is allowed yet." in readme
