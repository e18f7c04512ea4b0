"""What the paper says is true of any study: the sentences that claim something follow from the predictions."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from framebudget import evaluate, figures, paper, params
from framebudget.console import write_csv
from framebudget.models import NETWORKS
from framebudget.report import kept, plots
from framebudget.sources.motion import ACTIONS
from framebudget.study import Study, read_table, write_table
from tests.conftest import ROOT, set_params

LONG = "AVeryLongClassNameWithManyManyWordsInIt"
NAMES = ["JumpHigh", "Größe 50 %", "=cmd()", "a_b#c$d", LONG, *(f"Other{k}" for k in range(96))]
MARGIN = 738  # points from above: here the text ends
SIZES = {  # of figures, in inches
    "teaser": (7, 2.6), "answers": (3.4, 2.6), "sampling": (3.4, 2), "convolution": (3.4, 2.6), "curves": (3.4, 2.1),
    "accuracy": (3.4, 2.3), "controls": (3.4, 2), "classes": (3.4, 2), "confusion": (7, 4), "mistakes": (7, 2),
    "x3d_m": (7, 2), "slowfast_r50": (7, 3), "limits": (3.4, 2.2), "kept_controls": (3.4, 2),
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A repository with a paper and no study."""
    for folder in ("paper", "reports/splits"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.pdf"))
    shutil.copy(ROOT / "reports/answers.csv", tmp_path / "reports")
    for file in ("params.yaml", "CITATION.cff"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate.weights, "read", lambda file: {"precision": "32-true"})  # there are no weights
    monkeypatch.setattr(evaluate, "cost", lambda model, classes, T, crop: (3.8, T / 10))  # takes a second
    return tmp_path


def blank(size: tuple[float, float]) -> str:
    """An SVG picture of this size, in inches, without anything."""
    width, height = (72 * length for length in size)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt"/>'


def typeset(
    here: Path,
    rates: dict[int, float],
    seeds: int = 1,
    classes: int = 4,
    groups: int = 20,
    learned: float = 0.9,
    grouped: bool = True,
    leaky: bool = False,
    given: tuple[str, ...] = (),
    dataset: str = "folder",
    drawn: bool = False,
    **changes,
) -> str:
    """The paper about networks that are right at these rates, by budget, as text, without what other studies say.

    groups: that are tested. grouped: or each clip is a group of its own. leaky: all groups are trained on, too.
    learned: training accuracy at the smallest budget. given: networks that start from weights. drawn: with the figures
    of numbers as they are; the others are blank.
    """
    set_params(here, dataset=dataset, frames=list(rates), seeds=list(range(seeds)), **changes)
    names = sorted(ACTIONS if dataset == "motion" else NAMES[:classes])
    folds = (
        3 if changes.get("datasets.folder.split.official") == "all" else changes.get("datasets.folder.split.folds") or 1
    )
    clips = pd.DataFrame([{"class": name, "group": f"g{k}"} for name in names for k in range(groups + 6)])
    clips = clips.assign(clip=clips["class"] + clips["group"], frames=50, seconds=2.0, sha256="0" * 64)
    number = clips["group"].str[1:].astype(int)
    subset = np.select([number < groups, number < groups + 3], ["test", "validation"], "train")
    if leaky:
        clips["group"] = [f"g{k % 6}" for k in number]
    if not grouped:
        clips["group"] = clips["clip"]
    split = pd.concat([clips.assign(fold=fold, subset=subset) for fold in range(folds)])
    test = clips[subset == "test"].reset_index(drop=True)
    generator, tables, curves = np.random.default_rng(0), [], []
    study = Study(params.load(), split)
    models = study.params.models
    for model, budget, seed in [(model, budget, seed) for model in models for budget in rates for seed in range(seeds)]:
        right = generator.random(len(test)) < rates[budget]
        table = pd.DataFrame(
            {"model": model, "budget": budget, "seed": seed, "clip": test["clip"], "group": test["group"]}
        )
        table["label"] = test["class"]
        table["prediction"] = test["class"].where(
            right, test["class"].map(dict(zip(names, names[1:] + names, strict=False)))
        )
        p = {f"p_{name}": np.where(table["prediction"] == name, 0.7, 0.3 / (classes - 1)) for name in names}
        tables.append(table.join(pd.DataFrame(p)))
        curve = {"val_accuracy": 0.5, "val_loss": 1.0, "train_accuracy": learned if budget == min(rates) else 0.9}
        for fold, epoch in [(fold, epoch) for fold in range(folds) for epoch in range(2)]:
            curves.append({"model": model, "budget": budget, "seed": seed, "fold": fold, "epoch": epoch} | curve)
    write_csv(split, Path("work/split.csv"))
    Path("work/weights.json").write_text(json.dumps({name: "0" * 64 if name in given else None for name in NETWORKS}))
    for model in models:
        rows = pd.DataFrame([row for row in curves if row["model"] == model])
        write_table(rows, Path("work") / model / "curves.csv", study.params.unit)
    predictions = pd.concat(tables, ignore_index=True)
    controls, said = predictions[["model", "budget", "seed", "clip", "group", "label"]], predictions["prediction"]
    tests = [*(f"at_{budget}" for budget in rates), "reversed", "shuffled", "still"]
    evaluate.report(study, predictions, controls.assign(**dict.fromkeys(tests, said)))
    Path("work/figures").mkdir()
    missing = {*NETWORKS} - {*models} | ({"limits", "kept_controls"} if dataset != "motion" else set())
    names, shown = [name for name in SIZES if name not in missing], {}
    for name in names:
        Path("work/figures", f"{name}.svg").write_text(blank(SIZES[name]))
    if drawn:
        read = {name: read_table(Path(f"work/tables/{name}.csv")) for name in ("results", "needed", "controls")}
        all_curves = pd.concat([read_table(Path("work") / model / "curves.csv") for model in models])
        shown = dict(figures.of_numbers(predictions, all_curves, read, study.params.unit, None))
        shown["lengths"] = plots.frames_per_clip(split, [*rates], study.params.unit)
    for name, figure in shown.items():
        plots.save(figure, Path("work/figures"), name)
    Path("work/figures/figures.json").write_text(json.dumps(list(dict.fromkeys([*names, *shown]))))
    paper.main()
    if not shutil.which("pdftotext"):
        pytest.skip("typeset, but not read: no pdftotext (Debian: poppler-utils)")
    return re.sub(r"\d\.\d Other studies.*?(?=\d Discussion)", "", pdftotext("-raw"), flags=re.DOTALL)


def pages() -> list[list[tuple[str, np.ndarray]]]:
    """The words of each page, with their boxes: left, top, right, bottom in points."""
    word = re.compile(r'xMin="(.*)" yMin="(.*)" xMax="(.*)" yMax="(.*)">(.*)</word>')
    return [
        [(match[5], np.array([float(match[k]) for k in range(1, 5)])) for match in word.finditer(page)]
        for page in pdftotext("-bbox").split("<page ")[1:]
    ]


def nothing_is_cut_off() -> bool:
    """Whether below the margin stand the page numbers alone."""
    below = [word for page in pages() for word, box in page if box[3] > MARGIN]
    return below == [str(page + 1) for page in range(len(below))]


def covered() -> list[tuple[str, str]]:
    """Pairs of words of which one covers more than a third of the other."""
    found = []
    for page in pages():
        boxes = np.array([box for _, box in page])
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=2)
        pairs = np.argwhere(np.triu(shared > np.minimum(areas[:, None], areas) / 3, 1))
        found += [(page[i][0], page[j][0]) for i, j in pairs]
    return found


def pdftotext(option: str) -> str:
    return subprocess.run(
        ["pdftotext", option, "paper/paper.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout


def packed(text: str) -> str:
    """Without what lines are broken at."""
    return re.sub(r"[-‐\xad\s]", "", text)


@pytest.mark.parametrize(
    ("rates", "more", "says"),
    [
        ({6: 0.4, 16: 0.95}, {"seeds": 5}, "Only 16 frames are enough for X3D-M. With 6 instead of 16, it loses"),
        ({6: 0.4, 16: 0.95}, {"seeds": 5}, "With 6 instead of 16 frames, X3D-M loses"),
        (
            {6: 0.4, 8: 0.99, 16: 0.99},
            {"seeds": 5},
            "8 frames are enough for X3D-M: with 8 instead of 16, it loses at most 5 points. With 6",
        ),
        (
            {6: 0.98, 16: 0.98},
            {"seeds": 5},
            "6 frames are enough for X3D-M: with 6 instead of 16, it loses at most 5 points.",
        ),
        ({1: 0.98, 16: 0.98}, {"seeds": 5}, "1 frame is enough for X3D-M: with 1 instead of 16, it loses"),
        ({6: 0.95, 16: 0.4}, {"seeds": 3}, "With only 3 seeds, this verdict is weak."),
        (
            {6: 0.8, 16: 0.82},
            {"seeds": 3},
            "How many frames X3D-M needs is not settled by these data:",
        ),
        ({6: 0.8, 8: 0.8, 16: 0.82}, {"seeds": 3}, "; the interval includes 0."),
        ({6: 0.4, 16: 0.95}, {"seeds": 5, "learned": 0.5}, "so learning may be the limit, not frames."),
        ({6: 0.4, 16: 0.95}, {}, "one seed cannot show how much trainings vary"),
        ({6: 0.4, 16: 0.95}, {"seeds": 2}, "two seeds cannot show how much trainings vary"),
        ({6: 0.4, 16: 0.95}, {"seeds": 3, "groups": 4}, "there are too few groups for an interval"),
        ({6: 0.8}, {}, "This study ran a single budget"),
        ({6: 0.8, 16: 0.9}, {"classes": 2, "seeds": 2}, "clips of 2 classes, with 2 seeds"),
        ({6: 0.8, 16: 0.9}, {"classes": 101, "groups": 5}, "clips of 101 classes, with 1 seed"),
        ({6: 0.8, 16: 0.9}, {"protocol": "published"}, "With 6 instead of 16 seconds"),
        ({6: 0.8, 16: 0.9}, {"models": ["x3d_m"]}, "PyTorchVideo’s [25] X3D-M with two changes: its head"),
        ({6: 0.8, 16: 0.9}, {"models": ["slowfast_r50"]}, "We train SlowFast R50 from scratch with 6 and 16 frames"),
        ({6: 0.8, 16: 0.9}, {"datasets.folder.split.folds": 3}, "Every clip is tested once, by a network"),
    ],
)
def test_sentences_follow_from_the_predictions(here, rates, more, says):
    assert packed(says) in packed(typeset(here, rates, **more))
    assert nothing_is_cut_off()


@pytest.mark.parametrize(("seeds", "needed"), [(5, {"x3d_m": 8}), (1, {})])
def test_what_is_needed_is_a_metric_where_it_is_decided(here, seeds, needed):
    typeset(here, {6: 0.4, 8: 0.99, 16: 0.99}, seeds=seeds, models=["x3d_m"])
    assert json.loads(Path("work/metrics.json").read_text())["frames_needed"] == needed


@pytest.mark.parametrize(
    ("low", "says"),
    [(-0.1, "No difference is distinguishable from zero over these seeds"), (0.01, "as published, Weizmann.")],
)
def test_what_the_design_is_worth_follows_from_the_table(here, low, says):
    path = Path("reports/splits/summary.csv")
    table = pd.read_csv(path)
    table.loc[table["low"].notna(), ["low", "high"]] = -0.2, 0.2
    table.loc[(table["data"] == "weizmann") & (table["arm"] == "published"), ["low", "high"]] = low, 0.3
    write_csv(table, path)
    assert packed(says) in packed(typeset(here, {6: 0.8}))


def abstract(text: str) -> str:
    return text[: text.index("1Introduction")]


def said(answers: pd.DataFrame, study: str, brief: bool = False) -> list[str]:
    return [packed(kept.sentence(rows, brief)) for _, rows in answers[answers["study"] == study].groupby("model")]


def test_the_embedded_clips_are_the_control_of_what_was_found_on_real_video(here):
    """The abstract says what the kept studies answer, and of the embedded clips what this build does."""
    answers = kept.read()
    text = packed(typeset(here, {6: 0.5, 16: 1}, classes=5, dataset="motion", seeds=3))
    assert all(sentence in abstract(text) for sentence in said(answers, "ucf101", brief=True))
    assert all(sentence in text for sentence in said(answers, "ucf101"))
    assert packed("Whether 2 are enough is not settled") not in abstract(text)
    assert not any(sentence in text for sentence in said(answers, "motion"))  # of other clips
    assert packed("for X3D-M. With 6 instead of 16, it loses") in abstract(text)
    assert "Realvideo" in text and "Thecontrolexperiment" in text and "Otherstudies" not in text
    assert packed("for X3D-M at 6 and SlowFast R50 at 6, by") in text  # a new column may begin before it
    assert packed("clips that approach, recede or spin, X3D-M classifies") in text
    assert "Replication" not in text  # of other clips


def test_a_build_of_the_kept_study_says_whether_it_agrees(here, monkeypatch):
    monkeypatch.setattr(paper.kept, "recipe", lambda p, model, clips: f"{model}'s")
    answers = kept.read().query("study == 'motion' and budget >= 6").assign(accuracy=0.5, accuracy_std=0.02)
    answers["recipe"] = answers["model"] + "'s"
    monkeypatch.setattr(paper.kept, "read", lambda: answers)
    text = packed(typeset(here, {6: 0.5, 16: 0.95}, classes=5, dataset="motion"))
    assert all(sentence in abstract(text) for sentence in said(answers, "motion", brief=True))
    assert packed("The kept study reports/motion has the same recipe and 5 seeds. It includes seed 0, so") in text
    assert packed("X3D-M at 16 and SlowFast R50 at 16 are not.") in text


def test_it_ends_with_what_was_measured(here, capsys):
    typeset(here, {6: 0.5, 16: 1}, models=["x3d_m"])
    assert re.search(
        r"^X3D-M: \d+\.\d% of the test clips at 6 frames, 100\.0% at 16\npaper/paper\.pdf\n$", capsys.readouterr().out
    )


def test_the_same_study_gives_the_same_bytes(here):
    typeset(here, {6: 0.5, 16: 0.9})
    first = Path("paper/paper.pdf").read_bytes()
    paper.main()
    assert Path("paper/paper.pdf").read_bytes() == first
    assert b"/StructTreeRoot" in first
    assert b"pdfaid:part>2<" in first and b"pdfuaid:part>1<" in first


def test_a_layout_on_which_typst_fails_is_set_a_little_wider(here, monkeypatch):
    typst, asked = paper.typst.compile, []

    def fails_once(*arguments, sys_inputs, **options):
        asked.append(sys_inputs["leading"])
        if len(asked) == 1:
            raise paper.typst.TypstError("internal error: parent group", "")
        return typst(*arguments, sys_inputs=sys_inputs, **options)

    monkeypatch.setattr(paper.typst, "compile", fails_once)
    typeset(here, {6: 0.5})
    assert asked == ["0.550em", "0.555em"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("classes", "budgets", "models", "more"),
    [
        (2, [6, 8, 16], 2, {}),
        (3, [8], 1, {"seeds": 3}),
        (12, [1, 2, 4, 6, 8, 12, 16, 32], 2, {"seeds": 3}),
        (5, [6, 16], 2, {"seeds": 2, "datasets.folder.input.window": None}),
        (17, [6, 16], 1, {"grouped": False}),
        (101, [6, 8, 16], 2, {"groups": 3, "datasets.folder.split.folds": 3}),
    ],
)
def test_every_layout_has_its_text_within_the_page_and_no_word_on_another(here, classes, budgets, models, more):
    text = typeset(here, dict.fromkeys(budgets, 0.9), classes=classes, models=[*NETWORKS][:models], drawn=True, **more)
    assert nothing_is_cut_off()
    assert not covered()
    before = next(k for k, page in enumerate(pages()) if any(word == "References" for word, _ in page))
    assert before < 8, "the paper has more than eight pages before its references"
    assert "References" in text
