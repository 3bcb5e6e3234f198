"""A shop whose questions with limits have idempotency keys."""

from __future__ import annotations

from policyengine.runtime.idempotency import IdempotencyKey

POLICY = """
language 1
package shop
entity user { roles: set<string> }
facts on POST /pay { body.amount: number }
anyone { may GET /report, GET /secret, POST /pay, POST /slow }
rate "reports" per request.ip on GET /report { 3/1d }
rate "shut" per request.ip on GET /secret { 3/1d counting denials }
budget "spent" per request.ip on POST /pay { sum body.amount <= 100 within 1d }
rate "at once" per request.ip on POST /slow { at most 1 at once for 1h }
guard "never" on GET /secret { deny when request.method == "GET" }
guard "much" on POST /pay { confirm by role finance within 15m when body.amount > 50 }
"""


def report(ip: str = "10.0.0.1") -> dict[str, object]:
    return {"request": {"method": "GET", "path": "/report", "ip": ip}}


def pay(amount: int = 40) -> dict[str, object]:
    return {"request": {"method": "POST", "path": "/pay", "ip": "10.0.0.1"}, "body": {"amount": amount}}


def secret() -> dict[str, object]:
    return {"request": {"method": "GET", "path": "/secret", "ip": "10.0.0.1"}}


def slow() -> dict[str, object]:
    return {"request": {"method": "POST", "path": "/slow", "ip": "10.0.0.1"}}


def once(key: str = "key", digest: str = "digest", gateway: str = "edge") -> IdempotencyKey:
    return IdempotencyKey(gateway, key, digest)
