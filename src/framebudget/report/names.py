"""Names of classes as figures and paper show them, whatever script they are written in.

The fonts that come with matplotlib have Latin, Greek, Cyrillic, Arabic and more, but not Chinese, Japanese or Korean,
and few emoji. A letter that they lack is drawn in the first font of the system that has it; if none has, it is written
as its code; an emoji is left out. So only such names can make a paper that differs from one machine to the next.
"""

import functools
import re
import textwrap
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.font_manager import findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

FOLDER = Path(matplotlib.get_data_path(), "fonts/ttf")
OWN = (FOLDER / "STIXGeneral.ttf", FOLDER / "DejaVuSans.ttf")
JOINERS = "\u200c\u200d"  # of letters, in some scripts
WRITING = "LMNP"  # letters, marks, numbers, punctuation, by Unicode's category; not symbols, which emoji are
LONG = 24  # letters; "Spin Counterclockwise" has 21


def readable(name: str) -> str:
    """SpinClockwise -> Spin Clockwise; and nothing that no font has."""
    name = unicodedata.normalize("NFC", name)
    words = re.sub(r"(?<=[^\W_])(?<![A-Z])(?=[A-Z])", " ", name)
    shown = "".join(map(legible, words))
    return re.sub(r"\s+", " ", shown).strip() or " ".join(f"U+{ord(c):X}" for c in name)


def wrapped(name: str, lines: int = 2) -> str:
    """Readable, in so many lines at most."""
    return textwrap.fill(readable(name), LONG, max_lines=lines, placeholder=" …")


def legible(character: str) -> str:
    if unicodedata.category(character) == "Cf" and character not in JOINERS:  # invisible, and too much for matplotlib
        return ""
    if character.isspace() or font_of(character):
        return character
    return f"U+{ord(character):X}" if unicodedata.category(character)[0] in WRITING else ""


@functools.cache
def font_of(character: str) -> Path | None:
    own = next((font for font in OWN if ord(character) in characters(font)), None)
    if own or unicodedata.category(character)[0] not in WRITING:
        return own
    return next((font for font in map(Path, sorted(findSystemFonts())) if ord(character) in characters(font)), None)


@functools.cache
def characters(font: Path) -> frozenset[int]:
    try:
        return frozenset(FT2Font(str(font)).get_charmap())
    except (RuntimeError, OSError):  # a font of coloured pictures
        return frozenset()


def other_fonts(names: Iterable[str]) -> dict[str, Path]:
    """{family: file} of the system's fonts that these names need; matplotlib knows them from here on."""
    fonts = {font_of(character) for name in names for character in readable(name)} - {None, *OWN}
    for font in fonts:
        fontManager.addfont(font)
    return {FT2Font(str(font)).family_name: font for font in sorted(fonts)}
