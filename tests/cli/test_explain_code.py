"""`policyengine explain-code`."""

import pytest

from policyengine.diagnostics.catalog import CODES


def test_explain_code_prints_title_explanation_and_both_examples(run):
    ended = run("explain-code", "E101")
    code = CODES["E101"]
    assert ended.code == 0
    assert ended.out.startswith(f"E101  {code.title}\n\n{code.explanation}\n")
    assert "Not like this:" in ended.out
    assert "But like this:" in ended.out


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_has_a_page(run, code):
    assert run("explain-code", code).code == 0


def test_a_code_can_be_written_in_lower_case(run):
    assert run("explain-code", "e101").out == run("explain-code", "E101").out


def test_explain_code_without_a_code_lists_every_code(run):
    listed = run("explain-code").out.splitlines()
    assert [line.split()[0] for line in listed] == sorted(CODES)


def test_an_unknown_code_suggests_a_known_one(run):
    ended = run("explain-code", "E1001")
    assert ended.code == 1
    assert ended.err.startswith("error: unknown code `E1001`\nhint: did you mean `E10")


def test_an_unrecognizable_code_points_to_the_list(run):
    assert "lists all codes" in run("explain-code", "nonsense").err


def test_explain_code_prints_every_part_as_json(run):
    page = run("explain-code", "E101", "--format", "json").json
    assert page.keys() == {"code", "title", "explanation", "bad", "good", "name", "opinion", "optional"}
    assert page["code"] == "E101"


def test_explain_code_lists_every_code_as_json(run):
    assert [page["code"] for page in run("explain-code", "--format", "json").json] == sorted(CODES)


def test_an_unknown_code_is_reported_as_json(run):
    error = run("explain-code", "E1001", "--format", "json").json["error"]
    assert (error["kind"], error["message"]) == ("code", "unknown code `E1001`")


def test_explain_code_accepts_the_short_name_of_a_warning(run):
    assert run("explain-code", "static-key").out == run("explain-code", "W457").out
    assert "rule `static-key`: reported by `policyengine lint`" in run("explain-code", "static-key").out


def test_a_misspelled_short_name_gets_a_suggestion(run):
    ended = run("explain-code", "static-kye")
    assert (ended.code, "did you mean `static-key`?" in ended.err) == (1, True)


def test_explain_code_prints_no_headings_for_a_code_without_examples(run):
    ended = run("explain-code", "E152")
    assert "Not like this" not in ended.out
    assert "bundle" in ended.out
