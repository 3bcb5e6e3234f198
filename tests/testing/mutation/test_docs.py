"""What docs/mutation.md shows is so."""

import re

import pytest

from policyengine.testing.mutation import MutantStatus, mutate
from tests.pages import CHECKOUT
from tests.testing.mutation.faulty import checked

PAGE = (CHECKOUT / "docs" / "mutation.md").read_text(encoding="utf-8")


def test_the_docs_page_shows_the_reported_survivor(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    [shown] = re.findall(r"^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    exec(code, {})
    assert shown.strip() in capsys.readouterr().out


def test_the_explained_survivor_is_accepted() -> None:
    [policy] = re.findall(r"^```policy\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    found = mutate(checked(policy))
    assert found.stale == ()
    assert found.counts[MutantStatus.EXPLAINED] == 1
