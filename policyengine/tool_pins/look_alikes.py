"""Names of tools that look alike: one may be mistaken for the other.

The comparison ignores letter case, marks, invisible characters and separators, and treats letters of other alphabets
and digits as the Latin letters that they resemble. It knows the common cases, not the whole table of Unicode.
"""

from __future__ import annotations

import unicodedata

from policyengine.control_characters import is_invisible

# Characters by the Latin letter that they resemble, in lower case and without marks.
LOOK_ALIKES_BY_LETTER = {
    "a": "аαɑ4@ꭺ", "b": "вьβƅ8ꮟ", "c": "сϲⅽꮯ", "d": "ԁɗđðⅾꭰ", "e": "еєεҽ3ꭼ", "f": "ƒϝꞙ", "g": "ԍɡց9ꮐ", "h": "һհнꮋħ",
    "i": "іιıɩl1|!ӏյǀⅼꭵ", "j": "јϳꭻ", "k": "кκĸꮶ", "m": "мꮇ", "n": "пηռո", "o": "оοσօ0øօ", "p": "рρքꮲþ", "q": "ԛգ",
    "r": "гꭱꮁ", "s": "ѕʂ5$ꮪ", "t": "тτ7ꭲŧ", "u": "υսц", "v": "ѵνꮩ", "w": "ѡωԝшꮃ", "x": "хχ×", "y": "уүγʏꮍ", "z": "ᴢꮓʐ",
}  # fmt: skip
LOOK_ALIKES = {char: letter for letter, chars in LOOK_ALIKES_BY_LETTER.items() for char in chars}
LOOK_ALIKE_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))
SEPARATORS = frozenset("_-. :/\\")


def look_alike_key(name: str) -> str:
    """Return a text that is equal for names that look alike."""
    plain = unicodedata.normalize("NFKD", name).casefold()
    plain = unicodedata.normalize("NFKD", plain)
    seen = "".join(
        LOOK_ALIKES.get(char, char)
        for char in plain
        if char not in SEPARATORS and not char.isspace() and not is_invisible(char) and not unicodedata.combining(char)
    )
    for pair, letter in LOOK_ALIKE_PAIRS:
        seen = seen.replace(pair, letter)
    return seen
