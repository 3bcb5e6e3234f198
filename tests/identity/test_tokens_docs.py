"""docs/tokens.md is true: what it configures, and what it reads of a token."""

from __future__ import annotations

import json
import tomllib

from policyengine.identity.authenticator import RECHECK_SECONDS
from policyengine.identity.config.model import parse_identity_config
from policyengine.identity.verified import Hop, TokenPrincipal
from policyengine.identity.verify.delegation_chain import MAX_ACTORS
from policyengine.identity.verify.jws import MAX_TOKEN_LENGTH
from policyengine.identity.verify.strict_json import MAX_DEPTH
from policyengine.identity.verify.tokens import REQUIRED_CLAIMS
from tests.identity.issuing import Door, token
from tests.identity.test_vendors import SETTINGS
from tests.pages import CHECKOUT, blocks

PAGE = CHECKOUT / "docs" / "tokens.md"


def block(language: str) -> str:
    (found,) = (one.text for one in blocks(PAGE) if one.language == language)
    return found


def test_the_documented_token_configurations_are_valid() -> None:
    first, second, third = (tomllib.loads(one.text) for one in blocks(PAGE) if one.language == "toml")
    alone = parse_identity_config(second).issuers
    assert {name: dict(one.alone) for name, one in alone.items()} == {
        name: SETTINGS[name]["alone"] for name in ("entra", "auth0", "keycloak")
    }, "as tokens of these servers are read in tests"
    assert parse_identity_config(third).issuers["entra"].user == "oid"
    found = parse_identity_config(first)
    assert found.issuers["acme"].people == ("portal",)
    assert found.identity.leeway.total_seconds() == 10


def test_the_documented_token_yields_the_documented_principal() -> None:
    hop = Hop("planner", "acme", 1_799_999_900, ("write:invoices",))
    shown = json.loads(block("text"))
    assert Door().who(token(**shown)) == TokenPrincipal("invoice-bot", "alice", (hop,), ("write:invoices",))


def test_the_documented_token_bounds_and_claims_match_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"{MAX_TOKEN_LENGTH // 1024} KiB, {MAX_DEPTH} levels" in text
    assert f"more than {MAX_ACTORS} agents" in text
    assert RECHECK_SECONDS == 300
    assert "cached for at most five minutes" in text
    rows = {line.split("|")[3].strip(): line for line in text.splitlines() if line.startswith("| ")}
    for kind in ("spiffe", "txn_token", "id_jag"):
        row = rows[f"`{kind}`"]
        assert all(f"`{name}`" in row for name in REQUIRED_CLAIMS[kind] if name not in ("aud", "exp"))
    first = next(line for line in text.splitlines() if "at+jwt" in line)
    assert all(f"`{name}`" in first for name in REQUIRED_CLAIMS["at+jwt"] if name not in ("aud", "exp"))
