"""Access tokens as five vendors document them: what is safe is understood, and the rest says what is missing.

Shapes are from the vendors' documentation: Keycloak, Microsoft Entra ID (v1 and v2), Auth0, Okta, Amazon Cognito.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from policyengine import Engine
from policyengine.identity.config.model import IssuerSettings, parse_identity_config
from policyengine.identity.facts import build_facts, revocable_names
from policyengine.identity.keys.jwks import parse_jwks
from policyengine.identity.verified import UNBOUND, Hop, TokenPrincipal, VerifiedToken
from policyengine.identity.verify.delegation_chain import ChainReader, create_chain_reader
from policyengine.identity.verify.tokens import TokenVerifier, trusted_issuers
from policyengine.runtime.credential_errors import CredentialError
from policyengine.runtime.credential_errors import RefusalCode as R
from policyengine.runtime.decision import Outcome
from tests.identity.issuing import GONE, NOW, Door, changed, rsa, signed, token

KEYCLOAK, OKTA = "https://sso.acme.example/realms/acme", "https://acme.okta.com/oauth2/default"
TENANT = "6f1d0c5c-2a7e-4b8f-9d3e-1a2b3c4d5e6f"
ENTRA, ENTRA_V1 = f"https://login.microsoftonline.com/{TENANT}/v2.0", f"https://sts.windows.net/{TENANT}/"
AUTH0, COGNITO = "https://acme.eu.auth0.com/", "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab1Cd2Ef3"
API, BOT = "payments-api", "0oab8eb55Kb9jdMIr5d6"
PAIRWISE, OF_ACME = "HKZpfaHyWadeOouYlitjrI", "auth0|5f7c8ec7c33c6c004bbafe82"
PERSON, SERVICE = "a2b3c4d5-0000-4000-8000-1f2e3d4c5b6a", "11111111-2222-4333-8444-555555555555"
URLS = {"keycloak": KEYCLOAK, "entra": ENTRA, "entrav1": ENTRA_V1, "auth0": AUTH0, "okta": OKTA, "cognito": COGNITO}
KIDS = {
    "keycloak": "FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE", "entra": "nOo3ZDrODXEK1jKWhXslHR_KXEg",
    "entrav1": "-KI3Q9nNR7bRofxmeZoXqbHZGew", "auth0": "NjVBRjY5MDlCMUIwNzU4RTA2QzZFMDQ4QzQ2MDAyQjVDNjk1RTM2Qg",
    "okta": "M_pVtmNk8u0C8sVsKJAh0TBl3MbGUVaM8j-UbbT6P7Y", "cognito": "/1//T+sW2rGSYqTz0JH5rqSbMSu9vTBBJpqv+3nh3ZM=",
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "keycloak": {"alone": {"client_id": "{agent}", "preferred_username": "service-account-{agent}"}},
    "entra": {"alone": {"idtyp": "app"}},
    "entrav1": {"agent": "appid"},
    "auth0": {"alone": {"gty": "client-credentials", "sub": "{agent}@clients"}},
    "okta": {"agent": "cid"},
}
POLICY = "language 1\npackage vendors\nscope x { GET /x }\n" + "\n".join(
    f'issuer {name} {{ url "{url}"  audience "{API}" }}\nagent "{name}" {{ issued by {name}  acts alone  may x }}'
    for name, url in URLS.items()
)

TIMES = {"iat": NOW - 60, "exp": NOW + 3_540}
OF_KEYCLOAK = {
    "jti": "onrtac:7f1c6e1c", "aud": [API, "account"], "sub": PERSON, "typ": "Bearer", "azp": BOT, "sid": "s",
    "acr": "1", "allowed-origins": ["https://app.acme.example"], "realm_access": {"roles": ["user"]},
    "scope": "profile email", "resource_access": {"account": {"roles": ["manage-account"]}}, "email_verified": True,
    "preferred_username": "alice",
}  # fmt: skip
OF_ENTRA = {
    "aud": API, "nbf": NOW - 60, "aio": "ATQAy/8TAAAA", "azp": BOT, "azpacr": "1", "name": "Alice", "oid": PERSON,
    "preferred_username": "alice@acme.example", "rh": "0.AX0A", "scp": "access_as_user", "sub": PAIRWISE,
    "tid": TENANT, "uti": "fqiBqXLPj0eQa82S-IYFAA", "ver": "2.0",
}  # fmt: skip
APP = {"oid": SERVICE, "sub": SERVICE, "roles": ["Tasks.Read"], "name": GONE, "preferred_username": GONE, "scp": GONE}
OF_ENTRA_V1 = {**OF_ENTRA, "azp": GONE, "azpacr": GONE, "appid": BOT, "appidacr": "1", "upn": "alice", "ver": "1.0"}
OF_AUTH0 = {
    "sub": OF_ACME, "aud": [API, "https://acme.eu.auth0.com/userinfo"], "azp": BOT,
    "scope": "openid read:invoices", "permissions": ["read:invoices"],
}  # fmt: skip
MACHINE = {"sub": f"{BOT}@clients", "aud": API, "gty": "client-credentials", "scope": "read:invoices"}
OF_OKTA = {
    "ver": 1, "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVj", "aud": API, "cid": BOT, "uid": "00uid4BxXw6I6TV4m0g3",
    "scp": ["openid", "read:invoices"], "auth_time": NOW - 90, "sub": "alice@acme.example",
}  # fmt: skip
OF_COGNITO = {
    "sub": PERSON, "version": 2, "client_id": BOT, "origin_jti": "o-1", "event_id": "e-1", "token_use": "access",
    "scope": "read:invoices", "auth_time": NOW - 90, "jti": "j-1", "username": "alice",
}  # fmt: skip
READ = ("read:invoices",)


def row(vendor: str, name: str, claims: Mapping[str, Any], found: TokenPrincipal | R, **header: Any) -> Any:
    return pytest.param(vendor, claims, header, found, id=f"{vendor}: {name}")


ROWS = [
    row("keycloak", "for a person", OF_KEYCLOAK, TokenPrincipal(BOT, PERSON, scopes=("profile", "email"))),
    row("keycloak", "a service account", {**OF_KEYCLOAK, "client_id": BOT, "sub": SERVICE, "clientHost": "10.0.0.1",
        "preferred_username": f"service-account-{BOT.lower()}"},
        TokenPrincipal(BOT, SERVICE, scopes=("profile", "email"))),
    row("keycloak", "a service account by its name", {**OF_KEYCLOAK, "client_id": BOT, "sub": SERVICE,
        "preferred_username": f"service-account-{BOT}"},
        TokenPrincipal(BOT, None, scopes=("profile", "email"), subject=BOT)),
    row("keycloak", "a person of that name", {**OF_KEYCLOAK, "preferred_username": f"service-account-{BOT}"},
        TokenPrincipal(BOT, PERSON, scopes=("profile", "email"))),
    row("keycloak", "a service account that signed in", {**OF_KEYCLOAK, "client_id": BOT, "auth_time": NOW - 90,
        "preferred_username": f"service-account-{BOT}"}, R.CONTRADICTION),
    row("keycloak", "without our audience", {**OF_KEYCLOAK, "aud": "account"}, R.AUDIENCE),
    row("keycloak", "an ID token", {**OF_KEYCLOAK, "typ": "ID", "aud": API, "nonce": "n"}, R.TOKEN_TYPE),
    row("keycloak", "a refresh token", {**OF_KEYCLOAK, "typ": "Refresh"}, R.TOKEN_TYPE),
    row("keycloak", "a logout token", {**OF_KEYCLOAK, "typ": "Logout", "events": {}}, R.TOKEN_TYPE),
    row("entra", "for a person", OF_ENTRA, TokenPrincipal(BOT, PAIRWISE, scopes=("access_as_user",))),
    row("entra", "an app", {**OF_ENTRA, **APP, "idtyp": "app"}, TokenPrincipal(BOT, None, subject=BOT)),
    row("entra", "an app that does not say so", {**OF_ENTRA, **APP}, TokenPrincipal(BOT, SERVICE)),
    row("entra", "an ID token", {**OF_ENTRA, "azp": GONE, "scp": GONE, "azpacr": GONE}, R.ACTOR),
    row("entra", "with a thumbprint", OF_ENTRA, TokenPrincipal(BOT, PAIRWISE, scopes=("access_as_user",)),
        x5t="nOo3ZDrODXEK1jKWhXslHR_KXEg"),
    row("entra", "for Microsoft Graph", OF_ENTRA, TokenPrincipal(BOT, PAIRWISE, scopes=("access_as_user",)), nonce="x"),
    row("entra", "of an hour later", {**OF_ENTRA, "nbf": NOW + 31, "iat": NOW + 31}, R.NOT_YET),
    row("entrav1", "for a person", OF_ENTRA_V1, TokenPrincipal(BOT, PAIRWISE, scopes=("access_as_user",)),
        x5t="-KI3Q9nNR7bRofxmeZoXqbHZGew"),
    row("auth0", "for a person", OF_AUTH0, TokenPrincipal(BOT, OF_ACME, scopes=("openid", *READ))),
    row("auth0", "a machine", {**OF_AUTH0, **MACHINE}, TokenPrincipal(BOT, None, scopes=READ, subject=BOT)),
    row("auth0", "another machine's subject", {**OF_AUTH0, **MACHINE, "sub": "x@clients"},
        TokenPrincipal(BOT, "x@clients", scopes=READ)),
    row("auth0", "by RFC 9068", {**OF_AUTH0, "azp": GONE, "client_id": BOT, "jti": "j-1"},
        TokenPrincipal(BOT, OF_ACME, scopes=("openid", *READ)), typ="at+jwt"),
    row("auth0", "for its own userinfo", {**OF_AUTH0, "aud": f"{AUTH0}userinfo"}, R.AUDIENCE),
    row("auth0", "encrypted", OF_AUTH0, R.ENCODING, enc="A256GCM"),
    row("okta", "for a person", OF_OKTA, TokenPrincipal(BOT, "alice@acme.example", scopes=("openid", *READ)), typ=GONE),
    row("okta", "a service", {**OF_OKTA, "sub": BOT, "uid": GONE, "auth_time": GONE},
        TokenPrincipal(BOT, None, scopes=("openid", *READ)), typ=GONE),
    row("okta", "a person called as the client", {**OF_OKTA, "sub": BOT}, R.CONTRADICTION, typ=GONE),
    row("okta", "of its own server", {**OF_OKTA, "aud": "https://acme.okta.com"}, R.AUDIENCE, typ=GONE),
    row("cognito", "an access token, which has no audience", OF_COGNITO, R.MISSING_CLAIM, typ=GONE),
    row("cognito", "with an audience, as a trigger writes it", {**OF_COGNITO, "aud": API},
        TokenPrincipal(BOT, PERSON, scopes=READ), typ=GONE),
    row("cognito", "an ID token", {**OF_COGNITO, "aud": API, "token_use": "id"}, R.TOKEN_TYPE, typ=GONE),
]  # fmt: skip


NAMED = [
    ("for a person", OF_ENTRA, TokenPrincipal(BOT, PERSON, scopes=("access_as_user",), subject=PERSON)),
    ("for a person without that claim", {**OF_ENTRA, "oid": GONE}, R.MISSING_CLAIM),
    ("for a person without any", {**OF_ENTRA, "oid": GONE, "sub": GONE},
     TokenPrincipal(BOT, None, scopes=("access_as_user",))),
    ("a person who has no name and signed in", {**OF_ENTRA, "oid": GONE, "sub": GONE, "amr": ["pwd"]}, R.MISSING_CLAIM),
    ("a name that is none", {**OF_ENTRA, "oid": ["x"]}, R.CLAIM_TYPE),
    ("an app", {**OF_ENTRA, **APP, "idtyp": "app"}, TokenPrincipal(BOT, None, subject=BOT)),
    ("an agent by its own name", {**OF_ENTRA, "oid": GONE, "sub": BOT},
     TokenPrincipal(BOT, None, scopes=("access_as_user",))),
    ("a person who is called as the agent", {**OF_ENTRA, "oid": BOT},
     TokenPrincipal(BOT, None, scopes=("access_as_user",))),
    ("through another", {**OF_ENTRA, "act": {"sub": BOT, "act": {"sub": "planner"}}},
     TokenPrincipal(BOT, PERSON, (Hop("planner", "entra"),), ("access_as_user",), subject=PERSON)),
]  # fmt: skip


@pytest.mark.parametrize(("claims", "found"), [one[1:] for one in NAMED], ids=[one[0] for one in NAMED])
def test_the_user_setting_selects_the_claim_that_names_the_user(
    claims: Mapping[str, Any], found: TokenPrincipal | R
) -> None:
    settings = IssuerSettings(user="oid", alone={"idtyp": "app"})
    reads = ChainReader({ENTRA: "entra"}, {"entra": settings})
    token = VerifiedToken("jwt", "entra", changed({"iss": ENTRA, **TIMES}, claims), {}, b"", NOW + 60)
    if isinstance(found, TokenPrincipal):
        assert reads(token) == found
    else:
        with pytest.raises(CredentialError) as caught:
            reads(token)
        assert caught.value.refusal is found


@pytest.fixture(scope="module")
def world() -> tuple[TokenVerifier, Any]:
    issuers = Engine.from_text(POLICY).kernel.issuers
    configuration = parse_identity_config({"issuers": SETTINGS})
    n_and_e = {name: rsa("vendor").as_dict(private=False)[name] for name in ("kty", "n", "e")}
    jwks = {
        name: {"use": "sig", "kid": kid, "x5t": kid, "x5c": ["MIIC"], "issuer": URLS[name], **n_and_e}
        for name, kid in KIDS.items()
    }
    keys = {name: parse_jwks(json.dumps({"keys": [one]}).encode(), name) for name, one in jwks.items()}

    class Of:
        def __init__(self, name: str) -> None:
            self.name = name

        def find(self, kid: str | None, alg: str, now: int) -> Any:
            return keys[self.name].find(kid, alg)

    trusted = trusted_issuers(issuers, configuration, {name: Of(name) for name in URLS})
    return TokenVerifier(trusted), create_chain_reader(issuers, configuration)


@pytest.mark.parametrize(("vendor", "claims", "header", "found"), ROWS)
def test_a_vendor_token_yields_its_principal_or_a_refusal(
    vendor: str,
    claims: Mapping[str, Any],
    header: Mapping[str, Any],
    found: TokenPrincipal | R,
    world: tuple[TokenVerifier, Any],
) -> None:
    tokens, reads = world
    head = changed({"alg": "RS256", "typ": "JWT", "kid": KIDS[vendor]}, header)
    raw = signed(head, changed({"iss": URLS[vendor], **TIMES}, claims), rsa("vendor"))
    if isinstance(found, TokenPrincipal):
        token = tokens.verify(raw, NOW)
        assert reads(token) == found
        if found.subject is not None:
            assert f"user:{vendor}/{changed(claims, {})['sub']}" in revocable_names(token, found, UNBOUND), (
                "by either name"
            )
        subject = build_facts(token, found, UNBOUND)["credential"]["subject"]
        assert subject == (found.subject or claims["sub"])
    else:
        with pytest.raises(CredentialError) as caught:
            reads(tokens.verify(raw, NOW))
        assert caught.value.refusal is found


def test_an_agent_acting_alone_is_allowed_only_if_the_subject_is_the_agent() -> None:
    """`credential.subject` is the agent then; by the number that the server gave it, it would be somebody else."""
    engine = Engine.from_text(POLICY)
    credential = {"kind": "jwt", "issuer": "auth0", "scopes": ["x"], "expires_at": "2100-01-01T00:00:00Z"}
    question = {"request": {"method": "GET", "path": "/x"}, "agent": {"id": "auth0", "issuer": "auth0"}}
    for subject, allowed in (("auth0", True), ("auth0@clients", False)):
        assert engine.decide({**question, "credential": {**credential, "subject": subject}}).allowed is allowed


def test_a_decision_uses_the_user_of_the_configured_claim() -> None:
    decision = Door(IssuerSettings(user="login")).bearer(token(login="bob"))
    assert (decision.outcome, decision.principal.user) == (Outcome.ALLOW, "bob")
    decision = Door(IssuerSettings(user="login")).bearer(token())
    assert decision.reasons[0].code == R.MISSING_CLAIM
