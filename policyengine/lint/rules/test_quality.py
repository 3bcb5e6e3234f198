"""Test gaps: requests that tests repeat, and endpoints that no test covers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from policyengine import kernel as k
from policyengine.checker.names.symbols import package_of
from policyengine.checker.patterns.overlap import PatternIndex
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.lint.dead_rules import all_blocks
from policyengine.lint.policy_mistakes import declarations_in
from policyengine.runtime.endpoints import ActionEndpoint, HttpEndpoint, MalformedEndpoint, ToolEndpoint
from policyengine.runtime.request import Request
from policyengine.runtime.structure_checks import RequestError
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testcases import Case


def repeated_requests(
    cases: Sequence[Case], modules: Sequence[ast.Module], *, counting: bool = False
) -> Iterator[Diagnostic]:
    """Yield a W652 for each request that repeats an earlier request of its test, and for each test that another test
    contains.

    Two requests are equal if their facts, state and expectation are equal. Tests that spend approvals are not compared.
    If the policy is `counting` (it has limits or watches), the earlier requests of the sequence count, too.
    """
    spent = {(one.package, one.test, one.sequence) for one in cases if one.approvals}
    keys = CaseKeys(counting)
    tests: dict[tuple[str, str], dict[object, Case]] = {}
    spending = {(package, test) for package, test, _ in spent}
    for case in (one for one in cases if one.skip is None):
        first = tests.setdefault((case.package, case.test), {})
        if (case.package, case.test, case.sequence) not in spent:
            earlier = first.setdefault(keys.of(case), case)
            if earlier.span != case.span:
                message = "this test already contains this request, with the same facts and state"
                hint = "remove it, or change what it tests"
                yield Diagnostic("W652", message, case.span, hint, (RelatedLocation("the same request", earlier.span),))
    compared = {name: asked for name, asked in tests.items() if name not in spending}
    yield from contained_tests(compared, test_name_spans(modules))


def contained_tests(
    tests: Mapping[tuple[str, str], Mapping[object, Case]], names: Mapping[tuple[str, str], Span]
) -> Iterator[Diagnostic]:
    """Yield a W652 for each test whose requests are all in one other test; of two equal tests, for the later one."""
    order = {name: number for number, name in enumerate(tests)}
    holders: dict[object, list[tuple[str, str]]] = {}
    for name, asked in tests.items():
        for key in asked:
            holders.setdefault(key, []).append(name)

    def holder_of(name: tuple[str, str]) -> tuple[str, str] | None:
        asked = tests[name].keys()
        rarest = min(asked, key=lambda key: len(holders[key]))
        wider = (one for one in holders[rarest] if asked < tests[one].keys())
        same = (one for one in holders[rarest] if asked == tests[one].keys() and order[one] < order[name])
        return next(wider, None) or next(same, None)

    for name in (one for one in tests if one in names):
        other = holder_of(name)
        if other is not None:
            message = f"every request of this test is also in test `{other[1]}`, with the same facts and state"
            related = (RelatedLocation("the other test", names[other]),)
            yield Diagnostic("W652", message, names[name], "remove it, or change what it tests", related)


def test_name_spans(modules: Sequence[ast.Module]) -> dict[tuple[str, str], Span]:
    return {
        (package_of(module), one.name.value): one.name.span
        for module in modules
        for one in declarations_in([module])
        if isinstance(one, ast.TestDecl)
    }


class CaseKeys:
    """Keys that are equal for equal cases. Many cases share their rows, so the text of the rows is created once. If the
    policy is counting, a key includes the earlier requests of its sequence.
    """

    def __init__(self, counting: bool) -> None:
        self.counting = counting
        self.rows: dict[int, str] = {}
        self.before: dict[tuple[str, str, int], int] = {}

    def of(self, case: Case) -> object:
        rows = self.rows.get(id(case.rows))
        if rows is None:
            rows = self.rows[id(case.rows)] = canonical_case_text(case.rows)
        expected = replace(case.expected, text="")
        own = (
            case.package,
            rows,
            canonical_case_text(case.question),
            canonical_case_text(case.attributes),
            canonical_case_text(case.behavior),
            case.now,
            repr(expected),
        )
        if not self.counting:
            return own
        sequence = case.package, case.test, case.sequence
        found = self.before.get(sequence, 0), own
        self.before[sequence] = hash((found, repr(case.responded), repr(case.repeated)))
        return found


def canonical_case_text(value: object) -> str:
    """Return a text that is equal for equal values, independent of the order of members."""
    match value:
        case Mapping():
            return "{" + ",".join(sorted(f"{key!r}:{canonical_case_text(one)}" for key, one in value.items())) + "}"
        case list() | tuple():
            return "[" + ",".join(map(canonical_case_text, value)) + "]"
        case _:
            return repr(value)


# ── Endpoints that no test covers ─────────────────────────────────────────────────────────


def untested_endpoints(kernel: k.Kernel, cases: Sequence[Case]) -> Iterator[Diagnostic]:
    """Yield one W653 for each pattern of a grant, as written, that no test covers."""
    asked = PatternIndex[bool]()
    for pattern in {pattern for case in cases for pattern in case_pattern(case)}:
        asked.add(pattern, True)
    told = set[Span]()
    for opening in (one for block in all_blocks(kernel) for grant in block.grants for one in grant.openings):
        span = opening.pattern.span
        if span not in told and not any(asked.overlapping(opening.pattern)):
            message = f"no test covers `{' '.join(span.text.split())}`"
            yield Diagnostic("W653", message, span, "add a request for it to a test")
        told.add(span)


def case_pattern(case: Case) -> Iterator[k.Pattern]:
    """Yield the endpoint of a case as a pattern; yield nothing if its path is malformed."""
    try:
        endpoint = Request.from_mapping(case.question).endpoint
    except RequestError:
        return
    match endpoint:
        case HttpEndpoint(method, _, segments):
            yield k.HttpPattern((method,), tuple(k.Segment(text) for text in segments), span=case.span)
        case ToolEndpoint():
            yield k.ToolPattern(endpoint.qualified, span=case.span)
        case ActionEndpoint(verb, type_):
            yield k.ActionPattern(verb, type_, span=case.span)
        case MalformedEndpoint():
            return
