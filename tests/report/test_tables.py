import pandas as pd

from framebudget.report.tables import latex


def test_latex_is_booktabs_and_escapes():
    text = latex(pd.DataFrame({"class": ["b_%", "ü"], "recall": [0.12345, None]}), "Recall.")
    assert r"\toprule" in text
    assert r"b\_\% & 0.123 \\" in text
    assert "ü & – \\\\" in text
    assert r"\caption{Recall.}" in text
