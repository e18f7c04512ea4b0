import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from framebudget.report.tables import latex


def test_latex_is_booktabs_and_escapes():
    text = latex(pd.DataFrame({"class": ["b_%", "ü"], "recall": [0.12345, None]}), "Recall.")
    assert r"\toprule" in text
    assert r"b\_\% & 0.123 \\" in text
    assert "ü & – \\\\" in text
    assert r"\caption{Recall.}" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex (Debian: texlive-latex-recommended)")
def test_latex_compiles_whatever_the_classes_are_called(tmp_path):
    names = ["=cmd()", "a_b#c$d&e", "50 %", "Größe", "x^2~{}\\y"]
    table = pd.DataFrame({"class": names, "p_bootstrap_holm": np.linspace(0, 1, 5), "low": np.nan})
    document = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}" + latex(table, "Recall.") + r"\end{document}"
    )
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    said = subprocess.run(["pdflatex", "-halt-on-error", "table.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout[-2000:]
