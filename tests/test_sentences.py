"""What the paper claims, for all kinds of studies that params.yaml allows: each claim is checked against what was done.

Every pair of values of two options is met in some study (pairwise testing), not every combination.
"""

import itertools
import random
import re

import pytest

from tests.test_paper import here, packed, typeset  # noqa: F401, a fixture

BOTH = ["x3d_m", "slowfast_r50"]
OPTIONS = {
    "protocol": ["sound", "published"],
    "split": ["group", "clip", "official", "lists", "folds"],
    "grouped": [True, False],
    "sampling": ["dynamic", "static", "segments", "dense"],
    "window": [1.5, None],
    "given": [[], ["x3d_m"], BOTH],
    "models": [["x3d_m"], BOTH],
    "rates": [{1: 0.9}, {6: 0.5, 16: 0.95}, {1: 0.9, 6: 0.9, 8: 0.95, 60: 0.95}],
    "classes": [2, 5, 12],
    "seeds": [1, 2, 3, 5],
    "groups": [2, 12],
    "views": [1, 3],
}
WRONG = [  # of grammar and of punctuation
    r"\b([a-z]{2,}) \1\b", r" [,.;:)]", r"\(\s", r"[,;:]\.", r"\.\.", r",,",
    r"\b1 (clips|seeds|groups|windows)\b", r"(?<!and )\b1 (frames|seconds)\b", r"\bnone\b(?! of|\. The)", r"\bauto\b",
    r"\[[a-z]", r"#[a-z]+[.(]", r"(?<!e\.g)\. [a-z]",
]  # fmt: skip


def pairwise() -> list[dict]:
    """Combinations of OPTIONS in which every two values meet: each time the best of a hundred random ones."""
    generator, names = random.Random(0), list(OPTIONS)
    left = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(OPTIONS[a]))
        for j in range(len(OPTIONS[b]))
    }
    found = []
    left -= {pair for pair in left if impossible(dict(pair))}
    while left:
        tries = [{name: generator.randrange(len(OPTIONS[name])) for name in names} for _ in range(100)]
        tries = [places for places in tries if not impossible(places)]
        best = max(tries, key=lambda places: len(left.intersection(itertools.combinations(places.items(), 2))))
        left -= set(itertools.combinations(best.items(), 2))
        found.append({name: OPTIONS[name][place] for name, place in best.items()})
    return found


def impossible(places: dict[str, int]) -> bool:
    """The published protocol has one fold, and samples from windows. A whole clip has one window."""
    values = {name: OPTIONS[name][place] for name, place in places.items()}
    rule, clip = values.get("sampling"), values.get("window", 0) is None and values.get("protocol") == "sound"
    if values.get("views") == 3 and (rule == "segments" or (clip and rule in ("dynamic", "static"))):
        return True
    other = values.get("split") in ("folds", "lists") or values.get("sampling") in ("segments", "dense")
    return values.get("protocol") == "published" and other


@pytest.mark.parametrize("study", pairwise(), ids=lambda study: "-".join(map(str, study.values())))
def test_every_claim_is_true_of_the_study(here, study):  # noqa: F811, PLR0915
    split, rates, seeds, models = study["split"], study["rates"], study["seeds"], study["models"]
    given = [model for model in study["given"] if model in models]
    leaky, published = split == "clip" and study["grouped"], study["protocol"] == "published"
    by = {
        "group": {}, "clip": {"by": "clip"}, "folds": {"folds": 3},
        "official": {"test": None, "official": 2}, "lists": {"test": None, "official": "all"},
    }[split]  # fmt: skip
    changes = {
        "protocol": study["protocol"], "models": models, "datasets.folder.evaluate.views": study["views"],
        "datasets.folder.input.sampling": study["sampling"], "datasets.folder.input.window": study["window"],
        **{f"datasets.folder.split.{key}": value for key, value in by.items()},
    }  # fmt: skip
    template = here / "paper/template.typ"  # one endless column, where no figure interrupts a sentence
    template.write_text(
        template.read_text()
        .replace('paper: "us-letter"', "width: 20in, height: 500in")
        .replace("columns: 2", "columns: 1")
    )
    keys = "classes", "seeds", "groups", "grouped"
    raw = typeset(here, rates, leaky=leaky, given=given, **{key: study[key] for key in keys}, **changes)
    text = packed(raw)

    def says(sentence: str) -> bool:
        return packed(sentence) in text

    apart = study["grouped"] and not leaky
    assert says("test on groups of clips that training has not seen") == says("No group spans two subsets") == apart
    assert says("share their group with clips of training or validation") == leaky
    assert says("No groups are known") == (not study["grouped"])
    assert says("Every clip is tested once") == (split == "folds")
    assert says("The three official lists are the folds") == (split == "lists")
    assert says("those of official list 2") == (split == "official" and not published)
    assert says("We fine-tune") == (len(given) == len(models))
    assert says("We train") == (len(given) < len(models))
    for begin, some in (("scratch", [model for model in models if model not in given]), ("given weights", given)):
        assert says(f"X3D-M starts from {begin}") == (some == ["x3d_m"])
        assert says(f"SlowFast R50 starts from {begin}") == (some == ["slowfast_r50"])
        assert says(f"X3D-M and SlowFast R50 start from {begin}") == (len(some) == 2)
    assert says("They start from different weights") == (len(models) == 2 and len(given) == 1 and len(rates) > 0)
    assert says("This build follows the protocol of the original study") == published
    assert says("Softmax is applied twice in X3D-M") == (published and "x3d_m" in models)
    fixed = study["sampling"] == "dynamic" and study["window"] is None and not published
    assert says("anew and takes") == (study["sampling"] == "dynamic" and not fixed)
    assert says("every epoch takes the same frames") == (fixed or study["sampling"] == "static")
    assert says("a network sees no more frames than its budget") == (study["views"] == 1)
    assert says("× 3") == (study["views"] == 3)
    fast = study["sampling"] in ("dynamic", "static") and study["window"] and not published  # 60 frames in 1.5 s
    assert says("clips have fewer than 60 frames in 1.5 s") == bool(60 in rates and fast)
    short = 60 in rates and not published
    assert says("clips have fewer frames than the budget of 60 needs") == short
    pieces = min(study["groups"], 6) if leaky else study["groups"] * (1 if study["grouped"] else study["classes"])
    intervals = seeds != 2 and pieces >= 5
    recipe = intervals and seeds >= 3
    assert says("The intervals are for the recipe") == recipe
    assert says("and the networks trained here") == (intervals and seeds == 1)
    assert says("so we give none") == (not intervals)
    assert says("these intervals do not hold for groups that") == (intervals and leaky)
    assert says("Networks of different folds share") == (intervals and split in ("folds", "lists"))
    if len(rates) == 1:
        assert says("This study ran a single budget") and not says("enough for")
    elif not recipe:
        assert says("needs is not known") and not says("enough for")
    else:
        assert not says("is not known") and (says("enough for") or says("not settled"))
    weak = recipe and seeds == 3
    assert not says("this verdict is weak") or weak
    assert says("call verdicts from fewer than five seeds weak") == weak
    if not recipe:
        assert not re.search(r"(loses|gains)[\d.]+pointsofaccuracy", text)
    prose = " ".join(raw.replace("-\n", "").split())
    prose = prose[prose.index("1 Introduction") : prose.index("References")]
    found = [match for wrong in WRONG for match in re.finditer(wrong, prose)]
    assert [prose[max(0, match.start() - 30) : match.end() + 30] for match in found] == []
