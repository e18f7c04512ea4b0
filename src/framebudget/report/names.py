"""Class names as figures and paper print them, in any script.

Matplotlib's own fonts lack Chinese, Japanese, Korean and most emoji. A letter that they lack is set in the first
system font that has it, or printed as its code; an emoji is left out. Only such names can make papers differ between
machines.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.font_manager import findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

FOLDER = Path(matplotlib.get_data_path(), "fonts/ttf")
OWN = (FOLDER / "STIXGeneral.ttf", FOLDER / "DejaVuSans.ttf")
JOINERS = "\u200c\u200d"  # join letters in some scripts
WRITING = "LMNP"  # Unicode categories: letters, marks, numbers, punctuation; not symbols, such as emoji


def readable(name: str) -> str:
    """SpinClockwise -> Spin Clockwise, without letters that no font has."""
    name = unicodedata.normalize("NFC", name)
    spaced = re.sub(r"(?<=[^\W_])(?<![A-Z])(?=[A-Z])", " ", name)
    return " ".join("".join(map(legible, spaced)).split()) or " ".join(f"U+{ord(letter):X}" for letter in name)


def legible(character: str) -> str:
    """The character, its code, or nothing."""
    if unicodedata.category(character) == "Cf" and character not in JOINERS:  # invisible; matplotlib cannot draw it
        return ""
    if character.isspace() or font_of(character):
        return character
    return f"U+{ord(character):X}" if unicodedata.category(character)[0] in WRITING else ""


@functools.cache
def font_of(character: str) -> Path | None:
    """The first font that has it, matplotlib's before the system's. Symbols come only from matplotlib's."""
    own = next((font for font in OWN if ord(character) in characters(font)), None)
    if own or unicodedata.category(character)[0] not in WRITING:
        return own
    return next((font for font in map(Path, sorted(findSystemFonts())) if ord(character) in characters(font)), None)


@functools.cache
def characters(font: Path) -> frozenset[int]:
    try:
        return frozenset(FT2Font(str(font)).get_charmap())
    except (RuntimeError, OSError):  # a font of colored pictures
        return frozenset()


def other_fonts(names: Iterable[str]) -> dict[str, Path]:
    """{family: file} of the system fonts that these names need. Also makes them known to matplotlib."""
    fonts = {font_of(character) for name in names for character in readable(name)} - {None, *OWN}
    for font in fonts:
        fontManager.addfont(font)
    return {FT2Font(str(font)).family_name: font for font in sorted(fonts)}
