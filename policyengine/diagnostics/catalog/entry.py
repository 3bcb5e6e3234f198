"""The data class for the documentation of one diagnostic."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DiagnosticDoc:
    """Documentation of one diagnostic code.

    `bad` and `good` are complete policies: `bad` causes the diagnostic, `good` is its corrected version. Both are empty
    if an example would be too long. `name` is the short name of a warning, which allowances and `policyengine.toml`
    accept in place of the code. Only `policyengine lint` reports a warning marked `opinion`; an `optional` warning is
    off by default.
    """

    code: str
    title: str
    explanation: str
    bad: str
    good: str
    name: str = ""
    opinion: bool = False
    optional: bool = False
