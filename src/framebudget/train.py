"""Fine-tune one network at every frame budget and seed.

    $ python -m framebudget.train x3d_m         (dvc repro train_x3d)
    $ python -m framebudget.train slowfast_r50  (dvc repro train_slowfast)

reads   work/split.csv, work/index.json, and the clips that they name; work/weights.json
        params.yaml             protocol, frames, seeds, trainer, train, datasets.<dataset>.{input, train, <model>}
writes  work/<model>/curves.csv             model, frames, seed, fold, epoch, losses, accuracies, learning rate
        work/<model>/<frames>f-s<seed>.pt   the weights of the epoch with the best validation accuracy
        mlflow.db                           one run for each
        work/unfinished/                    what a killed training needs to go on, and finished ones, until evaluate has
                                            seen them: DVC removes the outputs of a stage that it could not record

The same parameters give the same bytes on one machine, however many workers decode and however often the training was
killed: the same command goes on from the last finished epoch.
"""

import hashlib
import json
import logging
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from pytorch_lightning.callbacks import Checkpoint, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

from framebudget import models, params
from framebudget.console import SPLIT, new_folder, read_csv, sha256, stage, usage, write_csv
from framebudget.learning.data import ClipData
from framebudget.learning.logger import PatientLogger, system_metrics
from framebudget.learning.runtime import prepare
from framebudget.learning.task import Classification
from framebudget.learning.tracking import going_on, log_model, study_run, training_run
from framebudget.models import weights
from framebudget.params import Params
from framebudget.runs import Run, runs_of
from framebudget.sources.weights import local
from framebudget.video import index
from framebudget.video.dataset import check


@stage
def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("model", choices=params.MODELS)
    model = parser.parse_args().model
    p = params.load()
    split = index.joined(read_csv(Path("work/split.csv"), SPLIT))
    if rank_zero_only.rank == 0:
        lock = alone(model)  # noqa: F841, held to the end
        check(p.folder, split)
        study_run(p, split)  # says now whether MLflow answers; if it goes away later, trainings go on
    folders = [train(p, split, model, run) for run in runs_of(p, split)]
    if rank_zero_only.rank == 0:
        with new_folder(Path("work") / model) as folder:
            for trained in folders:
                shutil.copy(next(trained.glob("*.pt")), folder)
            write_csv(pd.concat([pd.read_csv(trained / "curve.csv") for trained in folders]), folder / "curves.csv")


def alone(model: str) -> FileLock:
    """Two that write the same states at once would spoil them. Raises BlockingIOError."""
    lock = FileLock(Path("work") / f"{model}.lock", timeout=10)  # the workers of one that was killed need some seconds
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"another process is training {model} in this folder: wait for it, or end it") from None
    return lock


def train(p: Params, split: pd.DataFrame, model: str, run: Run) -> Path:
    """One training, from wherever it was left. Returns the folder with its weights and curve.csv."""
    recipe, (T, input) = p.recipe(model), p.sampled(model, run.budget)
    file, digest = start_of(p, model)
    folder = Path("work/unfinished") / f"{model}-{run.name}-{identity(p, model, run, digest)}"
    if (folder / "curve.csv").exists() and (folder / f"{run.name}.pt").exists():
        return folder
    prepare(run.seed)
    classes = sorted(split["class"].unique())  # in the order of their labels
    network = models.BUILD[model](len(classes)).to(memory_format=getattr(torch, p.trainer.memory_format))
    if file:
        weights.load(network, file, models.HEAD[model])

    if p.trainer.compile:
        torch.compiler.reset()  # what came before must not decide what is compiled, or a training that goes on differs
        network.compile(dynamic=False)

    task = Classification(network, recipe, doubly=p.protocol == "published" and model == "x3d_m")
    task.try_out()  # what torch does not take, like what follows, is said before a run or other ranks begin
    resume = LastEpoch(folder / "last.ckpt")
    options = p.trainer.model_dump(include={"devices", "num_nodes", "strategy", "precision"})
    if p.trainer.strategy == "ddp" or (p.trainer.devices, p.trainer.num_nodes) != (1, 1):
        options["strategy"] = DDPStrategy(timeout=timedelta(seconds=p.trainer.timeout))
    if SLURMEnvironment.detect():  # its requeueing would load the state of one training into the next
        options["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    with clear(p.trainer.timeout):
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            accelerator="auto",
            deterministic=True,
            gradient_clip_val=recipe.gradient_clip,
            use_distributed_sampler=False,  # ours divides the clips itself
            logger=False,
            callbacks=[resume, Progress(f"{params.MODELS[model]} {run.name}")],
            num_sanity_val_steps=0,
            enable_model_summary=False,
            **options,
        )
    data = ClipData(p, run.rows(split), model, run)
    data.check_shares(trainer.num_devices * trainer.num_nodes)
    if trainer.is_global_zero:
        with going_on(f"{model} {run.name}"):
            trainer.logger = PatientLogger(training_run(p, data.clips, model, run, digest, folder / "mlflow_run"))
    with clear(p.trainer.timeout), system_metrics(trainer.logger):
        trainer.fit(task, datamodule=data, ckpt_path=resume.found, weights_only=True)
    if trainer.is_global_zero:
        network.load_state_dict(task.best)
        file = folder / f"{run.name}.pt"
        facts = {"model": model, "frames": T, "seed": run.seed, "classes": classes, "input": input.model_dump()}
        weights.save(file, network, **facts)
        said = {"model": model, "frames": run.budget, "seed": run.seed, "fold": run.fold or 0}
        if trainer.logger:
            with going_on(f"the weights of {model} {run.name}"):
                log_model(trainer.logger.run_id, model, file, T, input.crop, classes, task.best_epoch, split)
        curve = pd.DataFrame([said | row for row in task.curve])
        write_csv(curve, folder / "curve.csv")  # the last: it says that all is there
        resume.path.unlink()
    return folder


@contextmanager
def clear(timeout: int) -> Iterator[None]:
    """Turn Lightning's and gloo's errors into messages; and SIGTERM, after which Lightning would end with 0."""
    try:
        yield
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {error}") from None
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        raise ConnectionError(
            f"another rank has died, or has not answered for {timeout} s (trainer.timeout); what it said stands above, "
            f"if anything. The same command goes on from the last finished epoch. ({error})"
        ) from None


def start_of(p: Params, model: str) -> tuple[Path | None, str | None]:
    """The weights to start from and their sha256. Raises ValueError if they are not those that `fetch` has seen."""
    given = p.weights(model)
    try:
        seen = json.loads(Path("work/weights.json").read_text())[model]
    except (ValueError, KeyError, TypeError):
        raise ValueError("work/weights.json is not what fetch writes; run it again: dvc repro -f fetch") from None
    file = local(given, model) if given else None
    if seen != (file and sha256(file)):
        raise ValueError(f"{given}: not the weights that work/weights.json names; run fetch again: dvc repro -f fetch")
    return file, seen


def identity(p: Params, model: str, run: Run, weights: str | None) -> str:
    """A digest of all that determines a training: parameters, clips, given weights, this package, and torch."""
    T, input = p.sampled(model, run.budget)
    said = [
        model,
        p.protocol,
        T,
        run,
        input.model_dump(),
        p.recipe(model).model_dump(),
        p.trainer.model_dump(exclude={"timeout"}),
        weights,
        torch.__version__,
    ]
    files = [Path("work/split.csv"), *sorted(Path(__file__).parent.rglob("*.py"))]
    digests = [sha256(path) for path in files]
    return hashlib.sha256(json.dumps(said + digests).encode()).hexdigest()[:12]


class LastEpoch(Checkpoint):
    """Keep what is needed to go on after the last finished epoch, in one file that is replaced as a whole."""

    KEYS = frozenset({
        "pytorch-lightning_version", "epoch", "global_step", "loops", "state_dict", "optimizer_states", "lr_schedulers",
        "curve", "best",
    })  # fmt: skip

    def __init__(self, path: Path):
        self.path, self.found = path, None
        if path.exists():
            try:
                if lacking := self.KEYS - weights.unpickled(path).keys():
                    raise weights.WeightsError(
                        f"{path}: no state of a training, for it lacks {', '.join(sorted(lacking))}"
                    )
            except weights.WeightsError as error:
                raise ValueError(f"{error}; rm -r {path.parent}, and this training begins again") from None
            self.found = str(path)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Classification) -> None:
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.replace(self.path)


class Progress(TQDMProgressBar):
    """On a terminal, one bar an epoch; at the end, one line that says what came out."""

    def __init__(self, title: str):
        super().__init__(refresh_rate=int(sys.stderr.isatty()))
        self.title = title

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def get_metrics(self, *args) -> dict:
        return {name: value for name, value in super().get_metrics(*args).items() if name != "v_num"}

    def on_train_epoch_start(self, trainer: pl.Trainer, *args) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"{self.title}: epoch {trainer.current_epoch + 1}")

    def on_train_end(self, trainer: pl.Trainer, task: Classification) -> None:
        super().on_train_end(trainer, task)
        if trainer.is_global_zero:
            print(
                f"{self.title}: validation accuracy {task.best_epoch['val_accuracy']:.3f} "
                f"after epoch {task.best_epoch['epoch'] + 1} of {len(task.curve)}"
            )


if __name__ == "__main__":
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="pytorchvideo")
    warnings.filterwarnings("ignore", "Grad strides do not match")  # of weights that are channels last
    main()
