"""Which conditions hang on an absence that a gateway cannot show: told where policies are served, and by `doctor`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from policyengine.http.forwarded_parts import GatewayAdapter
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.kernel import Kernel
from policyengine.lint.presence_checks import Absence, absences_over_http
from policyengine.vocabulary import CREDENTIAL_ROOTS

MAX_LISTED_CONDITIONS = 6
HTTP_ADAPTERS = (GatewayAdapter.FORWARD_AUTH, GatewayAdapter.NGINX, GatewayAdapter.ENVOY)
ABSENCE_HINT = (
    "hand it on and say so in `[gateway]` (docs/gateways.md), or do without `else`, `is present` and `is absent` there"
)


@dataclass(frozen=True, slots=True)
class HiddenAbsences:
    """Of all that the policies ask, at adapters that are open, in the order of the texts."""

    found: tuple[tuple[Absence, tuple[GatewayAdapter, ...]], ...]

    @classmethod
    def of(
        cls, kernel: Kernel, names: GatewayHeaders, adapters: Iterable[GatewayAdapter], *, proves: bool
    ) -> HiddenAbsences:
        """`proves`: credentials are verified here, so that gateways have nothing to say of who asks."""
        there = tuple(adapters)
        asked = [one for one in absences_over_http(kernel) if not (proves and one.path[0] in CREDENTIAL_ROOTS)]
        hidden = [(one, tuple(at for at in there if names.hides_absence(at, one.path))) for one in asked]
        return cls(tuple((one, at) for one, at in hidden if at))

    def __bool__(self) -> bool:
        return bool(self.found)

    @property
    def message(self) -> str:
        many = len(self.found)
        what = "1 condition hangs" if many == 1 else f"{many:,} conditions hang"
        return f"{what} on an absence that a gateway does not show: there it is unknown, which opens nothing"

    def lines(self) -> Iterator[str]:
        """The first of them, by the places where they are unknown."""
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


def join_names(names: list[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])
