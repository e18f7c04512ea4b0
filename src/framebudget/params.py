"""params.yaml, typed: an unknown key, a wrong type or an impossible value is an error that names the key."""

import contextlib
import itertools
import os
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

MODELS = {"x3d_m": "X3D-M", "slowfast_r50": "SlowFast R50"}  # as the papers write them
PICTURE = ("short_side", "crop")  # what of `input` a model's section may override
EMBEDDED = "data/motion"
PUBLISHED_T = 16  # frames of every clip in the published protocol
MOST, DEEPEST = 10_000, 20  # values in params.yaml, and how far they may be nested
brief = reprlib.Repr()  # for values of any size, and such as contain themselves
brief.maxstring = brief.maxother = 100


class ParamsError(ValueError):
    """params.yaml cannot be used; the message names the key."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def top() -> Path:
    """The top of the repository. Queued and `--temp` experiments run in copies of it, below .dvc/tmp/exps."""
    here = Path.cwd()
    return next((up.parent.parent.parent for up in here.parents if up.parts[-3:] == (".dvc", "tmp", "exps")), here)


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or `mlflow.db` at the top of the repository, for queued experiments too."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{top() / 'mlflow.db'}"


def as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


Count = Annotated[int, Field(ge=1)]
Frames = Annotated[int, Field(ge=1, le=1024)]
Side = Annotated[int, Field(ge=32, le=4096)]  # pixels
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # as NumPy and Lightning take them
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Fetch(Strict):
    classes: Annotated[list[str], Field(min_length=2)] | Literal["all"]
    group: str | None
    archive: str | None = None

    @field_validator("group")
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
    official: Literal[1, 2, 3] | None = None
    folds: Annotated[int, Field(ge=3)] | None = None
    validation: Fraction
    seed: Seed

    @model_validator(mode="after")
    def leaves_some(self) -> "Split":
        if (self.test is None) == (self.official is None):
            raise ValueError("either test or official must be null, and not both")
        if (self.test or 0) + self.validation >= 1:
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
    scale_jitter: NotNegative
    color_jitter: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def crop_fits(self) -> "Input":
        if self.crop > self.short_side:
            raise ValueError(f"crop {self.crop} is larger than short_side {self.short_side}")
        return self

    def span(self, frames: int, fps: float, T: int) -> int:
        """How many consecutive frames of a clip of this length and rate the T frames are spread over; T at least."""
        if self.sampling == "dense":
            return (T - 1) * self.stride + 1
        whole = self.window is None or self.sampling == "segments"
        return max(T, frames if whole else round(min(self.window * fps, frames)))


class Trainer(Strict):
    """As Lightning's Trainer takes them, and torch's names; the timeout is DDPStrategy's, in seconds."""

    devices: Count | Literal["auto"]
    num_nodes: Count
    strategy: Literal["auto", "ddp"]
    timeout: Count
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    memory_format: Literal["channels_last_3d", "contiguous_format"]
    compile: bool


class Train(Strict):
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


class Evaluate(Strict):
    views: Count
    crops: Literal[1, 3]
    top_k: Count


class DataSet(Strict):
    fetch: Fetch
    split: Split
    input: Input
    evaluate: Evaluate
    train: dict[str, JsonValue]
    x3d_m: dict[str, JsonValue]
    slowfast_r50: dict[str, JsonValue]


class Params(Strict):
    dataset: str
    clips: str
    protocol: Literal["sound", "published"]
    frames: Annotated[list[Frames], BeforeValidator(as_list), Field(min_length=1)]
    seeds: Annotated[list[Seed], BeforeValidator(as_list), Field(min_length=1)]
    workers: Annotated[int, Field(ge=0)]
    launcher: str
    trainer: Trainer
    train: Train
    datasets: dict[str, DataSet]

    @field_validator("frames", "seeds")
    @classmethod
    def without_repeats(cls, values: list[int]) -> list[int]:
        if len(set(values)) < len(values):
            raise ValueError(f"a value stands twice in {values}")
        return values

    @model_validator(mode="after")
    def coherent(self) -> "Params":
        if self.dataset not in self.datasets:
            raise ValueError(f"dataset: {self.dataset!r} is not one of {', '.join(self.datasets)}")
        if self.protocol == "published" and self.data.split.folds:
            raise ValueError(f"datasets.{self.dataset}.split.folds: null, where protocol is published")
        for name in self.datasets:
            for model in MODELS:
                _recipe(self, name, model)
                _input(self, name, model)
                if not isinstance(getattr(self.datasets[name], model).get("weights"), str | None):
                    raise ValueError(f"datasets.{name}.{model}.weights: a file, a URL, kinetics400, or null")
        return self

    @property
    def data(self) -> DataSet:
        """The chosen entry of `datasets`."""
        return self.datasets[self.dataset]

    def recipe(self, model: str) -> Train:
        """`train`, overridden by what the data set says for all models, and then for this one."""
        return _recipe(self, self.dataset, model)

    def input(self, model: str) -> Input:
        """The data set's `input`, with the size of the pictures that it gives this model."""
        return _input(self, self.dataset, model)

    @property
    def unit(self) -> str:
        """Of a budget."""
        return "frames" if self.protocol == "sound" else "seconds"

    def sampled(self, model: str, budget: int) -> tuple[int, Input]:
        """How many frames a budget gives, and from what; in the published protocol it counts seconds."""
        if self.protocol == "sound":
            return budget, self.input(model)
        return PUBLISHED_T, self.input(model).model_copy(update={"window": float(budget)})

    def weights(self, model: str) -> str | None:
        """The weights that a training starts from, as params.yaml names them."""
        return getattr(self.data, model).get("weights")

    @property
    def archive(self) -> str | None:
        """What the clips are read out of: `clips`, if it is a zip, or the public archive, if it is nothing else."""
        if self.data.fetch.archive is None or not (self.clips == EMBEDDED or self.clips.endswith(".zip")):
            return None
        return self.data.fetch.archive if self.clips == EMBEDDED else self.clips

    @property
    def folder(self) -> Path:
        """Where the clips lie: `clips`, or what was read out of an archive, once for all copies of the repository."""
        return top() / "data" / self.dataset if self.archive else Path(self.clips)


def _recipe(params: Params, dataset: str, model: str) -> Train:
    data, values = params.datasets[dataset], params.train.model_dump()
    for section in ("train", model):
        given = getattr(data, section)
        values |= {key: given[key] for key in given if section == "train" or key not in (*PICTURE, "weights")}
        with _faults_of(f"datasets.{dataset}.{section}."):
            recipe = Train(**values)
    return recipe


def _input(params: Params, dataset: str, model: str) -> Input:
    data = params.datasets[dataset]
    own = {key: value for key, value in getattr(data, model).items() if key in PICTURE}
    with _faults_of(f"datasets.{dataset}.{model}."):
        return Input(**(data.input.model_dump() | own))


@contextlib.contextmanager
def _faults_of(section: str) -> Iterator[None]:
    """Name the keys of what is wrong as they stand in params.yaml."""
    try:
        yield
    except ValidationError as error:
        raise ValueError(explain(error, section)) from None


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check the parameters. Raises ParamsError."""
    content = read_yaml(path)
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise ParamsError(f"{path}: {explain(error)}") from None


def read_yaml(path: Path) -> object:
    """What a YAML file holds, as DVC reads it (YAML 1.2). Raises ParamsError.

    Aliases make billions of values, or endless ones, of few lines; so their number is limited, and merges (<<), which
    are written out while a file is read, are not taken.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not _moderate(YAML(typ="safe").compose(text)):
            raise ParamsError(
                f"{path}: over {MOST:,} values, nested more than {DEEPEST} deep, or merged (<<); see its aliases (*)"
            )
        return YAML(typ="safe").load(text)
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing; run from the top of the repository") from None
    except ParamsError:
        raise
    except Exception as error:  # a tag on what it does not fit can raise whatever Python has
        raise ParamsError(f"{path} is not YAML: {error}") from None


def _moderate(root: Node | None) -> bool:
    """Whether all that is in it can be written out."""
    within, seen = [iter([root])], 0
    while within and seen <= 2 * MOST and len(within) <= DEEPEST:  # keys are nodes, too
        for node in within[-1]:
            seen += 1
            if node and node.tag == "tag:yaml.org,2002:merge":
                return False
            if isinstance(node, MappingNode):
                within.append(itertools.chain.from_iterable(node.value))
            elif isinstance(node, SequenceNode):
                within.append(iter(node.value))
            break
        else:
            within.pop()
    return not within


def explain(error: ValidationError, prefix: str = "") -> str:
    """`train.lr: Input should be greater than 0 (found -1)`, one line a fault."""
    lines = []
    for fault in error.errors():
        key = (prefix + ".".join(map(str, fault["loc"]))).rstrip(".")
        if fault["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key")
        elif fault["type"] == "missing":  # what was found is all that stands around it
            lines.append(f"{key}: missing")
        elif fault["type"] == "value_error":  # ours: says it all
            lines.append(f"{key}: {fault['ctx']['error']}".removeprefix(": "))
        else:
            lines.append(f"{key}: {fault['msg']} (found {brief.repr(fault['input'])})")
    return "\n".join(lines)
