"""Paths that differ in case alone, and conditions that a path in another case gets past."""

import pytest

from policyengine.check import check_text, lint_text

OPEN = "anyone { may GET|POST /files/{dir}/** }\n"


def told(text: str) -> list[tuple[str, str]]:
    return [(one.message, one.span.text) for one in check_text(text) if one.code == "W323"]


def test_two_letter_cases_of_a_path_are_reported_once_at_the_second():
    (found,) = told("anyone { may GET /v1/files/{id}, POST /v1/Files, DELETE /v1/Files/{id}/x }\n")
    assert found == (
        "`POST /v1/Files` and `GET /v1/files/{id}` differ in case: grants distinguish them, guards and limits do not",
        "POST /v1/Files",
    )


def test_a_guard_whose_path_differs_from_a_grant_in_case_is_reported():
    assert [span for _, span in told(OPEN + 'guard "g" on /Files/** { deny when request.size > 1 }\n')] == ["/Files/**"]


@pytest.mark.parametrize(
    "text",
    [
        "anyone { may GET /files, GET /file, GET /v1/files, GET /v1/Files2 }\n",
        "paths ignore case\nanyone { may GET /files, GET /Files }\n",
        'paths ignore case\nanyone { may GET /Files/** }\nguard "g" on /files/** { deny when request.size > 1 }\n',
        "anyone { may TOOL files/read, TOOL Files/read }\n",
    ],
)
def test_paths_that_do_not_differ_only_in_case_are_not_reported(text: str):
    assert told(text) == []


@pytest.mark.parametrize(
    "condition",
    [
        'when request.path like "/files/secret/*"', 'when request.path == "/files/secret"',
        'when params.dir == "secret"',
        'when "secret" == params.dir', 'when params.dir in ["secret", "7"]', 'when params.dir matches "se.*"',
        'when starts_with(params.dir, "se")', 'when (params.dir else "x") == "secret"', 'unless params.dir != "secret"',
        'when request.size > 1 or params.dir == "secret"', 'unless not ends_with(params.dir, "ret")',
        'unless params.dir not in ["secret"]', 'when params.dir in ["secret", request.method]',
        'when ["secret", "7"] has params.dir',
    ],
)  # fmt: skip
def test_a_deny_on_a_case_sensitive_path_text_is_reported(condition: str):
    found = [
        one
        for one in lint_text(OPEN + f'guard "g" on /files/{{dir}}/** {{ deny {condition} }}\n')
        if one.code == "W558"
    ]
    assert len(found) == 1
    assert found[0].message.startswith("a path in another case bypasses guard `g`: `")


@pytest.mark.parametrize("condition", ["when secret", "unless not secret"])
def test_what_a_definition_compares_is_told(condition: str):
    define = 'define secret = request.path in hidden\nlet hidden = ["/files/secret", "/files/7"]\n'
    found = lint_text(OPEN + define + f'guard "g" on /files/{{dir}}/** {{ deny {condition} }}\n')
    assert [one.span.text for one in found if one.code == "W558"] == ["request.path in hidden"]


@pytest.mark.parametrize(
    "condition",
    [
        'unless params.dir == "public"', 'unless request.path like "/files/public/*"', 'when params.dir != "public"',
        'when lower(params.dir) == "secret"', 'when params.dir == "7"', 'when params.dir like "7*"',
        'when request.method == "POST"', 'when params.dir not in ["public"]',
    ],
)  # fmt: skip
def test_a_deny_that_other_letter_cases_cannot_bypass_is_not_reported(condition: str):
    found = lint_text(OPEN + f'guard "g" on /files/{{dir}}/** {{ deny {condition} }}\n')
    assert "W558" not in {one.code for one in found}


def test_a_limit_on_a_case_sensitive_path_text_is_reported():
    limit = 'rate "r" per agent.id on /files/{dir}/** when params.dir == "secret" { 1/1m }\n'
    assert "W558" in {one.code for one in lint_text(OPEN + limit)}
