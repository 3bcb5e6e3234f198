"""A token that a real OpenID provider bound to a key, with proofs of that key."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from time import time
from urllib.parse import urlencode
from urllib.request import Request as Asked

from joserfc import jws

from policyengine.identity.config.model import IdentityConfig
from policyengine.identity.keys.issuer_keys import KeySources
from policyengine.identity.keys.jwks import KeySource
from policyengine.identity.verified import VerifiedToken
from policyengine.runtime.credentials import Credentials
from tests.identity.bound_world import World, ec_key, proof
from tests.identity.providing import DIRECT, PATIENCE, OpenIdProvider, issuer


@dataclass
class Asking:
    """Tokens by the keys of a provider that is asked for them."""

    keys: KeySource

    def verify(self, raw: str, now: int) -> VerifiedToken:
        kid = jws.extract_compact(raw.encode()).headers()["kid"]
        (key, *_) = self.keys.find(str(kid), "ES256", now)
        claims = json.loads(jws.deserialize_compact(raw, key, algorithms=["ES256"]).payload)
        return VerifiedToken("jwt", "acme", claims, {}, sha256(raw.encode()).digest(), claims["exp"])

    def verify_txn(self, raw: str, now: int) -> VerifiedToken:
        raise AssertionError


def bound_token(provider: OpenIdProvider) -> str:
    url = f"{provider.url}/token"
    form = {"grant_type": "client_credentials", "scope": "read", "resource": "https://api.acme.example"}
    basic = b64encode(b"svc:secret+of+svc").decode()
    held = proof(None, htm="POST", htu=url, iat=int(time()))
    headers = {"Authorization": f"Basic {basic}", "DPoP": held}
    with DIRECT.open(Asked(url, urlencode(form).encode(), headers), timeout=PATIENCE) as answer:
        told = json.loads(answer.read())
    assert told["token_type"] == "DPoP"
    return str(told["access_token"])


def test_a_provider_bound_token_is_accepted_only_with_proofs_of_its_key(
    provider: OpenIdProvider, bound_files: Path
) -> None:
    world, token = World(bound_files), bound_token(provider)
    keys = KeySources(IdentityConfig()).of(issuer(provider.url))
    world.front.parts = replace(world.front.parts, tokens=Asking(keys))
    now = world.now = int(time())

    def asked(scheme: str = "DPoP", **given: object) -> str:
        made: Callable[..., str] = proof
        return world.refusal(Credentials(authorization=f"{scheme} {token}", dpop=made(token, iat=now, **given)))

    assert asked() == "proved"
    assert asked() == "proof_replayed"
    assert asked(jti="p-2", key=ec_key("thief")) == "bound_to_other"
    assert asked("Bearer", jti="p-3") == "wrong_scheme"
    given = Credentials(authorization=f"DPoP {token}", dpop=proof(token, iat=now, jti="p-4"))
    assert world.prove(given).facts["credential"]["bound"] is True
