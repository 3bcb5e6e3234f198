"""History in the tests of policies: each begins with a past that is known, and in which nothing happened."""

import pytest

from policyengine.check import check
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing import run
from tests.history.plainly import HEAD

GIVEN = 'given agent "bot" from acme for user "alice"'
GUARDS = """guard "g" on POST /pay { require after POST /review within 1h }
guard "s" on POST /ship { require after (POST /review where past.status < 400) within 1h }
guard "o" on POST /open { require no (POST /open where past.status is absent) within 1h }
guard "c" on POST /chat { require sum (past.output.tokens else 60) of POST /chat within 1h < 100 }
"""


def outcome(lines: str) -> str:
    module, found = parse(Source("p.policy", f'{HEAD}{GUARDS}test "t" {{ {GIVEN}\n{lines} }}'))
    checked = check([module] if module else [], found)
    assert checked.kernel is not None, [one.render() for one in checked.diagnostics]
    return "".join(str(result.status)[0] for result in run(checked.cases, checked.kernel).results)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('POST /pay => deny by "g"', "p"), ("POST /review => allow\nPOST /pay => allow", "pp"),
        ('POST /review => allow\nafter 1h POST /pay => deny by "g"', "pp"),
        ("POST /review => allow\nafter 59m POST /pay => allow", "pp"),
        ("POST /review => allow responded 200\nPOST /ship => allow", "pp"),
        ('POST /review => allow responded 500\nPOST /ship => deny by "s"', "pp"),
        ('POST /review => allow\nPOST /ship => deny by "s"', "pp"), ("POST /pay => allow", "f"),
        ('POST /open => allow\nPOST /open => deny by "o"', "pp"),
        ("POST /open => allow responded 500\nPOST /open => allow", "pp"),
        ('POST /chat => allow\nPOST /chat => allow\nPOST /chat => deny by "c"', "ppp"),
        ("POST /chat => allow\nPOST /chat => allow responded 200 { output.tokens: 9 }\nPOST /chat => allow", "ppp"),
        ('POST /chat => allow responded 200 { output.tokens: "9" }\n'
         'POST /chat => deny by "c" with { unknown: [past.output.tokens] }', "pp"),
    ],
)  # fmt: skip
def test_each_policy_test_has_its_own_history(lines: str, said: str) -> None:
    assert outcome(lines) == said
