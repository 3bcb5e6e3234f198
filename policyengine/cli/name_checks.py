"""Checks the names of `policyengine mcp-gateway` and of MCP servers: the policies must have rules that match them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from policyengine.cli.errors import CommandError
from policyengine.diagnostics.suggest import suggest

if TYPE_CHECKING:
    from policyengine import kernel as k
    from policyengine.cli.settings.file import ProjectSettings


def check_names(server: str, said: Mapping[str, str], kernel: k.Kernel) -> None:
    """Check that the policies can match each name, because otherwise every call would be denied. Raises
    CommandError.
    """
    check_server(server, kernel)
    if "issuer" in said and said["issuer"] not in kernel.issuers:
        raise_unknown_name("--as issuer=", said["issuer"], "no policy declares this issuer", kernel.issuers)
    if "agent" in said and not kernel.anyones:
        check_agent(said["agent"], kernel)
    if "user" in said and not kernel.anyones:
        check_user(said, kernel)
    carried = {one for grant in all_grants(kernel) for opening in grant.openings for one in opening.carriers}
    for scope in split_scopes(said.get("scopes", "")):
        if scope not in carried:
            raise_unknown_name("--as scopes=", scope, "no grant of the policies requires this scope", carried)


def check_mcp_servers(settings: ProjectSettings, kernel: k.Kernel) -> None:
    """Check that the policies can match each MCP server that the settings name. Raises CommandError."""
    for server in settings.mcp_servers.servers:
        if server.validates_headers:
            check_server(server.name, kernel, "mcp-servers.")
    if settings.mcp_servers.default is not None:
        check_server(settings.mcp_servers.default, kernel, "authzen.mcp_server=")


def check_server(server: str, kernel: k.Kernel, option: str = "--server ") -> None:
    from policyengine import kernel as k
    from policyengine.checker.patterns.overlap import globs_meet

    doors = [opening.pattern for grant in all_grants(kernel) for opening in grant.openings]
    globs = [one.glob for one in doors if isinstance(one, k.ToolPattern)]
    if any(globs_meet(glob, f"{server}/*") for glob in globs):
        return
    servers = {glob.partition("/")[0] for glob in globs if "/" in glob}
    if any(isinstance(one, k.ActionPattern) for one in doors) and suggest(server, servers) is None:
        return  # the server may have only resources and prompts
    raise_unknown_name(option, server, "no grant of the policies is for a tool of this server", servers)


def check_agent(name: str, kernel: k.Kernel) -> None:
    from policyengine import kernel as k
    from policyengine.runtime.globs import Glob

    called = [one.who.name for one in kernel.agents if isinstance(one.who, k.ExactName)]
    globs = [one.who.glob for one in kernel.agents if isinstance(one.who, k.NamePattern)]
    others = any(isinstance(one.who, k.InGroup | k.PrincipalCondition) for one in kernel.agents)
    if not others and name not in called and not any(Glob(glob).matches(name) for glob in globs):
        raise_unknown_name("--as agent=", name, "no block of the policies names this agent", called)


def check_user(said: Mapping[str, str], kernel: k.Kernel) -> None:
    from policyengine import kernel as k
    from policyengine.spec.issuer_users import speaks_for

    name, issuer = said["user"], kernel.issuers.get(said.get("issuer", ""))
    if issuer is not None and not speaks_for(issuer, name):
        raise_unknown_name("--as user=", name, f"`{issuer.name}` may not name this user", ())
    called = [one.who.name for one in kernel.users if isinstance(one.who, k.ExactName)]
    if called and len(called) == len(kernel.users) and not kernel.unrestricted and name not in called:
        raise_unknown_name("--as user=", name, "no block of the policies names this user", called)


def all_grants(kernel: k.Kernel) -> Iterator[k.Grant]:
    from policyengine.lint.dead_rules import all_blocks

    return (grant for block in all_blocks(kernel) for grant in block.grants)


def split_scopes(words: str) -> Sequence[str]:
    return words.replace(",", " ").split()


def raise_unknown_name(option: str, name: str, message: str, known: Iterable[str]) -> NoReturn:
    meant = suggest(name, known)
    some = ", ".join(f"`{one}`" for one in sorted({*known})[:5])
    hint = f"did you mean `{meant}`?" if meant else f"known: {some}" if some else None
    raise CommandError("usage", f"`{option}{name}`: {message}", hint, code=2)
