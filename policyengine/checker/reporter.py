"""The collector of the checker's diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.diagnostics.suggest import suggest
from policyengine.source import Span

MAX_FINDINGS_WITH_SUGGESTION = 200


@dataclass(slots=True)
class Reporter:
    """Collects diagnostics without duplicates."""

    found: dict[Diagnostic, None] = field(default_factory=dict)

    def report(
        self, code: str, message: str, span: Span, hint: str | None = None, related: Iterable[RelatedLocation] = ()
    ) -> None:
        self.found[Diagnostic(code, message, span, hint, tuple(related))] = None

    __call__ = report

    def nearest(self, word: str, candidates: Callable[[], Iterable[str]]) -> str | None:
        """Suggest a similar name. After many findings the search stops, because it is slow and no longer helps. Return
        None without a similar name.
        """
        return suggest(word, candidates()) if len(self.found) < MAX_FINDINGS_WITH_SUGGESTION else None

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        return tuple(self.found)
