"""Where an engine is told to verify credentials: what is needed for that is loaded only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import TypeAlias

from policyengine.extras import install_command
from policyengine.identity.authenticator import Identity
from policyengine.identity.config.model import Configuration, IdentityError, read_configuration
from policyengine.kernel import Kernel
from policyengine.stores.base import Store

Verifying: TypeAlias = Path | str | Configuration
INSTALL = install_command("identity")


def identity_of(given: Verifying, kernel: Kernel, store: Store, clock: Callable[[], float] = time) -> Identity:
    """By an `identity.toml`, or what one holds, for the issuers and attesters of a policy. `clock`
    says when a nonce is given out, in seconds since 1970. Raises IdentityError."""
    configuration = given if isinstance(given, Configuration) else read_configuration(given)
    try:
        from policyengine.identity.config.authenticator_factory import built
    except ImportError as error:
        raise IdentityError(f"the package `{error.name}` is not installed", INSTALL) from None
    return built(configuration, kernel, store.marks, clock)
