"""`policyengine behavior forget`: forget what is known about callers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.errors import CommandError
from policyengine.cli.options.behavior import (
    InstanceName,
    IssuerName,
    KnownFolder,
    describe_caller,
    find_caller,
    load_state,
    open_folder,
    report_folder_errors,
)
from policyengine.cli.options.behavior_store import (
    SharedStoreUrl,
    check_place,
    find_stored_caller,
    find_stored_callers,
    open_learned,
)
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json, show_progress
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.behavior.folder import BehaviorFolder
    from policyengine.behavior.operator_files import ForgetRequest
    from policyengine.behavior.state import BehaviorState


def forget(
    behavior: KnownFolder = None,
    store: SharedStoreUrl = None,
    caller: Annotated[
        str | None,
        typer.Argument(
            metavar="CALLER", help="The name of an agent or, in a store, the key of a caller.", show_default=False
        ),
    ] = None,
    issuer: IssuerName = None,
    instance: InstanceName = None,
    all: Annotated[
        bool, typer.Option("--all", help="Forget all callers, and what is known about their classes.")
    ] = False,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Forget what is known about a caller.

    All versions of the caller are forgotten. The caller is then new: its facts are neutral until it is ready again. A
    running server that uses the folder forgets within a minute. In a store, the caller is forgotten at once for all
    processes; a damaged caller can also be named by its key, as `behavior show` and the server log print it. What a
    class learned from the caller is forgotten with the model of the next day. Logs are not changed, and `behavior
    learn` would learn from them again.

    \b
    Exit codes:
      0  forgotten, or a running server forgets within a minute
      1  nothing is known about the caller, several callers have its name, or the folder or the store cannot be read or
         written
      2  wrong usage

    \b
    Example:
      policyengine behavior forget report-1 --issuer acme --behavior decisions.jsonl.behavior
      policyengine behavior forget --all --behavior decisions.jsonl.behavior
      policyengine behavior forget report-1 --issuer acme --store redis://127.0.0.1:6379
    """
    from policyengine.behavior.operator_files import ForgetRequest

    if (caller is None) is not all or (all and (issuer or instance)):
        hint = "write `behavior forget CALLER` or `behavior forget --all`"
        raise CommandError("usage", "name either one caller or `--all`", hint, code=2)
    check_place(behavior, store)
    if behavior is None:
        return forget_stored(store or "", caller, issuer, instance, format)
    folder = open_folder(behavior)
    with show_progress("reading the folder"):
        state = load_state(folder)
        request = ForgetRequest(everything=True)
        if caller is not None:
            request = ForgetRequest(*find_caller(state, caller, issuer, instance)[0][:3])
    what, rows = describe_request(request, state), sum(map(request.names, state.rows))
    running = forget_in(folder, request)
    if format is OutputFormat.JSON:
        print_json({"folder": str(behavior), "rows": rows, "forgotten": not running, "server": running})
    elif running:
        Screen().line(f"the server that keeps `{behavior}` forgets {what} within a minute")
    else:
        Screen().line(f"forgot {what}")
    return 0


def forget_stored(url: str, name: str | None, issuer: str | None, instance: str | None, format: OutputFormat) -> int:
    """Forget a caller in a store; without a name, forget all callers. A name that no caller has may be the key of a
    caller. Raises CommandError.
    """
    with open_learned(url) as opened, show_progress("forgetting in the store"):
        learned = opened.learned
        if name is None:
            rows = learned.forget_all()
            what = describe_all(rows)
        else:
            is_name = issuer or instance or find_stored_callers(learned, name, None, None)
            if is_name or not learned.has_key(name):
                caller = find_stored_caller(learned, name, issuer, instance)
                rows, what = learned.forget(caller), describe_caller(caller)
            else:
                rows, what = learned.forget_key(name), f"the caller with the key {name}"
    if format is OutputFormat.JSON:
        print_json({"store": opened.shown, "rows": rows, "forgotten": True, "server": False})
    else:
        Screen().line(f"forgot {what}")
    return 0


def forget_in(folder: BehaviorFolder, request: ForgetRequest) -> bool:
    """Forget callers in a folder, and return whether a running server will do so. Raises CommandError."""
    from policyengine.behavior.learn_logs import save_state
    from policyengine.behavior.operator_files import request_to_forget

    with report_folder_errors(folder.path), show_progress("writing the folder"):
        held = folder.lock()
        if held < 0:
            request_to_forget(folder, request)
            return True
        try:
            state = load_state(folder)
            state.forget(request.names)
            if request.everything:
                state.forget_model()
            save_state(folder, state)
        finally:
            os.close(held)
    return False


def describe_all(callers: int) -> str:
    return f"all {pluralize(callers, 'caller')} and their classes"


def describe_request(request: ForgetRequest, state: BehaviorState) -> str:
    from policyengine.behavior.events import Caller

    if request.everything:
        return describe_all(len(state.rows))
    return describe_caller(Caller(request.issuer, request.agent, request.instance))
