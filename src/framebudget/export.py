"""A trained network as ONNX, and what whoever uses it must know about it."""

import json
import sys
import warnings
from pathlib import Path

import onnx
import pandas as pd
import torch

from framebudget.console import read_csv, sha256, write_text
from framebudget.models import trained
from framebudget.params import MODELS, Input
from framebudget.report.cost import cost
from framebudget.video.transforms import MEAN, STD

SIGNED = "trained and exported by Frame Budget"


def export(file: Path, path: Path) -> None:
    """Write `path`, clips (B, 3, T, crop, crop) float32 -> logits (B, K), and the card beside it as .md.

    file: weights of a training. Raises WeightsError, and ValueError if `path` is not to be called so, or the card would
    take the place of something else.
    """
    beside = path.with_suffix(".md")
    if path.suffix != ".onnx" or path.is_dir():
        raise ValueError(f"{path}: the name of a file that ends in .onnx is needed")
    if beside.exists() and SIGNED not in beside.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{beside} is no model card, and one would take its place; export to another name")
    network, checkpoint = trained.load(file)
    said = card(checkpoint, file)
    T, crop = checkpoint["frames"], checkpoint["input"]["crop"]
    example = torch.zeros(2, 3, T, crop, crop).to(memory_format=torch.channels_last_3d)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            input_names=["clips"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("B")},),
            dynamo=True,
            verbose=sys.stdout.isatty(),
        )
    model = program.model_proto
    facts = {key: checkpoint[key] for key in ("model", "frames", "classes", "input")}
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    onnx.save(model, partial)
    partial.replace(path)
    write_text(beside, said)


def card(checkpoint: dict, file: Path) -> str:
    """A model card. What this repository knows of the training is in it, if the weights are those that lie in work/."""
    model, T, classes = checkpoint["model"], checkpoint["frames"], checkpoint["classes"]
    input = Input(**checkpoint["input"])
    parameters, gflops = cost(model, len(classes), T, input.crop)
    window = f"{input.window:g} seconds" if input.window else "the whole clip"
    names = "\n".join(f"{k}. {name}" for k, name in enumerate(classes))
    own = sha256(file) in map(sha256, sorted(Path("work", model).glob("*.pt")))
    unknown = "Not known here: these weights are not of the study that lies in work/."
    K, crop, square = len(classes), input.crop, f"{input.crop}, {input.crop}"
    return f"""# {MODELS[model]}, {T} frames, {K} classes

Weights `{file.name}`, {SIGNED}.
{parameters:.2f} million parameters, {gflops:.2f} GFLOPs a view.

## Input and output

`clips`, float32 (B, 3, {T}, {square}): {T} RGB frames, evenly spread over {window}, its first and last
among them, scaled so that the shorter side has {input.short_side} pixels (bilinear); of those the square
of {crop} in the middle, divided by 255, minus {MEAN}, divided by {STD}.
`logits`, float32 (B, {K}): a softmax makes probabilities. The classes, in this order:

```
{names}
```

## Trained on

{trained_on() if own else unknown}

## Accuracy

{accuracy(model, T, K) if own else unknown}

## Limits

It gives one of these {K} classes to whatever it sees; its confidence means nothing for other actions.
It was tested on clips like those that it learned from, of other people, scenes or source videos as far
as the groups of the study tell them apart; other cameras, lengths and frame rates were not tried.
What happens between its {T} frames it does not see.
"""


def trained_on() -> str:
    split = read_csv(Path("work/split.csv"), {"clip": str, "group": str, "subset": str})
    clips, folds = split.drop_duplicates("clip"), split["fold"].nunique()
    whole = f"{len(clips)} clips of {clips['group'].nunique()} groups"
    if folds > 1:
        return f"{folds - 1} of {folds} folds of {whole}."
    sizes = clips["subset"].value_counts()
    return f"{sizes['train']} of {whole}; {sizes['validation']} more chose the epoch, {sizes['test']} were the test."


def accuracy(model: str, T: int, K: int) -> str:
    path = Path("work/tables/results.csv")
    rows = pd.read_csv(path).query("model == @model and frames == @T") if path.exists() else pd.DataFrame()
    if rows.empty:
        return "Not evaluated yet."
    row = rows.iloc[0]
    interval = f", 95 % interval over groups {row.low:.1%} to {row.high:.1%}" if pd.notna(row.low) else ""
    seeds = f"mean of {row.seeds:.0f} seeds" if row.seeds > 1 else "one seed"
    return f"{row.accuracy:.1%} of the test clips ({seeds}{interval}). Chance is {1 / K:.0%}."
