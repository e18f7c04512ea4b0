"""Names of classes and clips that mean something to a shell, a spreadsheet, LaTeX or Typst, from clips to the PDF."""

import csv
import re
import shutil

from tests.conftest import fresh_repository, motion_clips, run, set_params

NAMES = [
    "=HYPERLINK(1); touch planted `touch planted` $(touch planted) '&|<>*?~!",
    'x\\input{secret} \\write18{touch planted} %$&~^_{}# #read("secret") *bold* _x_ $x$ @y <z> `raw`',
    ("--help " + "very long " * 30 + '.. ,"')[:255],  # bytes: more a file system does not take
]


def test_they_are_names_and_nothing_else(tmp_path):
    clips, study = motion_clips(tmp_path / "clips; touch planted"), tmp_path / "study"
    study.mkdir()
    fresh_repository(study)
    for name, folder in zip(NAMES, sorted(clips.iterdir()), strict=True):
        for path in folder.iterdir():
            path.rename(path.with_name(path.name.replace(f"v_{folder.name}", "-rf $(touch planted) =1+1 #x")))
        folder.rename(folder.with_name(name))
    (study / "secret").write_text("another file")
    set_params(
        study, dataset="folder", clips=str(clips), models=["x3d_m"], frames=[2], workers=0, side_by_side=1, **{
            "train.epochs": 1, "datasets.folder.fetch.group": r"_(g\d+)_",
            "datasets.folder.input.short_side": 32, "datasets.folder.input.crop": 32,
        },
    )  # fmt: skip
    run("dvc", "repro", cwd=study)
    tables = [*study.glob("work/*.csv"), *study.glob("work/tables/*.csv")]
    assert len(tables) >= 7
    for path in tables:
        with path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if re.match(r"[=@\t\r]|[+-](?![\d.])", cell)], path
    predicted = run("framebudget", "predict", "--top", "3", str(next(clips.rglob("*.avi"))), cwd=study).stdout
    assert all(name in predicted for name in NAMES)
    if shutil.which("pdftotext"):
        text = "".join(run("pdftotext", "paper/paper.pdf", "-", cwd=study).stdout.split())
        assert "anotherfile" not in text
    if shutil.which("pdflatex"):
        classes = (study / "work/tables/classes.tex").read_text()
        document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + classes + r"\end{document}"
        (study / "classes.tex").write_text(document)
        run("pdflatex", "-halt-on-error", "-shell-escape", "classes.tex", cwd=study)
    assert not list(tmp_path.rglob("planted"))
