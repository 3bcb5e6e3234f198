"""`policyengine.toml`: where it is found, what it says, and how a mistake in it is told."""

import os

import pytest

from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import CHECK_SECTIONS, ProjectSettings, load_settings
from policyengine.cli.settings.sections import CoverageSettings, ProjectSections, TestSettings
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.settings.section import section_fields

PARTS = f"the valid keys are {', '.join(f'`[{one}]`' for one in section_fields(ProjectSections))}"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies" / "payments").mkdir(parents=True)
    (tmp_path / ".policyroot").touch()
    return tmp_path


def read(project, text: str) -> ProjectSettings:
    (project / "policyengine.toml").write_text(text)
    return load_settings([project / "policies" / "payments"])


def told(project, text: str) -> tuple[str, str | None, str]:
    with pytest.raises(CommandError) as caught:
        read(project, text)
    assert (caught.value.kind, caught.value.code) == ("configuration", 1)
    return caught.value.message, caught.value.hint, caught.value.detail


def test_without_a_file_the_settings_are_the_defaults(project):
    assert load_settings([project / "policies"]) == ProjectSettings()
    assert load_settings([]) == ProjectSettings()


def test_the_settings_file_is_found_in_a_parent_folder_of_the_first_path(project):
    found = read(project, "[test]\njobs = 2\nseed = 7\n[coverage]\nfail_under = 90\n")
    assert found.test == TestSettings(jobs=2, seed=7)
    assert found.coverage == CoverageSettings(fail_under=90.0)
    assert found.file == project / "policyengine.toml"


def test_only_the_nearest_settings_file_counts(project):
    (project / "policies" / "policyengine.toml").write_text("[test]\njobs = 5\n")
    assert read(project, "[test]\njobs = 2\nseed = 1\n").test == TestSettings(jobs=5)


# ── Whose file it is, and where it lies ───────────────────────────────────────────────────────


def test_without_a_policyroot_the_named_folder_is_the_root(project):
    (project / ".policyroot").unlink()
    found = read(project, "[test]\njobs = 2\n")
    assert (found.test, found.file, found.unread) == (TestSettings(), None, project / "policyengine.toml")
    (project / "policies" / "payments" / "policyengine.toml").write_text("[serve]\nport = 5\n")
    found = load_settings([project / "policies" / "payments" / "a.policy"])
    assert found.values["serve", "port"] == 5


def test_a_settings_file_above_the_root_is_ignored(project):
    (project / "policies" / ".policyroot").touch()
    found = read(project, "[test]\njobs = 2\n")
    assert (found.file, found.unread) == (None, project / "policyengine.toml")


@pytest.mark.parametrize("text", ["[lint]\nstrict = true\n", "[test]\njobs = 2\n", "[coverage]\nfail_under = 9\n"])
def test_a_settings_file_below_the_root_may_contain_check_sections(project, text):
    below = project / "policies" / "policyengine.toml"
    below.write_text(text)
    assert load_settings([project / "policies"]).file == below


@pytest.mark.parametrize("section", sorted({*section_fields(ProjectSections)} - CHECK_SECTIONS))
def test_other_sections_are_rejected_in_a_settings_file_below_the_root(project, section):
    below = project / "policies" / "policyengine.toml"
    below.write_text(f"[{section}]\n")
    with pytest.raises(CommandError, match=rf"`\[{section}\]` is allowed only at the root of the policies"):
        load_settings([project / "policies"])
    assert load_settings([project / "policies"], {"POLICYENGINE_CONFIG": str(below)}).file == below


def test_the_file_named_by_policyengine_config_replaces_the_project_file(project, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "mine.toml"
    other.write_text("[serve]\nport = 7\n[observe]\nuntil = '1h'\n")
    (project / "policyengine.toml").write_text("[serve]\nport = 8\n")
    found = load_settings([project / "policies"], {"POLICYENGINE_CONFIG": str(other)})
    assert (found.file, found.values["serve", "port"], found.observe is not None) == (other, 7, True)


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
@pytest.mark.parametrize("mode", [0o666, 0o664, 0o620, 0o602])
def test_a_settings_file_that_others_can_write_is_rejected(project, mode):
    (project / "policyengine.toml").write_text("[lint]\n")
    (project / "policyengine.toml").chmod(mode)
    with pytest.raises(CommandError) as caught:
        load_settings([project])
    assert caught.value.message == "others can write `policyengine.toml`"
    assert "--config policyengine.toml" in str(caught.value.hint)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="root alone gives files away")
@pytest.mark.parametrize("linked", [False, True])
def test_a_settings_file_of_another_user_is_rejected_also_through_a_link(project, tmp_path_factory, linked):
    file = project / "policyengine.toml"
    real = tmp_path_factory.mktemp("theirs") / "real.toml" if linked else file
    real.write_text("[observe]\nuntil = '1h'\n")
    os.chown(real, 12_345, 12_345)
    if linked:
        file.symlink_to(real)
    with pytest.raises(CommandError, match="belongs to another user"):
        load_settings([project])


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_the_database_mapping_of_a_settings_file_that_others_can_write_is_rejected(project, run):
    """Also by commands that read nothing else of it."""
    (project / "a.policy").write_text("language 1\npackage a\nanyone { may GET /x }\n")
    (project / "policyengine.toml").write_text('[directory]\nurl = "sqlite:///theirs.db"\n')
    (project / "policyengine.toml").chmod(0o666)
    asked = ("decide", "a.policy", "--entities", "sqlite:///people.db", "--request", "-")
    ended = run(*asked, stdin=b'{"request": {"method": "GET", "path": "/x"}}')
    assert (ended.code, "others can write `policyengine.toml`" in ended.err) == (1, True)


def test_the_config_option_can_be_anywhere(project, run):
    (project / "mine.toml").write_text("[serve]\nport = 7\n")
    for words in (["--config", "mine.toml", "show"], ["show", "--config=mine.toml"]):
        shown = run("config", *words, "policies").out
        assert "port = 7  # mine.toml:2" in shown
    assert run("config", "show", "policies", "--config").code == 2
    assert run("config", "show", "policies", "--config", "none.toml").code == 1


def test_serve_reports_a_settings_file_above_the_root(project, run):
    (project / ".policyroot").unlink()
    (project / "policyengine.toml").write_text("[lint]\nstrict = true\n")
    (project / "policies" / "a.policy").write_text("language 1\npackage a\nanyone { may GET /x }\n")
    told = run("serve", "policies", "--port", "0", "--workers", "0").err
    assert "note: `policyengine.toml` is not read: the search ends at the folder of the policies" in told


# ── What it says ──────────────────────────────────────────────────────────────────────────────


def test_lint_rules_can_be_named_by_code_or_name(project):
    found = read(
        project, '[lint]\nselect = ["head", "w458"]\nextend = ["W653"]\nignore = ["static-key"]\nstrict = true\n'
    )
    assert found.lint.select == ("W350", "W458")
    assert (found.lint.extend, found.lint.ignore, found.lint.strict) == (("W653",), ("W457",), True)


@pytest.mark.parametrize(
    ("text", "message", "hint", "shown"),
    [
        ("[lint]\nselct = []\n", "unknown key `selct` in `[lint]`", "did you mean `select`?",
         "policyengine.toml:2:1: unknown key `selct` in `[lint]`\n  selct = []\n  ^^^^^"),
        ("[lnt]\nselect = []\n", "unknown section `lnt`", "did you mean `[lint]`?",
         "policyengine.toml:1:2: unknown section `lnt`\n  [lnt]\n   ^^^"),
        ("[format]\n", "unknown section `format`", PARTS,
         "policyengine.toml:1:2: unknown section `format`\n  [format]\n   ^^^^^^"),
        ("[test]\nignore = 1\n[lint]\nignore = []\n", "unknown key `ignore` in `[test]`",
         "the valid keys are `jobs`, `seed`, `examples`",
         "policyengine.toml:2:1: unknown key `ignore` in `[test]`\n  ignore = 1\n  ^^^^^^"),
        ("lint = 1\n", "`lint` is not a section", "write `[lint]` on a line of its own",
         "policyengine.toml:1:1: `lint` is not a section\n  lint = 1\n  ^^^^"),
        ("[lint]\nignore = 'head'\n", "`ignore` must be a list of rules", 'as in `ignore = ["static-key"]`',
         "policyengine.toml:2:1: `ignore` must be a list of rules\n  ignore = 'head'\n  ^^^^^^"),
        ("[lint]\nignore = ['haed']\n", "there is no rule `haed`", "did you mean `head`?",
         "policyengine.toml:2:1: there is no rule `haed`\n  ignore = ['haed']\n  ^^^^^^"),
        ("[lint]\nignore = ['E201']\n", "`E201` is an error, and errors are always reported", "name warnings only",
         "policyengine.toml:2:1: `E201` is an error, and errors are always reported\n  ignore = ['E201']\n  ^^^^^^"),
        ("[lint]\nstrict = 1\n", "`strict` must be `true` or `false`", None,
         "policyengine.toml:2:1: `strict` must be `true` or `false`\n  strict = 1\n  ^^^^^^"),
        ("[test]\njobs = -1\n", "`jobs` must be a whole number, 0 or more", None,
         "policyengine.toml:2:1: `jobs` must be a whole number, 0 or more\n  jobs = -1\n  ^^^^"),
        ("[test]\njobs = true\n", "`jobs` must be a whole number, 0 or more", None,
         "policyengine.toml:2:1: `jobs` must be a whole number, 0 or more\n  jobs = true\n  ^^^^"),
        ("[coverage]\nfail_under = 101\n", "`fail_under` must be a number from 0 to 100", None,
         "policyengine.toml:2:1: `fail_under` must be a number from 0 to 100\n  fail_under = 101\n  ^^^^^^^^^^"),
        ("[lint]\nstrict = yes\n", "invalid value", "this is not valid TOML",
         "policyengine.toml:2:10: invalid value\n  strict = yes\n           ^"),
    ],
)  # fmt: skip
def test_a_settings_mistake_is_reported_with_its_place(project, text, message, hint, shown):
    assert told(project, text) == (f"`policyengine.toml`: {message}", hint, shown)


def test_truncated_toml_is_reported_at_its_end(project):
    message, hint, shown = told(project, "[lint]\nselect = [")
    assert hint == "this is not valid TOML"
    assert message.startswith("`policyengine.toml`: ")
    assert shown.startswith("policyengine.toml:2:")


def test_a_settings_file_that_is_not_utf_8_is_rejected(project):
    (project / "policyengine.toml").write_bytes(b"[lint]\n# \xff\n")
    with pytest.raises(CommandError) as caught:
        load_settings([project])
    assert caught.value.message == "`policyengine.toml` is not valid UTF-8"


def test_a_command_reports_a_settings_mistake_and_exits_with_1(run, tmp_path):
    (tmp_path / "a.policy").write_text("anyone { may GET /a }\n")
    (tmp_path / "policyengine.toml").write_text("[lint]\nselct = []\n")
    ended = run("lint", "a.policy")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.endswith(
        "error: `policyengine.toml`: unknown key `selct` in `[lint]`\nhint: did you mean `select`?\n"
    )
    as_json = run("lint", "a.policy", "--format", "json")
    assert (as_json.json["error"]["kind"], as_json.json["error"]["line"]) == ("configuration", 2)


# ── Gateways ──────────────────────────────────────────────────────────────────────────────────


def test_gateway_header_names_are_case_insensitive(project):
    found = read(project, '[gateway]\nagent_id = "X-Consumer-Name"\nuser_id = ""\nobligations = ["warn"]\n'
                 'trust_domains = { "acme.example" = "acme" }\n').gateway  # fmt: skip
    trusted = (("acme.example", "acme"),)
    assert found == GatewayHeaders(agent_id="x-consumer-name", user_id="", obligations=("warn",), trust_domains=trusted)
    assert "user_id" not in found.facts


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        ('hands_on_nginx = ["X-Role", "x-role", "X_Odd.Name"]', ("x-role", "x_odd.name")),
        ("hands_on_nginx = []", ()),
        ('hands_on_nginx = "all"', ("all",)),
        ('hands_on_nginx = ["all"]', ("all",)),
    ],
)
def test_hands_on_accepts_header_names_or_all(project, line, headers):
    assert read(project, f"[gateway]\n{line}\n").gateway == GatewayHeaders(hands_on_nginx=headers)


def test_environment_variables_can_set_hands_on_headers(project):
    said = {("gateway", "hands_on_envoy"): "X-Role, X-Tenant", ("gateway", "bodies"): "envoy,envoy_grpc"}
    found = load_settings([project], {f"POLICYENGINE_{a}_{b}".upper(): value for (a, b), value in said.items()})
    assert found.gateway == GatewayHeaders(hands_on_envoy=("x-role", "x-tenant"), bodies=("envoy", "envoy_grpc"))


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("hands_on_nginx = 'every'", "`hands_on_nginx` must be a list of headers, or `all`",
         'as in `hands_on_nginx = ["X-Tenant"]`'),
        ("hands_on_envoy = ['a b']", "`hands_on_envoy` must be a list of headers, or `all`",
         'as in `hands_on_envoy = ["X-Tenant"]`'),
        ("hands_on_envoy_grpc = ['Cookie']", "the header `Cookie` is withheld from policies",
         "remove it: its fact is always unknown"),
        ("bodies = ['nginx']", "`bodies` must be a list of `envoy` and `envoy_grpc`", 'as in `bodies = ["envoy"]`'),
        ("agent_name = 'X-A'", "unknown key `agent_name` in `[gateway]`", "did you mean `agent_id`?"),
        ("agent_id = 7", "`agent_id` must be a header name: letters, digits and `-`",
         'as in `agent_id = "X-Agent-Id"`; `""` for no header'),
        ("agent_id = 'X_Agent'", "`agent_id` must be a header name: letters, digits and `-`",
         'as in `agent_id = "X-Agent-Id"`; `""` for no header'),
        ("agent_id = 'Authorization'", "the header `Authorization` has another meaning", "choose another header"),
        ("user_id = 'X-Forwarded-Uri'", "the header `X-Forwarded-Uri` has another meaning", "choose another header"),
        ("user_id = 'X-AUTH-USER'", "the header `X-AUTH-USER` has another meaning", "choose another header"),
        ("user_id = 'X-Agent-ID'", "the header `x-agent-id` already carries `agent_id`", "choose another header"),
        ("agent_id = 'X-Agent-User'", "the header `x-agent-user` already carries `user_id`", "choose another header"),
        ("trust_domains = { 'ACME' = 'acme' }", "`trust_domains` must be a table with an issuer for each domain",
         'as in `trust_domains = { "acme.example" = "acme" }`'),
        ("trust_domains = { 'acme.example' = 7 }", "`trust_domains` must be a table with an issuer for each domain",
         'as in `trust_domains = { "acme.example" = "acme" }`'),
        ("trust_domains = 'acme'", "`trust_domains` must be a table with an issuer for each domain",
         'as in `trust_domains = { "acme.example" = "acme" }`'),
        ("obligations = 'warn'", "`obligations` must be a list of obligation kinds", 'as in `obligations = ["warn"]`'),
    ],
)  # fmt: skip
def test_a_gateway_header_mistake_is_reported_with_its_place(project, line, message, hint):
    found = told(project, f"[gateway]\n{line}\n")
    assert found[0] == f"`policyengine.toml`: {message}"
    if "agent_name" not in line:
        assert found[1] == hint
    key = line.partition(" ")[0]
    assert found[2] == f"policyengine.toml:2:1: {message}\n  {line}\n  {'^' * len(key)}"


@pytest.mark.parametrize("line", ['as = ["agnt=coder"]', 'as = ["agent"]', 'from_header = ["agent"]'])
def test_config_check_reports_a_caller_that_the_gateway_would_refuse(project, run, line):
    (project / "policyengine.toml").write_text(f"[mcp-gateway]\n{line}\n")
    ended = run("config", "check", "policies")
    assert ended.code == 1
    assert f"`mcp-gateway.{line.split()[0]}`: " in ended.err
    assert "is not a fact about the caller" in ended.err


@pytest.mark.parametrize("action", ["check", "show"])
def test_settings_of_policies_that_do_not_exist_are_an_error(project, run, action):
    ended = run("config", action, "policeis")
    assert (ended.code, ended.out) == (1, "")
    assert "`policeis`: no such file or directory" in ended.err
