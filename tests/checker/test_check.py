"""The whole check: what it returns, what it holds back, what a comment allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine import lint
from policyengine.check import CheckResult, check, check_text, compile_sources
from policyengine.diagnostics.catalog import CODES
from policyengine.lint import dead_rules
from policyengine.source import Source
from policyengine.syntax.parse import parse


def checked(*texts: str) -> CheckResult:
    parsed = [parse(Source(f"{number}.policy", text)) for number, text in enumerate(texts)]
    return check([module for module, _ in parsed if module], [finding for _, some in parsed for finding in some])


def codes(*texts: str) -> list[str]:
    return [finding.code for finding in checked(*texts).diagnostics]


def test_an_empty_policy_compiles_without_any_grants() -> None:
    found = check([])
    assert found.ok
    assert found.kernel is not None
    assert (found.kernel.package, found.kernel.agents) == ("main", ())


def test_check_returns_no_kernel_after_an_error() -> None:
    found = checked("user any { may nowhere }")
    assert found.kernel is None
    assert not found.ok


def test_check_returns_a_kernel_despite_a_warning() -> None:
    found = checked("anyone { may PSOT /a }")
    assert found.ok
    assert [finding.code for finding in found.diagnostics] == ["W321"]


def test_check_returns_no_kernel_after_a_syntax_error() -> None:
    assert checked("anyone { may GET /a }\nguard").kernel is None


def test_check_reports_all_mistakes_of_all_phases_in_one_run() -> None:
    text = """
    entity user { plan: plam }
    scope a { GET /x//y }
    issuer i { claims { a -> user.b } }
    agent "x" { acts alone   may a when user.plan }
    guard "g" on GET /z { confirm by role boss within 0s   audit ful }
    """
    assert sorted(codes(text)) == ["E205", "E301", "E401", "E412", "E504", "E507", "E508"]


def test_a_syntax_error_in_a_declaration_suppresses_unknown_name_errors() -> None:
    text = "scope a { GET }\nuser any { may a, GET /x//y }\n"
    assert {code[:2] for code in codes(text)} == {"E1", "E3"}


@pytest.mark.parametrize(
    ("broken", "rest"),
    [
        ("scope a { GET }", "scope b { include a }\nuser any { may b }"),
        ("entity user { x }", 'guard "g" { confirm by role boss }'),
        ("user any { may }", 'issuer i { scopes none }\nagent "a" { issued by i   acts for any user   may GET /a }'),
        ("scope a { GET /{id: user} with }", 'guard "g" on /{id} { deny when resource.id == "x" }'),
        ("define c = =", "anyone { may GET /a when c }"),
    ],
)
def test_a_broken_declaration_causes_no_follow_up_errors(broken: str, rest: str) -> None:
    assert {code[:2] for code in codes(f"{broken}\n{rest}")} == {"E1"}
    assert "E1" not in {code[:2] for code in codes(rest)} != set()


def test_lints_do_not_run_on_a_policy_with_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> list[object]:
        raise AssertionError("asked too early")

    monkeypatch.setattr(lint, "probable_mistakes", never)
    monkeypatch.setattr(dead_rules, "dead_rule_findings", never)
    assert codes("user any { may nowhere }") == ["E207"]


def test_check_rejects_an_unsupported_language_version() -> None:
    assert codes("language 2\nanyone { may GET /a }") == ["E150"]
    assert codes("language 1\nanyone { may GET /a }") == []


def test_findings_are_in_source_order() -> None:
    found = check_text("anyone { may PSOT /a, GET /b//c, GET /d//e }\nscope x { }")
    assert [finding.span.start for finding in found] == sorted(finding.span.start for finding in found)


def test_check_warns_for_each_guard_endpoint_without_a_grant() -> None:
    text = 'anyone { may GET /a }\nguard "g" on GET /a, GET /b, TOOL x { deny when time > 2026-01-01 }'
    assert [(f.code, f.span.text) for f in check_text(text)] == [("W521", "GET /b"), ("W521", "TOOL x")]


def test_check_does_not_warn_about_guards_in_a_policy_without_grants() -> None:
    assert codes('guard "g" on GET /b { deny when time > 2026-01-01 }') == []


PIECES = [
    "enum plan = free < team\n", "entity user { plan: plan  boss: user?  teams: set<team> } in team\n", "entity team\n",
    "facts on POST /a { body.n: number }\n", "facts { args.x: string }\n", "let n = 5\n", "define c = body.n > n\n",
    "scope s as \"t\" { include s, r  GET /{id: team} }\n", "scope r { TOOL x/* with resource = team(args.x) }\n",
    "issuer i { scopes none  claims { a -> user.plan } }\n", "users unrestricted\n", "attester l { age <= 1h }\n",
    "user any { may s, POST /a when c }\n", "anyone { may ANY /** }\n", "delegation { depth <= 3 }\n",
    'agent "a" { issued by i  acts for users where user.plan == free  attested by l  may s when c }\n',
    'agent group "g" { issued by i, j  acts alone  may delegate s, q to agent "a" for 5m }\n',
    'guard "g" on s, /a except POST /** { deny when c message "{body.n} {x"  confirm by user.boss unless c }\n',
    'guard "h" { require no s within 5m  audit full when behavior.burst  redact body.n }\n',
    'rate "r" per (agent.id, body.n) on s when c { 5/1m burst 0  clamp 9/1m when c }\n',
    'budget "b" per user.id { sum body.n <= n within 1h }\n', 'profile "p" for agent "a" { expect s -> GET /x }\n',
    'invariant "i" { never allow s when c }\n', 'map m { subject "u" => user }\n', "export scope s { GET /b }\n",
    'fixture f { given agent "a" from i }\n', 'test "t" { use f  GET /a => allow }\n',
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.lists(st.sampled_from(PIECES), max_size=4))
def test_check_never_raises_on_generated_policies(one: list[str], two: list[str]) -> None:
    found = checked("package a\nimport b\n" + "".join(one), "package b\nimport a as c\n" + "".join(two))
    assert (found.kernel is None) == any(finding.is_error for finding in found.diagnostics)


WORDS = " ".join(PIECES).split()


@given(st.lists(st.sampled_from(WORDS), max_size=40))
def test_check_never_raises_on_generated_words(words: list[str]) -> None:
    found = checked(" ".join(words))
    assert (found.kernel is None) == any(finding.is_error for finding in found.diagnostics)


@given(st.data())
def test_check_never_raises_after_words_are_replaced(data: st.DataObject) -> None:
    words = " ".join(data.draw(st.permutations(PIECES), label="pieces")).split()
    for _ in range(3):
        words[data.draw(st.integers(0, len(words) - 1))] = data.draw(st.sampled_from(WORDS))
    checked(" ".join(words))


EXAMPLES = {
    f"{c.code} {kind}": text for c in CODES.values() for kind, text in (("bad", c.bad), ("good", c.good)) if text
}


@pytest.mark.parametrize("text", EXAMPLES.values(), ids=EXAMPLES)
def test_compile_sources_returns_the_kernel_of_the_whole_check(text: str) -> None:
    kernel, found = compile_sources([Source("0.policy", text)])
    whole = checked(text)
    assert kernel == whole.kernel
    assert set(found) <= set(whole.diagnostics)


@pytest.mark.parametrize(
    "text",
    [
        "anyone { may GET /a when time > 2030-01-01 and time < 2029-01-01   may GET /a }",
        'anyone { may GET /a   may GET /a }\ntest "t" { }',
        "anyone { may GET /a   may GET /a }\nguard",
    ],
    ids=["never true", "tests nothing", "syntax"],
)
def test_compile_sources_reports_all_findings_after_an_error(text: str) -> None:
    kernel, found = compile_sources([Source("0.policy", text)])
    assert kernel is None
    assert found == checked(text).diagnostics


def test_compile_sources_reports_no_lints_with_a_kernel() -> None:
    text = "anyone { may GET /a   may GET /a }"
    assert codes(text) == ["W711"]
    assert compile_sources([Source("0.policy", text)])[1] == ()


def test_compile_sources_returns_no_kernel_after_earlier_problems() -> None:
    problem = checked("anyone").diagnostics[0]
    kernel, found = compile_sources([Source("0.policy", "anyone { may GET /a }")], [problem])
    assert kernel is None
    assert found == (problem,)
