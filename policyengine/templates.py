"""Jinja templates of pages and drawings, in `templates` folders next to the modules that fill them.

Every value is escaped, and an undefined name in a template is an error. The filters `numbered` and `marked` replace
invisible characters with their code points, because such characters may reverse the direction of text, and XML allows
only some of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from policyengine.control_characters import split_invisible

FOLDER = "templates"


@cache
def template_environment(*folders: Path) -> Environment:
    """Return the environment of the templates in these folders, which also contain the templates that they extend,
    import or include.
    """
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"numbered": number_unprintable, "marked": mark_unprintable}
    return environment


def render_template(module: str, template: str, /, *shared: str, **values: object) -> str:
    """Render a template in the folder next to a module, given by its `__file__`. It may use templates next to the
    `shared` modules."""
    folders = [Path(one).parent / FOLDER for one in (module, *shared)]
    return template_environment(*folders).get_template(template).render(values)


def number_unprintable(text: str) -> str:
    """Return the text for titles and drawings, with its code point, such as `U+202E`, in place of an invisible
    character.
    """
    return "".join(part for part, _ in split_invisible(text, ""))


def mark_unprintable(text: str) -> Markup:
    """Return the text with the code points of invisible characters in markup that distinguishes them from the text
    around them; tabs are kept.
    """
    return Markup("").join(
        Markup('<span class="odd">{}</span>').format(part) if is_code else part
        for part, is_code in split_invisible(text)
    )
