"""Where the checker puts what it finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from policyengine.diagnostics import Diagnostic, Related
from policyengine.source import Span


@dataclass(slots=True)
class Reporter:
    """Collects what is wrong, each finding once."""

    found: dict[Diagnostic, None] = field(default_factory=dict)

    def report(
        self, code: str, message: str, span: Span, hint: str | None = None, related: Iterable[Related] = ()
    ) -> None:
        self.found[Diagnostic(code, message, span, hint, tuple(related))] = None

    __call__ = report

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        return tuple(self.found)
