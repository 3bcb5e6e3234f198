"""The page about coverage shows what its policy comes to."""

from policyengine.check import check
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing.coverage.text import render_text
from tests.pages import CHECKOUT, blocks
from tests.testing.coverage.seeing import coverage_of

PAGE = CHECKOUT / "docs" / "coverage.md"


def test_the_page_shows_the_coverage_of_its_policy() -> None:
    [policy] = [block.text for block in blocks(PAGE) if block.language == "policy"]
    [shown] = [block.text for block in blocks(PAGE) if block.language == "text"]
    module, found = parse(Source("refunds.policy", policy))
    assert module is not None
    assert f"{render_text(coverage_of(check([module], found)))}\n" == shown
