"""The corpus in other layouts and with other mistakes: what hypothesis plays with."""

import re
from pathlib import Path

from hypothesis import strategies as st

CORPUS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("corpus/*.policy"))}

# A path that spells a typed capture is one piece: `/invoices/{id: invoice}`.
PIECE = re.compile(r'/[^\s{]*\{[^}\s]*:[ \t]*[^}]*\}[^\s]*|\s+|#[^\n]*|"(?:[^"\\\n]|\\.)*"|[^\s"#]+')
TOKEN = re.compile(r'\s+|#[^\n]*|"(?:[^"\\\n]|\\.)*"|[\w.]+|.')
BREAKS = ["\n", "\n\n", "\n\n\n\n", "\n   ", "\r\n\t"]
SPACES = [" ", "    ", "\t", "\n", "\n\n", "\n\n\n", " # a\n", "\n# b  \n\n", "\n  #c\n# d\n", "\r\n"]


def blocks(text: str) -> list[str]:
    """A policy, cut before each declaration at the left margin."""
    return re.split(r"(?m)^(?=[a-z]|#)", text)


@st.composite
def layouts(draw: st.DrawFn) -> str:
    """Some declarations of the corpus, their white space replaced here and there."""
    chosen = draw(
        st.lists(st.sampled_from(blocks(CORPUS["payments"])[3:] + blocks(CORPUS["constructs"])[4:]), max_size=6)
    )
    pieces = PIECE.findall("\n".join(chosen))
    result: list[str] = []
    for piece in pieces:
        after_comment = bool(result) and result[-1].startswith("#")
        replace = piece.isspace() and draw(st.booleans())
        result.append(draw(st.sampled_from(BREAKS if after_comment else SPACES)) if replace else piece)
    return "".join(result)


@st.composite
def mistakes(draw: st.DrawFn) -> str:
    """A policy of the corpus with tokens left out, doubled, swapped or replaced."""
    tokens = TOKEN.findall(CORPUS[draw(st.sampled_from(sorted(CORPUS)))])
    places = st.integers(0, len(tokens) - 1)
    for _ in range(draw(st.integers(1, 6))):
        at, other = draw(places), draw(places)
        match draw(st.sampled_from("delete double swap replace".split())):
            case "delete":
                tokens[at] = ""
            case "double":
                tokens[at] *= 2
            case "swap":
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case _:
                tokens[at] = draw(st.text(max_size=3))
    return "".join(tokens)
