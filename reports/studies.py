"""Keep a study that was run, and write README.md's table of all that were kept.

    $ python reports/studies.py keep motion     # after `dvc repro` or `dvc exp run`, at the top of the repository
    $ python reports/studies.py table           # between the two comments in README.md

writes  reports/<study>/    params.yaml, predictions, tables, learning curves and plots; pictures of clips only where
                            the clips are the project's own
"""

import shutil
from pathlib import Path

import pandas as pd
import yaml

from framebudget import params
from framebudget.console import PREDICTIONS, new_folder, read_csv, usage, write_text
from framebudget.params import EMBEDDED, MODELS
from framebudget.report import statistics

HERE = Path(__file__).parent
NUMBERS = ["predictions.csv", "tables/results.csv", "tables/comparisons.csv", "tables/provenance.json"]
PLOTS = ["frames", "gflops", "curves", "confusion", "reliability"]
PICTURES = ["strips", "mistakes", "attention"]  # show clips
BEGIN, END = "<!-- reports/studies.py table -->\n", "<!-- end -->\n"


def main() -> None:
    parser = usage(__doc__)
    commands = parser.add_subparsers(required=True)
    keeping = commands.add_parser("keep", help="the study in work/")
    keeping.add_argument("name")
    keeping.set_defaults(run=lambda arguments: keep(arguments.name))
    commands.add_parser("table", help="in README.md").set_defaults(run=lambda _: write_table())
    arguments = parser.parse_args()
    arguments.run(arguments)


def keep(name: str) -> None:
    work, own = Path("work"), params.load().clips == EMBEDDED
    with new_folder(HERE / name) as folder:
        said = yaml.safe_load(Path("params.yaml").read_text())
        said["datasets"] = {said["dataset"]: (data := said["datasets"][said["dataset"]])}
        for section, key in ((said, "clips"), *((data[model], "weights") for model in MODELS)):
            section[key] = section[key] and Path(section[key]).name  # where they lay is nobody's business
        write_text(folder / "params.yaml", yaml.safe_dump(said, sort_keys=False))
        for file in NUMBERS:
            shutil.copy(work / file, folder)
        for model in MODELS:
            shutil.copy(work / model / "curves.csv", folder / f"{model}_curves.csv")
        for plot in PLOTS + PICTURES * own:
            if (work / f"figures/{plot}.png").exists():
                shutil.copy(work / f"figures/{plot}.png", folder)


def write_table() -> None:
    studies = [path.parent for path in sorted(HERE.glob("*/params.yaml"))]
    rows = pd.concat([rows_of(study) for study in studies])
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
    said = yaml.safe_load((study / "params.yaml").read_text())
    data = said["datasets"][said["dataset"]]
    predictions = read_csv(study / "predictions.csv", PREDICTIONS)
    clips, groups = predictions["clip"].nunique(), predictions["group"].nunique()
    tested = f"{Path(said['clips']).name}, {clips} test clips of {groups} groups"
    rows = []
    for model, results in statistics.summary(predictions, k=1).groupby("model", sort=False):
        seeds, crop = results["seeds"].iloc[0], data[model].get("crop", data["input"]["crop"])
        given = data[model]["weights"]
        recipe = said["train"] | data["train"] | data[model]
        if recipe["epochs"] == 1:
            continue
        row = {"clips": f"{tested}, {crop} px", "network": f"{MODELS[model]}, {seeds} seed{'s' if seeds > 1 else ''}"}
        row |= {"starts from": Path(given).name if given else "scratch", "optimizer": recipe["optimizer"]}
        for result in results.itertuples():
            bounds = f" ({100 * result.low:.0f}–{100 * result.high:.0f})" if pd.notna(result.low) else ""
            row[result.frames] = f"{100 * result.accuracy:.1f} %{bounds}"
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
