"""Which trainings a study has: one network at every frame budget, from every seed and, in cross-validation, fold."""

from typing import NamedTuple

import pandas as pd

from framebudget.params import Params


class Run(NamedTuple):
    """One training. budget: as in `frames`. fold: whose clips it is tested on; None without cross-validation."""

    budget: int
    seed: int
    fold: int | None = None

    @property
    def name(self) -> str:
        """8f-s0, or 8f-s0-k3: of its files and, after the network's, of its run in MLflow."""
        return f"{self.budget}f-s{self.seed}" + ("" if self.fold is None else f"-k{self.fold}")

    def rows(self, split: pd.DataFrame) -> pd.DataFrame:
        """The clips of this training, each once, with the subset that it is in."""
        return split if self.fold is None else split[split["fold"] == self.fold]


def runs_of(p: Params, split: pd.DataFrame) -> list[Run]:
    """split: the table of `split`, with the column `fold`."""
    folds = split["fold"].unique().tolist()
    return [
        Run(budget, seed, fold if len(folds) > 1 else None) for budget in p.frames for seed in p.seeds for fold in folds
    ]
