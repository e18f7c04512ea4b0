"""A study and its trainings: everything that follows from params.yaml, the split and the given weights.

    study = Study.load()
    for training in study.trainings("x3d_m"):
        training.name                   # 16f-s0: 16 frames, seed 0; in cross-validation 16f-s0-k3
        training.input, training.recipe # after all overrides
        training.clips("train")         # rows of work/split.csv

A budget counts frames or, in the published protocol, seconds of a window. Tables in memory call it `budget`; on disk
the column has the name of its unit, `frames` or `seconds`. Tables are read and written here.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from framebudget import params
from framebudget.console import PREDICTIONS, SPLIT, UserError, read_csv, sha256, write_csv
from framebudget.models import NETWORKS
from framebudget.params import Input, Params, Train
from framebudget.processor import Machine, this_machine
from framebudget.repository import top
from framebudget.video import index

STORE = Path("work/trainings")  # at the top of the repository, for all experiments
PUBLISHED_T = 16  # frames of every clip in the published protocol
PACKAGE = Path(__file__).parent
SOURCES = (  # what a training runs: tests compare it with the imports of framebudget.train and with dvc.yaml
    "console.py", "learning", "models", "params.py", "processor.py", "repository.py", "sources/download.py",
    "sources/weights.py", "study.py", "train.py", "video",
)  # fmt: skip
NO_EFFECT = "timeout", "save_every", "cuda_graphs"  # parameters of the trainer that do not change what it trains
TRAINED = re.compile(r"(\d+)f-s(\d+)(?:-k(\d+))?")


@dataclass(frozen=True)
class Study:
    """split: work/split.csv with the column `frame_index`; in cross-validation, each clip once per fold.

    machine: where its trainings run.
    """

    params: Params
    split: pd.DataFrame
    machine: Machine = field(default_factory=this_machine)

    @classmethod
    def load(cls, remote: Callable[[Params], Machine] | None = None) -> "Study":
        """The study of the current folder. remote: finds the machine of a cluster's trainings. Raises UserError."""
        p, split = params.load(), index.joined(read_csv(Path("work/split.csv"), SPLIT))
        rule, window = p.data.input.sampling, p.data.input.window or p.protocol == "published"
        if p.data.evaluate.views > 1 and (rule == "segments" or (rule != "dense" and not window)):
            raise UserError("evaluate.views: every window is the whole clip; set it to 1, or set input.window")
        return cls(p, split, remote(p) if remote and p.engine == "ray" else this_machine())

    @cached_property
    def classes(self) -> list[str]:
        """In the order of their labels."""
        return sorted(self.split["class"].unique())

    @cached_property
    def clips_sha256(self) -> str:
        """One sha256 over those of all clips, in the order of their names."""
        clips = self.split.drop_duplicates("clip").sort_values("clip")
        lines = "".join(f"{row.sha256}  {row.clip}\n" for row in clips.itertuples())
        return hashlib.sha256(lines.encode()).hexdigest()

    def trainings(self, network: str | None = None) -> list["Training"]:
        """All of them, or those of one network: none if it is not in `models`."""
        networks = [name for name in self.params.models if network in (None, name)]
        return [training for name in networks for training in self._trainings_of(name)]

    def _trainings_of(self, network: str) -> Iterator["Training"]:
        p, folds = self.params, self.split["fold"].unique().tolist()
        recipe, plain = p.recipe(network), p.input(network)
        for budget in p.frames:
            T, spec = budget, plain
            if p.protocol == "published":
                T, spec = PUBLISHED_T, plain.model_copy(update={"window": float(budget)})
            for seed in p.seeds:
                for fold in folds:
                    yield Training(self, network, budget, T, seed, fold if len(folds) > 1 else None, spec, recipe)

    def tested_on(self, clip: str, network: str, budget: int, seed: int) -> "Training":
        """The training that predicts this test clip."""
        found = [training for training in self.trainings(network) if (training.budget, training.seed) == (budget, seed)]
        return next(training for training in found if clip in set(training.clips("test")["clip"]))


@dataclass(frozen=True, eq=False)
class Training:
    """One network at one budget from one seed: the unit of work, of MLflow runs and of resuming.

    T: frames of a view. fold: the fold that it is tested on; None without cross-validation.
    input, recipe: as this training uses them, after all overrides.
    """

    study: Study = field(repr=False)
    network: str
    budget: int
    T: int
    seed: int
    fold: int | None
    input: Input
    recipe: Train

    @property
    def params(self) -> Params:
        return self.study.params

    @property
    def name(self) -> str:
        """8f-s0, or 8f-s0-k3: names its files and, after the network's key, its run in MLflow."""
        return f"{self.budget}f-s{self.seed}" + ("" if self.fold is None else f"-k{self.fold}")

    @property
    def title(self) -> str:
        """X3D-M 8f-s0: its name in messages."""
        return f"{NETWORKS[self.network].name} {self.name}"

    @property
    def file(self) -> Path:
        """The trained weights, once the stage has finished."""
        return Path("work") / self.network / f"{self.name}.pt"

    @property
    def folder(self) -> Path:
        """Its folder in the store: its state, and later its weights `<name>.pt` and curve.csv (learning/store.py)."""
        return top() / STORE / f"{self.network}-{self.name}-{self.identity}"

    def clips(self, subset: str | None = None) -> pd.DataFrame:
        """Rows of the split: its clips, each once, or those of `train`, `validation` or `test`."""
        rows = self.study.split
        if self.fold is not None:
            rows = rows[rows["fold"] == self.fold]
        return rows if subset is None else rows[rows["subset"] == subset]

    def rows(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Its own rows of a study's predictions."""
        tested = predictions["clip"].isin(self.clips("test")["clip"])
        budget, seed = predictions["budget"] == self.budget, predictions["seed"] == self.seed
        return predictions[tested & (predictions["model"] == self.network) & budget & seed]

    @property
    def weights(self) -> str | None:
        """The weights that it starts from, as params.yaml names them."""
        return self.params.weights(self.network)

    @cached_property
    def weights_sha256(self) -> str | None:
        """The sha256 of those weights, as `fetch` recorded it."""
        try:
            return json.loads(Path("work/weights.json").read_text())[self.network]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError("work/weights.json: not written by fetch; run it again: dvc repro -f fetch") from None

    @cached_property
    def precision(self) -> str:
        """trainer.precision. `auto` becomes bf16-mixed if the hardware has bfloat16 and the network is faster in it."""
        if (asked := self.params.trainer.precision) != "auto":
            return asked
        machine = self.study.machine
        pays = machine.bfloat16 and (machine.gpus or NETWORKS[self.network].cpu_bfloat16)
        return "bf16-mixed" if pays else "32-true"

    @property
    def memory_format(self) -> str:
        """trainer.memory_format. `auto` is channels last, except where models/gpu.py leaves a GPU to torch's operators,
        which are slow in it."""
        options = self.params.trainer
        if options.memory_format != "auto":
            return options.memory_format
        stock = self.study.machine.gpus and (options.shared or options.compile or self.recipe.frozen_norms)
        return "contiguous_format" if stock else "channels_last_3d"

    @cached_property
    def identity(self) -> str:
        """A digest of what determines the result: parameters, clips, given weights, processor, packages and code."""
        facts = [
            self.network,
            self.params.protocol,
            self.T,
            (self.budget, self.seed, self.fold),
            self.input.model_dump(),
            self.recipe.model_dump(),
            self.params.trainer.model_dump(exclude={*NO_EFFECT, "precision", "memory_format"}),
            (self.precision, self.memory_format),
            self.weights_sha256,
            versions(),
            self.study.machine.kind,
            self.study.machine.gpus if self.params.trainer.devices == "auto" else None,
        ]
        digests = [sha256(path) for path in (Path("work/split.csv"), *source_files())]
        return hashlib.sha256(json.dumps(facts + digests).encode()).hexdigest()[:12]


def source_files() -> list[Path]:
    """The files of SOURCES."""
    found = [PACKAGE / name for name in SOURCES]
    return sorted(file for path in found for file in ([path] if path.suffix else path.rglob("*.py")))


def trained(folder: Path) -> dict[tuple[int, int, int], Path]:
    """{(budget, seed, fold): file} of the weight files in work/<network>, ascending; without
    cross-validation the fold is 0."""
    found = {}
    for file in folder.glob("*.pt"):
        if match := TRAINED.fullmatch(file.stem):
            budget, seed, fold = map(int, match.groups(default=0))
            found[budget, seed, fold] = file
    return dict(sorted(found.items()))


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    names = "torch", "torchvision", "pytorchvideo", "pytorch-lightning", "av", "numpy"
    return {name: version(name) for name in names}


def read_predictions(path: Path) -> pd.DataFrame:
    """work/predictions.csv. Raises UserError if it is not such a table."""
    table = in_memory(read_csv(path, PREDICTIONS))
    if "budget" not in table:
        raise UserError(f"{path}: no column 'frames' or 'seconds'; make it again: dvc repro")
    return table


def read_controls(path: Path) -> pd.DataFrame:
    """work/control_predictions.csv. Raises UserError if it is not such a table."""
    columns = read_csv(path, {}).columns.difference(["seed", "frames", "seconds"])
    return in_memory(read_csv(path, dict.fromkeys(columns, str)))


def read_table(path: Path) -> pd.DataFrame:
    """A table of numbers: work/tables/results.csv, curves.csv, … Raises UserError if it is missing."""
    try:
        return in_memory(pd.read_csv(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it: dvc repro") from None


def write_table(table: pd.DataFrame, path: Path, unit: str) -> None:
    write_csv(on_disk(table, unit), path)


def in_memory(table: pd.DataFrame) -> pd.DataFrame:
    return _renamed(table, {"frames": "budget", "seconds": "budget"})


def on_disk(table: pd.DataFrame, unit: str) -> pd.DataFrame:
    return _renamed(table, {"budget": unit})


def _renamed(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Comparisons also have `budget` in `budget_a` and `budget_b`, and as a value of their column `of`."""
    names = {old + side: new + side for old, new in names.items() for side in ("", "_a", "_b")}
    table = table.rename(columns=names)
    return table.assign(of=table["of"].replace(names)) if "of" in table else table
