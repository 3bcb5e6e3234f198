"""A policy, and the results of its tests."""

from policyengine.check import CheckResult, check
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing import CaseResult, ResultStatus, RunReport, collect, run

PAYMENTS = """
enum plan = free < team < enterprise
entity team in team
entity user    { roles: set<string>   tenant: string   plan: plan }    in team
entity folder  { approvers: set<user or team> inherited } in folder
entity invoice { tenant: string   owner: user   approvers: set<user or team> inherited } in folder
facts on refunds.create { body.amount: number   body.recipient: string? }
facts on TOOL billing/refund_invoice { args.invoice_id: string   args.amount: number }
define same_tenant = user.tenant == resource.tenant

scope invoices.read  as "read:invoices"  { GET /v1/invoices   GET /v1/invoices/{id: invoice}   ACTION view invoice }
scope invoices.write as "write:invoices" { include invoices.read   PATCH /v1/invoices/{id: invoice} }
scope refunds.create as "create:refunds" {
  POST /v1/invoices/{id: invoice}/refunds
  TOOL billing/refund_invoice with resource = invoice(args.invoice_id), body.amount = args.amount
}
issuer acme  { url "https://login.acme.example"   records chains }
issuer other { url "https://login.other.example"   records chains }
attester lab { url "https://attest.acme.example"   age <= 1h
  model "summarizer-7b" sha256:9f2c41   environment in ["sev-snp", "tdx"] }

user where user.roles has "clerk" { may invoices.write, refunds.create }
anyone { may GET /health }
agent "invoice-bot" {
  issued by acme   acts for users where user.roles has "clerk"
  credential { kind in [jwt, mtls]   lifetime <= 15m   bound }
  attested by lab
  may invoices.write
  may refunds.create when same_tenant
  valid until 2028-01-01
}
agent "planner" {
  issued by acme   acts for users where user.roles has "clerk"
  may invoices.read
  may delegate invoices.read to agent "summarizer" for 30m
}
agent "summarizer" { issued by acme   acts for any user   may invoices.read }
agent "night-bot" { issued by other   acts for any user   may invoices.read when time within 22:00..06:00 "UTC" }
delegation { depth <= 3   lifetime <= 1h   no cycles }

guard "tenants are islands" on /v1/invoices/{id}/** { require same_tenant }
guard "large refunds need a human" on refunds.create {
  deny    when body.amount > 10_000
  confirm by role finance within 15m  when body.amount > 500   message "refund of {body.amount} to {body.recipient}"
}
guard "two of legal" on PATCH /v1/invoices/{id} { confirm by 2 of team "legal" when user.plan == enterprise }
guard "few headers" on /v1/** { deny when request.headers["x-odd"] else "" == "yes" }

fixture people {
  given entities {
    user "alice" { roles: ["clerk"], tenant: "acme", plan: team }
    user "carol" { roles: ["finance"] } user "dave" { roles: ["finance"] }
    user "lea" in team "legal" user "lou" in team "legal" team "legal"
    invoice "42" { tenant: "acme" }  invoice "66" { tenant: "evil" }
  }
}
fixture clerks_bot {
  use people
  given agent "invoice-bot" from acme for user "alice"
  given credential { kind: jwt, scopes: ["write:invoices", "create:refunds"], lifetime: 10m, bound: true }
  given attestation { verified: true, by: lab, age: 5m }
}
"""
REFUND = "POST /v1/invoices/42/refunds"


def checked(*texts: str) -> CheckResult:
    parsed = [parse(Source(f"{number}.policy", text)) for number, text in enumerate(texts)]
    return check([module for module, _ in parsed if module], [finding for _, found in parsed for finding in found])


def report(*texts: str) -> RunReport:
    found = checked(*texts)
    assert found.kernel is not None, [one.render() for one in found.diagnostics if one.is_error]
    return run(collect(found), found.kernel)


def written(inside: str) -> str:
    return f'{PAYMENTS}\ntest "t" {{\n{inside}\n}}'


def results(inside: str) -> tuple[CaseResult, ...]:
    """Return the results of one test of the payments example."""
    return report(written(inside)).results


def outcomes(inside: str) -> list[str]:
    """Return the actual outcome of each request, whatever was expected: `deny by tenants are islands`."""
    return [outcome(result) for result in results(inside)]


def outcome(result: CaseResult) -> str:
    decision = result.decision
    if decision is None:
        return f"{result.status}: {result.problem}"
    first = decision.reasons[0] if decision.reasons else None
    return str(decision.outcome) if first is None else f"{decision.outcome} by {first.rule or first.gate}"


def failures(inside: str) -> list[str]:
    return [f"{r.case.request} => {r.case.expected.text}, not {outcome(r)}" for r in results(inside)
            if r.status is not ResultStatus.PASSED]  # fmt: skip
