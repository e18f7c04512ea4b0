"""Typeset the paper.

    $ python -m framebudget.paper           (dvc repro paper)

reads   paper/*.typ, paper/references.bib; params.yaml, reports/splits/summary.csv, work/: all numbers and figures
writes  paper/paper.pdf
"""

import json
import shutil
import tempfile
from pathlib import Path

import typst

from framebudget import params
from framebudget.console import UserError, new_file, read_csv, stage, usage
from framebudget.models import NETWORKS
from framebudget.report import names

LEADINGS = [f"{0.55 + 0.005 * k:.3f}em" for k in range(9)]


@stage
def main() -> None:
    p = params.load()
    classes = read_csv(Path("work/split.csv"), {"class": str})["class"].unique()
    others = names.other_fonts(classes)
    inputs = {
        "classes": {name: names.readable(name) for name in classes},
        "fonts": list(others),
        "networks": {model: NETWORKS[model].name for model in p.models},
        "recipes": {model: p.input(model).model_dump() | p.recipe(model).model_dump() for model in p.models},
        "unit": p.unit,
    }
    with tempfile.TemporaryDirectory() as fonts:  # Typst takes folders, and must not see other system fonts
        for font in others.values():
            shutil.copy(font, fonts)
        pdf = typeset([names.FOLDER, fonts], {key: json.dumps(value) for key, value in inputs.items()})
    with new_file(Path("paper/paper.pdf")) as unfinished:
        unfinished.write_bytes(pdf)


def typeset(fonts: list[str | Path], inputs: dict[str, str]) -> bytes:
    options = {"root": ".", "ignore_system_fonts": True, "font_paths": fonts}
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
