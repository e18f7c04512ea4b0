"""Keep a study that was run, and show what all kept studies say.

    $ python reports/studies.py keep motion     # after `dvc repro` or `dvc exp run`, at the top of the repository
    $ python reports/studies.py add ucf101      # more seeds of a study that was kept
    $ python reports/studies.py recompute       # tables and plots of all studies, from what was kept
    $ python reports/studies.py show            # answers.csv, answers.png, and README.md's table

writes  reports/<study>/    params.yaml, predictions, controls, tables, learning curves and plots, and milliseconds per
                            clip as MLflow has them; pictures of clips only where the clips are the project's own
        reports/answers.csv what the paper says of all kept studies with several budgets: one row per budget
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import yaml

from framebudget import params
from framebudget.console import UserError, new_folder, read_yaml, stage, usage, write_text
from framebudget.figures import of_numbers
from framebudget.learning.prediction import ORDERS
from framebudget.learning.tracking import runs_that_made, study_run
from framebudget.models import NETWORKS
from framebudget.params import EMBEDDED, Params
from framebudget.report import controls, overview, plots, scores, statistics
from framebudget.report import kept as kept_studies
from framebudget.study import Study, read_controls, read_predictions, read_table
from framebudget.study import write_table as write_rows

HERE = Path(__file__).parent
TITLES = {"ucf101": "UCF101", "ut_interaction": "UT-Interaction", "weizmann": "Weizmann"}  # of folders of clips


@stage
def main() -> None:
    parser = usage(__doc__)
    commands = parser.add_subparsers(required=True)
    keeping = commands.add_parser("keep", help="keep the study in work/")
    keeping.add_argument("name")
    keeping.set_defaults(run=lambda arguments: keep(arguments.name))
    adding = commands.add_parser("add", help="add the study in work/ to a kept one that differs only in its seeds")
    adding.add_argument("name")
    adding.set_defaults(run=lambda arguments: add(arguments.name))
    every = commands.add_parser("recompute", help="recompute all kept studies")
    every.set_defaults(run=lambda _: [recompute(path.parent) for path in sorted(HERE.rglob("params.yaml"))])
    commands.add_parser("show", help="write the answers and README.md's table").set_defaults(run=lambda _: show())
    arguments = parser.parse_args()
    arguments.run(arguments)


def keep(name: str) -> None:
    p, work = params.load(), Path("work")
    with new_folder(HERE / name) as folder:
        content = read_yaml(Path("params.yaml"))
        content["datasets"] = {p.dataset: (data := content["datasets"][p.dataset])}
        content["clips"] = p.folder.name  # the path on this machine stays private
        for network in p.data.networks:
            if weights := data[network]["weights"]:
                data[network]["weights"] = Path(weights).name
        write_text(folder / "params.yaml", yaml.safe_dump(content, sort_keys=False))
        for file in ["predictions.csv", "control_predictions.csv"]:
            shutil.copy(work / file, folder)
        for file in ["results.csv", "provenance.json", *["motion.csv"] * (work / "tables/motion.csv").exists()]:
            shutil.copy(work / "tables" / file, folder)
        write_rows(milliseconds(Study.load()), folder / "milliseconds.csv", p.unit)
        for model in p.models:
            shutil.copy(work / model / "curves.csv", folder / f"{model}_curves.csv")
        if p.clips == EMBEDDED and not p.archive and (mistakes := work / "figures/mistakes.png").exists():
            shutil.copy(mistakes, folder)  # a picture of clips
        recompute(folder)


def add(name: str) -> None:
    """Add the study in work/ to a kept one. Raises UserError unless it has other seeds, and only these differ."""
    kept, work, p = HERE / name, Path("work"), params.load()
    old, provenance = params.load(kept / "params.yaml"), (kept / "provenance.json").read_text()
    sha256 = json.loads(provenance)["clips_sha256"]

    def identity(p: Params) -> tuple:
        return p.models, p.frames, p.trainer, [kept_studies.recipe(p, model, sha256) for model in p.models]

    if identity(old) != identity(p) or provenance != (work / "tables/provenance.json").read_text():
        raise UserError(f"{kept}: not the same clips, networks, budgets, recipe or versions; keep it by another name")
    if both := sorted({*old.seeds} & {*p.seeds}):
        raise UserError(f"{kept}: has seed {both[0]} already; give `seeds` only new ones (params.yaml)")
    files = {"predictions.csv": read_predictions, "control_predictions.csv": read_controls}
    with new_folder(kept) as folder:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        content = read_yaml(kept / "params.yaml") | {"seeds": sorted([*old.seeds, *p.seeds])}
        write_text(folder / "params.yaml", yaml.safe_dump(content, sort_keys=False))
        for file, read in files.items():
            write_rows(joined(read(kept / file), read(work / file)), folder / file, p.unit)
        for model in p.models:
            curves = read_table(kept / (file := f"{model}_curves.csv")), read_table(work / model / "curves.csv")
            write_rows(joined(*curves), folder / file, p.unit)
        times = [read_table(kept / "milliseconds.csv")] * len(old.seeds) + [milliseconds(Study.load())] * len(p.seeds)
        write_rows(mean_of(pd.concat(times)), folder / "milliseconds.csv", p.unit)
        recompute(folder)


def joined(*tables: pd.DataFrame) -> pd.DataFrame:
    """In the order of one study's rows: by network in order of appearance, budget and seed."""
    table = pd.concat(tables, ignore_index=True)
    order = {model: place for place, model in enumerate(table["model"].unique())}
    return table.sort_values(scores.TRAINING, kind="stable", key=lambda column: column.replace(order))


def milliseconds(study: Study) -> pd.DataFrame:
    """What `evaluate` measured: the mean over the trainings of a budget, from MLflow."""
    client, _ = study_run(study)
    rows = []
    for training in study.trainings():
        runs = runs_that_made(client, training.file, study.params.dataset)
        took = next(run.data.metrics["test_milliseconds"] for run in runs if "test_milliseconds" in run.data.metrics)
        rows.append({"model": training.network, "budget": training.budget, "milliseconds": took})
    return mean_of(pd.DataFrame(rows))


def mean_of(times: pd.DataFrame) -> pd.DataFrame:
    return times.groupby(scores.CONFIGURATION, sort=False).mean().reset_index()


def kept() -> list[Path]:
    """The folders of all kept studies, real video first."""
    return sorted(
        (path.parent for path in HERE.glob("*/params.yaml")), key=lambda study: (study.name == "motion", study)
    )


def recompute(study: Path) -> None:
    tables = tables_of(study)
    published = read_yaml(study / "params.yaml").get("protocol") == "published"
    unit = "seconds" if published else "frames"  # those of version 0.1 are too old for Params
    for name, table in tables.items():
        write_rows(table, study / f"{name}.csv", unit)
    periodic = params.load(study / "params.yaml").data.input if "motion" in tables else None
    predictions = read_predictions(study / "predictions.csv")
    plots.use_fonts_of(scores.classes_of(predictions))
    for name, figure in of_numbers(predictions, curves_of(study), tables, unit, periodic):
        plots.write(figure, study / f"{name}.png")


def curves_of(study: Path) -> pd.DataFrame:
    models = read_table(study / "results.csv")["model"].unique()
    return pd.concat([read_table(study / f"{model}_curves.csv") for model in models])


def tables_of(study: Path) -> dict[str, pd.DataFrame]:
    """The tables of numbers, as `evaluate` computes them. What a clip costs is taken from the results."""
    content = read_yaml(study / "params.yaml")
    rule = content["datasets"][content["dataset"]]["evaluate"]
    predictions, before = read_predictions(study / "predictions.csv"), read_table(study / "results.csv")
    learned = scores.learned(curves_of(study))
    results = statistics.summary(predictions, rule["top_k"])
    for part in (before[[*scores.CONFIGURATION, "crop", "parameters_M", "gmacs"]], learned):
        results = results.merge(part, on=scores.CONFIGURATION, validate="1:1")
    needed = statistics.frames_needed(predictions, rule.get("margin", 0.05), learned)
    tables = {"results": results, "comparisons": statistics.comparisons(predictions), "needed": needed}
    if (said := study / "control_predictions.csv").exists():  # since version 0.2
        tables["controls"] = controls.summary(read_controls(said))
        if (study / "motion.csv").exists():
            tables["motion"] = controls.motion(read_controls(said), params.load(study / "params.yaml").data.input)
    return tables


def answers() -> pd.DataFrame:
    """The table of `framebudget.report.kept`: of all kept studies with several budgets."""
    several = [study for study in kept() if read_predictions(study / "predictions.csv")["budget"].nunique() > 1]
    return pd.concat([answers_of(study) for study in several], ignore_index=True)


def answers_of(study: Path) -> pd.DataFrame:
    content = read_yaml(study / "params.yaml")
    data, tables = content["datasets"][content["dataset"]], tables_of(study)
    predictions = read_predictions(study / "predictions.csv")
    table = tables["results"].assign(study=study.name, clips=title(content))
    table["network"] = table["model"].map(lambda model: NETWORKS[model].name)
    table["start"] = table["model"].map(lambda model: Path(data[model]["weights"] or "").name)
    table["px"], table["window"] = table["crop"], float(data["input"]["window"] or "nan")
    table["tested"] = predictions["clip"].nunique()
    table["groups"], table["chance"] = predictions["group"].nunique(), 1 / len(scores.classes_of(predictions))
    needed = tables["needed"].set_index("model")
    table["because"] = table["model"].map(needed["because"])
    table["needed"] = table["budget"] == table["model"].map(needed["needed"].fillna(0))
    pairs = tables["comparisons"].query("of == 'budget'").rename(columns={"model_a": "model", "budget_a": "budget"})
    pairs = pairs.rename(columns={"difference": "loss", "low": "loss_low", "high": "loss_high"})
    parts = [pairs[[*scores.CONFIGURATION, "loss", "loss_low", "loss_high", "at_most"]]]
    if "controls" in tables:
        tests = tables["controls"].pivot(index=scores.CONFIGURATION, columns="test", values="accuracy").reset_index()
        parts.append(tests[[*scores.CONFIGURATION, *ORDERS[1:]]])
        shuffled = tables["controls"].query("test == 'shuffled'")[[*scores.CONFIGURATION, "low", "high"]]
        parts.append(shuffled.rename(columns={"low": "shuffled_low", "high": "shuffled_high"}))
        largest = tables["controls"][tables["controls"]["budget"] == table["budget"].max()]
        names = {"accuracy": "of_largest", "low": "of_largest_low", "high": "of_largest_high"}
        largest = largest[largest["test"].str.startswith("at_")].rename(columns=names)
        largest["budget"] = largest["test"].str.removeprefix("at_").astype(int)
        parts.append(largest[[*scores.CONFIGURATION, *names.values()]])
    if "motion" in tables:
        names = {"low": "line_low", "high": "line_high"}
        parts.append(tables["motion"].rename(columns=names)[[*scores.CONFIGURATION, "aliasing_line", *names.values()]])
    if (study / "milliseconds.csv").exists():
        parts.append(read_table(study / "milliseconds.csv"))
    for part in parts:
        table = table.merge(part, how="left", on=scores.CONFIGURATION, validate="1:1")
    clips_sha256 = json.loads((study / "provenance.json").read_text())["clips_sha256"]
    p = params.load(study / "params.yaml")
    table["recipe"] = [kept_studies.recipe(p, model, clips_sha256) for model in table["model"]]
    table["trained_seeds"] = " ".join(map(str, sorted(p.seeds)))
    table["split"] = split_of(p)
    recipes = [p.recipe(model) for model in table["model"]]
    for name, key in {"optimizer": "optimizer", "lr": "lr", "epochs": "epochs", "batch": "batch_size"}.items():
        table[name] = [getattr(recipe, key) for recipe in recipes]
    return table.reindex(columns=kept_studies.COLUMNS)


def split_of(p: Params) -> str:
    """How the test clips were chosen, in words."""
    if p.data.split.official:
        return "3 official lists" if p.data.split.official == "all" else f"official list {p.data.split.official}"
    return f"{p.data.split.folds} folds" if p.data.split.folds else "one split"


def title(content: dict) -> str:
    """The test clips, in words."""
    classes = content["datasets"][content["dataset"]]["fetch"]["classes"]
    name = TITLES.get(folder := Path(content["clips"]).name, folder)
    return f"{name} ({len(classes)} classes)" if isinstance(classes, list) else name


def show() -> None:
    table = answers()
    write_rows(table, HERE / "answers.csv", "frames")
    plots.write(overview.answers(table), HERE / "answers.png")
    write_readme(table)


def answer(rows: pd.DataFrame) -> str:
    largest = rows.loc[rows["budget"].idxmax()]
    right = f"{largest['accuracy']:.1%} of the clips, and {largest['shuffled']:.1%} with their frames shuffled"
    low, high = (kept_studies.points(largest[f"shuffled_{side}"]) for side in ("low", "high"))
    change = f" (95% interval of the change: {low} to {high} points)" if pd.notna(largest["shuffled_low"]) else ""
    return f"{kept_studies.sentence(rows)} At {largest['budget']} frames, it recognizes {right}{change}."


def write_readme(table: pd.DataFrame) -> None:
    """What the kept studies of several seeds answer, and all accuracies, between comments in README.md."""
    answered = [answer(rows) for _, rows in table[table["seeds"] > 1].groupby(["study", "model"], sort=False)]
    write_between("answers", "\n".join(f"- {sentence}" for sentence in answered))
    write_between("table", rows_of_all().to_markdown(index=False))


def write_between(name: str, text: str) -> None:
    """Replace the text between two comments in README.md."""
    begin, end = f"<!-- reports/studies.py {name} -->\n", f"<!-- end {name} -->\n"
    before, _, rest = Path("README.md").read_text().partition(begin)
    write_text(Path("README.md"), f"{before}{begin}\n{text}\n\n{end}{rest.partition(end)[2]}")


def rows_of_all() -> pd.DataFrame:
    rows = pd.concat([rows_of(study) for study in kept()])
    budgets = sorted({key for key in rows.columns if isinstance(key, int)})
    named = {budget: plots.counted(budget, "frames") for budget in budgets}
    return rows.rename(columns=named).fillna("")[["clips", "network", "starts from", "optimizer", *named.values()]]


def rows_of(study: Path) -> pd.DataFrame:
    """One row per network: accuracy and, if there are enough groups, its 95% interval at every budget.

    A network that trained for one epoch is left out: it only showed that the pipeline runs.
    """
    content = read_yaml(study / "params.yaml")
    data = content["datasets"][content["dataset"]]
    predictions = read_predictions(study / "predictions.csv")
    clips, groups = predictions["clip"].nunique(), predictions["group"].nunique()
    tested = f"{Path(content['clips']).name}, {clips} test clips of {groups} groups"
    finished = scores.learned(curves_of(study)).set_index(scores.CONFIGURATION)["finished"]
    rows = []
    for model, results in statistics.summary(predictions, k=1).groupby("model", sort=False):
        # studies of version 0.1 have a key only where it differs from the value above
        recipe = content["train"] | data["input"]
        for section in (data["train"], data[model]):
            recipe |= {key: value for key, value in section.items() if value is not None}
        if recipe["epochs"] == 1:
            continue
        seeds, given = results["seeds"].iloc[0], recipe.get("weights")
        row = {"clips": f"{tested}, {recipe['crop']} px"}
        row |= {"network": f"{NETWORKS[model].name}, {seeds} seed{'s' if seeds > 1 else ''}"}
        row |= {"starts from": Path(given).name if given else "scratch", "optimizer": recipe["optimizer"]}
        for result in results.itertuples():
            bounds = f" ({100 * result.low:.0f}–{100 * result.high:.0f})" if pd.notna(result.low) else ""
            row[result.budget] = f"{100 * result.accuracy:.1f}%{'' if finished[model, result.budget] else '†'}{bounds}"
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
