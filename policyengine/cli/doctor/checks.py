"""The checks of `policyengine doctor`, in order.

A check leaves nothing behind, except the file of a SQLite store that did not exist. Checks connect only to servers that
the options or settings name and, if there is an `identity.toml`, to the issuers and attesters of the policies.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress

from policyengine.cli.doctor.file_modes import (
    FileModeRule,
    check_file_modes,
    identity_files,
    store_files,
    webhook_files,
)
from policyengine.cli.doctor.listeners import check_authzen_callers, check_ports, check_token_file, check_unix_socket
from policyengine.cli.doctor.machine import (
    check_clock,
    check_extras,
    check_open_files,
    check_python,
    check_speed,
    check_time_zones,
    open_file_limit,
)
from policyengine.cli.doctor.mcp_servers import probe_servers
from policyengine.cli.doctor.model import DoctorResult, DoctorStatus, ServePlan
from policyengine.cli.doctor.policies import check_policies
from policyengine.cli.doctor.storage import check_log, check_store
from policyengine.cli.doctor.webhooks import check_webhooks
from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import load_settings
from policyengine.trusted_files import OTHERS_WRITE


def run_checks(plan: ServePlan) -> Iterator[DoctorResult]:
    """Check the machine first, and then the policies and options to be served. Raises CommandError."""
    yield check_python(sys.version_info[:2])
    yield from check_speed()
    yield from check_extras()
    yield check_clock(time.time())
    yield check_time_zones()
    yield check_open_files(open_file_limit())
    yield from check_ports(plan)
    if plan.socket is not None:
        yield check_unix_socket(plan.socket)
    if plan.tokens is not None:
        yield check_token_file(plan.tokens)
    yield from check_authzen_callers(plan)
    if plan.log is not None:
        yield check_log(plan.log)
    stored = check_store(plan.store)
    yield stored
    yield from check_webhooks(plan)
    yield from probe_servers(plan)
    yield from check_file_modes(files_to_check(plan))
    if plan.paths:
        yield from check_policies(plan, answers=stored.status is not DoctorStatus.FAILED)
    elif plan.identity is not None:
        hint = f"`policyengine doctor PATH --identity {plan.identity}`"
        yield DoctorResult(
            "identity", DoctorStatus.WARNING, f"`{plan.identity}` is checked only together with its policies", hint
        )


def files_to_check(plan: ServePlan) -> Iterator[FileModeRule]:
    """Yield files that only this user may use, or that no other user may write."""
    if plan.log is not None:
        yield FileModeRule("log", plan.log, OTHERS_WRITE, "600")  # `check_log` checks who may read it
    if plan.tokens is not None:
        yield FileModeRule("tokens", plan.tokens, OTHERS_WRITE, "600")
    yield from store_files(plan.store)
    if plan.identity is not None:
        yield from identity_files(plan.identity)
    for path in plan.trusted or ():
        yield FileModeRule("keys", path, OTHERS_WRITE, "go-w")
    with suppress(CommandError):
        if (settings := load_settings(plan.paths).file) is not None:
            yield FileModeRule("configuration", settings, OTHERS_WRITE, "go-w")
        yield from webhook_files(load_settings(plan.paths).webhooks)
