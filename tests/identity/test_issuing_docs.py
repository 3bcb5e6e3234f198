"""docs/issuing.md is true: its configuration opens, its policy issues, its codes are there."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from policyengine import Engine
from policyengine.identity.configuration import configuration_of
from policyengine.identity.exchange import GRANT, KNOWN
from policyengine.identity.keys import new_ring, write_ring
from policyengine.identity.opening import open_issuing, open_keys, open_secrets
from policyengine.identity.unissued import Unissued
from tests.identity.minting import NOW, Desk, key_of, subject

PAGE = (Path(__file__).parents[2] / "docs" / "issuing.md").read_text()


def of(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_its_configuration_opens_and_its_policy_issues(tmp_path: Path):
    policy, signing = Engine.from_text(of("policy")[0]), tomllib.loads(of("toml")[0])
    desk = Desk(tmp_path / "desk", policy) if (tmp_path / "desk").mkdir() is None else None
    assert desk is not None
    write_ring(tmp_path / "signing.json", new_ring("ES256", NOW), new=True)
    jwks = {"keys": [key_of("summarizer").as_dict(private=False)]}
    (tmp_path / "summarizer.jwks.json").write_text(json.dumps(jwks))
    configuration = configuration_of(signing, tmp_path)
    keys = open_keys(configuration, open_secrets(configuration), NOW)
    assert keys is not None
    issuing = open_issuing(configuration, desk.identity, keys, lambda: (policy.kernel, policy.directory), lambda: NOW)
    desk.issuing, desk.keys = issuing, keys  # type: ignore[assignment]
    issued = desk.exchange(subject_token=subject(scope="read:invoices"))
    assert (issued.scopes, issued.lasts) == (("read:invoices",), 900)
    assert desk.decide(issued).allowed


def test_its_settings_of_openbao_are_there():
    assert configuration_of(tomllib.loads(of("toml")[1])).bao is not None


def test_it_names_parameters_and_codes_that_there_are():
    asking = PAGE.partition("## Asking for one")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`[^|]*) \|", asking, re.MULTILINE))))
    assert named == set(KNOWN) - {"client_assertion_type"}
    assert GRANT in asking
    codes = re.findall(r"`([a-z_]+)`", asking.partition("have its own code")[2])
    assert codes
    assert set(codes) <= {one.value for one in Unissued}
