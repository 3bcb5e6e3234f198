"""`policyengine mcp-gateway`: a proxy that puts policies in front of any MCP server."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyengine.cli.failures import CommandError, file_error
from policyengine.cli.loaded import load_engine
from policyengine.cli.options import EntitySources, PoliciesOrBundle, StoreUrl, TrustedKeys

if TYPE_CHECKING:
    from policyengine.engine import Engine

WORDS = ("agent", "issuer", "user", "scopes")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def mcp_gateway(
    paths: PoliciesOrBundle,
    upstream: Annotated[
        str,
        typer.Option("--upstream", metavar="URL|COMMAND", help="The server behind: its URL, or what starts it."),
    ],
    server: Annotated[str, typer.Option("--server", metavar="NAME", help="How policies call it: `TOOL NAME/tool`.")],
    identity: Annotated[
        list[str] | None,
        typer.Option("--as", metavar="WORD=VALUE", help="Who asks: agent, issuer, user, scopes.", show_default=False),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--from-header",
            metavar="WORD=HEADER",
            help="Who asks, by a header that a trusted caller on this machine sets.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen, on this machine.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", min=0, max=65535, help="Speak HTTP here; else stdio.", show_default=False),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, max=3600, help="Seconds that an answer of the server may take.")
    ] = 60.0,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="A variable that the command gets, too.", show_default=False),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--upstream-token-file", metavar="FILE", help="The token that the server wants.", show_default=False
        ),
    ] = None,
    store: StoreUrl = "memory:",
    entities: EntitySources = None,
    trust: TrustedKeys = None,
) -> int:
    """Put policies in front of an MCP server.

    It is a proxy over stdio, or over HTTP with --port. Calls are decided with their arguments, lists show what the
    caller may use, everything else is closed. Who asks is what --as says: this gateway verifies no tokens, so it
    listens on this machine only.

    \b
    Example:
      policyengine mcp-gateway policies/ --upstream "python server.py" --server files --as agent=coder --as issuer=local
      policyengine mcp-gateway policies/ --upstream http://127.0.0.1:8000/mcp --server files --as agent=coder -p 8081
    """
    if host not in LOOPBACK:
        hint = "listen on 127.0.0.1, behind something that verifies who calls"
        raise CommandError(
            "usage", f"`{host}` can be reached from other machines, and no token is verified", hint, code=2
        )
    if not command_of(upstream):
        raise CommandError("usage", f"`{upstream}` is neither a URL nor a command", code=2)
    said, headers = words_of(identity, "--as"), words_of(header, "--from-header")
    if not said and not headers:
        raise CommandError(
            "usage", "nobody is said to ask", "say who it is: `--as agent=NAME --as issuer=NAME`", code=2
        )
    if headers and port is None:
        raise CommandError("usage", "there are no headers over stdio", "say who it is by `--as`", code=2)
    serving(
        load_engine(paths, entities, trust, store=store),
        upstream,
        server,
        said,
        headers,
        host,
        port,
        timeout,
        env,
        token_file,
    )
    return 0


def command_of(upstream: str) -> list[str]:
    """Its words; none where quotes are left open."""
    try:
        return shlex.split(upstream)
    except ValueError:
        return []


def words_of(given: Sequence[str] | None, option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given or ():
        word, equals, value = one.partition("=")
        if word not in WORDS or not equals or not value or word in found:
            hint = f"write {option} WORD=VALUE once for each word of {', '.join(WORDS)}"
            raise CommandError("usage", f"`{one}` says nothing of who asks", hint, code=2)
        found[word] = value
    return found


def serving(
    engine: Engine, upstream: str, server: str, said: Mapping[str, str], headers: Mapping[str, str], host: str,
    port: int | None, timeout: float, env: Sequence[str] | None, token_file: Path | None,
) -> None:  # fmt: skip
    try:
        import anyio

        from policyengine.integrations.mcp_gateway import Gateway, Upstream, facts_of_words, from_headers
        from policyengine.integrations.mcp_sdk import always
    except ImportError as error:
        raise CommandError(
            "install", str(error).partition(":")[0], "`pip install 'agent-policyengine[mcp]'` brings it"
        ) from None
    behind = Upstream(upstream, token_of(token_file), environment_of(env or ()), timeout)
    by_header = from_headers(headers, lambda found: facts_of_words({**said, **found}))
    who = by_header if headers else always(facts_of_words(said))
    gateway = Gateway(engine, server, who, behind)
    if port is None:
        anyio.run(gateway.over_stdio)
    else:
        over_http(gateway, host, port)


def over_http(gateway: Any, host: str, port: int) -> None:
    import uvicorn

    from policyengine.integrations.mcp_gateway import http_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                at = self.servers[0].sockets[0].getsockname()
                print(f"listening on http://{host if ':' not in host else f'[{host}]'}:{at[1]}/mcp", flush=True)

    config = uvicorn.Config(
        http_app(gateway), host=host, port=port, log_level="warning", ws="none", timeout_graceful_shutdown=2
    )
    Server(config).run()


def token_of(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        return {"authorization": f"Bearer {path.read_text(encoding='utf-8').strip()}"}
    except OSError as error:
        raise file_error(path, error) from None


def environment_of(names: Sequence[str]) -> dict[str, str]:
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise CommandError("usage", f"there is no variable `{missing[0]}` to pass on", code=2)
    return {name: os.environ[name] for name in names}
