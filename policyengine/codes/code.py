"""What the documentation of a diagnostic consists of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """`bad` and `good` are whole policies: the first yields the code, the second is the first one mended.

    Both are empty where an example would fill pages.
    """

    code: str
    title: str
    explanation: str
    bad: str
    good: str
