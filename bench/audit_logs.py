"""Generated decision logs for `python -m bench query`: lines in the format of the log, from a fixed random seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

AGENTS, USERS, RULES = 200, 5_000, 40
ENDPOINTS = ("GET /v1/invoices/{}", "POST /v1/invoices/{}/refunds", "GET /v1/customers/{}", "PATCH /v1/orders/{}")
START = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(milliseconds=250)  # between records: ten million span four weeks
OUTCOMES = ("allow",) * 16 + ("deny", "deny", "confirm", "throttle")
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
REVISION = "sha256:0106be63e59f279c414d3349e295375ead0ce5d078c2b8ce44b0b5cffb484f46"
DECISION = (
    '{{"v":2,"time":"{time}","call":"decide","decision":{{"outcome":"{outcome}","allowed":{allowed},"id":"{id}",'
    '"revision":"{revision}","package":"acme.payments","gate":{gate},"reasons":[{reasons}],"remedies":[],'
    '"principal":{{"agent":"bot-{agent}","issuer":"acme","user":"user-{user}","chain":["user-{user}","bot-{agent}"],'
    '"cluster":"bot-{agent}"}},"rates":[{{"rule":"per agent","limit":20,"remaining":19,"reset_ms":600,"factor":1.0}}],'
    '"obligations":[],"unknown":[]}},"request":{{"request":{{"method":"{method}","path":"{path}","ip":"10.1.2.3"}},'
    '"agent":{{"id":"bot-{agent}","issuer":"acme"}},"user":{{"id":"user-{user}"}},"credential":{{"kind":"jwt",'
    '"scopes":["create:refunds"],"lifetime":"10m","bound":true,"fingerprint":"sha256:{id}"}},'
    '"body":{{"amount":{amount},"recipient":"user-{user}"}}}}}}\n'
)
REASON = (
    '{{"gate":"guard","message":"refund of {amount}","rule":"rule {rule}","at":"payments.policy:63",'
    '"outcome":"{outcome}"}}'
)
OUTCOME = (
    '{{"v":2,"time":"{time}","outcome":{{"decision":"{id}","status":{status},"latency_ms":{latency},"size":{size},'
    '"usage":{{"tokens":{amount}}},"subject":{{"agent":"bot-{agent}","issuer":"acme","user":"user-{user}",'
    '"endpoint":"{endpoint}","outcome":"allow","revision":"{revision}"}}}}}}\n'
)


def ulid(random_: random.Random, moment: datetime) -> str:
    """Return an ID that sorts by time, as decisions have."""
    number = int(moment.timestamp() * 1000) << 80 | random_.getrandbits(80)
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -5, -5))


def log_lines(records: int) -> Iterator[str]:
    """Yield lines: seven decisions and three outcomes in ten lines."""
    draw, moment, path = random.Random(22), START, ""
    known: dict[str, object] = {}
    for number in range(records):
        moment += STEP
        time = f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
        if number % 10 in (3, 6, 9):
            latency, size = f"{draw.expovariate(0.02):.1f}", draw.randrange(100, 20_000)
            status = 200 if draw.random() < 0.97 else 502
            yield OUTCOME.format(**{**known, "time": time, "status": status, "latency": latency, "size": size})
            continue
        endpoint, outcome = draw.choice(ENDPOINTS), draw.choice(OUTCOMES)
        method, _, path = endpoint.format(draw.randrange(100_000)).partition(" ")
        known = {
            "time": time, "outcome": outcome, "allowed": "true" if outcome == "allow" else "false",
            "id": ulid(draw, moment), "revision": REVISION, "agent": int(draw.random() ** 2 * AGENTS),
            "user": draw.randrange(USERS), "method": method, "path": path, "amount": draw.randrange(1, 1_000),
            "rule": draw.randrange(RULES), "endpoint": endpoint.format("{id}"),
            "gate": "null" if outcome == "allow" else '"guard"',
        }  # fmt: skip
        known["reasons"] = "" if outcome == "allow" else REASON.format(**known)
        yield DECISION.format(**known)


def write_log(path: Path, records: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(log_lines(records))
