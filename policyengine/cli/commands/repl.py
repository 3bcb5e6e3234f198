"""`policyengine repl`: try requests against policies line by line, in the language of tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from policyengine.cli.commands.check import check_files
from policyengine.cli.commands.decide import print_decision
from policyengine.cli.commands.explain import print_walk
from policyengine.cli.errors import CommandError, file_error, policy_error
from policyengine.cli.options.common import Policies, TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.time_formats import format_rfc3339

if TYPE_CHECKING:
    from policyengine.check import CheckResult
    from policyengine.testing.repl_session import ReplSession, SessionAnswer

PROMPT, CONTINUATION_PROMPT = "policy> ", "      … "
HISTORY_VARIABLE = "POLICYENGINE_HISTORY"  # path of the history file; empty for none
MAX_HISTORY_LINES = 1_000
HELP = """\
  agent "invoice-bot" from acme for user "alice"     give facts, as in tests (`given` is optional)
  entities { user "alice" { roles: ["clerk"] } }
  body.amount = 900
  use clerks_bot                                     use a fixture
  GET /v1/invoices/42                                decide; braces give facts for this request only
  POST /v1/refunds { body.amount: 5 } => allow       decide, and compare with the expected outcome
  explain [REQUEST]                                  explain the last request, or this one
  why not [REQUEST]                                  show only what stops the request
  time · after 5m · at 2027-01-01T09:00:00Z          show, advance or set the clock
  facts                                              show the given facts
  reset                                              start again: no facts, nothing spent, the initial time
  load [PATH]                                        reload the policies, or load others
  save FILE_test.policy ["name"]                     write the session as a test
  help · quit"""

CommandFunction: TypeAlias = Callable[["ReplLoop", str, int], None]


def repl(paths: Policies, format: TextOrJson = OutputFormat.TEXT) -> int:
    """Try requests against policies, line by line.

    Facts and requests are written in the language of tests; each request is decided immediately. A session can be saved
    as a test. Lines can also be piped in: a mistake then does not stop the following lines, but the exit code is 1.

    \b
    Exit codes:
      0  done
      1  a line had a mistake or missed its expected outcome, or the policies have errors

    \b
    Example:
      policyengine repl payments/
      echo 'GET /health => allow' | policyengine repl payments/
    """
    from policyengine.testing.repl_session import ReplSession

    checked = _check_policies(paths)
    loop = ReplLoop(
        ReplSession.of(checked), list(paths), format, interactive=sys.stdin.isatty() and format is OutputFormat.TEXT
    )
    if loop.interactive:
        loop.screen.line(f"{', '.join(sorted(checked.program.packages))}: type `help` for the commands")
    with _line_editing(loop):
        loop.run()
    return int(loop.failed and not loop.interactive)


def _check_policies(paths: list[Path]) -> CheckResult:
    checked, _ = check_files(paths)
    if checked.kernel is None:
        raise policy_error(checked)
    return checked


@dataclass(slots=True)
class ReplLoop:
    """The loop over input lines. `failed` means that a line had a mistake or missed its expected outcome."""

    session: ReplSession
    paths: list[Path]
    format: OutputFormat
    interactive: bool
    failed: bool = False
    over: bool = False
    screen: Screen = field(default_factory=Screen)

    def run(self) -> None:
        for number, line in self.lines():
            self.do(line.strip(), number)
            sys.stdout.flush()
            if self.over:
                return

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield each statement with its number; an open bracket continues on the next line. The last statement may be
        incomplete.
        """
        from policyengine.testing.repl_session import is_complete

        number, text = 0, ""
        while True:
            try:
                typed = self.read(CONTINUATION_PROMPT if text else PROMPT)
            except KeyboardInterrupt:  # discards the statement so far
                text = ""
                continue
            if typed is None:
                break
            text = f"{text}\n{typed}" if text else typed
            if is_complete(text):
                number += 1
                yield number, text
                text = ""
        if text.strip():
            yield number + 1, text

    def read(self, prompt: str) -> str | None:
        """Return the next line, or None at the end. Raises KeyboardInterrupt if the user discards the line."""
        if not self.interactive:
            return next((line.rstrip("\r\n") for line in sys.stdin), None)
        try:
            return input(prompt)
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print("^C")
            raise

    def do(self, line: str, number: int) -> None:
        from policyengine.testing.repl_session import StatementError, UndecidableRequestError

        if not line or line.startswith("#"):
            return
        try:
            does, rest = parse_command(line)
            does(self, rest, number)
        except StatementError as error:
            self.fail(policy_command_error(error), error.diagnostics)
        except UndecidableRequestError as error:
            self.fail(CommandError("request", str(error), facts=(("line", number),)))
        except CommandError as error:
            self.fail(error)

    def fail(self, error: CommandError, diagnostics: Any = ()) -> None:
        """Report a mistake on stderr. The session does not change."""
        self.failed = True
        if self.format is OutputFormat.JSON:
            print_json(error.to_dict(), indent=None)
        screen = Screen(sys.stderr)
        for diagnostic in diagnostics[:1]:  # later mistakes mostly follow from the first
            screen.findings(diagnostic.render())
        if not diagnostics:
            screen.line(("error: ", "bold red"), error.message)
            if error.hint:
                screen.line(("hint: ", "cyan"), error.hint)
        screen.stream.flush()

    # ── Commands ──────────────────────────────────────────────────────────────────────────────

    def take(self, line: str, number: int) -> None:
        for answer in self.session.take(line, number):
            self.show(answer, number)

    def show(self, answer: SessionAnswer, number: int) -> None:
        self.failed |= answer.met is False
        if self.format is OutputFormat.JSON:
            expected = {} if answer.met is None else {"expected": answer.case.expected.text, "met": answer.met}
            decision = answer.decision.to_dict()
            print_json({"line": number, "request": answer.case.request, **expected, "decision": decision}, indent=None)
            return
        print_decision(self.screen, answer.decision, "`explain`")
        if answer.met is False:
            self.screen.line(("✗ ", "red"), f"expected: {answer.case.expected.text}")

    def find_answer(self, rest: str, number: int) -> SessionAnswer:
        """Return the answer to explain: to the request on the line or, without a request, the last answer. Raises
        CommandError.
        """
        answers = self.session.take(rest, number) if rest else []
        found = answers[-1] if answers else self.session.last
        if found is None or (rest and not answers):
            raise CommandError("usage", "there is no request to explain", "enter one: `GET /v1/invoices/42`")
        return found

    def explain(self, rest: str, number: int) -> None:
        answer = self.find_answer(rest, number)
        if self.format is OutputFormat.JSON:
            print_json({"line": number, **answer.explanation.to_dict()}, indent=None)
        else:
            print_walk(str(answer.decision.outcome), answer.explanation.render())

    def why_not(self, rest: str, number: int) -> None:
        answer = self.find_answer(rest, number)
        lines = list(answer.in_the_way())
        if self.format is OutputFormat.JSON:
            print_json({"line": number, "in_the_way": lines, "decision": answer.decision.to_dict()}, indent=None)
        elif answer.decision.allowed:
            self.screen.line("the request is allowed: nothing stops it")
        else:
            print_decision(self.screen, answer.decision, "`explain`")
            self.screen.findings("\n".join(lines))

    def time(self, rest: str, number: int) -> None:
        if rest:
            self.take(f"time {rest}", number)
        else:
            now = format_rfc3339(self.session.now)
            self.tell({"line": number, "time": now}, now)

    def facts(self, rest: str, number: int) -> None:
        lines = self.session.given
        self.tell({"line": number, "given": lines}, "\n".join(lines) or "no facts are given")

    def reset(self, rest: str, number: int) -> None:
        self.session.reset()

    def load(self, rest: str, number: int) -> None:
        from policyengine.testing.repl_session import ReplSession, StatementError

        paths = [Path(rest)] if rest else self.paths
        checked = _check_policies(paths)
        try:
            self.session, self.paths = self.session.with_policies(checked), paths
        except StatementError:
            self.session, self.paths = ReplSession.of(checked), paths
            self.note("these policies do not accept the given facts: the session was reset")

    def save(self, rest: str, number: int) -> None:
        name, _, title = rest.partition(" ")
        _write(name, self.session.test(title.strip().strip('"') or "session"), bool(self.session.asked))
        self.tell({"line": number, "saved": name}, f"saved {name}")

    def help(self, rest: str, number: int) -> None:
        self.screen.text(HELP)

    def quit(self, rest: str, number: int) -> None:
        self.over = True

    def tell(self, data: dict[str, Any], text: str) -> None:
        if self.format is OutputFormat.JSON:
            print_json(data, indent=None)
        else:
            self.screen.text(text)

    def note(self, message: str) -> None:
        Screen(sys.stderr).warn(message)


COMMANDS: dict[str, CommandFunction] = {
    "explain": ReplLoop.explain,
    "why not": ReplLoop.why_not,
    "time": ReplLoop.time,
    "facts": ReplLoop.facts,
    "reset": ReplLoop.reset,
    "load": ReplLoop.load,
    "save": ReplLoop.save,
    "help": ReplLoop.help,
    "quit": ReplLoop.quit,
    "exit": ReplLoop.quit,
}


def parse_command(line: str) -> tuple[CommandFunction, str]:
    """Return the function of a line and its argument. Raises CommandError for a single word that is not a command."""
    words = line.split()
    for size in (2, 1):
        name = " ".join(words[:size])
        rest = line.split(maxsplit=size)[size:] if len(words) >= size else []
        if name in COMMANDS and len(words) >= size and not (rest and rest[0].startswith("=")):
            return COMMANDS[name], rest[0] if rest else ""
    if len(words) == 1 and line.isidentifier():
        from policyengine.diagnostics.suggest import did_you_mean

        hint = did_you_mean(line, COMMANDS) or "type `help` for the commands"
        raise CommandError("usage", f"there is no command `{line}`", hint)
    return ReplLoop.take, line


def policy_command_error(error: Any) -> CommandError:
    facts = (("diagnostics", [one.to_dict() for one in error.diagnostics]),)
    return CommandError("policy", error.diagnostics[0].message, error.diagnostics[0].hint, facts)


def _write(name: str, text: str, asked: bool) -> None:
    """Write a new test file; an existing file is not replaced. Raises CommandError."""
    from policyengine.source import is_test_file

    if not is_test_file(name):
        hint = "a test file ends in `_test.policy`: `save my_test.policy`"
        raise CommandError(
            "usage", "name the test file to write" if not name else f"`{name}` is not a test file name", hint
        )
    if not asked:
        raise CommandError("tests", "no request was made yet", "a test needs at least one request")
    try:
        with Path(name).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CommandError(
            "file", f"`{name}` already exists and is not replaced", "name another file", (("file", name),)
        ) from None
    except OSError as error:
        raise file_error(name, error) from None


# ── Completion and history, if readline is available ──────────────────────────────────────────


@contextmanager
def _line_editing(loop: ReplLoop) -> Iterator[None]:
    if not loop.interactive:
        yield
        return
    try:
        import readline
    except ImportError:
        yield
        return
    readline.set_completer_delims("\n")
    readline.set_completer(lambda text, state: (*completions(text, loop.session), None)[state])
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(MAX_HISTORY_LINES)
    file = _history_file()
    if file is not None:
        with suppress(OSError):
            readline.read_history_file(file)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch(0o600)
                readline.write_history_file(file)


def completions(text: str, session: ReplSession) -> list[str]:
    """Return the possible completions of a line."""
    return [one for one in (*COMMANDS, *session.words()) if one.startswith(text)]


def _history_file() -> Path | None:
    named = os.environ.get(HISTORY_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    state = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(state) if state else Path.home() / ".local" / "state") / "policyengine" / "history"
    except RuntimeError:  # the user has no home directory
        return None
