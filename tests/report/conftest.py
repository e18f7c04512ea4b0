import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.text import Text


@pytest.fixture
def legible(monkeypatch):
    """Checks that every text of a figure lies inside, is not small, and covers neither another text nor a box."""
    drawn, draw = {}, Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (drawn.update({text: None}), draw(text, renderer)))

    def check(figure: Figure, width: float) -> None:
        FigureCanvasAgg(figure).draw()
        places = {text: text.get_window_extent() for text in drawn if text.get_visible() and text.get_text()}
        boxes = [
            patch.get_transform().transform_path(patch.get_path())
            for axes in figure.axes
            for patch in axes.patches
            if not isinstance(patch, Circle)  # which stands around its text
        ]
        assert figure.get_figwidth() == width and len(places) > 5
        for text, place in places.items():
            assert text.get_fontsize() >= 6
            assert figure.bbox.count_contains(place.corners()) == 4, text
            assert not any(box.intersects_bbox(place) for box in boxes), text
        for (one, here), (other, there) in itertools.combinations(places.items(), 2):
            assert not here.overlaps(there), (one, other)

    return check
