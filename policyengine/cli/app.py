"""Holds the table of all commands, and turns their errors into messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.main import get_command
from typer.models import ParameterInfo

from policyengine.cli import EXIT_INTERRUPTED, version_line
from policyengine.cli.errors import (
    TRACEBACK_VARIABLE,
    CommandError,
    policy_error,
    report_error,
    short_message,
    show_traceback,
)
from policyengine.cli.output.terminal import OutputFormat
from policyengine.cli.output.value_names import name_values
from policyengine.control_characters import one_line

if TYPE_CHECKING:
    from policyengine.cli.settings.file import ProjectSettings

USAGE = 2
# Typer exports only BadParameter, a subclass of Click's UsageError.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

HELP = """Decide what AI agents may do, for whom and through whom.

Policies are files ending in `.policy`, or folders of them.

\b
Exit codes that all commands share:
  0    success; `decide` and `explain`: allow
  1    an error in a policy, a file or a request
  2    wrong usage: see `--help`
  130  interrupted

\b
Examples:
  policyengine init my-policies
  policyengine check my-policies
  policyengine test my-policies
  policyengine decide my-policies --request my-policies/request.json
"""

COMMAND_PATHS = {
    "check": "check.check",
    "lint": "lint.lint",
    "fmt": "fmt.fmt",
    "test": "test.run_tests",
    "compile": "compile.compile_policies",
    "decide": "decide.decide",
    "explain": "explain.explain",
    "diff": "diff.diff",
    "simulate": "simulate.simulate",
    "graph": "graph.graph",
    "explain-code": "explain_code.explain_code",
    "serve": "serve.serve",
    "doctor": "doctor.doctor",
    "mcp-gateway": "mcp_gateway.mcp_gateway",
    "repl": "repl.repl",
    "record": "record.record",
    "suggest": "suggest.suggest",
    "why": "why.why",
    "init": "init.init",
    "approvals list": "approvals.list.list_approvals",
    "approvals show": "approvals.show.show",
    "approvals approve": "approvals.approve.approve",
    "approvals deny": "approvals.deny.deny",
    "approvals watch": "approvals.watch.watch",
    "approvals webhooks": "approvals.webhooks.webhooks",
    "audit verify": "audit.verify.verify",
    "audit prove": "audit.prove.prove",
    "audit check": "audit.check.check",
    "audit rotate-key": "audit.rotate_key.rotate_key",
    "audit query": "audit.query.query",
    "audit pack": "audit.pack.pack",
    "audit report": "audit.report.report",
    "audit export": "audit.export.export",
    "behavior learn": "behavior.learn.learn",
    "behavior show": "behavior.show.show",
    "behavior forget": "behavior.forget.forget",
    "behavior release": "behavior.release.release",
    "behavior evaluate": "behavior.evaluate.evaluate",
    "behavior report": "behavior.report.report",
    "behavior suggest": "behavior.suggest.suggest",
    "mcp review": "mcp.review.review",
    "mcp pins": "mcp.pins.list_pins",
    "halt": "halt.set.halt",
    "halt list": "halt.list.list_halts",
    "halt lift": "halt.lift.lift",
    "keys": "keys.keys",
    "config": "config.config",
}
GROUPS = {
    "approvals": "List, show and answer approvals; show and test webhooks.",
    "audit": "Verify, prove and query the decision log.",
    "behavior": "Learn, show, evaluate and forget the behavior of callers, and propose profiles.",
    "mcp": "Review and list the definitions of the tools of MCP servers.",
    "halt": "Deny requests until a time; list halts, and lift them.",
}


PATHS = "paths"  # the parameter with the paths of the policies
# Commands with options that have a setting. The settings are imported only if a file or a variable sets one of them.
CONFIGURED_COMMANDS = frozenset({"serve", "doctor", "mcp-gateway", "test"})


class LazyCommands(MutableMapping[str, Callable[..., int]]):
    """Commands by name, in the order of `--help`. The module of a command is imported on first access."""

    def __init__(self, functions: Mapping[str, str]) -> None:
        self._names = dict(functions)
        self._loaded: dict[str, Callable[..., int]] = {}

    def __getitem__(self, name: str) -> Callable[..., int]:
        if name not in self._loaded:
            module, _, function = self._names[name].rpartition(".")
            self._loaded[name] = getattr(import_module(f"policyengine.cli.commands.{module}"), function)
        return self._loaded[name]

    def __setitem__(self, name: str, command: Callable[..., int]) -> None:
        self._names.setdefault(name, "")
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._names[name]
        self._loaded.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


COMMANDS = LazyCommands(COMMAND_PATHS)


CONFIG = "--config"


def build_application(commands: Collection[str], *, alone: bool) -> typer.Typer:
    """Return the commands as one program or, if `alone`, the only command as a program without a subcommand."""
    app = typer.Typer(
        name="policyengine",
        help=HELP,
        no_args_is_help=True,
        add_completion=not alone,
        rich_markup_mode=None,  # importing Rich would take longer than the rest of --help
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    )
    if not alone:
        app.callback()(_shared_options)
    groups: dict[str, typer.Typer] = {}
    for name in commands:
        group, _, command = name.rpartition(" ")
        parent = app
        if name in GROUPS and not alone:  # a command that is also a group, such as `halt`
            groups[name] = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
            groups[name].callback()(leave_reading_to_command(COMMANDS[name]))
            app.add_typer(groups[name], name=name, short_help=GROUPS[name])
            continue
        if group and not alone:
            if group not in groups:
                groups[group] = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
                app.add_typer(groups[group], name=group, help=GROUPS[group])
            parent = groups[group]
        parent.command(command)(leave_reading_to_command(COMMANDS[name]))
    return app


def leave_reading_to_command(command: Callable[..., int]) -> Callable[..., int]:
    """Let a command itself report a file that cannot be read, because Typer would report wrong usage."""
    # Evaluated once, because otherwise each reader of the annotations would create its own objects.
    command.__annotations__ = get_type_hints(command, include_extras=True)
    for annotation in command.__annotations__.values():
        for parameter in getattr(annotation, "__metadata__", ()):
            if isinstance(parameter, ParameterInfo):
                parameter.readable = False
    return command


def _invoke(arguments: list[str]) -> int | None:
    """Run a command. If the first argument names it, only its options are built, because building the options of all
    commands takes 0.1 s. Return its exit code; None counts as 0.
    """
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    wanted = " ".join(arguments[:words])
    following = next(iter(arguments[words:]), "--")
    is_group = wanted in GROUPS and (following in ("--help", "-h") or not following.startswith("-"))
    if wanted in COMMANDS and not is_group:
        command, name, rest = build_command(COMMANDS[wanted], wanted), f"policyengine {wanted}", arguments[words:]
    else:
        command, name, rest = build_program(), "policyengine", arguments
    code: int | None = command.main(args=rest, prog_name=name, standalone_mode=False)
    return code


@cache
def build_command(function: Callable[..., int], name: str) -> Any:
    """Return the parser of a command, with its settings. A process builds it once for each function of the command."""
    command = name_values(get_command(build_application([name], alone=True)))
    apply_settings(command, name)
    return command


@cache
def build_program() -> Any:
    """Return the parser of the whole program, which lists the commands and describes their groups."""
    return name_values(get_command(build_application(COMMANDS, alone=False)))


def apply_settings(command: Any, name: str) -> None:
    """Let environment variables and `policyengine.toml` supply the options that the command line omits. The paths of
    the policies are parsed first, because the settings file is next to the policies or above them.
    """
    from policyengine.cli.settings.file import ProjectSettings, load_settings

    key = "policyengine.configuration"

    def configured(context: Any, parameter: str, call: bool = True) -> Any:
        # Help shows the same defaults everywhere, and is handled before the paths are known.
        if not call or PATHS not in context.params:
            return None
        if key not in context.meta:
            context.meta[key] = ProjectSettings()
            with suppress(CommandError) if name == "doctor" else nullcontext():  # `doctor` checks the file itself
                context.meta[key] = load_settings([Path(path) for path in context.params[PATHS] or (".",)])
                note_unread_file(context.meta[key])
        return context.meta[key].option(name, parameter)

    if name in CONFIGURED_COMMANDS:
        command.context_class = type("Configured", (command.context_class,), {"lookup_default": configured})


def note_unread_file(settings: ProjectSettings) -> None:
    from policyengine.cli.settings.file import display_path

    if settings.unread is not None and settings.file is None:
        why = "the search ends at the folder of the policies, or at a folder above that contains `.policyroot`"
        hint = "to use the file, name it with `--config`"
        print(one_line(f"note: `{display_path(settings.unread)}` is not read: {why}; {hint}"), file=sys.stderr)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version_line())
        raise typer.Exit


def _shared_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    config: Annotated[
        str | None,
        typer.Option(
            CONFIG, metavar="FILE", help="Settings file, instead of the `policyengine.toml` next to the policies."
        ),
    ] = None,
    traceback: Annotated[
        bool,
        typer.Option("--traceback", help="Show the Python traceback of an internal error."),
    ] = False,
) -> None:
    """Declare the shared options for `--help`. `run` reads `--config` and `--traceback` before anything else, so that
    they may be anywhere on the command line."""


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. Errors go to stderr, and as JSON to stdout if JSON was requested."""
    _never_fail_to_encode()
    arguments = _without_traceback(arguments)
    as_json = _wants_json(arguments)
    try:
        with _config_option(arguments) as rest:
            code = _invoke(rest)
        sys.stdout.flush()
        return code or 0
    except CommandError as error:
        return report_error(error, as_json=as_json)
    except UsageError as error:
        return _report_usage_error(error, as_json)
    except typer.Abort:
        return EXIT_INTERRUPTED
    except OSError:
        raise  # commands handle errors of the files that they read, so this is a failure to write the output
    except Exception as error:
        return _report_unexpected_error(error, as_json)


def _never_fail_to_encode() -> None:
    """Escape characters that the encoding of the terminal lacks, such as `ü`, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _without_traceback(arguments: list[str]) -> list[str]:
    """Return the arguments without any `--traceback` before `--`. If there is one, set the environment variable with
    the same meaning.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--traceback" in arguments[:end]:
        os.environ[TRACEBACK_VARIABLE] = "1"
    return [word for i, word in enumerate(arguments) if i >= end or word != "--traceback"]


@contextmanager
def _config_option(arguments: list[str]) -> Iterator[list[str]]:
    """Yield the arguments without `--config`. Meanwhile, the environment variable with the same meaning is set. Raises
    CommandError if the option has no value.
    """
    from policyengine.cli.settings.file import CONFIG_VARIABLE

    before = os.environ.get(CONFIG_VARIABLE)
    file, rest = _extract_config_option(arguments)
    if file is not None:
        os.environ[CONFIG_VARIABLE] = file
    try:
        yield rest
    finally:
        if file is not None and before is None:
            os.environ.pop(CONFIG_VARIABLE, None)
        elif file is not None and before is not None:
            os.environ[CONFIG_VARIABLE] = before


def _extract_config_option(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the last file that `--config` names (None without the option), and the other arguments. Raises
    CommandError if the file is missing.
    """
    found: str | None = None
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest, words = [], iter(arguments[:end])
    for word in words:
        if word == CONFIG or word.startswith(f"{CONFIG}="):
            found = word.partition("=")[2] or next(words, "")
            if not found:
                raise CommandError(
                    "usage", f"`{CONFIG}` needs the name of a file", f"write `{CONFIG} policyengine.toml`", code=2
                )
        else:
            rest.append(word)
    return found, rest + arguments[end:]


def _wants_json(arguments: Sequence[str]) -> bool:
    """Return whether JSON is requested, even if other arguments are invalid."""
    pairs = pairwise(arguments)
    return "--format=json" in arguments or any(pair == ("--format", OutputFormat.JSON) for pair in pairs)


def _report_usage_error(error: Exception, as_json: bool) -> int:
    if isinstance(message := getattr(error, "message", None), str):  # Pydantic prefixes some messages
        error.message = message.removeprefix("Value error, ")  # type: ignore[attr-defined]
    if as_json:
        message = getattr(error, "format_message", error.__str__)()
        return report_error(CommandError("usage", message, "see `policyengine --help`", code=USAGE), as_json=True)
    error.show()  # type: ignore[attr-defined]
    return USAGE


def _report_unexpected_error(error: Exception, as_json: bool) -> int:
    """Report an error that no command handles, and return the exit code. A PolicyError is possible, because bundles
    decode rules lazily.
    """
    from policyengine.diagnostics.model import PolicyError

    if isinstance(error, PolicyError):
        return report_error(policy_error(error), as_json=as_json)
    return _report_internal_error(error, as_json)


def _report_internal_error(error: Exception, as_json: bool) -> int:
    show_traceback(error)
    hint = "this is a bug in policyengine: please report it with the output of `--traceback`"
    return report_error(CommandError("internal", f"internal error: {short_message(error)}", hint), as_json=as_json)
