"""What the documentation of a diagnostic consists of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DiagnosticDoc:
    """`bad` and `good` are whole policies: the first yields the code, the second is the first one mended.

    Both are empty where an example would fill pages. `name` is the short name of a warning, which an allowance and
    `policyengine.toml` may say in place of the code. An `opinion` is told by `policyengine lint` only; an `optional`
    one only where it is asked for.
    """

    code: str
    title: str
    explanation: str
    bad: str
    good: str
    name: str = ""
    opinion: bool = False
    optional: bool = False
