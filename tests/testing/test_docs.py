"""Everything that docs/test-language.md shows is so."""

import json
import re
from pathlib import Path

import pytest

from policyengine.check import check
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testing import RunReport, collect, run

PAGE = (Path(__file__).parents[2] / "docs" / "test-language.md").read_text(encoding="utf-8")
WORLD, *EXAMPLES = re.findall(r"^```policy\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
[(FAILING, SHOWN)] = re.findall(r"^```policy fails\n(.*?)^```\n\n```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def report(example: str) -> RunReport:
    sources = [Source("world.policy", WORLD), Source("example.policy", example)]
    parsed = [parse(source) for source in sources]
    assert not [finding for _, found in parsed for finding in found]
    checked = check([module for module, _ in parsed if module])
    unexpected = [
        d.render() for d in checked.diagnostics if d.code != "W650"
    ]  # the fixture, where an example needs none
    assert unexpected == []
    assert checked.kernel
    return run(collect(checked), checked.kernel)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.split("{")[0].strip() for example in EXAMPLES])
def test_each_example_on_the_page_passes(example: str) -> None:
    found = report(example)
    assert found.ok, found.render()
    assert found.results


def test_a_failure_is_rendered_as_the_page_shows() -> None:
    [result] = report(FAILING).results
    assert result.render().startswith(SHOWN)
    assert result.render()[len(SHOWN) :].startswith("  walk:")


def test_differing_details_are_rendered_as_the_page_shows() -> None:
    [(failing, shown)] = re.findall(
        r"^```policy differs\n(.*?)^```\n\n```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
    )
    [result] = report(failing).results
    assert f"{shown}  walk:" in result.render()


def test_the_json_results_match_the_page() -> None:
    [shown] = re.findall(r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    expected, actual = json.loads(shown), report(FAILING).to_dict()
    assert list(actual) == list(expected)
    [result], [example] = actual["results"], expected["results"]
    assert list(result) == list(example)
    assert {**result, "decision": {}, "walk": {}} == example


def test_the_python_example_on_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    exec(code, {})
    assert capsys.readouterr().out.endswith("1 passed\n")
