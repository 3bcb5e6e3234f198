"""Checks that MCP servers of `policyengine.toml` compare their headers with the body; no request changes anything."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine.cli.doctor.model import DoctorResult, DoctorStatus, ServePlan
from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import load_settings


def probe_servers(plan: ServePlan) -> Iterator[DoctorResult]:
    """Probe each server that has `validates_mcp_headers`."""
    from policyengine.server.mcp.header_trust import ProbeError, probe_server

    try:
        settings = load_settings(plan.paths)
    except CommandError:  # the check of the settings reports it
        return
    for server in settings.mcp_servers.servers:
        if server.validates_headers:
            try:
                methods = ", ".join(sorted(probe_server(server)))
            except ProbeError as error:
                hint = "start the server first: its headers are ignored until a probe shows that it validates them"
                yield DoctorResult("mcp servers", DoctorStatus.WARNING, f"`{server.name}`: {error}", hint)
                continue
            message = f"`{server.name}` compares its headers with the body of {methods}"
            yield DoctorResult("mcp servers", DoctorStatus.OK, message)
