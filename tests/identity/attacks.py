"""Tables of attacks: the members of a row, and how it becomes a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from policyengine.runtime.credentials import Credentials
from tests.identity.bound_world import World, field_of, pem, workload, x5t

# The name, the code of the refusal, and the presented credentials.
Attack = tuple[str, str, Callable[[World], Credentials]]


def named(attacks: Sequence[Attack]) -> Any:
    names = [name for name, _, _ in attacks]
    assert len(set(names)) == len(names)
    return pytest.mark.parametrize(("code", "given"), [one[1:] for one in attacks], ids=names)


def mtls(w: World, certificate: Any = None, sent: str | None = None, **more: Any) -> Credentials:
    """A token bound to a certificate, sent with that certificate or with what is `sent`."""
    certificate = certificate or workload()
    token = w.issued.token({"x5t#S256": x5t(certificate), **more})
    return Credentials(authorization=f"Bearer {token}", client_certificate=sent or field_of(certificate))


def alone(*certificates: Any) -> Callable[[World], Credentials]:
    return lambda w: Credentials(client_certificate=pem(*certificates))
