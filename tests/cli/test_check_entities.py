"""`policyengine check --entities`: what policies read of entities that nothing supplies."""

import json

import pytest

from tests.entities.conftest import sqlite_of

POLICY = """language 1
package docs

entity user { tenant: string   roles: set<string>   badge: string? }
entity folder { blocked: set<user> inherited } in folder
entity doc { owner: user   blocked: set<user> inherited EMPTY   private: bool? } in folder
issuer acme { scopes none   claims { CLAIM -> user.tenant } }
user any { may GET /docs/{id: doc} when user.tenant == "acme" and not (resource.private else false) }
guard "blocked" on GET /docs/{id: doc} { deny when user in resource.blocked }
guard "owners" on GET /docs/{id: doc} { require resource.owner != user confirm by role boss within 1h unless has_badge }
define has_badge = user.badge is present
"""
WHOLE = [
    {"type": "user", "id": "a", "attributes": {"tenant": "acme", "roles": ["boss"], "badge": "x"}},
    {"type": "folder", "id": "f", "attributes": {"blocked": []}},
    {"type": "doc", "id": "1", "attributes": {"owner": "a", "blocked": []}, "in": [{"type": "folder", "id": "f"}]},
    {"type": "doc", "id": "2", "attributes": {"owner": "a", "blocked": []}, "in": [{"type": "folder", "id": "f"}]},
]


NO_BOSS = ("W183", "no user of the entities can approve `owners`, which needs an approval by role boss", 10)


def less(*names, of=None):
    """The rows without an attribute, all of a type or one by its id."""
    kept = []
    for row in WHOLE:
        is_meant = of is None or of in (row["type"], row["id"])
        attributes = {n: v for n, v in row["attributes"].items() if n not in names or not is_meant}
        kept.append({**row, "attributes": attributes})
    return kept


@pytest.fixture
def checked(run, tmp_path):
    def check(rows, *options, empty="", claim="other", policy=POLICY):
        text = policy.replace("EMPTY", empty).replace("CLAIM -> user.tenant", "" if not claim else "org -> user.tenant")
        (tmp_path / "docs.policy").write_text(text if claim else text.replace("   claims {  }", ""))
        (tmp_path / "rows.json").write_text(json.dumps({"entities": rows}))
        return run("check", "docs.policy", "--entities", "rows.json", *options)

    return check


def findings(ended):
    return [(one["code"], one["message"], one["line"]) for one in ended.json["diagnostics"]]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (WHOLE, []),
        (less("tenant"), []),  # the issuer maps a claim to it
        (less("owner"), [("W180", "nothing supplies `doc.owner`: no row of `doc` has it, and no claim or map "
                          "supplies it", 10)]),
        (less("owner", of="2"), [("W181", '`doc "2"` lacks `owner`', 10)]),
        (less("blocked", of="folder"), [("W180", "nothing supplies `folder.blocked`: no row of `folder` has it, and no "
                                         "claim or map supplies it", 9)]),
        (less("blocked", of="1"), [("W181", '`doc "1"` lacks `blocked`', 9)]),
        (less("roles"), [("W180", "nothing supplies `user.roles`: no row of `user` has it, and no claim or map "
                          "supplies it", 10), NO_BOSS]),
        (less("badge"), []),  # it may be absent, and there is a row that says so
        (WHOLE[1:], [("W180", "nothing supplies `user.roles`: no `user` has a row, and no claim or map "
                      "supplies it", 10),
                     NO_BOSS,
                     ("W180", "nothing supplies `user.badge`: no `user` has a row, and no claim or map "
                      "supplies it", 11)]),
        ([*WHOLE[:1], *WHOLE[2:]], [
            ("W182", 'other rows are in `folder "f"`, which no row describes', 5),
            ("W180", "nothing supplies `folder.blocked`: no `folder` has a row, and no claim or map "
             "supplies it", 9),
        ]),
    ],
)  # fmt: skip
def test_unsupplied_attributes_are_reported_where_they_are_first_read(checked, rows, found):
    ended = checked(rows, "--format", "json")
    assert ended.code == 0
    assert sorted(findings(ended)) == sorted(found)


def test_a_missing_inherited_set_is_reported_with_a_hint_about_else(checked):
    ended = checked(less("blocked", of="doc")[:3] + WHOLE[3:])
    assert '`doc "1"` lacks `blocked`' in ended.out
    assert (
        "hint: `blocked: set<user> inherited else []` makes missing sets empty; "
        "otherwise it is unknown whether a value that no row contains is in the set" in (ended.out)
    )
    assert checked(less("blocked", of="doc"), empty="else []").out == "no mistakes in 1 file\n"


def test_the_warning_counts_the_rows_without_the_attribute(checked):
    rows = [*WHOLE, *({"type": "doc", "id": f"n{n}", "attributes": {"owner": "a"}} for n in range(1_500))]
    assert '1,500 of 1,502 `doc` rows lack `blocked`; the first is `doc "n0"`' in checked(rows).out


def test_an_unsupplied_attribute_counts_as_a_warning(checked):
    assert checked(less("owner")).code == 0
    assert checked(less("owner"), "--strict").code == 1
    sarif = checked(less("owner"), "--format", "sarif").json
    assert [one["ruleId"] for one in sarif["runs"][0]["results"]] == ["W180"]


def test_a_lint_comment_can_allow_an_unsupplied_attribute(checked):
    allowed = POLICY.replace(
        "confirm by role boss within 1h unless has_badge }",
        "confirm by role boss within 1h unless has_badge } # lint: allow unsupplied because the gateway sends the rows",
    )
    assert checked(less("owner"), policy=allowed).out == "no mistakes in 1 file\n"


def test_an_attribute_without_a_mapped_claim_is_reported_as_unsupplied(checked):
    ended = checked(less("tenant"), claim="")
    assert "W180 nothing supplies `user.tenant`" in ended.out


def test_a_map_supplies_what_it_maps(checked):
    mapped = POLICY + "map authzen { fact doc.owner = resource.properties.owner }\n"
    assert checked(less("owner"), policy=mapped).out == "no mistakes in 1 file\n"


def test_looked_up_entities_are_checked_by_their_mapping_not_by_rows(run, tmp_path):
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed: pip install '.[sql]'")
    (tmp_path / "docs.policy").write_text(
        "entity doc { owner: user   private: bool }\n"
        "anyone { may GET /docs/{id: doc} when resource.private and resource.owner == user }\n"
    )
    url = sqlite_of(tmp_path / "docs.db", "create table docs (id text, owner text);")
    (tmp_path / "docs.toml").write_text(
        f'[directory]\nurl = "{url}"\n'
        '[directory.doc]\ntable = "docs"\nlookup = true\nattributes = { owner = "owner" }\n'
    )
    ended = run("check", "docs.policy", "--entities", "docs.toml")
    assert (
        "nothing supplies `doc.private`: `doc` rows are looked up, and the mapping has no such attribute" in ended.out
    )
    assert ended.out.count("W18") == 1


def test_rows_with_wrong_types_are_reported_as_warnings(checked):
    rows = [*WHOLE[:1], {"type": "folder", "id": "f", "attributes": {"blocked": "all"}}, *WHOLE[2:]]
    assert checked(rows).err == (
        'warning: `rows.json`: folder "f": `blocked` is unknown: expected set<user>, got string\n'
    )


def test_the_entities_option_requires_exactly_one_set_of_policies(run, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".policyroot").touch()
        (tmp_path / name / "p.policy").write_text("anyone { may GET /x }\n")
    ended = run("check", ".", "--entities", "rows.json")
    assert ended.code == 2
    assert "`--entities` needs exactly one set of policies" in ended.err


def test_unreadable_entities_are_an_error(run, tmp_path):
    (tmp_path / "p.policy").write_text("anyone { may GET /x }\n")
    ended = run("check", "p.policy", "--entities", "gone.json")
    assert (ended.code, ended.out) == (1, "")
    assert "gone.json" in ended.err


def test_a_policy_with_errors_gets_no_warnings_about_entities(checked):
    ended = checked(less("owner"), policy=POLICY + "anyone { may GET /x when nonsense }\n")
    assert (ended.code, "W180" in ended.out) == (1, False)


def test_doctor_counts_unsupplied_attributes(run, checked, tmp_path):
    checked(less("owner"))
    ended = run("doctor", "docs.policy", "--entities", "rows.json")
    assert "entities: 1 attribute that the policies read will be unknown" in ended.out
    assert "  hint: `policyengine check docs.policy --entities rows.json` shows it" in ended.out
    checked(WHOLE)
    assert (
        "✓ entities: the rows supply everything that the policies read"
        in run("doctor", "docs.policy", "--entities", "rows.json").out
    )
