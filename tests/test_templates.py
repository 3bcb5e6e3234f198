"""Templates: every value is text, and every name is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from policyengine.templates import mark_unprintable, number_unprintable, render_template


@pytest.fixture
def module(tmp_path: Path) -> str:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "a.svg.j2").write_text("<p t='{{ text }}'>{{ text }}{{ text | marked }}</p>\n")
    return str(tmp_path / "module.py")


def test_template_values_are_escaped_whatever_the_file_extension(module: str) -> None:
    assert render_template(module, "a.svg.j2", text="<b>'\"&") == (
        "<p t='&lt;b&gt;&#39;&#34;&amp;'>&lt;b&gt;&#39;&#34;&amp;&lt;b&gt;&#39;&#34;&amp;</p>\n"
    )


def test_an_undefined_template_variable_is_an_error(module: str) -> None:
    with pytest.raises(UndefinedError):
        render_template(module, "a.svg.j2")


def test_unprintable_characters_are_shown_by_code_point() -> None:
    assert number_unprintable("a\u202e<\t") == "aU+202E<U+0009"
    assert mark_unprintable("a\u3164") == 'a<span class="odd">U+3164</span>'
    assert mark_unprintable("a\u202e<\t") == 'a<span class="odd">U+202E</span>&lt;\t'
