"""Whatever the text: diagnostics with places, never an exception."""

from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine.diagnostics.model import Diagnostic, render_all
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.syntax.text_checks import read_source
from tests.depth import examples, scaled
from tests.syntax.layouts import mistakes

SIGNS = st.text(alphabet="abz \n\t\"\\'/{}()[]|=<>!&#,;:.0-9%@é*_-GET", max_size=80)


def read(source: Source) -> list[Diagnostic]:
    module, diagnostics = parse(source)
    assert module is not None or diagnostics
    assert all(0 <= d.span.start <= d.span.end <= len(source.text) for d in diagnostics)
    assert len(render_all(diagnostics)) >= len(diagnostics)
    return diagnostics


@given(st.text(max_size=60) | st.text(alphabet=st.characters(), max_size=20) | SIGNS)
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    read(Source("x", text))


@given(st.text(alphabet=st.characters(categories=["Cs", "Lu"]), max_size=5))
def test_lone_surrogates_do_not_crash_the_parser(text: str) -> None:
    read(Source("x", text))


@scaled
@settings(max_examples=examples(25, 200))
@given(mistakes())
def test_a_policy_with_random_mistakes_gives_readable_errors(text: str) -> None:
    for diagnostic in read(Source("x", text)):
        assert not diagnostic.message.startswith(("expected ,", "expected  "))
        assert "$END" not in diagnostic.message


@given(st.binary(max_size=40))
def test_any_bytes_become_a_source_or_a_diagnostic(data: bytes) -> None:
    found = read_source("x", data)
    assert isinstance(found, Diagnostic) or found.text.encode() == data
