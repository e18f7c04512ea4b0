"""Write docs/how-the-answer-was-found.md and its pictures, from the embedded clips and the kept study of motion.

    $ dvc pull data.dvc && python docs/walkthrough.py

Run it again when reports/motion changes.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from framebudget import params
from framebudget.console import stage, usage, write_text
from framebudget.figures import loses_most
from framebudget.params import Input
from framebudget.report import kept, plots, strips
from framebudget.report.controls import spacing
from framebudget.sources.motion import period
from framebudget.study import read_predictions, read_table
from framebudget.video import sampling
from framebudget.video.reader import probe, read_frames

KEPT, PAGE, PICTURES = Path("reports/motion"), Path("docs/how-the-answer-was-found.md"), Path("docs/walkthrough")
MODEL, BUDGETS = "x3d_m", [6, 8, 16]


@stage
def main() -> None:
    spec = params.load(KEPT / "params.yaml").input(MODEL)
    tested = read_predictions(KEPT / "predictions.csv").query("model == @MODEL and budget in @BUDGETS")
    name = loses_most(tested[tested["label"] == "Recede"])
    path = Path("data/motion") / f"{name}.avi"
    facts = probe(path)
    taken = {T: frames_of(spec, T, facts) for T in BUDGETS}
    plots.write(strips.strips([(f"{T} frames", read_frames(path, taken[T])) for T in BUDGETS]), PICTURES / "frames.png")
    of_clip = tested[tested["clip"] == name]
    group, steps = of_clip["group"].iloc[0], {T: spacing(spec, T) for T in BUDGETS}
    turns = period(group)
    wrong = of_clip.assign(wrong=of_clip["label"] != of_clip["prediction"]).groupby("budget")["wrong"].sum()
    first = of_clip[of_clip["seed"] == 0].set_index("budget")
    classes = [column.removeprefix("p_") for column in of_clip.columns if column.startswith("p_")]
    seeds, clips, groups = of_clip["seed"].nunique(), tested["clip"].nunique(), tested["group"].nunique()
    assert steps[6] > turns / 2 > steps[8], "section 3 describes another clip"
    assert wrong[8] == 1 and first.at[8, "prediction"] != first.at[8, "label"], "section 3 describes other networks"
    facts_row = [path.parent.name, group, facts["frames"], facts["fps"], f"{facts['width']} × {facts['height']}"]
    facts_table = table([[*facts_row, facts["codec"]]], ["class", "group", "frames", "fps", "pixels", "codec"])
    frames_table = table(
        [[T, ", ".join(str(number) for number in taken[T])] for T in BUDGETS], ["budget", "frames, counted from 0"]
    )
    probabilities = table(
        [[T, *(f"{first.at[T, f'p_{one}']:.2f}" for one in classes)] for T in BUDGETS], ["frames", *classes]
    )
    results = read_table(KEPT / "results.csv").query("model == @MODEL and budget in @BUDGETS").set_index("budget")
    accuracies = table(
        [[T, f"{row.accuracy:.1%}", f"{row.low:.1%} to {row.high:.1%}"] for T, row in results.iterrows()],
        ["frames", "test accuracy", "95% interval"],
    )
    pairs = read_table(KEPT / "comparisons.csv").query("model_a == @MODEL and model_b == @MODEL and budget_b == 16")
    losses = table(
        [[row.budget_a, f"{100 * row.difference:.1f}", f"{100 * row.at_most:.1f}"] for row in pairs.itertuples()
         if row.budget_a in BUDGETS],
        ["frames", "loss, points", "at most, points"],
    )  # fmt: skip
    answer = kept.sentence(kept.read().query("study == 'motion' and model == @MODEL"))
    page = f"""# How the answer was found

This page follows one clip from its file to one of the answers of the kept study
[reports/motion](../reports/README.md#motion): how many frames X3D-M needs there. The clip is `{path.name}`. Of those
that recede, it is the one whose accuracy rises most from 6 to 16 frames. `python docs/walkthrough.py` writes this page.

## 1. `fetch` decodes and describes the clip

`fetch` decodes every frame of the file and records what it found in `work/manifest.csv`:

{facts_table}

The group is the scene, `{group}`. Five clips show this scene, one for each class.

## 2. `split` keeps its group together

All clips of `{group}` are test clips, so no network was trained on this scene, or had its epoch chosen by it.

## 3. Which frames a budget takes

Evaluation takes a window of {spec.window} s in the middle of the clip. It spreads the frames of the budget evenly over
it:

{frames_table}

![The clip at 6, 8 and 16 frames](walkthrough/frames.png)

The ellipse shrinks with a period of {turns:.1f} frames. At 16 frames the shrinking is visible. The 6 frames are
{steps[6]:.1f} frames apart, which is more than half a period. So the motion aliases: the ellipse seems to approach,
slowly. The 8 frames are {steps[8]:.1f} frames apart, just below half a period: the direction is visible, but hard to
see. {wrong[8]} of {seeds} networks still errs, the one from seed 0.

## 4. A network predicts

`train_x3d` trains one X3D-M for each budget and seed, and keeps the epoch with the highest validation accuracy. With
each of them, `evaluate` classifies the clip. These are the probabilities from seed 0 in
`reports/motion/predictions.csv`:

{probabilities}

Networks that predict another class: {", ".join(f"{wrong[T]} of {seeds} with {T} frames" for T in BUDGETS)}.

## 5. Clips and seeds become an accuracy

The study has {clips} test clips in {groups} groups, and {seeds} networks for every budget. Their predictions give the
mean accuracy. Its interval covers new groups and new trainings (section "Evaluation" of the paper):

{accuracies}

## 6. A rule gives the verdict

A budget is enough if it loses at most 5 points against 16 frames, by a one-sided 95% bound (*at most*):

{losses}

{answer}
"""
    write_text(PAGE, page)


def frames_of(spec: Input, T: int, facts: dict) -> np.ndarray:
    span = sampling.span(spec, facts["frames"], facts["fps"], T)
    return sampling.views(spec.sampling, facts["frames"], T, span, 1, spec.short)[0]


def table(rows: list[list], header: list[str]) -> str:
    return pd.DataFrame(rows, columns=header).to_markdown(index=False, disable_numparse=True)


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
