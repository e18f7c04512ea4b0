import pandas as pd

from framebudget.figures import loses_most


def test_the_clip_of_the_teaser_is_lost_with_few_frames_and_recognized_with_many():
    rows = [
        ("always", 6, "a"), ("always", 16, "a"), ("never", 6, "b"), ("never", 16, "b"),
        ("often", 6, "b"), ("often", 16, "a"), ("often", 6, "b"), ("often", 16, "b"),
        ("loses", 6, "b"), ("loses", 16, "a"), ("gains", 6, "a"), ("gains", 16, "b"),
    ]  # fmt: skip
    predictions = pd.DataFrame(rows, columns=["clip", "budget", "prediction"]).assign(label="a")
    assert loses_most(predictions) == "loses"
    assert loses_most(predictions[predictions["budget"] == 6]) == "always"  # one budget: the first by name
