"""`policyengine explain-code`."""

import pytest

from policyengine.diagnostics.catalog import CODES


def test_a_page_has_the_title_the_explanation_and_both_examples(run):
    ended = run("explain-code", "E101")
    code = CODES["E101"]
    assert ended.code == 0
    assert ended.out.startswith(f"E101  {code.title}\n\n{code.explanation}\n")
    assert "Not like this:" in ended.out
    assert "But like this:" in ended.out


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_has_a_page(run, code):
    assert run("explain-code", code).code == 0


def test_a_code_may_be_written_small(run):
    assert run("explain-code", "e101").out == run("explain-code", "E101").out


def test_without_a_code_all_are_listed(run):
    listed = run("explain-code").out.splitlines()
    assert [line.split()[0] for line in listed] == sorted(CODES)


def test_an_unknown_code_suggests_a_known_one(run):
    ended = run("explain-code", "E1001")
    assert ended.code == 1
    assert ended.err.startswith("error: unknown code `E1001`\nhint: did you mean `E10")


def test_a_word_that_is_like_no_code_is_sent_to_the_list(run):
    assert "lists all codes" in run("explain-code", "nonsense").err


def test_a_page_as_json_has_all_parts(run):
    page = run("explain-code", "E101", "--format", "json").json
    assert page.keys() == {"code", "title", "explanation", "bad", "good", "name", "opinion", "optional"}
    assert page["code"] == "E101"


def test_the_list_as_json_is_one_document(run):
    assert [page["code"] for page in run("explain-code", "--format", "json").json] == sorted(CODES)


def test_an_unknown_code_as_json_says_so(run):
    error = run("explain-code", "E1001", "--format", "json").json["error"]
    assert (error["kind"], error["message"]) == ("code", "unknown code `E1001`")


def test_a_warning_is_explained_by_its_short_name(run):
    assert run("explain-code", "static-key").out == run("explain-code", "W457").out
    assert "rule `static-key`: reported by `policyengine lint`" in run("explain-code", "static-key").out


def test_a_short_name_that_is_nearly_right_is_guessed(run):
    ended = run("explain-code", "static-kye")
    assert (ended.code, "did you mean `static-key`?" in ended.err) == (1, True)
