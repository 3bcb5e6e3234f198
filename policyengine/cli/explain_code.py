"""`policyengine explain-code`: the page of a diagnostic code."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.failures import CommandError
from policyengine.cli.options import TextOrJson
from policyengine.cli.terminal import Format, Screen, print_json

if TYPE_CHECKING:
    from policyengine.codes import Code


def explain_code(
    code: Annotated[
        str | None, typer.Argument(help="The code; without one, all are listed.", show_default=False)
    ] = None,
    format: TextOrJson = Format.TEXT,
) -> int:
    """Say what a code of a diagnostic means.

    There is an example that has it and one that has not. Codes that begin with E are errors, with W warnings.

    \b
    Example:
      policyengine explain-code E201
    """
    from policyengine.codes import CODES

    if code is None:
        _show_all([CODES[name] for name in sorted(CODES)], format)
        return 0
    found = CODES.get(code.upper()) or _unknown(code, CODES)
    if format is Format.JSON:
        print_json(asdict(found))
    else:
        _show(found)
    return 0


def _unknown(code: str, known: object) -> Code:
    from policyengine.codes import CODES
    from policyengine.diagnostics import suggest

    close = suggest(code.upper(), CODES)
    hint = f"did you mean `{close}`?" if close else "`policyengine explain-code` lists all codes"
    raise CommandError("code", f"unknown code `{code}`", hint)


def _show_all(codes: list[Code], format: Format) -> None:
    if format is Format.JSON:
        print_json([asdict(code) for code in codes])
    else:
        Screen().table([(code.code, code.title) for code in codes])


def _show(code: Code) -> None:
    screen = Screen()
    style = "bold red" if code.code.startswith("E") else "bold yellow"
    screen.line((code.code, style), f"  {code.title}")
    screen.line()
    screen.prose(code.explanation)
    for title, example in (("Not like this:", code.bad), ("But like this:", code.good)):
        screen.line()
        screen.line((title, "bold"))
        screen.line()
        screen.text("\n".join(f"    {line}".rstrip() for line in example.strip("\n").split("\n")))
