"""Faults planted in the example policies, and edits that change no decision, as reviewers see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"
Effect = Literal["opens", "differs", "nothing"]


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit of one example: pairs of the old text and its replacement."""

    effect: Effect
    example: str
    texts: tuple[str, ...]

    def write(self, folder: Path, *, changed: bool) -> Path:
        """Write the example without its tests, with or without the edit."""
        for path in (EXAMPLES / self.example).glob("*.policy"):
            if not path.stem.endswith("_test"):
                text = path.read_text().partition("# ── Shown by example")[0]
                (folder / path.name).write_text(self.edited(text) if changed else text)
        return folder

    def edited(self, text: str) -> str:
        for old, new in zip(self.texts[::2], self.texts[1::2], strict=True):
            text = text.replace(old, new)
        return text


# ruff: noqa: E501
EDITS = [
    Edit("opens", "drive", ('editors: set<user or team> inherited else []\n} in folder\nentity document', 'editors: set<user or team> inherited else []   boss: user?\n} in folder\nentity document', 'define is_owner = user == resource.owner', 'define is_owner = user == resource.owner or user in resource.viewers')),
    Edit("nothing", "drive", ('define is_owner = user == resource.owner', 'define is_owner = resource.owner == user')),
    Edit("opens", "drive", ('resource.public else false', 'resource.public else true')),
    Edit("opens", "drive", ('unless context.with in team "staff"', 'unless context.with in team "staff" or context.with == user')),
    Edit("opens", "drive", ('confirm by user within 1h unless context.with in team "staff" message', 'confirm by user within 1h when context.with in team "staff" message')),
    Edit("differs", "drive", ('  owner: user\n  viewers: set<user or team> inherited else []\n  editors: set<user or team> inherited else []\n  public: bool?', '  owner: user\n  viewers: set<user or team> inherited\n  editors: set<user or team> inherited else []\n  public: bool?')),
    Edit("opens", "secret-then-silent", ('within 30d since (tasks.review by another user where past.status < 400)', 'within 30d since (tasks.review by any user where past.status < 400)')),
    Edit("opens", "secret-then-silent", ('past.status < 400) within 30d', 'past.status < 300) within 30d')),
    Edit("opens", "secret-then-silent", ('per (task.id)\n    message "a secret', 'per (agent.id)\n    message "a secret')),
    Edit("opens", "secret-then-silent", ('per (task.id) >= 3', 'per (task.id) > 3')),
    Edit("opens", "secret-then-silent", ('count of (denied outside)', 'count of (denied secrets.read)')),
    Edit("opens", "secret-then-silent", ('require params.id == task.id', 'require params.id == task.id or task.id is absent')),
    Edit("opens", "secret-then-silent", ('rate "secrets" per task.id', 'rate "secrets" per agent.id')),
    Edit("opens", "mcp-tools", ('not contains(args.path, "..")', 'not contains(args.path, "../")')),
    Edit("opens", "mcp-tools", ('args.path like "*.env" or', 'args.path like "*/.env" or')),
    Edit("opens", "mcp-tools", ('contains(args.path, "id_rsa")', 'ends_with(args.path, "id_rsa")')),
    Edit("opens", "mcp-tools", ('any address in args.to: domain(address) != "acme.example"', 'any address in args.to: not (address like "*acme.example")')),
    Edit("opens", "mcp-tools", ('any address in args.to: domain(address) != "acme.example"', 'all address in args.to: domain(address) != "acme.example"')),
    Edit("opens", "mcp-tools", ('size(args.to) > 20', 'size(args.to) > 200')),
    Edit("opens", "mcp-tools", ('when tool.risk >= high message "{tool.name} {args.path}"', 'when (tool.risk else low) >= high message "{tool.name} {args.path}"')),
    Edit("opens", "mcp-tools", ('["EUR", "USD"]', '["EUR", "USD", "eur"]')),
    Edit("opens", "mcp-tools", ('enum risk = low < medium < high', 'enum risk = low < medium < high < extreme', 'on TOOL fs/* { confirm by user within 10m when tool.risk >= high', 'on TOOL fs/* { confirm by user within 10m when tool.risk >= extreme')),
    Edit("opens", "mcp-tools", ('require task.tools is present', 'require task.id is present')),
    Edit("nothing", "mcp-tools", ('message "{args.path} is outside of the project"', 'message "stay inside"')),
    Edit("nothing", "mcp-tools", ('define in_project', 'define inside', 'require in_project', 'require inside')),
    Edit("opens", "admin-guardrails", ('2026-12-19..2027-01-03 "Europe/Berlin"', '2026-12-19..2027-01-03 "America/New_York"')),
    Edit("opens", "admin-guardrails", ('2026-12-19..2027-01-03', '2026-12-19..2027-01-02')),
    Edit("opens", "admin-guardrails", ('except GET /** { audit full }', 'except GET /**, POST /keys/rotate { audit full }')),
    Edit("opens", "admin-guardrails", ('enum stage = test < staging < production', 'enum stage = test < staging < production < canary', 'resource.stage == production message "no changes', 'resource.stage > production message "no changes')),
    Edit("opens", "admin-guardrails", ('confirm by 2 of resource.owners', 'confirm by resource.owners')),
    Edit("opens", "admin-guardrails", ('and attestation.environment in ["sev-snp", "tdx"]', 'or attestation.environment in ["sev-snp", "tdx"]')),
    Edit("opens", "admin-guardrails", ('body.replicas > 10 message', 'body.replicas > 10 and resource.stage != test message')),
    Edit("nothing", "admin-guardrails", ('deny unless body.replicas > 0', 'deny unless body.replicas >= 1')),
    Edit("opens", "admin-guardrails", ('acts alone   may clusters.look', 'acts alone   may clusters.change')),
    Edit("opens", "admin-guardrails", ('step_up mfa\n', 'step_up password\n')),
    Edit("opens", "delegation", ('may delegate papers.read to agent "fetcher" for 10m', 'may delegate papers.read to agent "fetcher"')),
    Edit("opens", "delegation", ('depth <= 2   lifetime <= 1h   no cycles', 'depth <= 3   lifetime <= 1h   no cycles')),
    Edit("opens", "delegation", ('may delegate papers.annotate to agent "summarizer" for 30m', 'may delegate papers.annotate to agent "summarizer" for 30m   may delegate papers.read to agent "mirror"')),
    Edit("opens", "delegation", ('issuer legacy { url "https://old.lab.example" }', 'issuer legacy { url "https://old.lab.example"   records chains }')),
    Edit("nothing", "delegation", ('depth <= 2   lifetime <= 1h   no cycles', 'depth <= 2   no cycles   lifetime <= 60m')),
    Edit("differs", "delegation", ('no cycles }', 'no cycles }\nguard "x" on POST /papers/{id}/notes { deny when chain.depth > 0 }')),
    Edit("differs", "delegation", ('no cycles }', 'no cycles }\nguard "root" on POST /papers/{id}/notes { require chain.root == "planner" }')),
    Edit("opens", "federated", ('audience "urn:calendar"', 'audience "urn:mail"')),
    Edit("opens", "federated", ('params.tenant == user.tenant', 'lower(params.tenant) == lower(user.tenant)')),
    Edit("opens", "federated", ('on /calendars/{tenant}/** {', 'on /calendars/{tenant}/* {')),
    Edit("opens", "federated", ('GET /help/{page} }', 'GET /help/** }')),
    Edit("opens", "federated", ('may calendar.read\n}', 'may calendar.write\n}')),
    Edit("opens", "federated", ('claims { tenant -> user.tenant }', 'claims { org -> user.tenant }')),
    Edit("opens", "authzen", ('enum status = active < archived', 'enum status = active < locked < archived', 'resource.status == active', 'resource.status != archived')),
    Edit("opens", "authzen", ('may ACTION delete record when args.soft', 'may ACTION delete record when args.soft or resource.status == archived')),
    Edit("differs", "authzen", ('fact record.status = resource.properties.status', 'fact record.status = resource.properties.state')),
    Edit("differs", "authzen", ('subject "user" => user from gateway', 'subject "user" => user from gateway   subject "bot" => agent from gateway')),
    Edit("opens", "approvals", ('when body.amount > 500', 'when body.amount > 501')),
    Edit("opens", "approvals", ('confirm by role finance within 15m', 'confirm by role finance within 16m')),
    Edit("opens", "approvals", ('by 2 of team "directors"', 'by team "directors"')),
    Edit("opens", "approvals", ('{ 4/1h }', '{ 5/1h }')),
    Edit("nothing", "approvals", ('within 1h when', 'within 60m when')),
    Edit("opens", "approve-then-pay", ('by another user where past.body.amount >= body.amount and past.status < 400) within 24h\n  since claims.reopen per (params.id)\n', 'by another user where past.body.amount >= body.amount and past.status < 400) within 48h\n  since claims.reopen per (params.id)\n')),
    Edit("opens", "approve-then-pay", ('per (params.id) >= 2', 'per (params.id) >= 1')),
    Edit("opens", "approve-then-pay", ('scope claims.reopen { include claims.change, claims.revoke }', 'scope claims.reopen { include claims.revoke }')),
    Edit("opens", "approve-then-pay", ('define is_unpaid = no (claims.pay where past.status < 400) within 30d', 'define is_unpaid = no (claims.pay where past.status < 300) within 30d')),
    Edit("opens", "approve-then-pay", ('deny when user == resource.owner', 'deny when user == resource.owner and body.amount > 10')),
    Edit("nothing", "approve-then-pay", ('within 30d per (params.id)', 'within 720h per (params.id)')),
    Edit("opens", "approve-then-pay", ('confirm by role treasurer within 1h when body.amount > 1_000 and not two_approved', 'confirm by role treasurer within 1h when body.amount > 1_000 and not is_approved')),
    Edit("opens", "payments", ('unless office_hours or request.ip within internal', 'unless office_hours or request.ip within internal or request.host == "x"')),
    Edit("opens", "payments", ('mon..fri 08:00..18:00', 'sat..fri 08:00..18:00')),
    Edit("opens", "payments", ('"Europe/Berlin"\ndefine', '"Europe/Lisbon"\ndefine')),
    Edit("opens", "payments", ('sha256:9f2c41', 'sha256:9f2c42')),
    Edit("opens", "payments", ('clamp 10/1m for 1m when chain.depth > 0', 'clamp 10/1m for 1m when chain.depth > 1')),
    Edit("opens", "payments", ('budget "daily refunds" per user.id', 'budget "daily refunds" per (user.id, agent.id)')),
    Edit("opens", "payments", ('body.amount = args.amount\n', 'body.amount = args.tip\n', 'args.amount: number }', 'args.amount: number   args.tip: number }')),
    Edit("opens", "payments", ('valid until 2036-01-01', 'valid until 2036-01-02')),
    Edit("nothing", "payments", ('let internal = [10.0.0.0/8, 192.168.0.0/16]\n', 'let home = [192.168.0.0/16, 10.0.0.0/9, 10.128.0.0/9]\n', 'within internal message', 'within home message')),
    Edit("opens", "spending-caps", ('agent "buyer-*"', 'agent "buyer*"')),
    Edit("opens", "spending-caps", ('"a user\'s day" per user.id', '"a user\'s day" per (user.id, agent.id)')),
    Edit("opens", "multi-tenant", ('except GET /** {\n  deny when user.tenant.suspended', 'except GET /**, POST /t/{tenant}/seats {\n  deny when user.tenant.suspended')),
    Edit("opens", "multi-tenant", ('unless user == resource.owner', 'unless user == resource.owner or user.roles has "admin"')),
    Edit("opens", "multi-tenant", ('deny when user.tenant.suspended', 'deny when user.tenant.suspended and user.tenant.plan == free')),
    Edit("nothing", "multi-tenant", ('package cloud.projects', 'package cloud.work')),
    Edit("opens", "multi-tenant", ('may projects.write when user.tenant.plan >= team', 'may projects.write when user.tenant.plan >= team or user.roles has "admin"')),
    Edit("opens", "analytics", ('require not resource.personal or resource.region == user.region', 'require resource.region == user.region or not resource.personal or user.region == "eu"')),
    Edit("opens", "analytics", ('audit full when resource.personal', 'audit full when resource.personal and resource.region == "eu"')),
    Edit("opens", "analytics", ('on /v1/datasets/{name}/** {', 'on /v1/datasets/{name}/**, /v1/x except /v1/datasets/public/** {')),
    Edit("opens", "todo", ('overlaps ["editor", "admin"]', 'overlaps ["editor", "admin", "viewer"]')),
    Edit("opens", "todo", ('define is_owner = resource.owner == user.email', 'define is_owner = (resource.owner else "") == user.email')),
    Edit("opens", "plans", ('raise x2 at most 40/1d', 'raise x3 at most 60/1d')),
    Edit("opens", "plans", ('when user.plan != enterprise { distinct', 'when user.plan == free { distinct')),
    Edit("opens", "plans", ('distinct request.query.format', 'distinct request.query.kind')),
    Edit("opens", "plans", ('agent "report-*"', 'agent "rep*"')),
    Edit("opens", "plans", ('user.quota/1d', 'user.quota/1h')),
]  # fmt: skip
