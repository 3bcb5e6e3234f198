"""Checks of the policies, entities, identity and settings with which the server would decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.doctor.file_modes import check_policy_files
from policyengine.cli.doctor.model import DoctorResult, DoctorStatus, ServePlan
from policyengine.cli.errors import CommandError
from policyengine.cli.load_engine import BUNDLE, load_engine
from policyengine.cli.settings.file import load_settings
from policyengine.install_hints import install_command
from policyengine.kernel.learned_facts import reads_groups

if TYPE_CHECKING:
    from policyengine.engine import Engine


def check_policies(plan: ServePlan, answers: bool) -> Iterator[DoctorResult]:
    """Check the policies, even if the store does not answer; it is then unknown whether workers can share the store.
    Raises CommandError, IdentityConfigError.
    """
    from policyengine.stores.resilient_store import ResilientStore

    yield from check_policy_files(plan.paths)
    try:
        yield from check_project_settings(plan.paths)
        store = plan.store if answers else "memory:"
        engine = load_engine(plan.paths, plan.entities, plan.trusted, store=store, identity=plan.identity)
    except CommandError as error:
        status = f"`policyengine check {' '.join(map(str, plan.paths))}` shows every error"
        yield DoctorResult(
            error.kind, DoctorStatus.FAILED, error.message, error.hint if error.kind != "policy" else status
        )
        return
    with closing(engine.store) if isinstance(engine.store, ResilientStore) else nullcontext():
        yield from check_engine(plan, engine, answers)


def check_engine(plan: ServePlan, engine: Engine, answers: bool) -> Iterator[DoctorResult]:
    """Check policies that an engine has loaded without errors. Raises CommandError, IdentityConfigError."""
    from policyengine.server.listeners import ServeError
    from policyengine.server.workers.pool import check_workers

    yield policies_result(engine, plan.paths)
    if reads_groups(engine.kernel) and find_spec("numpy") is None:
        message = "rules read `cluster.*`, but callers that move as one are not found without numpy"
        yield DoctorResult("groups", DoctorStatus.WARNING, message, install_command("behavior"))
    yield from check_absences(plan, engine)
    if plan.entities and not any(path.suffix == BUNDLE for path in plan.paths):
        yield check_entity_rows(engine, plan.paths, plan.entities)
    if plan.identity is not None:
        yield from check_issuers(plan.identity, engine)
    try:
        if answers:
            check_workers(engine, plan.workers)
    except ServeError as error:
        yield DoctorResult("workers", DoctorStatus.FAILED, error.message, error.hint)


def policies_result(engine: Engine, paths: Sequence[Path]) -> DoctorResult:
    many = len(engine.warnings)
    if many:
        hint = f"`policyengine check {' '.join(map(str, paths))}` shows them"
        return DoctorResult("policies", DoctorStatus.WARNING, f"{many:,} warning{'' if many == 1 else 's'}", hint)
    return DoctorResult("policies", DoctorStatus.OK, f"{', '.join(engine.packages)} can be served")


def check_absences(plan: ServePlan, engine: Engine) -> Iterator[DoctorResult]:
    """Report conditions that the gateway of an enabled adapter leaves unknown, and facts that this gateway never sends.
    Raises CommandError.
    """
    from policyengine.cli.absence_warnings import (
        ABSENCE_HINT,
        HTTP_ADAPTERS,
        UNSENT_HINT,
        HiddenAbsences,
        UnsentFacts,
    )
    from policyengine.http.gateway_omissions import GatewayAdapter

    named = {option for option, _ in plan.ports}
    adapters = [
        *(HTTP_ADAPTERS if "--port" in named else ()),
        *([GatewayAdapter.ENVOY_GRPC] if "--envoy-grpc" in named else ()),
    ]
    names = load_settings(plan.paths).gateway
    found = HiddenAbsences.of(engine.kernel, names, adapters, proves=plan.identity is not None)
    if found:
        yield DoctorResult("gateways", DoctorStatus.NOTE, found.message, ABSENCE_HINT, tuple(found.lines()))
    unsent = UnsentFacts.of(engine.kernel, names, adapters, proves=plan.identity is not None)
    if unsent:
        yield DoctorResult("gateways", DoctorStatus.NOTE, unsent.message, UNSENT_HINT, tuple(unsent.lines()))


def check_entity_rows(engine: Engine, paths: Sequence[Path], entities: Sequence[str]) -> DoctorResult:
    """Check that every attribute of entities that the policies read is supplied."""
    from policyengine.cli.commands.check import check_files, find_unsupplied

    many = len(find_unsupplied(check_files(paths)[0], engine.directory))
    if not many:
        return DoctorResult("entities", DoctorStatus.OK, "the rows supply everything that the policies read")
    named = " ".join(f"--entities {one}" for one in entities)
    hint = f"`policyengine check {' '.join(map(str, paths))} {named}` shows it"
    message = f"{many:,} attribute{'' if many == 1 else 's'} that the policies read will be unknown"
    return DoctorResult("entities", DoctorStatus.WARNING, message, hint)


def check_issuers(file: Path, engine: Engine) -> Iterator[DoctorResult]:
    """Check an `identity.toml` that the engine has read: its hosts, the agents of its clients, and whether each issuer
    and attester publishes its keys now. Raises IdentityConfigError.
    """
    from policyengine.identity.config.model import read_identity_config
    from policyengine.identity.config.preflight import check_key_sources, find_unknown_agents

    configuration = read_identity_config(file)
    yield DoctorResult("identity", DoctorStatus.OK, f"`{file}` matches the policies")
    if not configuration.identity.hosts:
        message = (
            "a DPoP proof for another service is accepted here if that service forwards it with its own name in `Host`"
        )
        yield DoctorResult(
            "hosts", DoctorStatus.WARNING, message, 'name your hosts: `[identity]` `hosts = ["api.acme.example"]`'
        )
    for client, agent, meant in find_unknown_agents(configuration, engine.kernel):
        message = f"`clients.{client}.agent`: the policies have no agent `{agent}`, so this client gets no token"
        yield DoctorResult("identity", DoctorStatus.WARNING, message, meant)
    for key_source in check_key_sources(configuration, engine.kernel):
        what = "tokens" if key_source.kind == "issuer" else "attestations"
        if key_source.problem is not None:
            hint = f"until they can be read, its {what} are refused with the code `provider`"
            yield DoctorResult(
                key_source.kind,
                DoctorStatus.WARNING,
                f"the keys of `{key_source.name}` cannot be read: {key_source.problem}",
                hint,
            )
        elif not key_source.keys:
            hint = "a key must be public, for signatures (`use`, `key_ops`), strong enough, and without private parts"
            yield DoctorResult(key_source.kind, DoctorStatus.WARNING, f"`{key_source.name}` has no usable key", hint)
        else:
            many = "1 key" if key_source.keys == 1 else f"{key_source.keys:,} keys"
            yield DoctorResult(key_source.kind, DoctorStatus.OK, f"`{key_source.name}` publishes {many}")


def check_project_settings(paths: Sequence[Path]) -> Iterator[DoctorResult]:
    """Check `policyengine.toml`. Raises CommandError."""
    found = load_settings(paths)
    if found.file is None:
        yield DoctorResult(
            "configuration", DoctorStatus.NOTE, "there is no `policyengine.toml`: every setting has its default"
        )
    else:
        headers = ", ".join(sorted(found.gateway.facts.values()))
        yield DoctorResult(
            "configuration", DoctorStatus.OK, f"`{found.file}`: gateways identify the caller in {headers}"
        )
        if found.gateway.agent_id == "":
            hint = "name the header in which the gateway sets it: `[gateway]`, `agent_id`"
            yield DoctorResult("configuration", DoctorStatus.WARNING, "no header names the agent", hint)
    if getattr(found, "observe", None) is not None:
        hint = "remove `[observe]` once nothing is reported any more (docs/observe.md)"
        yield DoctorResult(
            "observe", DoctorStatus.WARNING, "observe mode is on: requests that policies deny pass", hint
        )
