"""params.yaml, typed: an unknown key, a wrong type or an impossible value is an error that names the key."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from framebudget.console import UserError, explain, read_yaml
from framebudget.repository import check_copy, top

EMBEDDED = "data"  # `clips`: the project's own folder, with one folder for each data set
SIZES = ("short_side", "crop")  # the keys of `input` that a network's section may override
ARGUMENTS = {"optimizer": "optimizer_args", "scheduler": "scheduler_args"}


class ParamsError(UserError):
    """params.yaml cannot be used. The message names the key."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Count = Annotated[int, Field(ge=1)]
Frames = Annotated[int, Field(ge=1, le=1024)]
Side = Annotated[int, Field(ge=32, le=4096)]  # pixels
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # as NumPy and Lightning take them
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
AsList = BeforeValidator(lambda value: value if isinstance(value, list) else [value])


class Fetch(Strict):
    classes: Annotated[list[str], Field(min_length=2)] | Literal["all"]
    group: str | None
    archive: str | None

    @pydantic.field_validator("group")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class Split(Strict):
    by: Literal["group", "clip"]
    test: Fraction | None
    official: Annotated[Literal[1, 2, 3, "all"], BeforeValidator(lambda v: v if type(v) is int else str(v))] | None
    folds: Annotated[int, Field(ge=3)] | None
    validation: Fraction
    seed: Seed

    @pydantic.model_validator(mode="after")
    def leaves_some(self) -> "Split":
        if sum(rule is not None for rule in (self.official, self.folds or self.test)) != 1:
            raise ValueError("set test, folds (test is then ignored) or official, and leave the others null")
        if not self.folds and (self.test or 0) + self.validation >= 1:
            raise ValueError("test + validation must stay below 1")
        return self


class Input(Strict):
    short_side: Side
    crop: Side
    window: Positive | None
    sampling: Literal["dynamic", "static", "segments", "dense"]
    stride: Annotated[int, Field(ge=1, le=10_000)]
    short: Literal["repeat_last", "wrap", "error"]
    flip: bool
    scale_jitter: Annotated[float, Field(ge=0, le=1)]
    color_jitter: Annotated[float, Field(ge=0, le=1)]

    @pydantic.model_validator(mode="after")
    def crop_fits(self) -> "Input":
        if self.crop > self.short_side:
            raise ValueError(f"crop {self.crop} is larger than short_side {self.short_side}")
        return self


class Trainer(Strict):
    """Lightning's Trainer. timeout: DDPStrategy's, in seconds. save_every: seconds of work."""

    threads: Count
    devices: Count | Literal["auto"]
    num_nodes: Count
    strategy: Literal["auto", "ddp"]
    timeout: Count
    save_every: NotNegative
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    memory_format: Literal["auto", "channels_last_3d", "contiguous_format"]
    cuda_graphs: bool
    compile: bool

    @property
    def shared(self) -> bool:
        """Whether several devices share the batches of one training."""
        return self.strategy == "ddp" or (self.devices, self.num_nodes) != (1, 1)


class Train(Strict):
    """A recipe. Arguments of the optimizer and the scheduler that are null are not passed to torch."""

    optimizer: str
    optimizer_args: dict[str, JsonValue]
    lr: Positive
    weight_decay: NotNegative
    scheduler: str
    scheduler_args: dict[str, JsonValue]
    epochs: Count
    patience: Count
    batch_size: Annotated[int, Field(ge=2)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    gradient_clip: Positive | None
    frozen_stages: Annotated[int, Field(ge=0)]
    frozen_norms: bool

    @pydantic.field_validator(*ARGUMENTS.values())
    @classmethod
    def without_null(cls, arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return given(arguments)

    def overridden(self, section: dict[str, JsonValue], name: str) -> "Train":
        """This recipe with the values of a section that are not null.

        The section's arguments are added to this recipe's, or replace them if the section names another optimizer or
        scheduler. Raises ValueError, which names the wrong keys of the section `name`.
        """
        values, section = self.model_dump(), given(section)
        for kind, arguments in ARGUMENTS.items():
            above = values[arguments] if section.get(kind, values[kind]) == values[kind] else {}
            own = section.get(arguments, {})
            section[arguments] = above | given(own) if isinstance(own, dict) else own
        with faults_of(name):
            return Train(**(values | section))


class Evaluate(Strict):
    views: Count
    crops: Literal[1, 3]
    top_k: Count
    margin: Fraction


class DataSet(Strict, extra="allow"):
    """An entry of `datasets`. Keys other than these are the sections of networks."""

    __pydantic_extra__: dict[str, dict[str, JsonValue]]

    fetch: Fetch
    split: Split
    input: Input
    evaluate: Evaluate
    train: dict[str, JsonValue]

    @property
    def networks(self) -> dict[str, dict[str, JsonValue]]:
        return self.__pydantic_extra__


class Params(Strict):
    dataset: str
    clips: str
    protocol: Literal["sound", "published"]
    models: Annotated[list[str], AsList, Field(min_length=1)]
    frames: Annotated[list[Frames], AsList, Field(min_length=1), AfterValidator(sorted)]
    seeds: Annotated[list[Seed], AsList, Field(min_length=1)]
    workers: Annotated[int, Field(ge=0)]
    launcher: str
    engine: Literal["local", "ray"]
    side_by_side: Count | Literal["auto"]
    per_gpu: Count
    store: NotNegative
    trainer: Trainer
    train: Train
    datasets: dict[str, DataSet]

    @pydantic.field_validator("models", "frames", "seeds")
    @classmethod
    def without_repeats(cls, values: list) -> list:
        if len(set(values)) < len(values):
            raise ValueError(f"a value appears twice in {values}")
        return values

    @pydantic.model_validator(mode="after")
    def coherent(self) -> "Params":
        if self.engine == "ray" and self.trainer.shared:
            raise ValueError("engine: ray gives each training one device; set trainer.devices and num_nodes to 1")
        if self.dataset not in self.datasets:
            raise ValueError(f"dataset: {self.dataset!r} is not one of {', '.join(self.datasets)}")
        split, sampling = self.data.split, self.data.input.sampling
        folds = split.folds or split.official == "all"
        if self.protocol == "published" and (folds or sampling not in ("dynamic", "static")):
            needs = "one fold (split.folds, split.official) and dynamic or static sampling (input.sampling)"
            raise ValueError(f"datasets.{self.dataset}: protocol published needs {needs}")
        for network in self.models:
            if network not in self.data.networks:
                raise ValueError(f"models: datasets.{self.dataset} has no section {network}")
        for dataset, data in self.datasets.items():
            complete(data.train, set(Train.model_fields), f"datasets.{dataset}.train")
            for network, section in data.networks.items():
                name = f"datasets.{dataset}.{network}"
                complete(section, {"weights", *SIZES, *Train.model_fields}, name)
                if not isinstance(weights := section["weights"], str | None):
                    raise ValueError(f"{name}.weights: must be a file, a URL, kinetics400, or null")
                if weights and Path("work").absolute() in Path(weights).absolute().parents:
                    raise ValueError(f"{name}.weights: DVC removes what is in work/ before a stage runs; copy the file")
                self.recipe(network, dataset)
                self.input(network, dataset)
        return self

    @property
    def data(self) -> DataSet:
        """The chosen entry of `datasets`."""
        return self.datasets[self.dataset]

    def recipe(self, network: str, dataset: str | None = None) -> Train:
        """`train`, overridden by the data set's section for all networks, then by its section for this one."""
        data = self.datasets[dataset := dataset or self.dataset]
        own = {key: value for key, value in data.networks[network].items() if key in Train.model_fields}
        recipe = self.train.overridden(data.train, f"datasets.{dataset}.train")
        return recipe.overridden(own, f"datasets.{dataset}.{network}")

    def input(self, network: str, dataset: str | None = None) -> Input:
        """The data set's `input`, with the sizes that the network's section overrides."""
        data = self.datasets[dataset := dataset or self.dataset]
        sizes = given({key: data.networks[network][key] for key in SIZES})
        with faults_of(f"datasets.{dataset}.{network}"):
            return Input(**(data.input.model_dump() | sizes))

    def weights(self, network: str) -> str | None:
        """The weights that a training starts from, as params.yaml names them."""
        weights = self.data.networks[network]["weights"]
        return weights if isinstance(weights, str) else None

    @property
    def unit(self) -> str:
        """The unit of a budget, and the name of its column on disk."""
        return "frames" if self.protocol == "sound" else "seconds"

    @property
    def archive(self) -> str | None:
        """The zip that the clips are read out of, a file or the data set's URL; None if the clips are in a folder."""
        if self.data.fetch.archive and self.clips.lower().endswith(".zip"):
            return self.clips
        return self.data.fetch.archive if self.clips == EMBEDDED else None

    @property
    def folder(self) -> Path:
        """Where the clips are. All copies of the repository share those of an archive. Raises ParamsError."""
        if self.archive:
            return top() / EMBEDDED / self.dataset
        if self.clips != EMBEDDED:
            return self.table.parent if self.table else Path(self.clips)
        if self.dataset != "motion":
            raise ParamsError(f"clips: {self.dataset} needs the folder of your clips: -S clips=PATH")
        return Path(EMBEDDED, self.dataset)

    @property
    def table(self) -> Path | None:
        """The table that lists the clips (sources/table.py), if there is one."""
        return Path(self.clips) if self.clips.lower().endswith((".csv", ".tsv")) else None


def given(section: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The section without keys that are null."""
    return {key: value for key, value in section.items() if value is not None}


def complete(section: dict, keys: set[str], name: str) -> None:
    """Raises ValueError unless a section has exactly these keys: `-S` can only change a key that is there."""
    faults = [f"{name}.{key}: unknown key" for key in section if key not in keys]
    faults += [f"{name}.{key}: missing; add it, empty for its default" for key in sorted(keys - section.keys())]
    if faults:
        raise ValueError("\n".join(faults))


@contextlib.contextmanager
def faults_of(section: str) -> Iterator[None]:
    """Raise errors with their keys' full names in params.yaml."""
    try:
        yield
    except ValidationError as error:
        raise ValueError(explain(error, f"{section}.")) from None


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check the parameters, and check that DVC would keep the result. Raises UserError."""
    check_copy()
    try:
        return Params.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ParamsError(f"{path}: {explain(error)}") from None
