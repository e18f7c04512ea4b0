"""How often do the intervals and verdicts of report/statistics.py hold? Compared with those of version 0.1.

    $ python benchmarks/coverage.py --seeds 3 5 10 --studies 1000     (five minutes)

A study is drawn as logit P(right) = μ_b + u_g + w_gc + v_bs + z_bg + t_bsg, with normal effects of budget b, group g,
clip c and seed s. μ_b and the standard deviation of v are solved so that the accuracy over new groups and trainings,
and its standard deviation over trainings, are those of the setting. Standard deviations of u, w, z and t: 0.5, 1, 0.25
and 0.25 where groups are weak; 1.7, 1.2, 0.6 and 0.4 where they are strong. motion has the 13
test groups of version 0.1. For coverage and size, two budgets are equally good; for margin, one is worse by 0.05.

    coverage    share of studies whose 95% interval of an accuracy, or of the difference, contains the true one
    size        share of studies with a verdict other than undecided
    margin      share of studies in which a budget that is worse by just the margin of 0.05 passes as good enough
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binomtest

from framebudget.console import usage
from framebudget.report.statistics import LEVEL, accuracy_of, difference_of

WEAK, STRONG = (0.5, 1.0, 0.25, 0.25), (1.7, 1.2, 0.6, 0.4)
MARGIN, DRAWS = 0.05, 1000  # DRAWS: of version 0.1's bootstrap, which took 10,000
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True)
class Setting:
    name: str
    groups: int
    clips: int  # in each group
    accuracy: float
    deviation: float  # of the accuracy, over trainings
    effects: tuple[float, float, float, float]


SETTINGS = [
    Setting(f"{name} {accuracy:.3g} ± {deviation}, {kind}", groups, clips, accuracy, deviation, effects)
    for name, groups, clips, levels in (
        ("motion", 13, 5, [(0.70, 0.11), (0.90, 0.05), (0.98, 0.01)]),
        ("ut_interaction", 20, 6, [(0.70, 0.05), (0.90, 0.02)]),
        ("weizmann", 9, 10, [(0.87, 0.05), (0.97, 0.02)]),
        ("ucf101", 35, 5, [(0.95, 0.01), (0.998, 0.005)]),
    )
    for accuracy, deviation in levels
    for kind, effects in (("weak", WEAK), ("strong", STRONG))
]


@cache
def solved(accuracy: float, deviation: float, effects: tuple[float, ...]) -> tuple[float, float]:
    """(μ, standard deviation of v) for this accuracy and its deviation over trainings."""
    rest = np.sqrt(np.square(effects).sum())

    def given(mu: float, v: float) -> np.ndarray:
        """The accuracies of trainings at the nodes."""
        return expit(mu + v * NODES[:, None] + rest * NODES[None, :]) @ WEIGHTS

    def mean_at(v: float) -> float:
        return brentq(lambda mu: given(mu, v) @ WEIGHTS - accuracy, -500, 500)

    def excess(v: float) -> float:
        return np.sqrt(WEIGHTS @ np.square(given(mean_at(v), v) - accuracy)) - deviation

    v = brentq(excess, 0, 20)
    return mean_at(v), v


def study(setting: Setting, seeds: int, accuracies: tuple[float, ...], generator: np.random.Generator) -> np.ndarray:
    """right_BSGC: of budgets with these accuracies."""
    G, C, B = setting.groups, setting.clips, len(accuracies)
    u, w, z, t = setting.effects
    draw = generator.normal
    mu_B, v_B = np.array([solved(accuracy, setting.deviation, setting.effects) for accuracy in accuracies]).T
    logit = mu_B[:, None, None, None] + v_B[:, None, None, None] * draw(size=(B, seeds, 1, 1))
    logit = logit + draw(0, u, (1, 1, G, 1)) + draw(0, w, (1, 1, G, C))
    logit = logit + draw(0, z, (B, 1, G, 1)) + draw(0, t, (B, seeds, G, 1))
    return generator.random(logit.shape) < expit(logit)


def measured(setting: Setting, seeds: int, studies: int) -> dict[str, float]:
    """The shares that the docstring above defines, of our functions and of version 0.1's."""
    generator = np.random.default_rng([seeds, *setting.name.encode()])
    tested_G = np.full(setting.groups, setting.clips)
    alike, worse = (setting.accuracy,) * 2, (setting.accuracy - MARGIN, setting.accuracy)
    hits: dict[str, list[bool]] = {}

    def note(**found: bool) -> None:
        for name, value in found.items():
            hits.setdefault(name, []).append(bool(value))

    for _ in range(studies):
        right_BSGC = study(setting, seeds, alike, generator)
        a_SG, b_SG = right_BSGC.sum(3)
        low, high = accuracy_of(a_SG, tested_G).accuracy_interval()
        difference = difference_of(a_SG, b_SG, tested_G)
        note(coverage=low <= setting.accuracy <= high, of_difference=abs(difference.value) <= difference.margin())
        note(size=difference.p < LEVEL)
        (low, high), (least, most), verdict = version_0_1(right_BSGC, generator)
        note(coverage_0_1=low <= setting.accuracy <= high, of_difference_0_1=least <= 0 <= most, size_0_1=verdict)
        a_SG, b_SG = study(setting, seeds, worse, generator).sum(3)
        loss = difference_of(a_SG, b_SG, tested_G)
        note(margin=loss.value + loss.margin(LEVEL) <= MARGIN)
    return {name: float(np.mean(values)) for name, values in hits.items()}


def version_0_1(right_BSGC: np.ndarray, generator: np.random.Generator) -> tuple:
    """(interval of a), (interval of b − a), whether it is significant.

    By percentiles of a bootstrap of groups, and McNemar's test on what the majority of the seeds gets right.
    """
    G = right_BSGC.shape[2]
    times_DG = generator.multinomial(G, np.full(G, 1 / G), DRAWS)
    accuracy_DB = times_DG @ right_BSGC.mean((1, 3)).T / G
    difference_D = accuracy_DB[:, 1] - accuracy_DB[:, 0]
    fewest = min((difference_D <= 0).sum(), (difference_D >= 0).sum())
    a_GC, b_GC = right_BSGC.mean(1) > 0.5
    only_a, only_b = (a_GC & ~b_GC).sum(), (b_GC & ~a_GC).sum()
    p_mcnemar = binomtest(only_b, only_a + only_b).pvalue if only_a + only_b else 1.0
    change = right_BSGC[1].mean() - right_BSGC[0].mean()
    verdict = 2 * (1 + fewest) / (1 + DRAWS) < LEVEL and p_mcnemar < LEVEL and change * (int(only_b) - int(only_a)) > 0
    ends = [2.5, 97.5]
    return np.percentile(accuracy_DB[:, 0], ends), np.percentile(difference_D, ends), verdict


def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--studies", type=int, default=1000, help="studies drawn in each setting")
    arguments = parser.parse_args()
    rows = []
    for seeds in arguments.seeds:
        for setting in SETTINGS:
            rows.append({"setting": setting.name, "seeds": seeds} | measured(setting, seeds, arguments.studies))
            print(".", end="", flush=True)
    table = pd.DataFrame(rows)
    print("\n\n" + table.to_markdown(index=False, floatfmt=".3f"))
    by_seeds = table.drop(columns="setting").groupby("seeds")
    least = [name for name in table if "coverage" in name or "of_difference" in name]
    most = [name for name in table if "size" in name or name == "margin"]
    print("\nThe worst setting:\n\n" + by_seeds[least].min().join(by_seeds[most].max()).to_markdown(floatfmt=".3f"))


if __name__ == "__main__":
    main()
