"""docs/issuing.md is true: its configuration opens, what it asks is answered, its codes are there."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import tomllib
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from time import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from policyengine import Engine
from policyengine.identity.config.issuer_factory import open_secrets, open_signing_keys, open_token_issuer
from policyengine.identity.config.model import parse_identity_config
from policyengine.identity.issue.errors import TokenIssuanceError
from policyengine.identity.issue.request import KNOWN_PARAMETERS, TOKEN_EXCHANGE_GRANT
from policyengine.identity.keys.openbao_signer import OpenBaoSigner
from policyengine.server.app import create_app
from policyengine.server.telemetry.server_log import LogFormat, server_logging
from tests.identity.minting import DESK, NOW, Desk, assertion, key_of, subject
from tests.identity.openbao import ROOT_TOKEN, OpenBao, binary
from tests.pages import CHECKOUT, Block, blocks

PAGE = CHECKOUT / "docs" / "issuing.md"
TEXT = PAGE.read_text(encoding="utf-8")


def of(language: str) -> list[str]:
    return [one.text for one in blocks(PAGE) if one.language == language]


def marked(marker: str) -> list[Block]:
    return [one for one in blocks(PAGE) if one.marker == marker]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """As the page sets it up."""
    policy = Engine.from_text(of("policy")[0])
    found = Desk(tmp_path, policy)
    jwks = {"keys": [key_of("summarizer").as_dict(private=False)]}
    (tmp_path / "summarizer.jwks.json").write_text(json.dumps(jwks))
    configuration = parse_identity_config(tomllib.loads(of("toml")[0]), tmp_path)
    keys = open_signing_keys(configuration, open_secrets(configuration), NOW)
    assert keys is not None
    found.issuing = found.identity.issuing = open_token_issuer(
        configuration, found.identity, keys, lambda: (policy.kernel, policy.directory), lambda: NOW
    )
    return found


def sent(block: Block, client: TestClient, variables: Mapping[str, str]) -> Any:
    """What `curl` of the page would send."""
    words = shlex.split(re.sub(r"\$([A-Z_]+)", lambda name: variables[name[1]], block.text.replace("\\\n", " ")))
    assert words.pop(0) == "curl"
    (url,) = (one for one in words if one.startswith(f"{DESK}/"))
    options = [(name, value) for name, value in pairwise(words) if name in ("-d", "-H")]
    assert len(words) == 1 + 2 * len(options) + 2 * words.count("-X")
    form = dict(value.split("=", 1) for name, value in options if name == "-d")
    headers = dict(value.split(": ", 1) for name, value in options if name == "-H")
    return client.post(url.removeprefix(DESK), data=form or None, headers=headers)


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    found: dict[str, Any] = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


def test_the_requests_on_the_issuing_page_get_the_documented_responses(desk: Desk) -> None:
    client = TestClient(create_app(desk.engine, token="operator-of-this-page"))
    known = {
        "PLANNERS_TOKEN": subject(scope="read:invoices"), "ASSERTION": assertion("summarizer"), "PROOF": "jkt-1",
        "OPERATOR": "operator-of-this-page",
    }  # fmt: skip
    (asked,) = marked("asks: /token")
    answer = sent(asked, client, known)
    assert answer.status_code == 200
    issued = answer.json()
    shown = json.loads(of("json")[0])
    assert {**issued, "access_token": "eyJ0eXAiOi…"} == shown
    (said,) = marked("claims")
    claims, documented = claims_of(issued["access_token"]), json.loads(said.text)
    varying = {"jti": "", "cnf": {}, "links": []}
    assert {**claims, **varying} == {**documented, **varying}
    assert [one.partition(":")[0] for one in claims["links"]] == [one.partition(":")[0] for one in documented["links"]]

    assert desk.decide(issued["access_token"]).allowed
    (completed,) = marked("asks: /tasks/t-9/complete")
    assert sent(completed, client, {**known, "ISSUED": issued["access_token"]}).json()["state"] == "completed"
    assert desk.decide(issued["access_token"]).reasons[0].code == "revoked"

    another = desk.exchange(subject_token=subject(scope="read:invoices"))
    assert desk.decide(another).allowed
    (revoked,) = marked("asks: /revoke")
    assert sent(revoked, client, known).status_code == 200
    assert desk.decide(another).reasons[0].code == "revoked"


def test_token_log_lines_have_the_members_listed_in_operations(desk: Desk) -> None:
    """docs/operations.md: members of lines about tokens."""
    lines = (CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if line.startswith("| `token_issued`"))
    listed = set(re.findall(r"`([a-z]+)`", row.split("|")[4]))
    written = io.StringIO()
    with server_logging(LogFormat.JSON, lambda: "sha256:1", written):
        desk.exchange(subject_token=subject(scope="read:invoices"), task='{"id": "t-8"}')
        with pytest.raises(TokenIssuanceError):
            desk.exchange(subject_token="none")
        refused = {"request": {"method": "GET", "path": "/v1/invoices"}, "credentials": {"authorization": "Bearer x"}}
        desk.engine.decide(refused)
    issued, not_issued, denied = map(json.loads, written.getvalue().splitlines())
    always = {"time", "level", "event", "message", "revision"}
    assert (issued["event"], issued.keys() - always) == ("token_issued", listed | {"fingerprint"})
    assert (not_issued["event"], not_issued["code"]) == ("token_refused", "subject_token")
    assert (denied["event"], denied["code"]) == ("credential_refused", "not_a_token")


def test_the_documented_openbao_settings_work(openbao: OpenBao, tmp_path: Path) -> None:
    environment = {**os.environ, "BAO_ADDR": openbao.address, "BAO_TOKEN": ROOT_TOKEN, "NO_COLOR": "1"}
    path = os.pathsep.join([str(Path(binary()).parent), environment["PATH"]])
    environment["PATH"] = path
    for line in "".join(block.text for block in marked("openbao")).splitlines():
        done = subprocess.run(shlex.split(line), env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or "path is already in use" in done.stderr, done.stderr
    raw = tomllib.loads(of("toml")[1])
    (tmp_path / "token").write_text(ROOT_TOKEN)
    (tmp_path / "token").chmod(0o600)
    raw["bao"] |= {"address": openbao.address, "token": "file:token"}
    configuration = parse_identity_config(raw, tmp_path)
    secrets, now = open_secrets(configuration), int(time())
    assert secrets.read(str(configuration.issuers["acme"].client_secret), now).reveal() == "the-secret-at-acme"
    keys = open_signing_keys(configuration, secrets, now)
    assert isinstance(keys, OpenBaoSigner)
    assert len(keys.published(now)) == 2
    assert keys.sign({"typ": "at+jwt"}, {"iss": DESK}, now).count(".") == 2


def test_the_issuing_page_names_every_parameter() -> None:
    asking = TEXT.partition("takes a form with these parameters:")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`[^|]*) \|", asking, re.MULTILINE))))
    assert named == set(KNOWN_PARAMETERS) - {"client_assertion_type"}
    assert TOKEN_EXCHANGE_GRANT in asking


def test_the_documented_openbao_times_match_the_defaults() -> None:
    bao = parse_identity_config(tomllib.loads(of("toml")[1])).bao
    assert bao is not None
    assert (bao.timeout, bao.refresh, bao.stale) == (timedelta(seconds=2), timedelta(minutes=5), timedelta(hours=1))
