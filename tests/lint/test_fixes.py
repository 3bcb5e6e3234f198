"""What `lint --fix` changes: exactly what is said here, and never what a policy means."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.apply_fixes import FixResult, apply_fixes, lint_sources
from policyengine.check import check
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint import fixes
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse
from tests.depth import examples, scaled
from tests.generate import policy as generated
from tests.generate.cases import kernel_of

DOOR = "anyone { may GET /a }\n"


def mend(*texts: str) -> FixResult:
    sources = [Source(f"{number}.policy", text) for number, text in enumerate(texts)]
    return apply_fixes(lint_sources(sources, ()), [source.name for source in sources], lambda _: True)


def fixed(text: str) -> str:
    return mend(text).texts.get("0.policy", text)


def kernel(text: str) -> object:
    module, found = parse(Source("policy", text))
    checked = check([module] if module else [], found)
    assert checked.kernel is not None, [one.render() for one in checked.diagnostics]
    return checked.kernel


CASES = [
    pytest.param("anyone { may HEAD /a }\n", DOOR, id="HEAD alone"),
    pytest.param("anyone { may GET|HEAD /a }\n", DOOR, id="HEAD beside GET"),
    pytest.param("anyone { may HEAD|POST|GET /a }\n", "anyone { may GET|POST /a }\n", id="HEAD before GET"),
    pytest.param("anyone { may HEAD  /a }\n", "anyone { may GET  /a }\n", id="as it was written"),
    pytest.param("# HEAD\nanyone { may HEAD /HEAD }\n", "# HEAD\nanyone { may GET /HEAD }\n", id="not another HEAD"),
    pytest.param("let a = 1\n" + DOOR, DOOR, id="let"),
    pytest.param("enum a = b < c\n" + DOOR, DOOR, id="enum"),
    pytest.param("define a = request.size < b # that\nlet b = 1\n" + DOOR, DOOR, id="what only it used goes too"),
    pytest.param("let a = 1   " + DOOR, DOOR, id="beside another"),
    pytest.param("anyone { may GET /a }   let a = 1\n", DOOR, id="at the end of a line"),
    pytest.param("anyone { may GET /a }   let a = 1 # why\n", "anyone { may GET /a } # why\n", id="before a comment"),
    pytest.param("# About a.\nlet a = 1\n" + DOOR, "# About a.\n" + DOOR, id="comments above stay"),
    pytest.param(f"{DOOR}\nlet a = [1,\n  2]\n\n{DOOR}", f"{DOOR}\n{DOOR}", id="over two lines"),
    pytest.param("fixture a { given credential { bound: true } }\n" + DOOR, DOOR, id="fixture"),
    pytest.param("facts { body.a: int   body.b: int? }\n" + DOOR, DOOR, id="all facts of a block"),
    pytest.param(
        'facts {\n  body.a: int # first\n  body.b: int\n}\nguard "g" { audit full when body.b > 1 }\n' + DOOR,
        'facts {\n  body.b: int\n}\nguard "g" { audit full when body.b > 1 }\n' + DOOR,
        id="one fact",
    ),
    pytest.param("facts { }\n" + DOOR, DOOR, id="an empty block of facts"),
    pytest.param(f"# lint: allow head because of the probe\n{DOOR}", DOOR, id="a stale allowance"),
    pytest.param("anyone { may GET /a } # lint: allow head because of that\n", DOOR, id="a stale allowance beside"),
    pytest.param(
        "# lint: allow idle-part, wide-grant, head because of that\nanyone { may GET /a/** }\n",
        "# lint: allow wide-grant because of that\nanyone { may GET /a/** }\n",
        id="one of several rules",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), CASES)
def test_a_fix_changes_only_the_reported_text(before: str, after: str) -> None:
    assert fixed(before) == after


@pytest.mark.parametrize(("before", "after"), CASES)
def test_a_fix_keeps_the_kernel(before: str, after: str) -> None:
    assert kernel(before) == kernel(after)


@pytest.mark.parametrize(("before", "after"), CASES)
def test_fixing_twice_changes_nothing_more(before: str, after: str) -> None:
    assert fixed(after) == after


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("entity a\n" + DOOR, id="an entity, which the directory knows"),
        pytest.param("scope a { GET /a/{id: note} }\nentity note\n" + DOOR, id="a scope, which binds the resource"),
        pytest.param('issuer old { url "https://old" }\n' + DOOR, id="an issuer"),
        pytest.param("anyone { }\n" + DOOR, id="an empty block that is a rule"),
        pytest.param("facts { body.a: int }\n" + DOOR + 'test "t" { GET /a { body.a: 1 } => allow }\n', id="a test's"),
        pytest.param(
            "facts { body.a: int }\n" + DOOR + 'test "t" { given body.a 1  GET /a => allow }\n', id="a given fact"
        ),
        pytest.param("# lint: allow head because of that\nanyone { may HEAD /a }\n", id="what is allowed"),
        pytest.param("let a = 1\nanyone { may GET /a//b }\n", id="a policy with errors"),
        pytest.param("export let a = 1\n" + DOOR, id="what is exported"),
        pytest.param("facts on GET /n/{id: note} { body.a: int }\nentity note\nanyone { may GET /n/* }\n", id="binds"),
        pytest.param("facts on GET /n/{id} { }\nanyone { may GET /n/* }\n", id="binds and declares nothing"),
    ],
)
def test_an_unsafe_fix_is_not_applied(text: str) -> None:
    assert fixed(text) == text


def test_an_empty_credential_is_removed() -> None:
    bot = (
        'users unrestricted\nissuer acme {{ scopes none }}\nagent "b" {{ issued by acme  acts alone {0} may GET /a }}\n'
    )
    assert fixed(bot.format(" credential { } ")) == bot.format("")


def test_a_fix_keeps_a_formatted_file_formatted() -> None:
    before = DOOR + 'test "t" {\n  HEAD /a => allow\n  GET /b  => deny\n}\n'
    assert format_module(Source("policy", before)) == before
    assert fixed(before) == DOOR + 'test "t" {\n  GET /a => allow\n  GET /b => deny\n}\n'


def test_a_fix_does_not_format_an_unformatted_file() -> None:
    assert fixed("let a = 1\nanyone   {  may GET   /a }\n") == "anyone   {  may GET   /a }\n"


def test_only_the_given_files_are_fixed() -> None:
    sources = [
        Source("own.policy", "package own\nlet a = 1\n" + DOOR),
        Source("other.policy", "package o\nlet b = 1\n"),
    ]
    done = apply_fixes(lint_sources(sources, ()), ["own.policy"], lambda _: True)
    assert dict(done.texts) == {"own.policy": "package own\n" + DOOR}
    assert done.fixed == 1


def test_only_the_selected_findings_are_fixed() -> None:
    sources = [Source("a.policy", "let a = 1\nanyone { may HEAD /a }\n")]
    done = apply_fixes(lint_sources(sources, ()), ["a.policy"], lambda one: one.code == "W350")
    assert dict(done.texts) == {"a.policy": "let a = 1\n" + DOOR}


def test_a_fix_that_changes_the_kernel_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[fixes.TextEdit]:
        yield from (fixes.TextEdit(one.span, "DELETE") for one in found)

    monkeypatch.setattr(fixes, "FIXES", {"W350": wrong})
    done = mend("anyone { may HEAD /a }\n")
    assert (dict(done.texts), done.fixed) == ({}, 0)


def test_a_fix_that_causes_an_error_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[fixes.TextEdit]:
        yield from (fixes.TextEdit(Span(one.span.source, 0, 3), "lte") for one in found)

    monkeypatch.setattr(fixes, "FIXES", {"W260": wrong})
    assert dict(mend("let a = 1\n" + DOOR).texts) == {}


def test_an_undone_fix_does_not_block_other_fixes(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(found: Sequence[Diagnostic], modules: Sequence[ast.Module]) -> Iterator[fixes.TextEdit]:
        yield from (fixes.TextEdit(one.span, "DELETE") for one in found)

    monkeypatch.setattr(fixes, "FIXES", {**fixes.FIXES, "W350": wrong})
    before = "let a = 1\nlet b = 1\nanyone { may HEAD /a }\nlet c = 1\n"
    assert mend(before).texts["0.policy"] == "anyone { may HEAD /a }\n"


# ── Generated policies ────────────────────────────────────────────────────────────────────────

LEFT_BEHIND = (
    "let left_1 = 5", "define left_2 = request.size < left_3", "let left_3 = 7", "enum left_4 = a < b",
    "facts { context.left_5: int   context.left_6: string? }", "facts { }",
    "fixture left_7 { given credential { bound: true } }", "# lint: allow head because of something that is gone",
    "anyone { may GET|HEAD /left/8 }", "let left_9 = 1   # a comment",
)  # fmt: skip


@given(seed=st.integers(0, 2**32), extra=st.lists(st.sampled_from(LEFT_BEHIND), min_size=1, unique=True))
@scaled
@settings(max_examples=examples(4, 48))
def test_fixing_a_generated_policy_keeps_its_kernel(seed: int, extra: list[str]) -> None:
    """Its declarations and what is left behind stand in any order; what means nothing goes, and nothing else."""
    chance = random.Random(seed)
    written = generated(chance)
    if kernel_of(written) is None:
        return  # now and then chance writes a condition that is never true
    if "define left_2 = request.size < left_3" in extra and "let left_3 = 7" not in extra:
        extra = [*extra, "let left_3 = 7"]
    first, *others = written.files
    lines = [*first.declarations, *extra]
    chance.shuffle(lines)
    sources = [Source("0.policy", "\n".join([first.head, *lines]) + "\n")]
    sources += [Source(f"{number}.policy", one.text) for number, one in enumerate(others, 1)]
    before = lint_sources(sources, ())
    assert before.checked.kernel is not None
    done = apply_fixes(before, [one.name for one in sources], lambda _: True)
    assert done.linted.checked.kernel == before.checked.kernel
    assert "left_" not in done.linted.sources[0].text
    assert len(done.linted.sources[0].text) < len(sources[0].text)
    again = apply_fixes(done.linted, [one.name for one in sources], lambda _: True)
    assert dict(again.texts) == {}
