"""Jinja templates of pages and drawings, in folders `templates` beside the modules that fill them.

Every value is escaped, and a name that a template does not have is an error. Characters without a shape, which may
turn the order of letters around, are shown by their number; XML knows none of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = "templates"


@cache
def template_environment(folder: Path) -> Environment:
    """The templates of one folder; those it extends or includes lie there, too."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"numbered": number_unprintable, "marked": mark_unprintable}
    return environment


def render_template(module: str, template: str, /, **values: object) -> str:
    """Fill a template that lies beside a module, whose `__file__` is given."""
    return template_environment(Path(module).parent / FOLDER).get_template(template).render(values)


def number_unprintable(text: str) -> str:
    """Text for titles and drawings: `U+202E` in place of a character without a shape."""
    return "".join(char if char.isprintable() else f"U+{ord(char):04X}" for char in text)


def mark_unprintable(text: str) -> Markup:
    """The same with markup that tells the number from the text around it; tabs stay."""
    return Markup("").join(
        char if char.isprintable() or char == "\t" else Markup('<span class="odd">U+{:04X}</span>').format(ord(char))
        for char in text
    )
