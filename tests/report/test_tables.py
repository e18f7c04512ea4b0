import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import top_k_accuracy_score

from framebudget.report import tables

CLASSES = ["a", "b_%", "c"]


@pytest.fixture(scope="module")
def predictions():
    generator = np.random.default_rng(0)
    rows = []
    for T in (6, 16):
        for seed in (0, 1):
            p = generator.dirichlet(np.ones(3), 40)
            table = pd.DataFrame(p, columns=[f"p_{name}" for name in CLASSES])
            table.insert(0, "prediction", [CLASSES[k] for k in p.argmax(1)])
            table.insert(0, "label", generator.choice(CLASSES, 40))
            rows.append(table.assign(model="x3d_m", frames=T, seed=seed))
    return pd.concat(rows, ignore_index=True)


def test_scores_are_scikit_learns(predictions):
    for row in tables.scores(predictions, 2).itertuples():
        clips = predictions[(predictions["frames"] == row.frames) & (predictions["seed"] == row.seed)]
        assert row.accuracy == pytest.approx((clips["label"] == clips["prediction"]).mean())
        p = clips[[f"p_{name}" for name in CLASSES]]
        assert row.top2 == pytest.approx(top_k_accuracy_score(clips["label"], p, k=2, labels=CLASSES))


def test_a_summary_is_the_mean_over_seeds(predictions):
    scores = tables.scores(predictions, 2)
    table = tables.summary(scores)
    assert table["seeds"].tolist() == [2, 2]
    first = scores[scores["frames"] == 6]["accuracy"]
    assert table["accuracy"][0] == pytest.approx(first.mean())
    assert table["accuracy_std"][0] == pytest.approx(first.std())


def test_latex_is_booktabs_and_escapes(predictions):
    text = tables.latex(tables.recall(predictions), "Recall.")
    assert r"\toprule" in text
    assert r"b\_\%" in text
