"""Reports for other programs: JUnit XML, TAP 14 and annotations for GitHub Actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from xml.etree import ElementTree

from policyengine.control_characters import one_line, printable
from policyengine.testing.report import FAILURE_STATUSES, ExampleResult, ResultStatus, RunReport


def render_junit(report: RunReport) -> str:
    """Return JUnit XML for CI servers: a suite for each test, a case for each request; times in seconds."""
    root = ElementTree.Element("testsuites", _totals(report.results))
    for (package, test), results in groupby(report.results, key=lambda one: (one.example.package, one.example.test)):
        several = list(results)
        name = _xml_text(f"{package}: {test}")
        suite = ElementTree.SubElement(root, "testsuite", {"name": name, **_totals(several)})
        for result in several:
            _junit_case(suite, result, name)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _junit_case(suite: ElementTree.Element, result: ExampleResult, name: str) -> None:
    span = result.example.span
    where = {"file": _xml_text(span.source.name), "line": str(span.line), "time": f"{result.seconds:.6f}"}
    case = ElementTree.SubElement(
        suite, "testcase", {"classname": name, "name": _xml_text(result_title(result)), **where}
    )
    match result.status:
        case ResultStatus.SKIPPED:
            ElementTree.SubElement(case, "skipped", {"message": _xml_text(result.example.skip or "")})
        case ResultStatus.FAILED | ResultStatus.ERRORED | ResultStatus.UNDECIDED:
            word = "failure" if result.status is ResultStatus.FAILED else "error"
            ElementTree.SubElement(case, word, {"message": _xml_text(result.in_short)}).text = _xml_text(
                result.render()
            )
        case ResultStatus.PASSED:
            pass


def _totals(results: Sequence[ExampleResult]) -> dict[str, str]:
    every = [result.status for result in results]
    seconds = sum(result.seconds for result in results)
    return {
        "tests": str(len(every)),
        "failures": str(every.count(ResultStatus.FAILED)),
        "errors": str(every.count(ResultStatus.ERRORED) + every.count(ResultStatus.UNDECIDED)),
        "skipped": str(every.count(ResultStatus.SKIPPED)),
        "time": f"{seconds:.6f}",
    }


def _xml_text(text: str) -> str:
    """Remove surrogates and control characters, which XML cannot represent."""
    return printable(text, "\t\n\r")


def render_tap(report: RunReport) -> str:
    """Return TAP 14: a line for each request, with failures as YAML below it."""
    return "\n".join(["TAP version 14", f"1..{len(report.results)}", *_tap_lines(report)]) + "\n"


def _tap_lines(report: RunReport) -> Iterator[str]:
    for number, result in enumerate(report.results, 1):
        sign = "not ok" if result.status in FAILURE_STATUSES else "ok"
        named = f"{result.example.package}: {result.example.test}: {result_title(result)}"
        skip = f" # SKIP {_one_line(result.example.skip or '')}" if result.status is ResultStatus.SKIPPED else ""
        yield f"{sign} {number} - {_one_line(named)}{skip}"
        if sign == "not ok":
            yield "  ---"
            yield f"  at: {one_line(result.example.span.at)}"
            yield "  message: |"
            yield from (f"    {line}" for line in result.render().split("\n"))
            yield "  ..."


def _one_line(text: str) -> str:
    """Return a TAP description: one line, with `#` escaped, because it begins a directive."""
    return printable(" ".join(text.split())).replace("\\", "\\\\").replace("#", "\\#")


def render_github(report: RunReport) -> str:
    """Return workflow commands that annotate failed lines in a pull request, then the summary."""
    lines = [_annotation(result) for result in report.bad]
    return "\n".join([*lines, report.summary]) + "\n"


def _annotation(result: ExampleResult) -> str:
    span = result.example.span
    place = {"file": span.source.name, "line": span.line, "col": span.column, "title": f"test {result.example.test}"}
    return workflow_command("error", place, result.render())


def workflow_command(name: str, properties: Mapping[str, object], text: str) -> str:
    """Return a GitHub Actions command on one line; in properties, `:` and `,` are escaped."""
    said = ",".join(f"{name}={_escape_property(str(value))}" for name, value in properties.items())
    return f"::{name} {said}::{_escape_data(text)}"


def _escape_data(text: str) -> str:
    return printable(text, "\n").replace("%", "%25").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")


def result_title(result: ExampleResult) -> str:
    """Return a title that is unique in its test: `3 GET /v1/invoices => allow`."""
    return f"{result.example.number} {result.asks}"
