"""Creates the authenticator of an engine; its dependencies are imported only if credentials are verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import TypeAlias

from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.identity.config.model import IdentityConfig, IdentityConfigError, read_identity_config
from policyengine.install_hints import install_command
from policyengine.kernel import Kernel
from policyengine.stores.base import Store

IdentitySource: TypeAlias = Path | str | IdentityConfig
INSTALL = install_command("identity")


def create_authenticator(
    given: IdentitySource, kernel: Kernel, store: Store, clock: Callable[[], float] = time
) -> CredentialAuthenticator:
    """Create the authenticator for the issuers and attesters of a policy, from the path or the content of an
    `identity.toml`. `clock` returns seconds since 1970, for nonces. Raises IdentityConfigError."""
    configuration = given if isinstance(given, IdentityConfig) else read_identity_config(given)
    try:
        from policyengine.identity.config.authenticator_factory import build_authenticator
    except ImportError as error:
        raise IdentityConfigError(f"the package `{error.name}` is not installed", INSTALL) from None
    return build_authenticator(configuration, kernel, store.marks, clock)
