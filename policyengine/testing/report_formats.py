"""Reports for other programs: JUnit XML, TAP 14, and the annotations of GitHub Actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from xml.etree import ElementTree

from policyengine.control_characters import one_line, printable
from policyengine.testing.report import BAD, Report, Status, Tested


def junit(report: Report) -> str:
    """JUnit XML as CI servers read it: a suite for each test, a case for each request; times in seconds."""
    root = ElementTree.Element("testsuites", _totals(report.results))
    for (package, test), results in groupby(report.results, key=lambda one: (one.example.package, one.example.test)):
        several = list(results)
        name = _xml(f"{package}: {test}")
        suite = ElementTree.SubElement(root, "testsuite", {"name": name, **_totals(several)})
        for result in several:
            _junit_case(suite, result, name)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _junit_case(suite: ElementTree.Element, result: Tested, name: str) -> None:
    span = result.example.span
    where = {"file": _xml(span.source.name), "line": str(span.line), "time": f"{result.seconds:.6f}"}
    case = ElementTree.SubElement(suite, "testcase", {"classname": name, "name": _xml(title(result)), **where})
    match result.status:
        case Status.SKIPPED:
            ElementTree.SubElement(case, "skipped", {"message": _xml(result.example.skip or "")})
        case Status.FAILED | Status.ERRORED | Status.UNDECIDED:
            word = "failure" if result.status is Status.FAILED else "error"
            ElementTree.SubElement(case, word, {"message": _xml(result.in_short)}).text = _xml(result.render())
        case Status.PASSED:
            pass


def _totals(results: Sequence[Tested]) -> dict[str, str]:
    every = [result.status for result in results]
    seconds = sum(result.seconds for result in results)
    return {
        "tests": str(len(every)),
        "failures": str(every.count(Status.FAILED)),
        "errors": str(every.count(Status.ERRORED) + every.count(Status.UNDECIDED)),
        "skipped": str(every.count(Status.SKIPPED)),
        "time": f"{seconds:.6f}",
    }


def _xml(text: str) -> str:
    """Without surrogates and control characters, which no escape brings into XML."""
    return printable(text, "\t\n\r")


def tap(report: Report) -> str:
    """TAP 14: a line for each request, and what went wrong as YAML beneath it."""
    return "\n".join(["TAP version 14", f"1..{len(report.results)}", *_tap_lines(report)]) + "\n"


def _tap_lines(report: Report) -> Iterator[str]:
    for number, result in enumerate(report.results, 1):
        sign = "not ok" if result.status in BAD else "ok"
        named = f"{result.example.package}: {result.example.test}: {title(result)}"
        skip = f" # SKIP {_one_line(result.example.skip or '')}" if result.status is Status.SKIPPED else ""
        yield f"{sign} {number} - {_one_line(named)}{skip}"
        if sign == "not ok":
            yield "  ---"
            yield f"  at: {one_line(result.example.span.at)}"
            yield "  message: |"
            yield from (f"    {line}" for line in result.render().split("\n"))
            yield "  ..."


def _one_line(text: str) -> str:
    """A description of TAP: one line, in which `#` would begin a directive."""
    return printable(" ".join(text.split())).replace("\\", "\\\\").replace("#", "\\#")


def github(report: Report) -> str:
    """Workflow commands that mark the lines of what failed in a pull request, then the summary."""
    lines = [_annotation(result) for result in report.bad]
    return "\n".join([*lines, report.summary]) + "\n"


def _annotation(result: Tested) -> str:
    span = result.example.span
    place = {"file": span.source.name, "line": span.line, "col": span.column, "title": f"test {result.example.test}"}
    return workflow_command("error", place, result.render())


def workflow_command(name: str, properties: Mapping[str, object], text: str) -> str:
    """A command of GitHub Actions on one line; in properties `:` and `,` separate."""
    said = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items())
    return f"::{name} {said}::{_data(text)}"


def _data(text: str) -> str:
    return printable(text, "\n").replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def title(result: Tested) -> str:
    """`3 GET /v1/invoices => allow`, unique in its test."""
    return f"{result.example.number} {result.asks}"
