"""Typeset the paper.

    $ python -m framebudget.paper           (dvc repro paper)

reads   paper/*.typ, paper/references.bib, params.yaml, reports/splits/summary.csv, work/: every number and figure comes
        from there
writes  paper/paper.pdf
"""

import json
import shutil
import tempfile
from pathlib import Path

import typst

from framebudget.console import read_csv, stage, usage
from framebudget.report import names

LEADINGS = [f"{0.55 + 0.005 * k:.3f}em" for k in range(9)]


@stage
def main() -> None:
    classes = read_csv(Path("work/split.csv"), {"class": str})["class"].unique()
    shown = {name: names.readable(name) for name in classes}
    others = names.other_fonts(classes)
    inputs = {"classes": json.dumps(shown), "fonts": json.dumps(list(others))}
    with tempfile.TemporaryDirectory() as fonts:  # for Typst takes folders, and no more of the system's than is needed
        for font in others.values():
            shutil.copy(font, fonts)
        pdf = typeset([names.FOLDER, fonts], inputs)
    partial = Path("paper/paper.partial.pdf")
    partial.write_bytes(pdf)
    partial.replace("paper/paper.pdf")


def typeset(fonts: list[str | Path], inputs: dict[str, str]) -> bytes:
    for leading in LEADINGS:
        try:
            return typst.compile(
                "paper/paper.typ",
                root=".",
                ignore_system_fonts=True,
                font_paths=fonts,
                sys_inputs=inputs | {"leading": leading},
            )
        except typst.TypstError as error:
            if "internal error" not in str(error) or leading == LEADINGS[-1]:
                raise ValueError(f"paper/paper.typ does not compile: {error}") from None
            # writing tags fails where a column happens to end in a link (typst#8776): let it end elsewhere


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
