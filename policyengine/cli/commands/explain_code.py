"""`policyengine explain-code`: show the documentation of a diagnostic code."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.errors import CommandError
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json

if TYPE_CHECKING:
    from policyengine.diagnostics.catalog import DiagnosticDoc


def explain_code(
    code: Annotated[
        str | None,
        typer.Argument(help="A code, or the short name of a warning; omit it to list all codes.", show_default=False),
    ] = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Explain a diagnostic code.

    The explanation has an example that causes the diagnostic and one that does not. Codes that begin with E are errors;
    codes that begin with W are warnings.

    \b
    Example:
      policyengine explain-code E201
      policyengine explain-code static-key
    """
    from policyengine.diagnostics.catalog import CODES, find_code

    if code is None:
        _show_all([CODES[name] for name in sorted(CODES)], format)
        return 0
    found = find_code(code) or _unknown(code)
    if format is OutputFormat.JSON:
        print_json(asdict(found))
    else:
        _show(found)
    return 0


def _unknown(code: str) -> DiagnosticDoc:
    from policyengine.diagnostics.catalog import CODES, CODES_BY_NAME
    from policyengine.diagnostics.suggest import did_you_mean

    hint = did_you_mean(code, [*CODES, *CODES_BY_NAME]) or "`policyengine explain-code` lists all codes"
    raise CommandError("code", f"unknown code `{code}`", hint)


def _show_all(codes: list[DiagnosticDoc], format: OutputFormat) -> None:
    if format is OutputFormat.JSON:
        print_json([asdict(code) for code in codes])
    else:
        Screen().table([(code.code, code.name, code.title) for code in codes])


def _show(code: DiagnosticDoc) -> None:
    screen = Screen()
    style = "bold red" if code.code.startswith("E") else "bold yellow"
    screen.line((code.code, style), f"  {code.title}")
    if code.name:
        told = ": reported by `policyengine lint`" if code.opinion else ""
        screen.line(f"rule `{code.name}`{told}")
    screen.line()
    screen.prose(code.explanation)
    examples = (("Not like this:", code.bad), ("But like this:", code.good)) if code.bad else ()
    for title, example in examples:
        screen.line()
        screen.line((title, "bold"))
        screen.line()
        screen.text("\n".join(f"    {line}".rstrip() for line in example.strip("\n").split("\n")))
