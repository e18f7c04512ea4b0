"""Keep a study that was run, and write README.md's table of all that were kept.

    $ python reports/studies.py keep motion     # after `dvc repro` or `dvc exp run`, at the top of the repository
    $ python reports/studies.py recompute       # tables and plots of accuracy of all studies, from what was kept
    $ python reports/studies.py table           # between the two comments in README.md

writes  reports/<study>/    params.yaml, predictions, tables, learning curves and plots; pictures of clips only where
                            the clips are the project's own
"""

import shutil
from pathlib import Path

import pandas as pd
import yaml

from framebudget import params
from framebudget.console import new_folder, usage, write_text
from framebudget.models import NETWORKS
from framebudget.params import EMBEDDED
from framebudget.report import plots, scores, statistics
from framebudget.study import read_predictions, read_table
from framebudget.study import write_table as write_rows

HERE = Path(__file__).parent
TABLES = [f"tables/{name}" for name in ("results.csv", "comparisons.csv", "needed.csv", "provenance.json")]
PLOTS = ["frames", "cost", "curves", "confusion", "reliability"]
PICTURES = ["strips", "mistakes", "attention"]  # show clips
BEGIN, END = "<!-- reports/studies.py table -->\n", "<!-- end -->\n"


def main() -> None:
    parser = usage(__doc__)
    commands = parser.add_subparsers(required=True)
    keeping = commands.add_parser("keep", help="the study in work/")
    keeping.add_argument("name")
    keeping.set_defaults(run=lambda arguments: keep(arguments.name))
    commands.add_parser("recompute", help="all that were kept").set_defaults(run=lambda _: recompute())
    commands.add_parser("table", help="in README.md").set_defaults(run=lambda _: write_table())
    arguments = parser.parse_args()
    arguments.run(arguments)


def keep(name: str) -> None:
    p, work = params.load(), Path("work")
    own = p.clips == EMBEDDED and not p.archive
    with new_folder(HERE / name) as folder:
        content = yaml.safe_load(Path("params.yaml").read_text())
        content["datasets"] = {p.dataset: (data := content["datasets"][p.dataset])}
        content["clips"] = p.folder.name  # where they were is nobody's business
        for network in p.data.networks:
            if weights := data[network]["weights"]:
                data[network]["weights"] = Path(weights).name
        write_text(folder / "params.yaml", yaml.safe_dump(content, sort_keys=False))
        for file in ["predictions.csv", *TABLES]:
            shutil.copy(work / file, folder)
        for model in p.models:
            shutil.copy(work / model / "curves.csv", folder / f"{model}_curves.csv")
        for plot in PLOTS + PICTURES * own:
            if (work / f"figures/{plot}.png").exists():
                shutil.copy(work / f"figures/{plot}.png", folder)


def kept() -> list[Path]:
    return [path.parent for path in sorted(HERE.glob("*/params.yaml"))]


def recompute() -> None:
    for study in kept():
        tables = tables_of(study)
        for name, table in tables.items():
            write_rows(table, study / f"{name}.csv", "frames")
        predictions, results = read_predictions(study / "predictions.csv"), tables["results"]
        by_seed, chance = scores.scores(predictions, 1), 1 / len(scores.classes_of(predictions))
        frames = plots.accuracy_against_frames(results, by_seed, tables["needed"], chance, "frames")
        plots.write(frames, study / "frames.png")
        plots.write(plots.accuracy_against_cost(results, by_seed), study / "cost.png")


def tables_of(study: Path) -> dict[str, pd.DataFrame]:
    """results, comparisons and needed, as `evaluate` computes them. What a clip costs is taken from the results."""
    content = yaml.safe_load((study / "params.yaml").read_text())
    rule = content["datasets"][content["dataset"]]["evaluate"]
    predictions, before = read_predictions(study / "predictions.csv"), read_table(study / "results.csv")
    if "gflops" in before:  # of one view, until version 0.1
        before["gmacs"] = before["gflops"] * rule["views"] * rule["crops"]
    learned = scores.learned(pd.concat([read_table(path) for path in sorted(study.glob("*_curves.csv"))]))
    results = statistics.summary(predictions, rule["top_k"])
    for part in (before[[*scores.CONFIGURATION, "crop", "parameters_M", "gmacs"]], learned):
        results = results.merge(part, on=scores.CONFIGURATION, validate="1:1")
    needed = statistics.frames_needed(predictions, rule.get("margin", 0.05), learned)
    return {"results": results, "comparisons": statistics.comparisons(predictions), "needed": needed}


def write_table() -> None:
    rows = pd.concat([rows_of(study) for study in kept()])
    budgets = sorted({key for key in rows.columns if isinstance(key, int)})
    table = rows.rename(columns={budget: f"{budget} frames" for budget in budgets}).fillna("")
    table = table[["clips", "network", "starts from", "optimizer", *(f"{budget} frames" for budget in budgets)]]
    before, _, rest = Path("README.md").read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    write_text(Path("README.md"), f"{before}{BEGIN}\n{table.to_markdown(index=False)}\n\n{END}{after}")


def rows_of(study: Path) -> pd.DataFrame:
    """One row a network: accuracy and, where there are groups enough, its 95 % interval at every budget.

    A network that was given one epoch is left out: it was only to show that the pipeline runs.
    """
    content = yaml.safe_load((study / "params.yaml").read_text())
    data = content["datasets"][content["dataset"]]
    predictions = read_predictions(study / "predictions.csv")
    clips, groups = predictions["clip"].nunique(), predictions["group"].nunique()
    tested = f"{Path(content['clips']).name}, {clips} test clips of {groups} groups"
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
            row[result.budget] = f"{100 * result.accuracy:.1f} %{bounds}"
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
