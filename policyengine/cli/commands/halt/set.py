"""`policyengine halt`: deny requests until a time."""

from __future__ import annotations

from time import time
from typing import Annotated, TypeAlias

import typer

from policyengine.cli.errors import CommandError
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.options.halt import (
    HaltedFile,
    HaltStoreUrl,
    OperatorName,
    OperatorToken,
    ReasonText,
    ServerUrl,
    describe_halt,
    open_place,
    own_name,
)
from policyengine.cli.output.terminal import OutputFormat, print_json
from policyengine.control_characters import one_line

ScopeText: TypeAlias = str | None


def scope_option(flag: str, metavar: str, help: str) -> object:
    return typer.Option(flag, metavar=metavar, help=help, show_default=False)


def halt(
    everything: Annotated[bool, typer.Option("--everything", help="Halt all requests.")] = False,
    agent: Annotated[ScopeText, scope_option("--agent", "NAME", "An agent, anywhere in the chain.")] = None,
    issuer: Annotated[ScopeText, scope_option("--issuer", "NAME", "An issuer: its name or its URL.")] = None,
    user: Annotated[ScopeText, scope_option("--user", "NAME", "A user.")] = None,
    chain_root: Annotated[ScopeText, scope_option("--chain-root", "NAME", "The first agent of the chain.")] = None,
    task: Annotated[ScopeText, scope_option("--task", "ID", "A task.")] = None,
    tool: Annotated[ScopeText, scope_option("--tool", "NAME", "A tool: `server/name`, `server/*`.")] = None,
    place: Annotated[
        ScopeText, scope_option("--place", "PLACE", "Endpoints, as after `on` in a guard: `/v1/**`.")
    ] = None,
    package: Annotated[ScopeText, scope_option("--package", "NAME", "All endpoints that a package opens.")] = None,
    reason: ReasonText = "",
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="How long: `2h`.", show_default=False)
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", help="Until when: `2026-12-01T00:00:00Z`.", show_default=False),
    ] = None,
    store: HaltStoreUrl = None,
    file: HaltedFile = None,
    server: ServerUrl = None,
    token_file: OperatorToken = None,
    by: OperatorName = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Deny requests until a time: all requests, or those that match all of the given names.

    Every process that uses the store or the file denies such requests within a second, at the gate `halted`. Names
    match without regard to letter case, and `*` stands for any text. `policyengine halt list` lists the halts, and
    `policyengine halt lift ID --reason TEXT` lifts a halt before its end. A server checks that its policies know an
    issuer or a package; a store and a file do not know the policies.

    \b
    Exit codes:
      0  halted
      1  the store, the file or the server cannot be used, or has no room for another halt
      2  wrong usage, such as an end in the past

    \b
    Example:
      policyengine halt --agent invoice-bot --reason "repeats refunds" --for 2h --store redis://127.0.0.1:6379
      policyengine halt --everything --reason "incident 7" --for 30m --file /etc/policyengine/halts.json
      policyengine halt list --store redis://127.0.0.1:6379
      policyengine halt lift 3f9a1c20b7de --reason "it was fixed" --store redis://127.0.0.1:6379
    """
    from policyengine.halts.errors import HaltError
    from policyengine.halts.requests import HaltScope, make_halt, parse_end

    if (lasting is None) is (until is None):
        problem = "a halt needs an end" if lasting is None else "a halt has one end, not both `--for` and `--until`"
        raise CommandError("usage", problem, "write either `--for 2h` or `--until TIME`", code=2)
    scope: HaltScope = {
        "agent": agent, "issuer": issuer, "user": user, "chain_root": chain_root, "task": task, "tool": tool,
        "place": place, "package": package,
    }  # fmt: skip
    try:
        end = parse_end(lasting or until or "")
        made = make_halt(scope, everything=everything, reason=reason, end=end, by=by or own_name(), now=int(time()))
    except HaltError as error:
        raise CommandError("usage", error.message, error.hint, code=2) from None
    with open_place(store, file, server, token_file) as kept:
        done = kept.add(made)
        where = kept.shown
    if format is OutputFormat.JSON:
        print_json({"halt": done})
    else:
        print(one_line(f"halted {describe_halt(done)} until {done['until']}: {done['reason']}"))
        print(one_line(f"  {done['id']} in {where}"))
    return 0
