"""Warnings of `serve` and `doctor` about conditions that are unknown behind a gateway: conditions that depend on
whether a fact is absent, if the gateway cannot report this, and conditions that read a fact that it never sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.http.gateway_omissions import GatewayAdapter
from policyengine.kernel import Kernel
from policyengine.lint.presence_checks import Absence, FactUse, absences_over_http, fact_uses_over_http
from policyengine.runtime.format_values import format_fact_path
from policyengine.vocabulary import CREDENTIAL_ROOTS

MAX_LISTED_CONDITIONS = 6
HTTP_ADAPTERS = (GatewayAdapter.FORWARD_AUTH, GatewayAdapter.NGINX, GatewayAdapter.ENVOY)
ABSENCE_HINT = (
    "forward the fact and declare it in `[gateway]` (docs/gateways.md), or avoid `else`, `is present` and `is absent`"
)
UNSENT_HINT = (
    "if your gateway is one of these, forward the fact and declare it in `[gateway]` (docs/gateways.md), or enforce "
    "these endpoints behind Envoy or in process"
)


@dataclass(frozen=True, slots=True)
class HiddenAbsences:
    """The conditions that depend on whether a fact is absent, each with the adapters that cannot report this, in source
    order.
    """

    found: tuple[tuple[Absence, tuple[GatewayAdapter, ...]], ...]

    @classmethod
    def of(
        cls, kernel: Kernel, names: GatewayHeaders, adapters: Iterable[GatewayAdapter], *, proves: bool
    ) -> HiddenAbsences:
        """Return the conditions of `kernel` that depend on whether a fact is absent, if one of `adapters` cannot report
        this. `proves` means that this server verifies credentials, so that gateways need not report facts about the
        caller.
        """
        there = tuple(adapters)
        asked = [one for one in absences_over_http(kernel) if not (proves and one.path[0] in CREDENTIAL_ROOTS)]
        hidden = [(one, tuple(at for at in there if names.hides_absence(at, one.path))) for one in asked]
        return cls(tuple((one, at) for one, at in hidden if at))

    def __bool__(self) -> bool:
        return bool(self.found)

    @property
    def message(self) -> str:
        many = len(self.found)
        what = "1 condition depends" if many == 1 else f"{many:,} conditions depend"
        return (
            f"{what} on whether a fact is absent, which a gateway does not report: behind that gateway, such a "
            "condition is unknown and allows nothing"
        )

    def lines(self) -> Iterator[str]:
        """Yield a line for each of the first conditions, grouped by adapters, then the number of the others."""
        last: tuple[GatewayAdapter, ...] = ()
        shown = sorted(self.found[:MAX_LISTED_CONDITIONS], key=lambda one: one[1])
        for absence, adapters in shown:
            if adapters != last:
                yield f"at {join_names([one.place for one in adapters])}"
                last = adapters
            yield f"  {absence.span.at}  {absence.rule}: `{absence.words}`"
        if len(self.found) > MAX_LISTED_CONDITIONS:
            yield f"and {len(self.found) - MAX_LISTED_CONDITIONS:,} more"

    def to_dict(self) -> dict[str, object]:
        shown = [
            {"at": one.span.at, "rule": one.rule, "asks": one.words, "unknown_at": [str(at) for at in adapters]}
            for one, adapters in self.found[:MAX_LISTED_CONDITIONS]
        ]
        return {"count": len(self.found), "conditions": shown}


@dataclass(frozen=True, slots=True)
class UnsentFacts:
    """The facts that rules read and that some adapters never receive, each with these adapters, in source order."""

    uses: tuple[tuple[FactUse, tuple[GatewayAdapter, ...]], ...]

    @classmethod
    def of(
        cls, kernel: Kernel, names: GatewayHeaders, adapters: Iterable[GatewayAdapter], *, proves: bool
    ) -> UnsentFacts:
        """Return the facts of `kernel` that never reach one of `adapters`; HiddenAbsences describes `proves`."""
        open_adapters = tuple(adapters)
        uses = [one for one in fact_uses_over_http(kernel) if not (proves and one.path[0] in CREDENTIAL_ROOTS)]
        unsent = [(one, tuple(at for at in open_adapters if names.never_sends(at, one.path))) for one in uses]
        return cls(tuple((one, at) for one, at in unsent if at))

    def __bool__(self) -> bool:
        return bool(self.uses)

    @property
    def message(self) -> str:
        many = len(self.uses)
        what = "1 rule reads a fact" if many == 1 else f"rules read {many:,} facts"
        return (
            f"{what} that a gateway never sends: behind that gateway, a guard on such a fact denies, and a grant "
            "allows nothing"
        )

    def lines(self) -> Iterator[str]:
        """Yield a line for each of the first facts, grouped by adapters, then the number of the other facts."""
        last: tuple[GatewayAdapter, ...] = ()
        for use, adapters in sorted(self.uses[:MAX_LISTED_CONDITIONS], key=lambda one: one[1]):
            if adapters != last:
                yield f"at {join_names([one.place for one in adapters])}"
                last = adapters
            yield f"  {use.span.at}  {use.rule}: `{format_fact_path(use.path)}`"
        if len(self.uses) > MAX_LISTED_CONDITIONS:
            yield f"and {len(self.uses) - MAX_LISTED_CONDITIONS:,} more"

    def to_dict(self) -> dict[str, object]:
        shown = [
            {
                "at": use.span.at,
                "rule": use.rule,
                "fact": format_fact_path(use.path),
                "unknown_at": [str(at) for at in adapters],
            }
            for use, adapters in self.uses[:MAX_LISTED_CONDITIONS]
        ]
        return {"count": len(self.uses), "facts": shown}


def join_names(names: list[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])
