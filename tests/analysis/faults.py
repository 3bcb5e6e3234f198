"""Faults planted in a policy, by kind, and edits that change no decision: what a comparison must and must not report."""

from __future__ import annotations

from dataclasses import dataclass

from policyengine.analysis import Diff

BASE = """
enum plan = free < team < enterprise
entity team in team
entity user { roles: set<string>   tenant: string   plan: plan   manager: user?   level: int? } in team
entity agent { publisher: string?   risk: int? }
entity folder { editors: set<user or team> inherited   blocked: set<user> inherited else [] } in folder
entity document { owner: user   editors: set<user or team> inherited   blocked: set<user> inherited else []   public: bool?   labels: set<string> } in folder
entity invoice { tenant: string   owner: user   tags: set<string> }

facts on refunds.create, POST /pay, TOOL billing/refund { body.amount: number   body.to: string? }
facts on refunds.create {   body.note: string?   body.parts: list<number>? }
facts on TOOL billing/refund { args.amount: number   args.id: string   args.note: string? }
facts on TOOL mail/* { args.to: string?   args.urgent: bool?   args.host: string? }
facts on POST /pay { body.currency: string? }
facts { context.risk: number?   context.region: string? }

scope invoices.read as "read:invoices" { GET /v1/invoices   GET /v1/invoices/{id: invoice}   ACTION view invoice }
scope refunds.create as "create:refunds" { POST /v1/invoices/{id: invoice}/refunds }
scope documents { GET /documents/{id: document}   PUT /documents/{id: document} }
scope tools { TOOL mail/send   TOOL files/read }
scope billing { TOOL billing/refund with resource = invoice(args.id), body.amount = args.amount }
scope reports { GET /reports/**   GET /files/{name}.csv }
scope pay { POST /pay   POST /pay/{id}/review   GET /pay/{id} }
scope bank { TOOL bank/*   POST /bank }
scope all { include invoices.read   include reports }

issuer acme { url "https://login.acme.example"   audience "payments-api"   records chains   claims { tenant -> user.tenant } }
issuer other { url "https://other.example"   audience "payments-api"   records chains }
issuer inside { url "https://inside.example"   scopes none }
attester lab { url "https://lab.example"   age <= 1h   model "small-7b" sha256:9f2c41   environment in ["sev-snp", "tdx"] }
attester spare { age <= 5m   model "small-7b" }

let internal = [10.0.0.0/8, 192.168.0.0/16]
define office_hours = time within mon..fri 08:00..18:00 "Europe/Berlin"
define frozen = time within 2027-12-24..2028-01-02 "Europe/Berlin"

user where user.roles has "clerk" { may invoices.read, refunds.create, tools, billing, documents, pay, bank, reports }
user "root" { may invoices.read   valid until 2030-01-01 }
user where user.plan == enterprise and context.region == "eu" { may GET /v1/export }
anyone { may GET /health, GET /status/{part} }

agent "invoice-bot" {
  issued by acme
  acts for any user
  credential { kind in [jwt, mtls]   lifetime <= 15m   age <= 10m   bound }
  may invoices.read
  may refunds.create when user.plan >= team
  valid from 2025-01-01 until 2030-01-01
}
agent "archivist" { issued by acme   acts for any user   attested by lab   may invoices.read }
agent "payer" { issued by acme   acts for users where user.roles has "clerk"   may pay   may billing   may bank when agent.risk < 5 }
agent "planner" {
  issued by acme   acts for any user   may invoices.read
  may delegate invoices.read to agent "summarizer" for 30m when user.plan >= team
}
agent "planner" { issued by acme   acts for any user   may documents   may delegate documents to agent "reader-*" }
agent "summarizer" { issued by acme   acts for any user   may invoices.read }
agent "reader-*" { issued by acme   acts for any user   may documents }
agent "*-nightly-*" { issued by acme   acts alone   may reports }
agent group "ops" { issued by acme   acts for any user   may tools }
agent where agent.publisher == "acme" and agent.risk < 3 { issued by acme, other   acts alone   may reports }
agent "inner" { issued by inside   acts alone   may GET /internal/** }
delegation { depth <= 2   lifetime <= 1h   no cycles }

guard "islands" on /v1/invoices/{id}/** { require user.tenant == resource.tenant }
guard "large" on refunds.create {
  deny when body.amount > 10_000
  confirm by role finance within 15m when body.amount > 500   message "refund of {body.amount}"
  step_up mfa
}
guard "twice" on refunds.create { confirm by role finance within 15m when body.amount > 500 }
guard "night" on refunds.create { deny unless office_hours or request.ip within internal }
guard "freeze" on POST /pay { deny when frozen }
guard "window" on POST /pay { deny when time within 22:00..06:00 "America/New_York"   deny when time within sat..sun "UTC" }
guard "tools" on TOOL mail/* except TOOL mail/draft { audit full   redact args.to when args.urgent == true }
guard "mail of the task" on TOOL mail/send { deny when args.to like "*@evil.example"   require host(args.host else "https://ok.example") == "ok.example" }
guard "only the task" on TOOL files/* { require tool.name in task.tools }
guard "scoped" on TOOL files/* { require tool.name in task.tools and request.ip within internal }
guard "editors" on PUT /documents/{id: document} { require user in resource.editors   deny when user in resource.blocked }
guard "labels" on GET /documents/{id: document} { deny when resource.labels has "secret" and not (user.manager == resource.owner)   notify "soc" when user.level < 3 }
guard "paid" on POST /pay {
  require after (POST /pay/{id}/review by another user where past.params.id == body.to) within 1h
  deny when count of POST /pay within 1h > 10
  deny when sum past.body.amount of POST /pay within 24h + body.amount > 5_000
}
guard "reviewed" on POST /pay/{id}/review { require no POST /pay within 5m since GET /pay/{id}   warn }
guard "parts" on refunds.create { deny when any part in body.parts: part > 100   header "X-Checked" "yes" }
guard "chain" on GET /v1/invoices/{id: invoice} { deny when chain.depth > 1 and not attestation.verified   require all h in chain.hops: h.issuer == "acme" }
guard "export" on /v1/export { confirm by 2 of team "legal" within 1d bound to (request.query)   notify "legal" }
guard "granted" on GET /reports/** { deny when request.size > 100 and not approval.granted   confirm by user when request.size > 10 }
guard "secret" on /reports/secret/** except /reports/secret/readme { deny }
guard "formats" on /files/* { require params_ok or request.ip within internal }
define params_ok = request.path like "/files/*.csv"
guard "referrer" on GET /status/{part} { deny when params.part matches "[a-z]+-internal"   deny when request.headers["x-debug"] == "1" }
guard "mask" on TOOL bank/* { require args_ok }
define args_ok = request.ip is present and context.risk < 0.5
rate "calls" per agent.id on /v1/invoices/** { 100/1m burst 20   clamp 10/1m for 10m when request.size > 1000   raise x2 at most 300/1m when user.plan == enterprise }
rate "calls of tools" per user.id on TOOL * { 20/1m   at most 3 at once for 5m }
rate "pay" per user.tenant on POST /pay { 10/1m cost body.amount counting denials }
budget "spent" per user.id on POST /pay { sum body.amount <= 1_000 within 24h   count <= 20 within 24h }
budget "refunded" per agent.id on refunds.create when body.amount > 10 { sum body.amount <= 5_000 within 24h }
budget "moved" per agent.id on TOOL billing/refund { sum body.amount <= 2_000 within 24h }
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One change of the base: the old text and its replacement. `opens`: something passes, or passes with fewer
    requirements, that did not."""

    kind: str
    old: str
    new: str
    opens: bool = True

    @property
    def text(self) -> str:
        return replaced(self.old, self.new)


def replaced(old: str, new: str) -> str:
    assert BASE.count(old) == 1, f"{BASE.count(old)} times: {old}"
    return BASE.replace(old, new)


# ruff: noqa: E501
FAULTS = [
    # grants
    Fault("doors", 'user.roles has "clerk" { may invoices.read', 'user.roles has "boss" { may invoices.read'),
    Fault("doors", "anyone { may GET /health,", "anyone { may GET /health, GET /v1/invoices,"),
    Fault("doors", "may refunds.create when user.plan >= team", "may refunds.create"),
    Fault("doors", "may refunds.create when user.plan >= team", "may refunds.create when user.plan >= free"),
    Fault("doors", 'user "root" { may invoices.read', 'user any { may invoices.read'),
    Fault("doors", 'agent.publisher == "acme" and agent.risk < 3', 'agent.publisher == "acme" or agent.risk < 3'),
    Fault("doors", 'agent group "ops"', 'agent group "dev"'),
    Fault("doors", 'anyone { may GET /health', 'users unrestricted\nanyone { may GET /health'),
    Fault("doors", 'user.plan == enterprise and context.region == "eu"', 'user.plan == enterprise'),
    # scopes
    Fault("scopes", 'as "read:invoices"', 'as "list:invoices"'),
    Fault("scopes", "ACTION view invoice }", "ACTION view invoice   GET /v1/drafts }"),
    Fault("scopes", "scope tools { TOOL mail/send", "scope tools { TOOL mail/*"),
    Fault("scopes", "include invoices.read   include reports }", "include invoices.read   include reports   include refunds.create }"),
    Fault("scopes", "scope pay { POST /pay  ", "scope pay { POST /pay   DELETE /pay/{id}  "),
    Fault("scopes", "GET /files/{name}.csv }", "GET /files/{name} }"),
    # guards
    Fault("guards", "  deny when body.amount > 10_000\n", ""),
    Fault("guards", "deny when body.amount > 10_000", "deny when body.amount > 100_000"),
    Fault("guards", "{ require user.tenant == resource.tenant }", "{ require user.tenant is present }"),
    Fault("guards", 'guard "secret" on /reports/secret/** except', 'guard "secret" on /reports/secret/* except'),
    Fault("guards", "except /reports/secret/readme", "except /reports/secret/a/**"),
    Fault("guards", "except TOOL mail/draft", "except TOOL mail/send"),
    Fault("guards", 'guard "freeze" on POST /pay { deny when frozen }\n', ""),
    Fault("guards", 'guard "islands" on /v1/invoices/{id}/**', 'guard "islands" on /v1/invoices/{id}'),
    Fault("guards", "deny when any part in body.parts: part > 100", "deny when any part in body.parts: part > 1000"),
    # conditions
    Fault("conditions", "office_hours or request.ip within internal }", "office_hours or request.ip is present }"),
    Fault("conditions", "let internal = [10.0.0.0/8,", "let internal = [10.0.0.0/7,"),
    Fault("conditions", 'args.to like "*@evil.example"', 'args.to like "*@evil.example.com"'),
    Fault("conditions", 'args.to like "*@evil.example"', 'ends_with(args.to, ".evil.example")'),
    Fault("conditions", 'args.to like "*@evil.example"', 'args.to like "*@evil.*" and not contains(args.to, "+")'),
    Fault("conditions", 'matches "[a-z]+-internal"', 'matches "[a-z]-internal"'),
    Fault("conditions", 'request.headers["x-debug"] == "1"', 'request.headers["x-debug"] == "2"'),
    Fault("conditions", 'host(args.host else "https://ok.example") == "ok.example"', 'host(args.host else "https://ok.example") != "bad.example"'),
    Fault("conditions", "user.manager == resource.owner", "user.manager != resource.owner"),
    Fault("conditions", "context.risk < 0.5", "context.risk < 0.6"),
    Fault("conditions", "request.ip is present and context.risk", "context.risk"),
    Fault("conditions", 'request.path like "/files/*.csv"', 'request.path like "/files/*"'),
    # confirms
    Fault("confirms", "confirm by role finance within 15m when body.amount > 500   message", "confirm by role finance within 30m when body.amount > 500   message"),
    Fault("confirms", "confirm by role finance within 15m when body.amount > 500   message", "confirm by role finance when body.amount > 500   message"),
    Fault("confirms", "confirm by role finance within 15m when body.amount > 500   message", "confirm by role finance within 15m when body.amount > 600   message"),
    Fault("confirms", 'guard "twice" on refunds.create { confirm by role finance within 15m when body.amount > 500 }\n', ""),
    Fault("confirms", "confirm by 2 of team", "confirm by team"),
    Fault("confirms", 'team "legal" within', 'team "sales" within'),
    Fault("confirms", "bound to (request.query)", "bound to (resource)"),
    Fault("confirms", "confirm by user when request.size > 10 }", "confirm by user when request.size > 100 }"),
    Fault("confirms", "deny when request.size > 100 and not approval.granted", "deny when request.size > 200 and not approval.granted"),
    Fault("confirms", 'message "refund of {body.amount}"', 'message "refund of {body.amount} at {context.risk}"', opens=False),
    # obligations
    Fault("obligations", '  step_up mfa\n', ""),
    Fault("obligations", '   notify "legal" }', " }"),
    Fault("obligations", "audit full   redact", "audit brief   redact"),
    Fault("obligations", "redact args.to when", "redact args.urgent when"),
    Fault("obligations", '   header "X-Checked" "yes" }', " }"),
    Fault("obligations", 'notify "soc" when user.level < 3 }', 'notify "soc" when user.level < 2 }'),
    # chains and delegation
    Fault("chains", "for 30m when user.plan >= team", "for 45m when user.plan >= team"),
    Fault("chains", "for 30m when user.plan >= team", "for 30m"),
    Fault("chains", "for 30m when user.plan >= team", "for 30m when user.plan >= free"),
    Fault("chains", 'to agent "summarizer"', 'to agent "archivist"'),
    Fault("chains", 'to agent "reader-*"', 'to agent "*"'),
    Fault("chains", "depth <= 2", "depth <= 3"),
    Fault("chains", "   no cycles }", " }"),
    Fault("chains", "depth <= 2   lifetime <= 1h", "depth <= 2   lifetime <= 2h"),
    Fault("chains", "delegation { depth <= 2   lifetime <= 1h   no cycles }\n", ""),
    Fault("chains", "chain.depth > 1 and", "chain.depth > 2 and"),
    Fault("chains", 'h.issuer == "acme"', 'h.issuer in ["acme", "other"]'),
    # rates and budgets
    Fault("rates", "{ 100/1m burst 20", "{ 200/1m burst 20"),
    Fault("rates", "burst 20", "burst 40"),
    Fault("rates", "clamp 10/1m for 10m when request.size > 1000 ", ""),
    Fault("rates", "at most 3 at once", "at most 4 at once"),
    Fault("rates", "10/1m cost body.amount counting denials", "10/1m counting denials"),
    Fault("rates", 'rate "calls of tools" per user.id on TOOL *', 'rate "calls of tools" per user.id on TOOL mail/*'),
    Fault("budgets", "sum body.amount <= 1_000 within", "sum body.amount <= 10_000 within"),
    Fault("budgets", "   count <= 20 within 24h }", " }"),
    Fault("budgets", 'budget "spent" per user.id', 'budget "spent" per agent.id'),
    Fault("budgets", "when body.amount > 10 {", "when body.amount > 100 {"),
    Fault("budgets", "invoice(args.id), body.amount = args.amount", "invoice(args.id)"),
    # history
    Fault("history", "where past.params.id == body.to) within 1h", "where past.params.id == body.to) within 2h"),
    Fault("history", "review by another user where", "review where"),
    Fault("history", " where past.params.id == body.to)", ")"),
    Fault("history", "count of POST /pay within 1h > 10", "count of POST /pay within 1h > 100"),
    Fault("history", "within 24h + body.amount > 5_000", "within 24h > 5_000"),
    Fault("history", "within 5m since GET /pay/{id}   warn", "within 1m since GET /pay/{id}   warn"),
    # issuers, attesters, credentials
    Fault("issuers", 'issuer acme { url "https://login.acme.example"', 'issuer acme { url "https://login.evil.example"'),
    Fault("issuers", 'login.acme.example"   audience "payments-api"', 'login.acme.example"   audience "anything"'),
    Fault("issuers", 'login.acme.example"   audience "payments-api"', 'login.acme.example"'),
    Fault("issuers", "claims { tenant -> user.tenant }", "claims { org -> user.tenant }"),
    Fault("issuers", "   claims { tenant -> user.tenant } }", " }", opens=False),
    Fault("issuers", 'issuer other { url "https://other.example"   audience "payments-api"   records chains }', 'issuer other { url "https://other.example"   audience "payments-api"   records chains   scopes none }'),
    Fault("issuers", 'issuer inside { url', 'issuer third { url "https://third.example" }\nissuer inside { url'),
    Fault("attesters", "environment in [\"sev-snp\", \"tdx\"]", "environment in [\"sev-snp\", \"tdx\", \"none\"]"),
    Fault("attesters", 'attester lab { url "https://lab.example"', 'attester lab { url "https://lab.evil.example"'),
    Fault("attesters", "attester lab { url \"https://lab.example\"   age <= 1h", "attester lab { url \"https://lab.example\"   age <= 2h"),
    Fault("attesters", "attested by lab ", "attested by lab, spare "),
    Fault("credentials", "   bound }", " }"),
    Fault("credentials", "lifetime <= 15m", "lifetime <= 1h"),
    Fault("credentials", "kind in [jwt, mtls]", "kind in [jwt, mtls, api_key]"),
    # entities
    Fault("entities", "entity document { owner: user   editors: set<user or team> inherited   blocked", "entity document { owner: user   editors: set<user or team> inherited else []   blocked", opens=False),
    Fault("entities", "inherited   blocked: set<user> inherited else [] } in folder", "inherited   blocked: set<user> inherited } in folder", opens=False),
    Fault("entities", "blocked: set<user> inherited else []   public", "blocked: set<user>   public"),
    Fault("entities", "require user in resource.editors ", "require user in resource.editors or user == resource.owner "),
    Fault("entities", "deny when user in resource.blocked }", "deny when resource.blocked has user and user.level < 3 }"),
    # tasks
    Fault("tasks", 'guard "islands"', 'tasks advisory\nguard "islands"'),
    Fault("tasks", '"scoped" on TOOL files/* { require tool.name in task.tools and request.ip within internal }', '"scoped" on TOOL files/* { require tool.name in task.tools and request.ip is present }'),
    Fault("tasks", "scope billing { TOOL billing/refund with resource = invoice(args.id), body", "scope billing { TOOL billing/refund with body"),
    # endpoints, paths, case
    Fault("paths", "anyone { may GET /health", "paths ignore case\nanyone { may GET /health"),
    Fault("paths", "GET /status/{part} }\n\nagent", "GET /status/** }\n\nagent"),
    Fault("paths", "scope reports { GET /reports/**", "scope reports { GET|POST /reports/**"),
    Fault("paths", "on GET /documents/{id: document} { deny when resource.labels", "on GET /documents/{id: document}/x { deny when resource.labels"),
    # agent globs
    Fault("globs", 'agent "*-nightly-*"', 'agent "*-night*-*"'),
    Fault("globs", 'agent "reader-*" { issued', 'agent "read*" { issued', ),
    Fault("globs", "scope bank { TOOL bank/*", "scope bank { TOOL b*k/*"),
    Fault("globs", 'guard "mask" on TOOL bank/*', 'guard "mask" on TOOL bank/*t'),
    # dates
    Fault("dates", "2027-12-24..2028-01-02", "2027-12-25..2028-01-02"),
    Fault("dates", "2027-12-24..2028-01-02", "2028-12-24..2029-01-02"),
    Fault("dates", "mon..fri 08:00..18:00", "mon..fri 07:45..18:00"),
    Fault("dates", "22:00..06:00", "22:10..06:00"),
    Fault("dates", "valid from 2025-01-01 until 2030-01-01", "valid from 2025-01-01 until 2031-01-01"),
    Fault("dates", "valid from 2025-01-01 until", "valid from 2024-01-01 until"),
]  # fmt: skip

HARMLESS = [
    # order
    ("order", 'guard "freeze" on POST /pay { deny when frozen }\nguard "window"', 'guard "window"', 'delegation {', 'guard "freeze" on POST /pay { deny when frozen }\ndelegation {'),
    ("order", "kind in [jwt, mtls]", "kind in [mtls, jwt]"),
    ("order", '"sev-snp", "tdx"', '"tdx", "sev-snp"'),
    ("order", "let internal = [10.0.0.0/8, 192.168.0.0/16]", "let internal = [192.168.0.0/16, 10.0.0.0/8]"),
    ("order", "depth <= 2   lifetime <= 1h   no cycles", "no cycles   lifetime <= 1h   depth <= 2"),
    ("order", "may pay   may billing   may bank", "may billing   may pay   may bank"),
    ("order", "issued by acme, other", "issued by other, acme"),
    ("order", "clamp 10/1m for 10m when request.size > 1000   raise x2 at most 300/1m when user.plan == enterprise", "raise x2 at most 300/1m when user.plan == enterprise   clamp 10/1m for 10m when request.size > 1000"),
    ("order", 'guard "tools" on TOOL mail/* except', 'guard "tools" on TOOL mail/*, TOOL mail/send except'),
    ("order", "audit full   redact args.to when args.urgent == true", "redact args.to when args.urgent == true   audit full"),
    # names
    ("names", "define office_hours =", "define at_work =", "deny unless office_hours", "deny unless at_work"),
    ("names", 'guard "large"', 'guard "big"'),
    ("names", 'rate "calls"', 'rate "requests"'),
    ("names", 'budget "spent"', 'budget "paid out"'),
    ("names", "scope pay {", 'scope paying as "pay" {', "tools, billing, documents, pay,", "tools, billing, documents, paying,", "may pay   may billing", "may paying   may billing"),
    ("names", "define params_ok =", "define fine =", "require params_ok", "require fine"),
    ("names", "any part in body.parts: part > 100", "any p in body.parts: p > 100"),
    ("names", 'message "refund of {body.amount}"', 'message "a refund of {body.amount}"'),
    # layout and comments
    ("layout", 'guard "islands"', '# what is theirs\nguard "islands"'),
    ("layout", "{ deny when frozen }", "{\n  deny\n  when frozen\n}"),
    # equivalent conditions
    ("equivalent", "body.amount > 500   message", "not body.amount <= 500   message"),
    ("equivalent", "deny when body.amount > 10_000", "deny when 10_000.0 < body.amount"),
    ("equivalent", "require user.tenant == resource.tenant", "deny unless resource.tenant == user.tenant"),
    ("equivalent", "deny unless office_hours or request.ip within internal", "deny when not office_hours and not request.ip within internal"),
    ("equivalent", "deny when frozen", "require not frozen"),
    ("equivalent", "refunds.create when user.plan >= team\n", "refunds.create when user.plan != free\n"),
    ("equivalent", "refunds.create when user.plan >= team\n", "refunds.create when user.plan in [team, enterprise]\n"),
    ("equivalent", "request.size > 100 and not approval.granted", "not (request.size <= 100 or approval.granted)"),
    ("equivalent", "let internal = [10.0.0.0/8,", "let internal = [10.0.0.0/9, 10.128.0.0/9,"),
    ("equivalent", 'args.to like "*@evil.example"', 'ends_with(args.to, "@evil.example")'),
    ("equivalent", "deny when body.amount > 10_000", "deny when body.amount > 10_000   deny when body.amount > 20_000"),
    ("equivalent", "within 1d bound", "within 24h bound"),
    ("equivalent", "lifetime <= 15m", "lifetime <= 900s"),
    ("equivalent", "mon..fri 08:00..18:00", "mon..fri 08:00..18:00", "deny unless office_hours", 'deny unless time within mon..fri 08:00..18:00 "Europe/Berlin"'),
    ("equivalent", "require user in resource.editors", "deny unless user in resource.editors"),
    ("equivalent", "count of POST /pay within 1h > 10", "count of POST /pay within 60m > 10"),
    ("equivalent", "count of POST /pay within 1h > 10", "count of POST /pay within 1h >= 11"),
    ("equivalent", "chain.depth > 1 and not", "chain.depth >= 2 and not"),
    ("equivalent", "deny when time within sat..sun", "deny when time within sat..sat \"UTC\"   deny when time within sun..sun"),
    ("equivalent", "tool.name in task.tools and request.ip within internal", "request.ip within internal and tool.name in task.tools"),
    ("equivalent", "agent.publisher == \"acme\" and agent.risk < 3", "agent.risk < 3 and agent.publisher == \"acme\""),
    # splitting and joining
    ("splitting", "deny when body.amount > 10_000\n", "", 'guard "twice"', 'guard "limit" on refunds.create { deny when body.amount > 10_000 }\nguard "twice"'),
    ("splitting", "may refunds.create when user.plan >= team", "may refunds.create when user.plan == team   may refunds.create when user.plan == enterprise"),
    ("splitting", "sum body.amount <= 1_000 within 24h   count <= 20 within 24h }", 'sum body.amount <= 1_000 within 24h }\nbudget "number" per user.id on POST /pay { count <= 20 within 24h }'),
    ("splitting", "20/1m   at most 3 at once for 5m }", '20/1m }\nrate "at once" per user.id on TOOL * { at most 3 at once for 5m }'),
    ("splitting", "deny when resource.labels has \"secret\" and not (user.manager == resource.owner)   notify", "notify", 'guard "chain"', 'guard "secrets" on GET /documents/{id: document} { deny when resource.labels has "secret" and not (user.manager == resource.owner) }\nguard "chain"'),
    ("splitting", 'may billing   may bank when agent.risk < 5 }', 'may billing }\nagent "payer" { issued by acme   acts for users where user.roles has "clerk"   may bank when agent.risk < 5 }'),
    ("splitting", "on TOOL mail/* except TOOL mail/draft { audit full  ", "on TOOL mail/* except TOOL mail/draft {", 'guard "mail of', 'guard "log" on TOOL mail/* except TOOL mail/draft { audit full }\nguard "mail of'),
    ("splitting", "anyone { may GET /health, GET /status/{part} }", "anyone { may GET /health }\nanyone { may GET /status/{part} }"),
    ("splitting", "require tool.name in task.tools and request.ip within internal", "require tool.name in task.tools   require request.ip within internal"),
    # what other rules make up for
    ("masked", 'acts for users where user.roles has "clerk"   may pay', "acts for any user   may pay"),
    ("masked", "acts alone   may GET /internal/**", "acts for any user   may GET /internal/**"),
    ("masked", "acts for any user   may documents   may delegate", "acts for any user   may documents, invoices.read   may delegate"),
    ("masked", "{ require tool.name in task.tools }", '{ require tool.name in task.tools or task.id == "t-0" }'),
    # what nothing uses
    ("unused", "let internal", "let unused = 7\nlet internal"),
    ("unused", "scope pay {", "scope nobody { GET /nobody }\nscope pay {"),
    ("unused", "entity invoice {", "entity memo { text: string }\nentity invoice {"),
    ("unused", "entity invoice { tenant: string ", "entity invoice { tenant: string   colour: string? "),
]  # fmt: skip


def verdict(found: Diff) -> str:
    """Return the verdict that a reviewer sees."""
    if found.opens:
        return "opens"
    return "not proved" if found.suspects else "differs" if found.differs else "same" if found.proved else "unsure"


def harmless_text(change: tuple[str, ...]) -> str:
    text = BASE
    _, *pairs = change
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert text.count(old) == 1, f"{text.count(old)} times: {old}"
        text = text.replace(old, new)
    return text
