"""`# lint: allow RULE because …`: what it silences, and what is wrong with one that silences nothing."""

from __future__ import annotations

import pytest

from policyengine.check import check, check_text, lint_text
from policyengine.diagnostics.catalog import CODES_BY_NAME, find_code
from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source
from policyengine.syntax.parse import parse

DOOR = "anyone { may GET /a }"
ODD = "anyone { may PSOT /a }"


def codes(text: str) -> list[str]:
    return [found.code for found in check_text(text)]


def told(found: list[Diagnostic]) -> list[tuple[str, str, str, str | None]]:
    return [(one.code, one.message, one.span.text, one.hint) for one in found]


@pytest.mark.parametrize(
    "text",
    [
        f"# lint: allow W321 because they speak it so\n{ODD}",
        f"# lint: allow unknown-method because they speak it so\n{ODD}",
        f"{ODD}   # lint: allow W321 because they speak it so",
        f"#lint:allow head, W321 because of two things\n{ODD}",
        f"# lint: allow head because of one thing\n# lint: allow W321 because of another\n{ODD}",
        f"# lint: allow W321 because they speak it so\n# A door of old.\n{ODD}",
        "anyone {\n  may GET /b,\n    # lint: allow W321 because they speak it so\n    PSOT /a\n}",
    ],
)
def test_a_lint_comment_allows_the_adjacent_warning(text: str) -> None:
    assert codes(text) == []


@pytest.mark.parametrize(
    "text",
    [
        f"# lint: allow W322 because of another\n{ODD}",
        f"# lint: allow W321 because it is too far\n\n{ODD}",
        f"{ODD}\n# lint: allow W321 because it comes after",
        f"{DOOR}  # lint: allow W321 because it is about the line before\n{ODD}",
        f"# please lint: allow W321 because no\n{ODD}",
    ],
)
def test_a_lint_comment_elsewhere_or_of_another_rule_allows_nothing(text: str) -> None:
    assert codes(text) == ["W321"]


@pytest.mark.parametrize(
    ("comment", "message", "hint"),
    [
        (
            "# lint: allow W321",
            "this comment allows nothing, because it gives no reason",
            "write it `# lint: allow RULE because …`",
        ),
        ("# lint: allow W321 because", "this comment allows nothing, because it gives no reason",
         "write it `# lint: allow RULE because …`"),
        ("# lint: allow because it is so", "this comment allows nothing, because it gives no reason",
         "write it `# lint: allow RULE because …`"),
        ('# lint: allow W321 "they speak it"', "this comment allows nothing",
         "write `because` before the reason, without quotes"),
        ("# lint: disable W321 because no", "this comment allows nothing",
         "write it `# lint: allow RULE because …`"),
    ],
)  # fmt: skip
def test_an_allowance_without_a_reason_is_reported_and_allows_nothing(comment: str, message: str, hint: str) -> None:
    found = check_text(f"{comment}\n{ODD}")
    assert told(found)[0] == ("W170", message, comment, hint)
    assert [one.code for one in found] == ["W170", "W321"]


def test_an_allowance_of_an_unknown_rule_is_reported() -> None:
    (found, _) = check_text(f"# lint: allow unknwon-method because they speak it so\n{ODD}")
    message = "no rule is named `unknwon-method`, so this comment allows nothing"
    assert told([found]) == [("W171", message, "unknwon-method", "did you mean `unknown-method`?")]


def test_a_lint_comment_cannot_allow_an_error() -> None:
    found = check_text("# lint: allow E301 because please\nanyone { may GET /a//b }")
    message = "`E301` is an error, and a comment cannot allow an error"
    assert told(found)[0] == ("W171", message, "E301", "fix the error, and remove this comment")
    assert [one.code for one in found] == ["W171", "E301"]


def test_a_comment_allows_nothing_in_another_file() -> None:
    texts = ("# lint: allow W321 because here\nanyone { may GET /z }\n", ODD)
    parsed = [parse(Source(f"{number}.policy", text)) for number, text in enumerate(texts)]
    assert [one.code for one in check([module for module, _ in parsed if module]).diagnostics] == ["W321"]


# ── Allowances that are left over ─────────────────────────────────────────────────────────────


def test_a_stale_allowance_is_reported_by_lint_and_not_by_check() -> None:
    text = f"# lint: allow head because the probe speaks it\n{DOOR}"
    message = "the warning `head` does not occur here, so this comment allows nothing"
    assert codes(text) == []
    assert told(lint_text(text)) == [("W172", message, "head", "remove the comment: nothing here needs it")]


def test_only_the_stale_rule_of_an_allowance_is_reported() -> None:
    found = lint_text(f"# lint: allow head, unknown-method because they speak it so\n{ODD}")
    assert [(one.code, one.span.text) for one in found] == [("W172", "head")]


def test_an_allowance_of_a_lint_only_rule_is_not_stale() -> None:
    text = "# lint: allow wide-grant because everybody may read the handbook\nanyone { may GET /handbook/** }"
    assert lint_text(text) == []


def test_an_allowance_of_a_disabled_rule_is_not_stale() -> None:
    text = f"# lint: allow untested-endpoint because it is a probe\n{DOOR}"
    assert lint_text(text) == []
    assert lint_text(text, ("W653",)) == []


def test_a_stale_allowance_cannot_be_allowed() -> None:
    text = f"# lint: allow stale-allowance because\n# lint: allow stale-allowance, head because of nothing\n{DOOR}"
    assert [one.code for one in lint_text(text)] == ["W170", "W172", "W172"]


def test_no_allowance_is_stale_while_a_policy_has_errors() -> None:
    assert [one.code for one in lint_text("# lint: allow head because of that\nanyone { may GET /a//b }")] == ["E301"]


# ── Names of rules ────────────────────────────────────────────────────────────────────────────


def test_only_warnings_have_short_names() -> None:
    from policyengine.diagnostics.catalog import CODES

    assert {code.code for code in CODES_BY_NAME.values()} == {code for code in CODES if code.startswith("W")}
    assert all(name == name.lower() and " " not in name for name in CODES_BY_NAME)


@pytest.mark.parametrize("word", ["W350", "w350", "head", "HEAD"])
def test_a_rule_is_found_by_code_or_name(word: str) -> None:
    assert find_code(word) is CODES_BY_NAME["head"]
