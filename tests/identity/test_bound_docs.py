"""What the page says can be set up can be."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from policyengine.cli.settings.file import read_settings
from policyengine.engine import Engine
from policyengine.identity.config.model import parse_identity_config
from policyengine.identity.proof.key_confirmation import create_proof_verifiers
from policyengine.stores.credential_marks import MemoryMarks
from tests.identity.bound_world import API_KEY, hash_api_key, write_files

PAGE = (Path(__file__).parents[2] / "docs" / "bound-credentials.md").read_text(encoding="utf-8")
ALL = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
BLOCKS = [block for block in ALL if not block.startswith(("[gateway]", "[issuers.acme]"))]
(POLICY,) = re.findall(r"```policy\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_each_documented_configuration_fits_the_policy_on_the_page(tmp_path: Path, block: str) -> None:
    write_files(tmp_path)
    (tmp_path / "api-keys").write_text(f"legacy/old-bot: {hash_api_key(API_KEY)}\n")
    kernel = Engine.from_text(POLICY).kernel
    raw = tomllib.loads(block)
    create_proof_verifiers(parse_identity_config(raw, tmp_path), kernel.issuers.values(), MemoryMarks())


def test_the_documented_client_certificate_header_is_configurable(tmp_path: Path) -> None:
    (block,) = (one for one in ALL if one.startswith("[gateway]"))
    (tmp_path / "policyengine.toml").write_text(block)
    found = read_settings(tmp_path / "policyengine.toml")
    assert found.gateway.client_certificate == "x-forwarded-client-cert"


def test_the_page_documents_every_proof_section() -> None:
    assert {next(iter(tomllib.loads(block))) for block in BLOCKS} == {
        "api_keys", "dpop", "sharing", "signatures", "trust_domains",
    }  # fmt: skip
