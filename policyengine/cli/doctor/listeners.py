"""Checks of the listeners and their tokens: ports, the Unix socket, the token file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from policyengine.cli.doctor.model import DoctorResult, DoctorStatus, ServePlan
from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import load_settings


def check_ports(plan: ServePlan) -> Iterator[DoctorResult]:
    """Check that each port is free. Decisions need a token if other machines can connect; metrics do not."""
    from policyengine.server.listeners import ServeError, bind_listener, port_listener, resolve_address

    for option, port in plan.ports:
        try:
            if option == "--metrics-port":
                bind_listener(resolve_address(plan.host, port), plan.host, option).close()
            else:
                port_listener(plan.host, port, plan.tokens is not None).close()
        except ServeError as error:
            yield DoctorResult("port", DoctorStatus.FAILED, error.message, error.hint)
        else:
            free = f"port {port} on `{plan.host}` is free" if port else f"there is a free port on `{plan.host}`"
            yield DoctorResult("port", DoctorStatus.OK, free)


def check_unix_socket(path: Path) -> DoctorResult:
    from policyengine.server.listeners import ServeError, unix_listener

    try:
        with unix_listener(path, 0o600):
            return DoctorResult("socket", DoctorStatus.OK, f"a server can listen on `{path}`")
    except ServeError as error:
        return DoctorResult("socket", DoctorStatus.FAILED, error.message, error.hint)


def check_token_file(path: Path) -> DoctorResult:
    from policyengine.server.bearer_tokens import BearerTokenError, read_token_file

    try:
        found = read_token_file(path)
    except BearerTokenError as error:
        return DoctorResult("tokens", DoctorStatus.FAILED, error.message, error.hint)
    if found.warning is not None:
        return DoctorResult(
            "tokens",
            DoctorStatus.WARNING,
            f"every user on this machine can read `{path}`",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return DoctorResult("tokens", DoctorStatus.OK, f"usable tokens in `{path}`: {len(found.tokens)}")


def check_authzen_callers(plan: ServePlan) -> Iterator[DoctorResult]:
    """Check that each caller in `[authzen] consume` has a token. Other checks report files that cannot be read. Raises
    CommandError.
    """
    from policyengine.server.bearer_tokens import BearerTokenError, BearerTokens, check_consumers, read_token_file

    try:
        given = None if plan.tokens is None else BearerTokens.of(read_token_file(plan.tokens).tokens)
        consume = load_settings(plan.paths).authzen_consume
    except (BearerTokenError, CommandError):
        return
    try:
        check_consumers(consume, given)
    except BearerTokenError as error:
        yield DoctorResult("authzen", DoctorStatus.FAILED, error.message, error.hint)
