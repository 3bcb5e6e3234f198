"""The chart is well-formed, names every engine, and reads in light and in dark."""

import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import chart
from bench.peers import ENTRIES

VERSIONS = {"agent-policyengine": "0.1.0", "cedarpy": "4.12.2"}
MACHINE = {
    "versions": VERSIONS,
    "cpu": "a <cpu>",
    "cores": 2,
    "system": "Linux",
    "python": "CPython",
    "load": 0.1,
    "timer_ns": 40,
    "build": "pure",
    "at": "now",
}
NAMES = ("policyengine", "floor", "cel-sliced", "cedar", "oso")


def point(engine: str, size: int, p50: float) -> dict[str, Any]:
    return {"engine": engine, "size": size, "p50_us": p50, "p99_us": p50, "ratio": p50}


POINTS = [point(name, size, 1.0 + place) for place, name in enumerate(NAMES) for size in (10, 100)]
SKIPPED = {"engine": "oso", "size": 1_000, "skipped": "not verified"}


def drawn(points: list[dict[str, Any]]) -> str:
    return chart.svg(points, MACHINE)


def test_the_chart_is_well_formed_and_names_machine_and_engines() -> None:
    text = "".join(ElementTree.fromstring(drawn(POINTS)).itertext())
    assert "a <cpu>" in text
    assert "cedarpy 4.12.2" in text
    assert all(ENTRIES[name].title in text for name in NAMES)


def test_the_chart_has_colours_for_dark_pages() -> None:
    assert "prefers-color-scheme: dark" in drawn(POINTS)


def test_the_chart_has_no_external_references() -> None:
    assert "href" not in drawn(POINTS)
    assert "url(" not in drawn(POINTS)


def test_chart_labels_do_not_overlap() -> None:
    labels = re.findall(r'<text class="label [a-z]+" x="[\d.]+" y="([\d.]+)"', drawn(POINTS))
    heights = sorted(map(float, labels))
    assert len(heights) == len(NAMES)
    assert all(lower - upper >= chart.LINE - 0.1 for upper, lower in pairwise(heights))


def test_a_chart_line_that_ends_early_shows_its_last_size() -> None:
    assert "at 100<" in drawn([*POINTS, SKIPPED, point("policyengine", 1_000, 1.0)])


def test_the_compiled_build_is_drawn_with_its_measured_times() -> None:
    run = [point("floor", 10, 2.0), point("policyengine", 10, 9.0), point("cedar", 10, 40.0)]
    assert chart.compiled_points(run) == [point(chart.COMPILED, 10, 9.0)]
    both = [point(name, size, 2.0 * size) for name in ("policyengine", chart.COMPILED, "floor") for size in (10, 100)]
    text = drawn(both)
    assert "policyengine, pure" in text
    assert "policyengine, compiled" in text


def test_a_chart_of_one_size_is_rejected() -> None:
    with pytest.raises(ValueError, match="two sizes"):
        drawn(POINTS[::2])
