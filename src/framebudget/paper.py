"""Typeset the paper.

    $ python -m framebudget.paper           (dvc repro paper)

reads   paper/*.typ, paper/references.bib, params.yaml, CITATION.cff
        work/, reports/answers.csv, reports/splits/summary.csv: all numbers and figures
writes  paper/paper.pdf, and prints the accuracies
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import typst

from framebudget import params
from framebudget.console import UserError, listed, new_file, stage, usage
from framebudget.models import NETWORKS
from framebudget.params import Params
from framebudget.report import kept, names
from framebudget.study import read_table

RESULTS = Path("work/tables/results.csv")
STANDARDS = ["a-2a", "ua-1"]  # PDF/A with tags, and PDF/UA: every figure has an alternative text
LEADINGS = [f"{0.55 + 0.005 * k:.3f}em" for k in range(9)]


@stage
def main() -> None:
    p = params.load()
    inputs = {
        "answers": sentences(),
        "replication": (beside := replicated(p)).to_dict("records"),
        "networks": {model: NETWORKS[model].name for model in p.models},
        "recipes": {model: p.input(model).model_dump() | p.recipe(model).model_dump() for model in p.models},
        "unit": p.unit,
    }
    pdf = typeset({key: json.dumps(value) for key, value in inputs.items()})
    with new_file(Path("paper/paper.pdf")) as unfinished:
        unfinished.write_bytes(pdf)
    print(*measured(p), *agreement(beside), "paper/paper.pdf", sep="\n")


def measured(p: Params) -> Iterator[str]:
    """X3D-M: 86.4% of the test clips at 6 frames, 97.3% at 8, 97.9% at 16"""
    for model, rows in read_table(RESULTS).groupby("model", sort=False):
        shares = [f"{row.accuracy:.1%}" for row in rows.itertuples()]
        first, *others = zip(shares, rows["budget"], strict=True)
        unit = p.unit.removesuffix("s") if first[1] == 1 else p.unit
        at = [f"{first[0]} of the test clips at {first[1]} {unit}", *(f"{share} at {T}" for share, T in others)]
        yield f"{NETWORKS[model].name}: {', '.join(at)}"


def agreement(beside: pd.DataFrame) -> Iterator[str]:
    """Say whether the accuracies are within the kept study's prediction intervals; nothing if none has this recipe."""
    if beside.empty:
        return
    first = beside.iloc[0]
    others = [
        f"{NETWORKS[row.model].name} at {row.budget} ({row.expected_low:.1%} to {row.expected_high:.1%})"
        for row in beside[~beside["agrees"]].itertuples()
    ]
    found = f"All {len(beside)} accuracies" + (f" but {listed(others)}" if others else "")
    intervals = f"the 95% prediction intervals of reports/{first['study']} ({first['seeds_kept']} seeds)"
    yield f"{found} are within {intervals}"


def sentences() -> list[dict[str, str]]:
    """What every kept study answers, and which clips it is about."""
    groups = kept.read().groupby(["study", "model"], sort=False)
    return [
        {"study": study, "model": model, "text": kept.sentence(rows), "brief": kept.sentence(rows, brief=True)}
        for (study, model), rows in groups
    ]


def replicated(p: Params) -> pd.DataFrame:
    """This study beside the kept one that it repeats, if there is one."""
    results = read_table(RESULTS)
    clips_sha256 = json.loads(Path("work/tables/provenance.json").read_text())["clips_sha256"]
    return kept.replication(kept.read(), results, {model: kept.recipe(p, model, clips_sha256) for model in p.models})


def typeset(inputs: dict[str, str]) -> bytes:
    options = {"root": ".", "ignore_system_fonts": True, "font_paths": [names.FOLDER], "pdf_standards": STANDARDS}
    for leading in LEADINGS:
        try:
            return typst.compile("paper/paper.typ", sys_inputs=inputs | {"leading": leading}, **options)
        except typst.TypstError as error:
            if "internal error" not in str(error) or leading == LEADINGS[-1]:
                raise UserError(f"paper/paper.typ does not compile: {error}") from None
            # writing tags fails where a column happens to end in a link (typst#8776): let it end elsewhere


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
