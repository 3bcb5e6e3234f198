"""docs/identity.md is true in what no command on it shows: its members, codes and pages."""

from __future__ import annotations

import re
import tomllib

from policyengine.identity.config.model import parse_identity_config
from policyengine.runtime.credential_errors import RefusalCode
from policyengine.runtime.credentials import CREDENTIAL_NAMES
from tests.pages import CHECKOUT, blocks

PAGE = CHECKOUT / "docs" / "identity.md"
TEXT = PAGE.read_text(encoding="utf-8")


def first_cells(section: str) -> set[str]:
    """What stands in code in the first column of the tables of a section."""
    part = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]*) \|", part, re.MULTILINE))))


def test_the_identity_page_names_every_credential() -> None:
    member_table = TEXT.partition("## How credentials are sent")[2].partition("|---|")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]*) \|", member_table, re.MULTILINE))))
    assert named == set(CREDENTIAL_NAMES)


def test_the_identity_page_explains_only_existing_refusal_codes() -> None:
    explained = first_cells("When a token is refused")
    assert len(explained) > 8
    assert explained <= {one.value for one in RefusalCode}


def test_the_configuration_on_the_identity_page_is_valid() -> None:
    shown = [one.text for one in blocks(PAGE) if one.language == "toml"]
    assert [parse_identity_config(tomllib.loads(text)).identity.only_proved for text in shown] == [True, False]


def test_the_identity_page_links_every_other_identity_page() -> None:
    table = TEXT.partition("| page | for |")[2].partition("\n\n")[0]
    assert set(re.findall(r"\((\w[\w-]*\.md)\)", table)) == {
        "tokens.md", "bound-credentials.md", "attestation.md", "issuing.md",
    }  # fmt: skip
