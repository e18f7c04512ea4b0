"""The plot of `framebudget predict --timeline`."""

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from framebudget.report.plots import PAGE, readable, use_fonts_of


def timeline(times: np.ndarray, probabilities_NK: np.ndarray, classes: list[str], most: int = 6) -> Figure:
    """Probabilities over time of the classes that are most often the best, below a ribbon of the best class.

    times: (N, 2), the start and the end of each window in seconds. most: how many classes get a line.
    """
    use_fonts_of(classes)
    best_N = probabilities_NK.argmax(1)
    classes_K, often_K = np.unique(best_N, return_counts=True)
    drawn = classes_K[np.argsort(-often_K, kind="stable")][:most]
    colors = dict(zip(drawn, sns.color_palette("colorblind", len(drawn)), strict=True))
    seconds, name = (60, "Minutes") if times.max() >= 300 else (1, "Seconds")
    middles = times.mean(1) / seconds
    edges = np.concatenate([[times[0, 0] / seconds], (middles[1:] + middles[:-1]) / 2, [times[-1, 1] / seconds]])
    figure = Figure(figsize=(PAGE, 2.2))
    ribbon, axes = figure.subplots(2, sharex=True, height_ratios=[1, 8])
    for start, end, k in zip(edges[:-1], edges[1:], best_N, strict=True):
        ribbon.axvspan(start, end, color=colors.get(k, "0.8"), lw=0)
    ribbon.set(yticks=[], xlim=(edges[0], edges[-1]))
    ribbon.set_ylabel("Best", rotation=0, ha="right", va="center")
    ribbon.tick_params(length=0)
    ribbon.spines[:].set_visible(False)
    for k in drawn:
        axes.plot(middles, probabilities_NK[:, k], "o-" if len(middles) == 1 else "-", color=colors[k], lw=1.2)
    axes.set(xlabel=name, ylabel="Probability", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    labels = [readable(classes[k]) for k in drawn]  # passed here: an artist's label must not begin with _
    handles = [Line2D([], [], color=colors[k], lw=1.2) for k in drawn]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(drawn), 6))
    return figure
