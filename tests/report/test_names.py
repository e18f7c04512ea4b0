"""Names of classes in scripts that matplotlib's own fonts have, and have not."""

import unicodedata
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from framebudget.report import names, plots


@pytest.fixture
def system(monkeypatch, tmp_path):
    """The fonts of the system: none, and a function that installs one that has these letters."""
    files = []
    monkeypatch.setattr(names, "findSystemFonts", lambda: files)
    names.font_of.cache_clear()

    def install(letters: str) -> Path:
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0)), pen.lineTo((0, 800)), pen.lineTo((800, 0)), pen.closePath()
        glyphs = [".notdef", *(f"u{ord(letter):X}" for letter in letters)]
        font = FontBuilder(1000)
        font.setupGlyphOrder(glyphs)
        font.setupCharacterMap({ord(letter): f"u{ord(letter):X}" for letter in letters})
        font.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
        font.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
        font.setupHorizontalHeader(ascent=800, descent=-200)
        font.setupNameTable({"familyName": "Test Han", "styleName": "Regular"})
        font.setupOS2()
        font.setupPost()
        font.save(tmp_path / "han.ttf")
        files.append(str(tmp_path / "han.ttf"))
        names.font_of.cache_clear()
        return tmp_path / "han.ttf"

    yield install
    names.font_of.cache_clear()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("SpinClockwise", "Spin Clockwise"),
        ("a_b#c$d", "a_b#c$d"),
        ("Jumping Jack", "Jumping Jack"),
        (unicodedata.normalize("NFD", "Händeschütteln"), "Händeschütteln"),
        ("hug 🤗", "hug"),
        ("🤗", "U+1F917"),
        ("推 kick", "U+63A8 kick"),
    ],
)
def test_without_a_font_a_letter_is_its_code_and_an_emoji_is_left_out(system, name, shown):
    assert names.readable(name) == shown
    assert not names.other_fonts([name])


def test_a_font_of_the_system_writes_what_ours_cannot(system, recwarn, tmp_path):
    font = system("推")
    assert names.readable("推 kick") == "推 kick"
    assert names.other_fonts(["推 kick", "Sway"]) == {"Test Han": font}
    family = plots.matplotlib.rcParams["font.family"]
    try:
        plots.use_fonts(["推 kick"])
        figure = plots.Figure()
        figure.text(0, 0.5, plots.readable("推 kick"))
        plots.save(figure, tmp_path, "figure")
    finally:
        plots.matplotlib.rcParams["font.family"] = family
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_long_names_take_two_lines_and_money_is_no_formula(system):
    lines = plots.wrapped("Pushing somebody who stands in the middle of the yard").split("\n")
    assert len(lines) == 2
    assert max(map(len, lines)) <= names.LONG
    assert plots.wrapped("SpinCounterclockwise") == "Spin Counterclockwise"
    assert plots.readable("$5$") == r"\$5\$"
