"""Export a trained network to ONNX, with a model card beside it."""

import json
import sys
import warnings
from pathlib import Path

import onnx
import torch

from framebudget.commands.serving import load
from framebudget.console import UserError, new_file, read_csv, sha256, write_text
from framebudget.models import NETWORKS
from framebudget.report.cost import cost
from framebudget.split import leaked
from framebudget.study import read_table, trained
from framebudget.video.transforms import MEAN, STD

SIGNED = "trained and exported by Frame Budget"


def export(file: Path, path: Path) -> None:
    """Write `path`: clips (B, 3, T, crop, crop) float32 -> logits (B, K). The model card gets the same name with .md.

    file: trained weights. Raises UserError, also if the .md file exists and is not a model card.
    """
    beside = path.with_suffix(".md")
    if path.suffix != ".onnx" or path.is_dir():
        raise UserError(f"{path}: name a file that ends in .onnx")
    if beside.exists() and SIGNED not in beside.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{beside} is not a model card and would be replaced by one; export to another name")
    network, checkpoint = load(file)
    text, crop = card(checkpoint, file), checkpoint["input"]["crop"]
    example = torch.zeros(2, 3, checkpoint["frames"], crop, crop).to(memory_format=torch.channels_last_3d)
    names = {"input_names": ["clips"], "output_names": ["logits"], "dynamic_shapes": ({0: torch.export.Dim("B")},)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network, (example,), dynamo=True, verbose=sys.stdout.isatty(), **names)
    model = program.model_proto
    facts = {key: json.dumps(checkpoint[key]) for key in ("model", "frames", "classes", "input")}
    onnx.helper.set_model_props(model, facts)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # torch's stack traces, which name the folders of this machine
    with new_file(path) as unfinished:
        onnx.save(model, unfinished)
    write_text(beside, text)


def card(checkpoint: dict, file: Path) -> str:
    """The model card: how to use the network and, if its weights are in work/, how they were trained and tested."""
    model, T, classes, spec = (checkpoint[key] for key in ("model", "frames", "classes", "input"))
    crop, K = spec["crop"], len(classes)
    parameters, gmacs = cost(model, K, T, crop)
    names = "\n".join(f"{k}. {name}" for k, name in enumerate(classes))
    results, own = "Test accuracy unknown: these weights are not from the study in work/.", sha256(file)
    for (budget, _, fold), path in trained(Path("work", model)).items():
        if sha256(path) == own:
            results = history(model, budget, fold)
    return f"""# {NETWORKS[model].name}, {T} frames, {K} classes

Weights `{file.name}`, {SIGNED}: {parameters:.2f} million parameters, {gmacs:.2f}·10⁹ multiply-adds per view.

`clips`, float32 (B, 3, {T}, {crop}, {crop}): {T} RGB frames, {taken(spec, T)};
shorter side scaled to {spec["short_side"]} pixels (bilinear), center crop of {crop} × {crop}; divided by 255,
minus {MEAN}, divided by {STD}.

`logits`, float32 (B, {K}), which a softmax turns into probabilities of these classes:

{names}

{results} Chance is {1 / K:.0%}.

Whatever it sees, the network answers with one of these {K} classes. Its confidence means nothing for other actions.
"""


def taken(spec: dict, T: int) -> str:
    """Which T frames of a clip the network takes."""
    if spec["sampling"] == "dense":
        return "one in every " + str(spec["stride"]) if spec["stride"] > 1 else "consecutive"
    if spec["sampling"] == "segments":
        return "each from the middle of one of as many equal parts of the clip"
    window = "the whole clip" if spec["window"] is None else f"{spec['window']:g} seconds"
    return f"the middle one of {window}" if T == 1 else f"spread evenly over {window}, from the first to the last"


def history(model: str, budget: int, fold: int) -> str:
    """How the study in work/ trained this network, and the test result of all seeds and folds at its budget."""
    folds = read_csv(Path("work/split.csv"), {"group": str, "subset": str, "fold": int})
    split = folds.query("fold == @fold")
    n, groups = split["subset"].value_counts(), split["group"].nunique()
    others = f"{n['validation']} for validation, {n['test']} for the test."
    training = f"Trained on {n['train']} of {len(split)} clips of {groups} groups; {others}"
    path = Path("work/tables/results.csv")
    if not path.exists() or (rows := read_table(path).query("model == @model and budget == @budget")).empty:
        return f"{training} Not evaluated yet."
    row = rows.iloc[0]
    of = {"recipe": "for new groups and trainings", "networks": "for new groups"}.get(row.interval_of)
    interval = f", 95% interval {of} {row.low:.1%} to {row.high:.1%}" if of else ""
    seeds = f"mean of {row.seeds:.0f} seeds" if row.seeds > 1 else "one seed"
    leak = " Some of these share a group with clips of training or validation." if leaked(split) else ""
    number = folds["fold"].nunique()
    of_all = f"In cross-validation with {number} folds, the networks recognize " if number > 1 else ""
    return f"{training}\n{of_all}{row.accuracy:.1%} of the test clips ({seeds}{interval}).{leak}"
