"""Mistakes in `identity.toml`, as people make them: each is told at the start, by its setting, with what to do."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest

from policyengine import Engine
from policyengine.identity.config.model import IdentityConfigError, parse_identity_config
from policyengine.identity.config.preflight import find_unknown_agents
from policyengine.identity.config.setting_docs import setting_docs
from policyengine.identity.keys.signing_keys import new_ring, write_ring

POLICY = """
language 1
package notes
scope notes.read as "read:notes" { GET /notes/{id} }
issuer login { url "https://login.acme.example"   audience "notes-api" }
issuer desk { url "https://agents.acme.example"   audience "notes-api"   records chains }
issuer legacy { scopes none }
attester lab { url "https://attest.acme.example"   age <= 1h }
user any { may notes.read }
agent "assistant" { issued by login   acts for any user   may notes.read }
"""
ASKED = '[issuers.login]\nintrospection = "https://login.acme.example/introspect"\nclient_id = "pdp"\n'
PASTED = "hunter2-hunter2-hunter2"
MISTAKES = [
    ('[isuers.login]\nkeys = "x"', "unknown section `isuers`", "did you mean `[issuers]`?"),
    ('[issuers.login]\nkey = "x"', "unknown key `key` in `[issuers.login]`", "did you mean `keys`?"),
    (
        '[issuers.login]\naudience = "x"',
        "unknown key `audience` in `[issuers.login]`",
        "set it in the policy, in `issuer login { … }`",
    ),
    ('[attesters.lab]\nage = "1h"', "unknown key `age` in `[attesters.lab]`", "in `attester lab { … }`"),
    ("[identity]\nonly_proven = true", "unknown key `only_proven` in `[identity]`", "did you mean `only_proved`?"),
    ("[sharing]\nfoo = 1", "unknown key `foo` in `[sharing]`", "the valid keys are `window`, `ipv4`, `ipv6`"),
    ("[api_keys]", "`api_keys.file`: the setting is required", None),
    ('[dpop.window]\nfoo = "1s"', "`dpop.window`: write a time like `30s`, `5m`, `1h`", None),
    ('issuers = "x"', "`issuers` is not a section", "write `[issuers]` on a line of its own"),
    ('dpop = "x"', "`dpop` is not a section", "write `[dpop]` on a line of its own"),
    ('issuers.login = "x"', "`issuers.login` is not a section", "write `[issuers.login]` on a line of its own"),
    ("[identity]\nleeway = 10", "`identity.leeway`: write a time like `30s`, `5m`, `1h`", None),
    ('[issuers.login]\nstale = "8d"', "`issuers.login.stale`: write a value of at most 7 days", None),
    ('[issuers.login]\ncache = "1s"', "`issuers.login.cache`: write a value of at least 10 seconds", None),
    ("[sharing]\nipv4 = 33", "`sharing.ipv4`: write a value of at most 32", None),
    ('[identity]\nonly_proved = "perhaps"', "`identity.only_proved`: write `true` or `false`", None),
    ('[issuers.login]\npeople = "portal"', '`issuers.login.people`: write a list: `["…"]`', None),
    ('[issuers.login]\nalgorithms = ["HS256"]', "`issuers.login.algorithms[0]` must be one of `ES256`, `ES384`", None),
    ("[issuers.login\n", "expected ']' at the end of a table declaration", "this is not valid TOML"),
    ('[issuers.logn]\nkeys = "x"', "`issuers.logn`: no policy names this issuer", "did you mean `login`?"),
    ("[attesters.lb]", "`attesters.lb`: no policy names this attester", "did you mean `lab`?"),
    ('[issuers.login]\nkeys = "no.json"', "the keys of `login` in", None),
    (f'{ASKED}client_secret = "{PASTED}"', "`issuers.login.client_secret`: this is not a reference to a secret", None),
    (f'{ASKED}client_secret = "file:no"', "`issuers.login.client_secret`: cannot read", None),
    (f'{ASKED}client_secret = "env:NO_SUCH"', "`issuers.login.client_secret`: `env:NO_SUCH`", "set `NO_SUCH`"),
    (f'{ASKED}client_secret = "bao:kv/a#b"', "`issuers.login.client_secret`: `bao:kv/a#b`", "add `[bao]`"),
    (ASKED, "`issuers.login.client_secret` is missing", None),
    (f'[bao]\naddress = "https://bao"\ntoken = "{PASTED}"', "`bao.token`: this is not a reference to a secret", None),
    (
        '[bao]\naddress = "https://bao"\ntoken = "bao:kv/a#b"',
        "`bao.token`: the token of OpenBao cannot be kept in OpenBao: write `file:path` or `env:NAME`",
        None,
    ),
    (f'[signing]\nissuer = "desk"\nkeys = "{PASTED}"', "`signing.keys`: this is not a reference to a secret", None),
    (
        '[issuers.legacy]\nkeys = "x"',
        "`issuers.legacy.keys`: the policy gives `legacy` no `url`",
        "the `iss` of its tokens",
    ),
    ('[identity]\nurl = "agents.acme.example"', "`identity.url`: write a URL: `https://agents.acme.example`", None),
    ('[signing]\nissuer = "desk"\nkeys = "file:no"', "`signing.keys`: cannot read", "policyengine keys new"),
    (
        '[clients.a]\nagent = "assistant"\nissuer = "login"\nmethod = "token"',
        "`clients`: this server issues no tokens to clients",
        "add `[signing]`",
    ),
    (
        '[clients.a]\nagent = "assistant"\nissuer = "login"\nmethod = "client_secret"',
        "`clients.a.method` must be one of `private_key_jwt`, `mtls`, `dpop`, `token`",
        None,
    ),
]


@cache
def engine(policy: str = POLICY) -> Engine:
    return Engine.from_text(policy)


def mistake(folder: Path, text: str, policy: str = POLICY) -> IdentityConfigError:
    file = folder / "identity.toml"
    file.write_text(text)
    with pytest.raises(IdentityConfigError) as found:
        engine(policy).verify_credentials(file)
    return found.value


@pytest.mark.parametrize(("text", "message", "hint"), MISTAKES, ids=[row[1] for row in MISTAKES])
def test_each_configuration_mistake_is_reported_with_a_hint(
    tmp_path: Path, text: str, message: str, hint: str | None
) -> None:
    found = mistake(tmp_path, text)
    assert message in found.message
    assert (hint or "") in (found.hint or "")
    assert PASTED not in str(found)


SHOWN = [
    (
        '[identity]\n  leeway = "1x"',
        '2:3: `identity.leeway`: write a time like `30s`, `5m`, `1h`\n    leeway = "1x"\n    ^^^^^^',
    ),
    ("[dpop]\nwindow = '1s'\n[dpop2]", "3:2: unknown section `dpop2`\n  [dpop2]\n   ^^^^^"),
    (
        '[issuers]\nlogin = { types = ["jwt"], cache = "1s" }',
        "2:28: `issuers.login.cache`: write a value of at least 10 seconds\n"
        '  login = { types = ["jwt"], cache = "1s" }\n                             ^^^^^',
    ),
    (
        '[issuers.login]\nalgorithms = [\n  "ES256", # ours\n  "ES257",\n]',
        "4:3: `issuers.login.algorithms[1]` must be one of `ES256`, `ES384`, `ES512`, `EdDSA`, `Ed25519`, `RS256`, "
        '`RS384`, `RS512`, `PS256`, `PS384`, `PS512`\n    "ES257",\n    ^^^^^^^',
    ),
    ("[identity]\nurl = [1]\n[dpop", "3:1: expected ']' at the end of a table declaration\n  [dpop\n  ^"),
]
HIDDEN = [
    (f'{ASKED}client_secret = "{PASTED}"', "client_secret"),
    (f'{ASKED}client_secrt = "{PASTED}"', "client_secrt"),
    (f'[bao]\naddress = "https://bao"\ntoken = "{PASTED}"', "token"),
    (f'[identity]\nproxy = ["{PASTED}"]', "proxy"),
    (f'bao = "{PASTED}"', "bao"),
]
ILL_FORMED = [f"[bao]\ntoken = {PASTED}", f'[bao]\ntoken = "{PASTED}', f"[identity]\nproxy = http://a:{PASTED}@b"]


@pytest.mark.parametrize(("text", "shown"), SHOWN, ids=[text for text, _ in SHOWN])
def test_a_configuration_mistake_is_reported_with_its_source_line(tmp_path: Path, text: str, shown: str) -> None:
    assert mistake(tmp_path, text).detail == f"{tmp_path}/identity.toml:{shown}"


@pytest.mark.parametrize(("text", "key"), HIDDEN, ids=[key for _, key in HIDDEN])
def test_a_value_that_may_be_a_secret_is_not_quoted(tmp_path: Path, text: str, key: str) -> None:
    found = mistake(tmp_path, text)
    assert found.detail.endswith(f"\n  {key} = …\n  {'^' * len(key)}")
    assert PASTED not in f"{found} {found.detail}"


@pytest.mark.parametrize("text", ILL_FORMED)
def test_a_toml_syntax_error_does_not_quote_a_secret(tmp_path: Path, text: str) -> None:
    found = mistake(tmp_path, text)
    assert ":2:" in found.detail
    assert PASTED not in f"{found} {found.detail}"


CLIENT = '[clients.a]\nagent = "assistant"\nissuer = "login"\nmethod = "dpop"\nkeys = "a.json"\n'
OF_SIGNING = [
    ("desk", '[issuers.desk]\nkeys = "x"', "`issuers.desk.keys`: this server is `desk`", "remove the keys"),
    ("dsk", "", "`signing.issuer`: the policy has no issuer `dsk` with a `url`", "did you mean `desk`?"),
    ("desk", CLIENT, "`clients.a.keys`: cannot read", None),
    ("desk", CLIENT.replace("a.json", "none.json"), "`clients.a.keys`: `", '`{"keys": […]}`'),
    (
        "desk",
        '[clients.a]\nagent = "assistant"\nissuer = "logn"\nmethod = "token"',
        "`clients.a.issuer`: the policy has no issuer `logn`",
        "did you mean `login`?",
    ),
]


@pytest.mark.parametrize(("issuer", "text", "message", "hint"), OF_SIGNING, ids=[row[2] for row in OF_SIGNING])
def test_a_mistake_in_the_signing_configuration_is_reported(
    tmp_path: Path, issuer: str, text: str, message: str, hint: str | None
) -> None:
    write_ring(tmp_path / "signing.json", new_ring("ES256", 0), new=True)
    (tmp_path / "none.json").write_text('{"kty": "EC"}')
    found = mistake(tmp_path, f'[signing]\nissuer = "{issuer}"\nkeys = "file:signing.json"\n{text}')
    assert message in found.message
    assert (hint or "") in (found.hint or "")


CALLED = [
    ("assistnt", "", [("a", "assistnt", "did you mean `assistant`?")]),
    ("nobody", "", [("a", "nobody", None)]),
    ("assistant", "", []),
    ("report-7", 'agent "report-*" { issued by login   acts alone   may notes.read }', []),
    ("nobody", 'agent group "ops" { issued by login   acts alone   may notes.read }', []),
]


@pytest.mark.parametrize(("agent", "more", "found"), CALLED)
def test_a_client_whose_agent_has_no_block_is_reported_as_unknown(agent: str, more: str, found: list[object]) -> None:
    given = {"clients": {"a": {"agent": agent, "issuer": "login", "method": "token"}}}
    assert list(find_unknown_agents(parse_identity_config(given), engine(POLICY + more).kernel)) == found


def test_a_valid_identity_configuration_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "identity.toml").write_text('[issuers.login]\nstale = "1d"\n[attesters.lab]\nunbound = true\n')
    engine().verify_credentials(tmp_path / "identity.toml")


def test_a_duration_setting_can_have_several_parts() -> None:
    assert parse_identity_config({"issuers": {"login": {"stale": "1h30m"}}}).issuers["login"].stale == timedelta(
        hours=1.5
    )


def test_two_issuers_with_the_same_url_are_rejected(tmp_path: Path) -> None:
    twice = POLICY.replace("https://agents.acme.example", "https://login.acme.example")
    found = mistake(tmp_path, "", twice)
    assert found.message == "the issuers `desk` and `login` have the same URL"


def test_an_unreadable_identity_file_is_reported_with_its_cause(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "no.toml", "no such file or directory"), (tmp_path, "is a directory")):
        with pytest.raises(IdentityConfigError, match=rf"^cannot read `.*`: {why}$"):
            engine().verify_credentials(path)


def test_an_invalid_jwks_file_of_an_issuer_is_reported(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    found = mistake(tmp_path, '[issuers.login]\nkeys = "keys.json"')
    assert found.message.startswith(f"the keys of `login` in `{tmp_path}/keys.json` cannot be read: ")


def test_every_identity_setting_has_a_description() -> None:
    assert [one.name for one in setting_docs() if not one.words] == []
