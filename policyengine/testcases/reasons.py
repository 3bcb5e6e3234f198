"""Rules and gates as tests name them: `by "large refunds"`, `by default`."""

from __future__ import annotations

from policyengine.checker.type_names import join_words
from policyengine.diagnostics.suggest import did_you_mean, suggest
from policyengine.runtime.decision import Gate
from policyengine.source import Span
from policyengine.testcases.fixtures import rules_hint
from policyengine.testcases.raw_facts import ValueContext


def check_rule(name: str, span: Span, reading: ValueContext) -> None:
    known = reading.catalogue.rules
    if name not in known:
        hint = did_you_mean(name, known) or rules_hint(known, "rules are")
        reading.report("E608", f"no rule is named `{name}`", span, hint)


def read_gate(name: str, span: Span, reading: ValueContext, quoted: str = 'by "{}"') -> Gate | None:
    """Parse the name of a gate. `quoted` shows how to write a rule instead, for the hint. Return None if an error was
    reported.
    """
    if name in tuple(Gate):
        return Gate(name)
    meant = suggest(name, Gate)
    is_rule = name in reading.catalogue.rules
    known = f"did you mean `{meant}`?" if meant else f"the gates are {join_words(Gate)}"
    hint = f"write a rule in quotes: `{quoted.format(name)}`" if is_rule else known
    reading.report("E609", f"unknown gate `{name}`", span, hint)
    return None
