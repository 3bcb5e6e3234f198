"""History in an explanation: what was found in the past, and by what of this request."""

import pytest

from policyengine.check import check
from policyengine.explain.explanation import explain
from policyengine.explain.lines import ExplanationLine
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing.runner import CaseRunner
from tests.history.plainly import HEAD

GIVEN = 'given agent "bot" from acme for user "alice"'


def told(guard: str, lines: str) -> list[str]:
    """What the guard's condition is shown as, at the last request."""
    module, found = parse(
        Source("p.policy", f'{HEAD}guard "g" on POST /pay {{ {guard} }}\ntest "t" {{ {GIVEN}\n{lines} }}')
    )
    checked = check([module] if module else [], found)
    assert checked.kernel is not None, [one.render() for one in checked.diagnostics]
    runner = CaseRunner.of(checked.kernel)
    *_, asked = [runner.traced(one) for case in checked.cases for one in case.requests]
    return list(condition(explain(asked.decision, asked.facts, asked.walk).gates).render())


def condition(gates: tuple[ExplanationLine, ...]) -> ExplanationLine:
    (guards,) = (gate for gate in gates if gate.text == "guards")
    return guards.parts[0].parts[0].parts[0]


@pytest.mark.parametrize(
    ("guard", "lines", "shown"),
    [
        ("require after POST /review within 1h", "POST /pay => deny",
         ["✗ after POST /review within 1h — none"]),
        ("require after POST /review within 1h", "repeat 2 in 1m POST /review => allow\nafter 4m POST /pay => allow",
         ["✓ after POST /review within 1h — the last one 4m30s ago"]),
        ("require no POST /review within 1h", "POST /review => allow\nPOST /pay => deny",
         ["✗ no POST /review within 1h — the last one just now"]),
        ("require after (POST /review where past.status < 400) within 1h", "POST /review => allow\nPOST /pay => deny",
         ["? after (POST /review where past.status < 400) within 1h — "
          "`past.status` is unknown: the outcome is not reported yet"]),
        ("require after (POST /review by another user) within 1h", "POST /pay => deny",
         ["✗ after (POST /review by another user) within 1h — none", '  ✓ user.id = "alice"']),
        ("require no (POST /review where past.status is absent) within 1h", "POST /review => allow\nPOST /pay => deny",
         ["✗ no (POST /review where past.status is absent) within 1h — the last one just now"]),
        ("require sum (past.output.n else 4) of POST /review within 1h < 4", "POST /review => allow\nPOST /pay => deny",
         ["✗ sum (past.output.n else 4) of POST /review within 1h < 4",
          "  ✓ sum (past.output.n else 4) of POST /review within 1h = 4"]),
        ("require sum past.output.n of POST /review within 1h < 4", "POST /review => allow\nPOST /pay => deny",
         ["? sum past.output.n of POST /review within 1h < 4",
          "  ? sum past.output.n of POST /review within 1h — "
          "`past.output.n` is unknown: the outcome is not reported yet"]),
        ("deny when count of POST /review within 1h >= 2", "POST /review => allow\nPOST /pay => allow",
         ["✗ count of POST /review within 1h >= 2", "  ✓ count of POST /review within 1h = 1"]),
    ],
)  # fmt: skip
def test_an_explanation_shows_the_history_a_condition_found(guard: str, lines: str, shown: list[str]) -> None:
    assert told(guard, lines) == shown
