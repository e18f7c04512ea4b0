"""Draw what the paper shows.

    $ python -m framebudget.figures         (dvc repro figures)

reads   work/split.csv, work/predictions.csv, work/<model>/curves.csv, and three test clips
        params.yaml             protocol, frames, datasets.<dataset>.{input, evaluate}
writes  work/figures/           clips, strips, curves, confusion and frames, each as .pdf and .png
"""

from pathlib import Path

import pandas as pd

from framebudget import params
from framebudget.console import new_folder, read_csv, stage
from framebudget.params import MODELS, Params
from framebudget.report import plots, tables
from framebudget.video import sampling, transforms
from framebudget.video.reader import read_frames


@stage
def main() -> None:
    p = params.load()
    split = read_csv(Path("work/split.csv"))
    predictions = read_csv(Path("work/predictions.csv"), "label", "prediction")
    curves = pd.concat([read_csv(Path("work") / model / "curves.csv") for model in MODELS])
    scores = tables.scores(predictions, p.data.evaluate.top_k)
    with new_folder(Path("work/figures")) as folder:
        plots.save(plots.clips_per_class(split), folder, "clips")
        plots.save(plots.strips(examples(p, split)), folder, "strips")
        plots.save(plots.learning_curves(curves), folder, "curves")
        plots.save(plots.confusion(predictions), folder, "confusion")
        plots.save(plots.accuracy_against_frames(scores, 1 / split["class"].nunique()), folder, "frames")


def examples(p: Params, split: pd.DataFrame) -> list:
    """One test clip of each of three classes, the first, the middle and the last, as `plots.strips` takes them.

    The frames are those that evaluation sees in its middle window, cropped as `input` says, but at the clip's
    own resolution.
    """
    test = split[split["subset"] == "test"].drop_duplicates("class").sort_values("class")
    picked = sorted({0, len(test) // 2, len(test) - 1})
    clips = []
    for row in test.iloc[picked].itertuples():
        crop = round(min(row.width, row.height) * p.data.input.crop / p.data.input.short_side)
        seen = {}
        for budget in p.frames:
            T, input = p.sampled("x3d_m", budget)
            (indices,) = sampling.views(row.frames, T, input.span(row.frames, row.fps, T), 1, input.short)
            frames_THWC = read_frames(p.folder / row.path, indices)
            ((top, left),) = transforms.even_view(*frames_THWC.shape[1:3], crop).corners
            seen[budget] = indices, frames_THWC[:, top : top + crop, left : left + crop]
        clips.append((plots.readable(test.loc[row.Index, "class"]), row.fps, seen))
    return clips


if __name__ == "__main__":
    main()
