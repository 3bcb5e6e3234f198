"""Where an engine is told to verify credentials: what is needed for that is loaded only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import TypeAlias

from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.model import IdentityConfig, IdentityError, read_identity_config
from policyengine.install_hints import install_command
from policyengine.kernel import Kernel
from policyengine.stores.base import Store

IdentitySource: TypeAlias = Path | str | IdentityConfig
INSTALL = install_command("identity")


def create_authenticator(
    given: IdentitySource, kernel: Kernel, store: Store, clock: Callable[[], float] = time
) -> CredentialAuthenticator:
    """By an `identity.toml`, or what one holds, for the issuers and attesters of a policy. `clock`
    says when a nonce is given out, in seconds since 1970. Raises IdentityError."""
    configuration = given if isinstance(given, IdentityConfig) else read_identity_config(given)
    try:
        from policyengine.identity.config.authenticator_factory import build_authenticator
    except ImportError as error:
        raise IdentityError(f"the package `{error.name}` is not installed", INSTALL) from None
    return build_authenticator(configuration, kernel, store.marks, clock)
