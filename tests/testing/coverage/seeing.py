"""A small policy, and what tests cover of it."""

from policyengine.check import CheckResult
from policyengine.testing.coverage import Coverage, measure
from tests.testing.running import checked

BASE = """
entity user { roles: set<string>   tenant: string }
entity doc { tenant: string   readers: set<user> }
facts on write { body.n: number   body.note: string?   body.tags: set<string>   body.urgent: bool }
scope read  as "read"  { GET /docs/{id: doc} }
scope write as "write" { POST /docs/{id: doc} }
issuer acme { url "https://acme.example"   records chains }
issuer plain { url "https://plain.example" }
fixture office {
  given entities { user "alice" { roles: ["clerk"], tenant: "a" }  doc "1" { tenant: "a" } }
  given agent "bot" from acme for user "alice"
  given credential { kind: jwt, scopes: ["read", "write"], lifetime: 5m, age: 1m, bound: true }
}
"""
DOORS = """
user any { may read, write }
agent "bot" { issued by acme   acts for any user   may read, write }
"""
WRITE = 'POST /docs/1 { body.n: 1, body.note: "x", body.tags: [], body.urgent: false }'


def policy(rules: str, inside: str) -> str:
    """Return the base, rules, and one test."""
    return f'{BASE}{rules}\ntest "t" {{ use office {inside} }}'


def coverage_of(found: CheckResult) -> Coverage:
    assert found.kernel is not None, [one.render() for one in found.diagnostics if one.is_error]
    return measure(found.cases, found.kernel)


def coverage(rules: str, inside: str = "GET /docs/1 => allow") -> Coverage:
    return coverage_of(checked(policy(rules, inside)))


def missing(rules: str, inside: str, about: str = "") -> list[str]:
    """Return the missing coverage whose text contains `about`."""
    return [point.words for point in coverage(rules, inside).missing if about in point.words]


def left_out(rules: str, about: str = "") -> list[str]:
    return [one.words for one in coverage(rules).left_out if about in one.words]


def guarded(condition: str, place: str = "write") -> str:
    """Return the grants, and a guard that denies on a condition."""
    return f'{DOORS}guard "g" on {place} {{ deny when {condition} }}'


def written(**facts: str) -> str:
    """Return a request that writes, with the given facts, such as `n="7"`, instead of its own."""
    every = {"n": "1", "note": '"x"', "tags": "[]", "urgent": "false", **facts}
    return f"POST /docs/1 {{ {', '.join(f'body.{name}: {value}' for name, value in every.items())} }} => not confirm\n"
