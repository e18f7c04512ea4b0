from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from framebudget.report import plots

SUBSETS = "train", "validation", "test"


@pytest.mark.parametrize("K", [2, 5, 16, 17, 101])
def test_names_stay_apart_and_figures_on_their_page(K):
    names = [f"ABreak{k:03d}Dance" for k in range(K)]
    rows = [(name, name + subset, subset, 30 + k) for name in names for k, subset in enumerate(SUBSETS)]
    split = pd.DataFrame(rows, columns=["class", "clip", "subset", "frames"]).assign(fold=0)
    p = pd.DataFrame(np.eye(K), columns=[f"p_{name}" for name in names])
    run = pd.DataFrame({"label": names, "prediction": names, "seed": 0}).join(p)
    predictions = pd.concat([run.assign(model=model, frames=T) for model in plots.MODELS for T in (6, 8, 16)])
    figures = (
        plots.clips_per_class(split),
        plots.frames_per_clip(split, [6, 8], "frames"),
        plots.confusion(predictions, "frames"),
    )
    for figure in figures:
        assert figure.get_figheight() <= plots.TALL
        assert apart(figure)
    assert len(figures[0].axes[0].get_yticklabels()) == K


def apart(figure: Figure) -> bool:
    """Whether no name of a class covers the one below it."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = sorted((label.get_window_extent() for label in axes.get_yticklabels()), key=lambda box: box.y0)
        if any(one.y1 > other.y0 for one, other in pairwise(boxes)):
            return False
    return True
