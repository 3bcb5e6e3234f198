"""The corpus in other layouts and with other mistakes, as input for hypothesis."""

import re
from pathlib import Path

from hypothesis import strategies as st

CORPUS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("corpus/*.policy"))}

# A path that spells a typed capture is one piece: `/invoices/{id: invoice}`.
PIECE = re.compile(r'/[^\s{]*\{[^}\s]*:[ \t]*[^}]*\}[^\s]*|\s+|#[^\n]*|"(?:[^"\\\n]|\\.)*"|[^\s"#]+')
TOKEN = re.compile(r'\s+|#[^\n]*|"(?:[^"\\\n]|\\.)*"|[\w.]+|.')
BREAKS = ["\n", "\n\n", "\n\n\n\n", "\n   ", "\r\n\t"]
SPACES = [" ", "    ", "\t", "\n", "\n\n", "\n\n\n", " # a\n", "\n# b  \n\n", "\n  #c\n# d\n", "\r\n"]


HEADS = ["", "language 1\n", "package a\n", "import b as c # d\nimport e\n", "language 1 package a.b import c\n"]


def _declarations(text: str) -> list[str]:
    """Return a policy's declarations and comments, cut at the left margin."""
    blocks = re.split(r"(?m)^(?=[a-z]|#)", text)
    return [block for block in blocks if block and not re.match("language|package|import", block)]


DECLARATIONS = [declaration for text in CORPUS.values() for declaration in _declarations(text)]


@st.composite
def layouts(draw: st.DrawFn) -> str:
    """Return a head and some declarations of the corpus, with some white space replaced."""
    text = "\n".join([draw(st.sampled_from(HEADS)), *draw(st.lists(st.sampled_from(DECLARATIONS), max_size=5))])
    pieces = PIECE.findall(text)
    gaps = [i for i, piece in enumerate(pieces) if piece.isspace()]
    for gap in draw(st.lists(st.sampled_from(gaps), max_size=20, unique=True)) if gaps else ():
        after_comment = gap > 0 and pieces[gap - 1].startswith("#")
        pieces[gap] = draw(st.sampled_from(BREAKS if after_comment else SPACES))
    return "".join(pieces)


@st.composite
def mistakes(draw: st.DrawFn) -> str:
    """Return a policy of the corpus with tokens removed, doubled, swapped or replaced."""
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
