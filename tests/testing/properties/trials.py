"""Two correct policies, holes to make in them, and the results of claims about them."""

from __future__ import annotations

from policyengine.check import CheckResult, check
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing.properties import PropertyResult, try_properties

PAYMENTS = """package acme.payments
enum plan = free < team < enterprise
entity user { roles: set<string>   tenant: string   plan: plan }
entity invoice { tenant: string }
facts on refunds.create { body.amount: number   body.recipient: string? }
facts on TOOL billing/refund_invoice { args.invoice_id: string   args.amount: number }
let internal = [10.0.0.0/8, 192.168.0.0/16]
define office_hours = time within mon..fri 08:00..18:00 "Europe/Berlin"
define same_tenant = user.tenant == resource.tenant
scope invoices.read as "read:invoices" { GET /v1/invoices   GET /v1/invoices/{id: invoice}   ACTION view invoice }
scope invoices.write as "write:invoices" {
  include invoices.read   POST /v1/invoices   PATCH /v1/invoices/{id: invoice}
}
scope invoices.delete as "delete:invoices" { DELETE /v1/invoices/{id: invoice} }
scope refunds.create as "create:refunds" {
  POST /v1/invoices/{id: invoice}/refunds
  TOOL billing/refund_invoice with resource = invoice(args.invoice_id), body.amount = args.amount
}
issuer acme { url "https://login.acme.example"   records chains }
attester lab { age <= 1h   model "archivist-7b" sha256:9f2c41   environment in ["sev-snp", "tdx"] }
user where user.roles has "clerk" { may invoices.write, invoices.delete, refunds.create }
anyone { may GET /health }
agent "invoice-bot" {
  issued by acme
  acts for users where user.roles has "clerk"
  credential { kind in [jwt, mtls]   lifetime <= 15m   bound }
  may invoices.write
  may refunds.create when same_tenant and user.plan >= team
  valid until 2036-01-01
}
agent "archivist" { issued by acme   acts for any user   attested by lab   may invoices.read, invoices.delete }
agent "planner" {
  issued by acme
  acts for users where user.roles has "clerk"
  may invoices.read
  may delegate invoices.read to agent "summarizer" for 30m
}
agent "summarizer" { issued by acme   acts for any user   may invoices.read }
delegation { depth <= 3   lifetime <= 1h   no cycles }
guard "tenants are islands" on /v1/invoices/{id}/**, ACTION view invoice, TOOL billing/refund_invoice {
  require same_tenant
}
guard "large refunds need a human" on refunds.create {
  deny when body.amount > 10_000
  confirm by role finance within 15m when body.amount > 500 message "refund of {body.amount} to {body.recipient}"
}
guard "no money by night" on refunds.create {
  confirm by role finance within 15m unless office_hours or request.ip within internal
}
"""
TENANCY = """package tenancy
export enum plan = free < team < enterprise
export entity tenant { plan: plan   suspended: bool   admins: set<user> }
export entity user { tenant: tenant   roles: set<string> }
export issuer idp { url "https://id.cloud.example" }
guard "tenants are islands" on /t/{tenant}/** { require user.tenant == tenant(params.tenant) }
guard "suspended tenants only look" on /t/{tenant}/** except GET /t/{tenant}/** { deny when user.tenant.suspended }
"""
PROJECTS = """package cloud.projects
import tenancy
entity project { owner: tenancy.user } in tenancy.tenant
scope projects.read as "projects:read" { GET /t/{tenant}/projects   GET /t/{tenant}/projects/{id: project} }
scope projects.write as "projects:write" {
  include projects.read
  POST /t/{tenant}/projects
  PUT|DELETE /t/{tenant}/projects/{id: project}
}
scope projects.export as "projects:export" { POST /t/{tenant}/projects/{id: project}/export }
user where user.roles has "member" { may projects.read, projects.write, projects.export }
agent "project-bot" {
  issued by tenancy.idp
  acts for any user
  may projects.read
  may projects.write when user.tenant.plan >= team
  may projects.export when user.tenant.plan == enterprise
}
guard "projects stay with their tenant" on /t/{tenant}/projects/{id: project}/** {
  require resource in tenancy.tenant(params.tenant)
}
guard "deleting asks an admin" on DELETE /t/{tenant}/projects/{id: project} {
  confirm by user.tenant.admins within 1h unless user == resource.owner
}
"""
OF_PAYMENTS = "package acme.payments\n"
OF_PROJECTS = "package cloud.projects\nimport tenancy\n"

Texts = tuple[str, ...]


def checked(*texts: str) -> CheckResult:
    parsed = [parse(Source(name_of(number, text), text)) for number, text in enumerate(texts)]
    found = check([module for module, _ in parsed if module], [finding for _, some in parsed for finding in some])
    assert found.kernel is not None, [one.render() for one in found.diagnostics if one.is_error]
    return found


def name_of(number: int, text: str) -> str:
    """Return the file name; a file that declares nothing is a test file."""
    return f"{number}_test.policy" if "test " in text and "entity " not in text else f"{number}.policy"


def with_hole(texts: Texts, sound: str, hole: str) -> Texts:
    """Return the policies with one passage replaced, which occurs once."""
    assert sum(text.count(sound) for text in texts) == 1, sound
    return tuple(text.replace(sound, hole) for text in texts)


def tried(texts: Texts, claims: str, seed: int = 0, examples: int = 200) -> tuple[PropertyResult, ...]:
    """Return the results of the claims of a test file that names its package."""
    found = checked(*texts, claims)
    assert found.kernel is not None
    return try_properties(found.properties, found.kernel, seed, examples)
