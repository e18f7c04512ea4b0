"""Names of classes in scripts that matplotlib's own fonts have, and have not."""

import unicodedata

import numpy as np
import pytest

from framebudget.report import names, over_time, plots


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
def test_without_a_font_a_letter_is_its_code_and_an_emoji_is_left_out(system_font, name, shown):
    assert names.readable(name) == shown
    assert not names.other_fonts([name])


def test_a_font_of_the_system_writes_what_ours_cannot(system_font, recwarn, tmp_path):
    font = system_font("推")
    assert names.readable("推 kick") == "推 kick"
    assert names.other_fonts(["推 kick", "Sway"]) == {"Test Han": font}
    with plots.matplotlib.rc_context():
        plots.use_fonts_of(["推 kick"])
        figure = plots.Figure()
        figure.text(0, 0.5, plots.readable("推 kick"))
        plots.save(figure, tmp_path, "figure")
    with plots.matplotlib.rc_context():
        times, probabilities_NK = np.array([[0, 1], [1, 2]]), np.array([[0.9, 0.1], [0.2, 0.8]])
        plots.save(over_time.timeline(times, probabilities_NK, ["推 kick", "Sway"]), tmp_path, "timeline")
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_long_names_take_two_lines_and_money_is_no_formula(system_font):
    lines = plots.wrapped("Pushing somebody who stands in the middle of the yard").split("\n")
    assert len(lines) == 2
    assert max(map(len, lines)) <= plots.LONG
    assert plots.wrapped("SpinCounterclockwise") == "Spin Counterclockwise"
    assert plots.readable("$5$") == r"\$5\$"


def test_what_is_invisible_is_left_out():
    assert names.readable("\ufeffArch\u200bery\u202e") == "Archery"
