"""`policyengine check`: every mistake, for people, for programs and for code scanning."""

import os

import pytest

GOOD = "anyone { may GET /health }\n"
BAD = "anyone { may GET /health when nonsense }\n"
WARNED = "language 1\nlet unused = 5\nanyone { may GET /health }\n"


@pytest.fixture
def files(run, tmp_path):
    def write(**texts: str | bytes) -> None:
        for name, text in texts.items():
            (tmp_path / f"{name}.policy").write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def test_a_policy_without_mistakes_exits_with_0(run, files):
    files(good=GOOD)
    ended = run("check", "good.policy")
    assert (ended.code, ended.out, ended.err) == (0, "no mistakes in 1 file\n", "")


def test_a_policy_with_errors_exits_with_1_and_shows_the_place(run, files):
    files(bad=BAD)
    ended = run("check", "bad.policy")
    assert ended.code == 1
    assert ended.out.startswith("bad.policy:1:31: E")
    assert "^^^^^^^^" in ended.out
    assert ended.out.endswith("1 error in 1 file\n")


def test_warnings_exit_with_0(run, files):
    files(warned=WARNED)
    ended = run("check", "warned.policy")
    assert ended.code == 0
    assert ended.out.endswith("1 warning in 1 file\n")


def test_warnings_exit_with_1_in_strict_mode(run, files):
    files(warned=WARNED)
    assert run("check", "--strict", "warned.policy").code == 1


def test_all_files_of_a_folder_are_checked(run, files, tmp_path):
    files(good=GOOD, bad=BAD, worse=BAD)
    out = run("check", ".").out
    assert "bad.policy:1:31" in out
    assert "worse.policy:1:31" in out
    assert out.endswith("2 errors in 3 files\n")


def test_findings_as_json_are_one_document(run, files):
    files(good=GOOD, bad=BAD)
    ended = run("check", ".", "--format", "json")
    assert ended.code == 1
    assert {key: ended.json[key] for key in ("files", "errors", "warnings")} == {"files": 2, "errors": 1, "warnings": 0}
    (found,) = ended.json["diagnostics"]
    assert found.keys() >= {"code", "severity", "message", "hint", "file", "line", "column", "end_line", "end_column"}
    assert (found["severity"], found["line"], found["column"]) == ("error", 1, 31)


def test_a_check_without_findings_prints_a_json_document(run, files):
    files(good=GOOD)
    assert run("check", ".", "--format", "json").json == {"files": 1, "errors": 0, "warnings": 0, "diagnostics": []}


BROKEN = [
    (b"\xff\xfe\x00", "binary"),
    (b"guard \x00\x01", "control characters"),
    (b"\xef\xbb\xbfanyone { may GET /health }", "a byte order mark"),
    (b"<html></html>", "no policy at all"),
]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for data, name in BROKEN])
@pytest.mark.parametrize("form", ["text", "json", "sarif"])
def test_a_file_that_is_not_a_policy_is_a_finding(run, files, data, form):
    files(broken=data)
    ended = run("check", "broken.policy", "--format", form)
    assert ended.code == 1
    assert "broken.policy" in ended.out
    assert ended.err == ""


def test_a_missing_file_is_an_error(run):
    ended = run("check", "nowhere.policy")
    assert ended.code == 1
    assert "nowhere.policy" in ended.out + ended.err
    assert "internal" not in ended.err


def test_a_folder_without_policies_is_an_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = run("check", "empty")
    assert ended.code == 1
    assert "`empty`" in ended.out + ended.err
    assert "internal" not in ended.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_an_error(run, tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert run("check", "closed").code == 1


# ── SARIF ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=[BAD, WARNED], ids=["error", "warning"])
def sarif(request, run, files):
    files(some=request.param)
    return run("check", ".", "--format", "sarif").json


def test_sarif_output_states_its_version_and_schema(sarif):
    assert sarif["version"] == "2.1.0"
    assert sarif["$schema"].endswith("sarif-2.1.0.json")
    assert len(sarif["runs"]) == 1


def test_every_sarif_result_refers_to_a_rule_with_help(sarif):
    (run,) = sarif["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len(run["results"]) == 1
    for result in run["results"]:
        rule = rules[result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        assert rule["defaultConfiguration"]["level"] == result["level"]
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"]
        assert "But like this:" in rule["help"]["text"]


def test_a_sarif_result_has_a_region_with_columns(run, files):
    files(bad=BAD)
    sarif = run("check", ".", "--format", "sarif").json
    location = sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert location["artifactLocation"] == {"uri": "bad.policy"}
    assert location["region"] == {"startLine": 1, "startColumn": 31, "endLine": 1, "endColumn": 39}
    assert sarif["runs"][0]["columnKind"] == "unicodeCodePoints"


@pytest.mark.parametrize(("text", "level"), [(BAD, "error"), (WARNED, "warning")])
def test_the_level_of_a_sarif_result_is_its_severity(run, files, text, level):
    files(some=text)
    (result,) = run("check", ".", "--format", "sarif").json["runs"][0]["results"]
    assert result["level"] == level


def test_a_file_name_with_special_characters_is_a_valid_sarif_uri(run, files, tmp_path):
    (tmp_path / "a b#ü.policy").write_text(BAD)
    document = run("check", "a b#ü.policy", "--format", "sarif").json
    location = document["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert location["artifactLocation"]["uri"] == "a%20b%23%C3%BC.policy"


def test_sarif_without_findings_has_no_results(run, files):
    files(good=GOOD)
    assert run("check", ".", "--format", "sarif").json["runs"][0]["results"] == []


REMEMBERING = """anyone { may POST /a, POST /b }
guard "g" on POST /a { require after POST /b within 1h }
"""


def test_check_reports_the_memory_that_history_needs(run, files):
    files(remembering=REMEMBERING)
    out = run("check", "remembering.policy").out
    assert out.endswith("history of `POST /b`, 1h (remembering.policy:2): at most 1.5 KiB per key\n")


def test_check_reports_the_memory_that_history_needs_as_json(run, files):
    files(remembering=REMEMBERING)
    (told,) = run("check", ".", "--format", "json").json["history"]
    assert told == {"event": "POST /b", "at": "remembering.policy:2", "within": "1h", "events": 1, "bytes": 1_472}


CONFIRMING = """entity user { roles: set<string> }
issuer acme { }
user any { may POST /a }
guard "g" on POST /a { confirm by role boss }
"""


def test_check_lists_the_confirms_with_the_default_time_in_one_line(run, files):
    more = "".join(f'guard "g{number}" on POST /a {{ confirm by role boss }}\n' for number in range(6))
    timed = 'guard "timed" on POST /a { confirm by role boss within 5m }\n'
    files(confirming=CONFIRMING + timed)
    line = "approvals without `within` count for 1d: `g` (confirming.policy:4)\n"
    assert run("check", "confirming.policy").out.endswith(f"no mistakes in 1 file\n{line}")
    files(confirming=CONFIRMING + more)
    assert run("check", "confirming.policy").out.count("approvals without `within`") == 1
    assert run("check", "confirming.policy").out.endswith("`g3` (confirming.policy:8) and 2 other rules\n")


def test_check_lists_the_confirms_with_the_default_time_as_json(run, files):
    files(confirming=CONFIRMING)
    told = run("check", ".", "--format", "json").json["default_approval_times"]
    assert told == [{"rule": "g", "at": "confirming.policy:4", "within": "1d"}]
    files(confirming=CONFIRMING.replace("boss }", "boss within 1d }"))
    assert "default_approval_times" not in run("check", ".", "--format", "json").json


def test_a_file_with_errors_that_is_no_policy_is_named(run, tmp_path):
    (tmp_path / "tamper.py").write_text("import sys, os\n")
    hint = "hint: `tamper.py` is not a `.policy` file: is it a policy?"
    assert hint in run("check", "tamper.py").out
    assert hint in run("explain", "tamper.py", "--request", "x.json").err
    (tmp_path / "a.policy").write_text("import sys, os\n")
    assert "is not a `.policy` file" not in run("check", "a.policy").out
