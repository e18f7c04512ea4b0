"""Typeset the paper.

    $ python -m framebudget.paper           (dvc repro paper)

reads   paper/*.typ, paper/references.bib, params.yaml, work/: every number and figure comes from there
writes  paper/paper.pdf
"""

from pathlib import Path

import typst

from framebudget.console import stage


@stage
def main() -> None:
    partial = Path("paper/paper.partial.pdf")
    try:
        typst.compile("paper/paper.typ", output=str(partial), root=".", ignore_system_fonts=True)
    except typst.TypstError as error:
        raise ValueError(f"paper/paper.typ does not compile: {error}") from None
    partial.replace("paper/paper.pdf")


if __name__ == "__main__":
    main()
