from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from framebudget.console import UserError
from framebudget.models import NETWORKS
from framebudget.report import overview, plots, scores, statistics

SUBSETS = "train", "validation", "test"


@pytest.mark.parametrize("K", [2, 5, 16, 17, 101])
def test_names_stay_apart_and_figures_on_their_page(K):
    names = [f"ABreak{k:03d}Dance" for k in range(K)]
    rows = [(name, name + subset, subset, 30 + k) for name in names for k, subset in enumerate(SUBSETS)]
    split = pd.DataFrame(rows, columns=["class", "clip", "subset", "frames"]).assign(fold=0)
    p = pd.DataFrame(np.eye(K), columns=[f"p_{name}" for name in names])
    run = pd.DataFrame({"label": names, "prediction": names, "seed": 0, "clip": names}).join(p)
    predictions = pd.concat([run.assign(model=model, budget=T) for model in NETWORKS for T in (6, 8, 16)])
    figures = (
        plots.frames_per_clip(split, [6, 8], "frames"),
        plots.confusion(predictions, "frames"),
        plots.recalls(scores.per_class(predictions), "frames"),
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


def results(models: list[str], budgets: list[int]) -> pd.DataFrame:
    rows = [(model, T, 2, 0.8, 0.7, 0.9, T / 2) for model in models for T in budgets]
    return pd.DataFrame(rows, columns=["model", "budget", "seeds", "accuracy", "low", "high", "gmacs"])


@pytest.mark.parametrize("models", [["x3d_m"], ["slowfast_r50"], ["x3d_m", "slowfast_r50"]])
def test_accuracies_stand_around_their_budget(models):
    table = results(models, [6, 16])
    needed = pd.DataFrame({"model": models, "needed": 16})
    axes = plots.accuracy(table, table, needed, 0.2, "frames").axes[0]
    rings = [line.get_xdata()[0] for line in axes.lines if line.get_markersize() == 9 and len(line.get_xdata())]
    assert np.exp(np.mean(np.log(rings))) == pytest.approx(16) and len(rings) == len(models)
    first = [line.get_xdata()[0] for line in axes.lines if line.get_markersize() == 4 and line.get_marker() in "os"]
    assert np.exp(np.mean(np.log(first))) == pytest.approx(6)
    assert len({*first}) == len(models)


def test_seconds_have_no_panel_of_cost():
    table = results(["x3d_m"], [6, 16])
    needed = pd.DataFrame({"model": ["x3d_m"], "needed": [np.nan]})
    assert [len(plots.accuracy(table, table, needed, 0.2, unit).axes) for unit in ("frames", "seconds")] == [2, 1]


def test_a_budget_whose_number_would_touch_another_has_none():
    axes = Figure().subplots()
    plots.budget_ticks(axes, [1, 2, 15, 16])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "15", ""]


@pytest.mark.parametrize("budgets", [[8], [6, 16]])
def test_a_study_of_one_network_has_every_plot(budgets, tmp_path):
    p = pd.DataFrame({"p_a": [0.9, 0.2, 0.6], "p_b": [0.1, 0.8, 0.4]})
    run = pd.DataFrame({"model": "slowfast_r50", "seed": 0, "label": ["a", "b", "b"], "prediction": ["a", "b", "a"]})
    run = run.assign(clip=range(3), group=range(3)).join(p)
    predictions = pd.concat([run.assign(budget=budget) for budget in budgets])
    curves = pd.DataFrame({"epoch": [0, 1], "val_accuracy": [0.2, 0.8], "train_accuracy": [0.3, 0.7]})
    curves = pd.concat([curves.assign(model="slowfast_r50", budget=budget) for budget in budgets])
    needed = pd.DataFrame({"model": ["slowfast_r50"], "needed": [np.nan]})
    table = statistics.summary(predictions, 1).assign(gmacs=2.0)
    figures = (
        plots.learning_curves(curves, "seconds"),
        plots.confusion(predictions, "seconds"),
        plots.accuracy(table, scores.scores(predictions, 1), needed, 0.5, "frames"),
    )
    for figure in figures:
        plots.write(figure, tmp_path / "figure.png")
        names = [axes.get_title() for axes in figure.axes] + [text.get_text() for text in figure.findobj(Text)]
        assert any("SlowFast R50" in name for name in names)


def test_a_row_of_a_confusion_is_a_true_class():
    table = pd.DataFrame(
        {"label": ["a", "a", "a", "c"], "prediction": ["a", "b", "b", "b"], "model": "x3d_m", "budget": 6}
    )
    table["clip"] = range(4)
    (axes,) = plots.confusion(table.assign(p_a=0, p_b=0, p_c=0), "frames").axes
    assert [text.get_text() for text in axes.texts] == ["33", "67", "0", "0", "0", "0", "0", "100", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (3)", "b (0)", "c (1)"]


def test_networks_keep_their_color_and_others_get_one(monkeypatch):
    known = [plots.style_of(model) for model in ("x3d_m", "slowfast_r50")]
    monkeypatch.setitem(NETWORKS, "a_small_one", NETWORKS["x3d_m"])
    assert [plots.style_of(model) for model in ("x3d_m", "slowfast_r50")] == known
    assert plots.style_of("a_small_one") not in known


def test_no_budget_has_the_color_of_a_network_or_of_another_budget():
    budgets = [style["color"] for style in plots.styles_of([16, 6, 8, 1, 2, 4]).values()]
    taken = {plots.style_of(model)["color"] for model in NETWORKS} | {*overview.CLIPS}
    assert len({*budgets}) == 6 and not taken & {*budgets}
    assert not {plots.style_of(model)["color"] for model in NETWORKS} & {*overview.CLIPS}


def test_a_format_that_matplotlib_does_not_know_is_named(tmp_path):
    with pytest.raises(UserError, match=r"figure\.xyz: matplotlib cannot write \.xyz files; choose one of .*pdf"):
        plots.write(Figure(), tmp_path / "figure.xyz")
    assert not list(tmp_path.iterdir())
    plots.write(Figure(), tmp_path / "figure.PNG")
