"""Intervals and verdicts that hold for new test groups and new trainings, and the frames needed.

Clips are tested in groups, and a budget is trained from several seeds. Both are samples, so an interval for the recipe
covers new groups and new trainings. One training says nothing about others, so its interval is for these networks
alone. The variance over seeds is that of their mean; the variance over groups is the delete-one-group jackknife's.
Their sum counts the interaction of groups and seeds twice, so it errs on the wide side (MacKinnon, Nielsen & Webb 2024,
after Cameron, Gelbach & Miller 2011). benchmarks/coverage.py measures how often the intervals hold.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import stdtrit

from framebudget.report.scores import CONFIGURATION, TRAINING, each, scores

Configuration = tuple[str, int]
FEWEST_GROUPS = 5  # for an interval
FEWEST_SEEDS, ENOUGH_SEEDS = 3, 5  # for an interval of the recipe, and for a verdict that is not called weak
LEVEL, POWER = 0.05, 0.84  # 0.84: the standard normal quantile of 0.8
MOST_GROUPS, MOST_SEEDS = 1000, 40  # the most that a study is advised to get


@dataclass(frozen=True)
class Estimate:
    """An accuracy, or a difference of two, and its variances over new trainings and new groups.

    of_seeds is 0 for single trainings; df: its degrees of freedom. groups, clips: how many were tested.
    """

    value: float
    of_seeds: float
    df: float
    of_groups: float
    groups: int
    clips: int

    def t(self, tail: float) -> float:
        """The critical value with `tail` above it: Student's for seeds and for groups, weighted by their variances
        (Cochran & Cox 1957, section 4.14)."""
        t_groups = stdtrit(self.groups - 1, 1 - tail)
        if self.of_seeds == 0:
            return t_groups
        t_seeds = stdtrit(self.df, 1 - tail)
        return (self.of_seeds * t_seeds + self.of_groups * t_groups) / (self.of_seeds + self.of_groups)

    def accuracy_interval(self, tail: float = LEVEL / 2) -> tuple[float, float]:
        """Wilson's interval (1927) with the effective number of clips (Korn & Graubard 1998, Dean & Pagano 2015)."""
        p, q = self.value, 1 - self.value
        k = stdtrit(self.groups - 1, 1 - tail) ** 2 / self.clips  # no more is known than from independent clips
        if p * q > 0:
            k = max(k, self.t(tail) ** 2 * (self.of_seeds + self.of_groups) / (p * q))
        half = np.sqrt(k * p * q + k**2 / 4)
        return (p + k / 2 - half) / (1 + k), (p + k / 2 + half) / (1 + k)

    @property
    def error(self) -> float:
        """Standard error of a difference, as if one more clip differed (after Agresti & Min 2005)."""
        return float(np.sqrt(self.of_seeds + self.of_groups + 1 / self.clips**2))

    def margin(self, tail: float = LEVEL / 2) -> float:
        """Half the width of a difference's interval."""
        return self.t(tail) * self.error

    @property
    def p(self) -> float:
        """Two-sided: the level at which the interval of the difference just touches 0; at least 1e-12."""
        least = 1e-12
        if self.margin(least / 2) <= abs(self.value):
            return least
        return 2 * brentq(lambda tail: self.margin(tail) - abs(self.value), least / 2, 0.5, xtol=1e-15)

    def with_more(self, groups: float, seeds: float) -> "Estimate":
        """What `groups` times as many groups and `seeds` times as many seeds would give.

        Its degrees of freedom assume equal variances over seeds.
        """
        df = (self.df + 2) * seeds - 2
        G, N = round(self.groups * groups), round(self.clips * groups)
        return Estimate(self.value, self.of_seeds / seeds, df, self.of_groups / groups, G, N)


def accuracy_of(right_SG: np.ndarray, tested_G: np.ndarray) -> Estimate:
    """right_SG: clips of each group that each seed's network gets right; tested_G: how many there are."""
    S, clips = len(right_SG), tested_G.sum()
    accuracy_S = right_SG.sum(1) / clips
    of_seeds = accuracy_S.var(ddof=1) / S if S > 1 else 0.0
    return Estimate(accuracy_S.mean(), of_seeds, S - 1, _jackknife(right_SG.mean(0), tested_G), len(tested_G), clips)


def difference_of(a_SG: np.ndarray, b_SG: np.ndarray, tested_G: np.ndarray) -> Estimate:
    """Accuracy of b minus that of a, on the same clips. Degrees of freedom: Welch's (1947)."""
    a, b = accuracy_of(a_SG, tested_G), accuracy_of(b_SG, tested_G)
    of_seeds, df = a.of_seeds + b.of_seeds, 0.0
    if of_seeds > 0:
        df = of_seeds**2 / sum(one.of_seeds**2 / one.df for one in (a, b) if one.df)
    of_groups = _jackknife(b_SG.mean(0) - a_SG.mean(0), tested_G)
    return Estimate(b.value - a.value, of_seeds, df, of_groups, a.groups, a.clips)


def change_of(a_SG: np.ndarray, b_SG: np.ndarray, tested_G: np.ndarray) -> Estimate:
    """Accuracy of b minus that of a, where seed s of both is the same network, tested in two ways."""
    return accuracy_of(b_SG - a_SG, tested_G)


def _jackknife(right_G: np.ndarray, tested_G: np.ndarray) -> float:
    """Variance of the sum of right_G over the sum of tested_G, from leaving out each group in turn."""
    right, tested = right_G.sum(), tested_G.sum()
    G = len(tested_G)
    if G < 2:
        return 0.0
    without_G = (right - right_G) / (tested - tested_G)
    return float((G - 1) / G * ((without_G - right / tested) ** 2).sum())


def summary(predictions: pd.DataFrame, k: int) -> pd.DataFrame:
    """One row per configuration: number of seeds, means of `scores` over them, the sample standard deviation of the
    accuracy (NaN for one seed), and its interval."""
    table = intervals(predictions)
    trainings = scores(predictions, k).groupby(CONFIGURATION, sort=False)
    table.insert(2, "seeds", trainings.size().to_numpy())
    table.insert(4, "accuracy_std", trainings["accuracy"].std().to_numpy())
    return table.join(trainings.mean().drop(columns=["seed", "accuracy"]), on=CONFIGURATION)


def intervals(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration: accuracy, a mean over seeds, its 95% interval from low to high, and what it covers.

    interval_of: recipe (new groups and trainings), or networks (new groups alone: one seed). With two seeds, or below
    FEWEST_GROUPS, there is no interval: NaN and "". Raises ValueError if a training lacks test clips.
    """
    rows, (rights, tested_G) = [], rights_of(predictions)
    for configuration, right_SG in rights.items():
        estimate, of = accuracy_of(right_SG, tested_G), interval_of(len(right_SG), len(tested_G))
        low, high = estimate.accuracy_interval() if of else (np.nan, np.nan)
        rows.append((*configuration, estimate.value, low, high, of))
    return pd.DataFrame(rows, columns=[*CONFIGURATION, "accuracy", "low", "high", "interval_of"])


def interval_of(seeds: int, groups: int) -> str:
    """What an interval covers, as in `intervals`; "" if there is none."""
    if groups < FEWEST_GROUPS:
        return ""
    return "recipe" if seeds >= FEWEST_SEEDS else "networks" if seeds == 1 else ""


def comparisons(predictions: pd.DataFrame) -> pd.DataFrame:
    """Is b better than a? A row for each smaller budget of a model and its largest, b, and for two models at one.

    of              budget or model: what differs between model_a, budget_a and model_b, budget_b
    seeds           trainings of the one that has fewer
    difference      accuracy of b minus accuracy of a, means over seeds
    low, high       its 95% interval; interval_of says what it covers, as in `intervals`
    detectable      the smallest difference that would probably be found (a power of 0.8, before Holm's correction)
    at_most         its one-sided upper 95% bound: the most that the smaller budget plausibly loses
    p, p_holm       two-sided, of that interval; and corrected for the number of rows (Holm 1979); NaN for networks
    verdict         better or worse if p_holm is below 0.05, else undecided; none where there is no p

    A single configuration gives no row. Raises ValueError if a training lacks test clips.
    """
    rows, (rights, tested_G) = [], rights_of(predictions)
    for of, a, b in _pairs(rights):
        seeds = min(len(rights[a]), len(rights[b]))
        estimate, of_what = difference_of(rights[a], rights[b], tested_G), interval_of(seeds, len(tested_G))
        low = high = detectable = at_most = p = np.nan
        if of_what:
            low, high = estimate.value - estimate.margin(), estimate.value + estimate.margin()
            at_most = estimate.value + estimate.margin(LEVEL)
            p = estimate.p if of_what == "recipe" else np.nan
            detectable = (estimate.t(LEVEL / 2) + POWER) * estimate.error
        rows.append((of, *a, *b, seeds, estimate.value, low, high, of_what, detectable, at_most, p))
    sides = ["of", "model_a", "budget_a", "model_b", "budget_b", "seeds"]
    measured = ["difference", "low", "high", "interval_of", "detectable", "at_most", "p"]
    table = pd.DataFrame(rows, columns=sides + measured)
    table["p_holm"] = holm(table["p"].to_numpy(float))
    found = np.where(table["difference"] > 0, "better", "worse")
    decided = np.where(table["p_holm"] < LEVEL, found, "undecided")
    table["verdict"] = np.where(table["interval_of"] == "recipe", decided, "none")
    return table


def holm(p: np.ndarray) -> np.ndarray:
    """p values corrected for their number: the smallest times m, the next times m - 1, …, never falling (Holm 1979)."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected[np.argsort(order)]


def frames_needed(predictions: pd.DataFrame, margin: float, learned: pd.DataFrame) -> pd.DataFrame:
    """The smallest budget of each model that loses at most `margin` against the largest one: one row per model.

    Budgets are tested from the largest down, each by its one-sided 95% bound (`at_most`), until one fails. That needs
    no correction for their number (Hsu & Berger 1999, Westfall & Krishen 2001). learned: of `scores.learned`.

    largest     the largest budget
    needed      the smallest budget that passed; the largest one, if even the next one is worse; or NaN
    next        the budget at which it stopped, or NaN
    because     why it stopped: worse (more than the margin by `low`, and by the verdict), undecided, unlearned (one of
                the two has not finished learning), trainings (too few, or no interval), or "" (the smallest passed)
    groups, seeds   if undecided: how many would probably decide it (a power of 0.8, if the two are equally good), the
                    fewest seeds first; NaN if not even MOST_GROUPS, or all that are there, and MOST_SEEDS
    """
    finished = learned.set_index(CONFIGURATION)["finished"].to_dict()
    table = comparisons(predictions)
    table = table[table["of"] == "budget"].sort_values("budget_a", ascending=False, kind="stable")
    rights, tested_G = rights_of(predictions)
    rows = []
    for model in dict.fromkeys(model for model, _ in rights):
        largest = max(budget for name, budget in rights if name == model)
        answer: dict[str, Any] = {"needed": np.nan, "next": np.nan, "because": "", "groups": np.nan, "seeds": np.nan}
        for row in table[table["model_a"] == model].to_dict("records"):
            if not (finished[model, row["budget_a"]] and finished[model, largest]):
                because = "unlearned"
            elif row["interval_of"] != "recipe":
                because = "trainings"
            elif row["at_most"] <= margin:
                answer["needed"] = row["budget_a"]
                continue
            else:
                because = "worse" if row["low"] > margin and row["verdict"] == "better" else "undecided"
            answer |= {"next": row["budget_a"], "because": because}
            break
        if answer["because"] == "worse" and np.isnan(answer["needed"]):
            answer["needed"] = largest
        if answer["because"] == "undecided":
            a_SG, b_SG = rights[model, int(answer["next"])], rights[model, largest]
            groups, seeds = deciding(difference_of(a_SG, b_SG, tested_G), min(len(a_SG), len(b_SG)), margin)
            answer |= {"groups": groups, "seeds": seeds}
        rows.append({"model": model, "largest": largest} | answer)
    return pd.DataFrame(rows).astype(dict.fromkeys(["needed", "next", "groups", "seeds"], "Int64"))


def deciding(difference: Estimate, seeds: int, margin: float) -> tuple[float, float]:
    """(groups, seeds) with (t′ + 0.84)·error ≤ margin; NaN if there are none."""
    for S in (seeds, *(more for more in (5, 10, 20, MOST_SEEDS) if more > seeds)):
        for G in range(difference.groups, max(difference.groups, MOST_GROUPS) + 1):
            more = difference.with_more(G / difference.groups, S / seeds)
            if (more.t(LEVEL) + POWER) * more.error <= margin:
                return G, S
    return np.nan, np.nan


def _pairs(configurations: Iterable[Configuration]) -> list[tuple[str, Configuration, Configuration]]:
    """Each budget of a model and its largest, then two models at a budget, each with the column that differs."""
    configurations = list(configurations)
    largest = {model: max(budget for name, budget in configurations if name == model) for model, _ in configurations}
    pairs = [("budget", one, (one[0], largest[one[0]])) for one in configurations if one[1] < largest[one[0]]]
    models = (("model", a, b) for a, b in combinations(configurations, 2) if a[1] == b[1])
    return pairs + sorted(models, key=lambda pair: pair[1][1])


def rights_of(predictions: pd.DataFrame) -> tuple[dict[Configuration, np.ndarray], np.ndarray]:
    """right_SG of each configuration, and tested_G. Raises ValueError if a training lacks test clips."""
    clips = predictions.assign(right=predictions["label"] == predictions["prediction"])
    rights = clips.pivot(index=["group", "clip"], columns=TRAINING, values="right").sort_index(axis=1)
    if (missing := rights.columns[rights.isna().any()]).size:
        raise ValueError("predictions: {} at budget {} with seed {} lacks test clips".format(*missing[0]))
    groups = rights.astype(int).groupby("group")
    right_of = groups.sum()
    configurations = (tuple(keys.values()) for keys, _ in each(predictions, CONFIGURATION))
    return {one: right_of[one].to_numpy().T for one in configurations}, groups.size().to_numpy()
