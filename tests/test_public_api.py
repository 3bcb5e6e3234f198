"""What is public says what it is, and is what it says."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Iterator

import pytest

import policyengine
from policyengine import server

PUBLIC = {
    f"{home.__name__}.{name}": getattr(home, name)
    for home in (policyengine, server)
    for name in home.__all__
    if not name.startswith("_")
}


def documented() -> Iterator[tuple[str, object]]:
    for name, thing in PUBLIC.items():
        yield name, thing
        if inspect.isclass(thing):
            own = ((key, value) for key, value in vars(thing).items() if not key.startswith("_"))
            yield from ((f"{name}.{key}", getattr(thing, key)) for key, value in own if asked(value))


def asked(value: object) -> bool:
    """Something that is called or computed; a field stands in its class's own docstring."""
    return inspect.isfunction(value) or isinstance(value, classmethod | staticmethod | property)


@pytest.mark.parametrize("thing", [pytest.param(thing, id=name) for name, thing in documented()])
def test_every_public_name_has_a_docstring(thing: object) -> None:
    said = thing.__doc__ or ""  # its own: `inspect.getdoc` would take a parent's
    made_by_dataclass = said.startswith(f"{getattr(thing, '__name__', '')}(")
    assert said.strip()
    assert not made_by_dataclass


def test_help_shows_every_public_class() -> None:
    page = pydoc.plain(pydoc.render_doc(policyengine))
    classes = [name for name in policyengine.__all__ if inspect.isclass(getattr(policyengine, name))]
    assert [name for name in classes if f"class {name}(" not in page] == []


def test_an_unknown_package_attribute_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'engin'"):
        _ = policyengine.engin  # type: ignore[attr-defined]
