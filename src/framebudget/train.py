"""Train one network at every frame budget and seed.

    $ python -m framebudget.train x3d_m         (dvc repro train_x3d)
    $ python -m framebudget.train slowfast_r50  (dvc repro train_slowfast)

reads   work/split.csv, work/index.json, and the clips that they name; work/weights.json
        params.yaml             protocol, frames, seeds, trainer, train, datasets.<dataset>.{input, train, <network>}
writes  work/<network>/curves.csv           model, frames, seed, fold, epoch, losses, accuracies, learning rate
        work/<network>/<frames>f-s<seed>.pt the weights of the epoch with the best validation accuracy
        mlflow.db                           one run for each training
        work/trainings/                     the store (learning/store.py): finished and unfinished trainings, which
                                            later studies take from it or resume

The trainings run side by side, each with `trainer.threads` threads. The same parameters give the same bytes on machines
with the same type of processor, however many trainings run at once, however many workers decode, and however often they
were interrupted. To resume them, run the same command again. For a network that is not in `models`, nothing is trained
and the table of curves has no rows.
"""

import os
import shutil
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from framebudget.console import UserError, listed, new_folder, stage, usage
from framebudget.learning import cluster, store
from framebudget.learning.display import Display
from framebudget.learning.side_by_side import preload, side_by_side, with_other_ranks
from framebudget.learning.tracking import log_finished, running, study_run
from framebudget.models import NETWORKS
from framebudget.processor import RANKS, rank
from framebudget.study import Study, Training, read_table, write_table
from framebudget.video.dataset import check
from framebudget.video.sampling import span

FIT = "framebudget.learning.fit:fit"


@stage
def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("network", choices=NETWORKS)
    network = parser.parse_args().network
    study = Study.load(cluster.machine)
    trainings = study.trainings(network)
    if not with_other_ranks(FIT, study.params):
        if (ranks := int(os.environ.get("WORLD_SIZE", 1))) > 1:
            raise UserError(f"launcher starts {ranks} processes, but trainer.devices is 1; set it to {ranks}")
        for name in RANKS:  # srun numbers its tasks, but this is a study of its own
            os.environ.pop(name, None)
    if first := rank() == 0:
        lock = alone(network)  # noqa: F841, held to the end
    missing = [training for training in trainings if not store.holds(training)]
    preload(FIT, missing)
    if first:
        begin(study, trainings)
        for training in trainings:
            if training not in missing:
                print(f"{training.title}: trained before; taken from {store.STORE}")
                log_finished(training)
    epochs = {training: training.recipe.epochs for training in missing}
    with running(study) if first and trainings else nullcontext():
        side_by_side(FIT, missing, Display(f"train {network}", "epoch", epochs))
    if first:
        collect(study, trainings, Path("work") / network)


def alone(network: str) -> FileLock:
    """Lock out other processes, which would overwrite this one's state. Raises UserError if there is one."""
    # the workers of a killed process take a few seconds to end
    lock = FileLock(Path("work") / f"{network}.lock", timeout=10)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is training {network} in this folder: wait for it, or end it") from None
    return lock


def begin(study: Study, trainings: list[Training]) -> None:
    """Print the recipe, and check the clips and the MLflow store (if it goes away later, trainings continue)."""
    if not trainings:
        print("not in `models` (params.yaml): nothing to train")
        return
    first = trainings[0]
    window = {"window"} if study.params.protocol == "published" else set()  # it is the budget there
    facts = {"weights": first.weights, "precision": first.precision} | first.input.model_dump(exclude=window)
    facts |= first.recipe.model_dump()
    recipe = ", ".join(f"{key} {'null' if value is None else value}" for key, value in facts.items())
    print(f"Training {NETWORKS[first.network].name} with")
    print(textwrap.fill(recipe, 100, initial_indent="    ", subsequent_indent="    "))
    check(study.params.folder, study.split)
    for training in {training.budget: training for training in trainings}.values():
        tell_of_short(training)
    study_run(study)
    store.prune(study.params.store, trainings)


def tell_of_short(training: Training) -> None:
    """Print how many clips, or windows of them, are shorter than a budget needs. Raises UserError if a clip is, and
    `input.short` is `error`."""
    clips, spec = training.clips().drop_duplicates("clip"), training.input
    if spec.window and spec.sampling in ("dynamic", "static"):
        few = (clips["fps"] * spec.window < training.T).sum()
        if few:
            have = f"{few} of {len(clips)} clips have fewer than {training.T} frames in {spec.window:g} s"
            print(f"{have}, so their windows are longer")
    needed = [span(spec, frames, fps, training.T) for frames, fps in zip(clips["frames"], clips["fps"], strict=True)]
    short = clips[clips["frames"] < needed]
    if len(short):
        budget = f"the budget of {training.budget} {training.params.unit}"
        what = f"{len(short)} of {len(clips)} clips have fewer frames than {budget} needs"
        if spec.short == "error":
            way_out = "lower `frames`, leave these clips out, or set input.short to repeat_last or wrap (params.yaml)"
            raise UserError(f"{what}: {listed(short['path'])}; {way_out}")
        print(f"{what}: input.short is {spec.short}")


def collect(study: Study, trainings: list[Training], path: Path) -> None:
    """Put the weights and curves of all trainings into the network's folder. Raises UserError if one is gone."""
    if gone := [training.name for training in trainings if not (training.folder / store.FINISHED).exists()]:
        what = f"another study has removed {listed(gone)} from {store.STORE} meanwhile"
        raise UserError(f"{what}: set a larger `store` (params.yaml), and run this again")
    curves = [read_table(training.folder / "curve.csv") for training in trainings]
    with new_folder(path) as folder:
        for training in trainings:
            shutil.copy(training.folder / f"{training.name}.pt", folder)
        nothing = pd.DataFrame(columns=["model", "budget", "seed", "fold", "epoch", "val_accuracy"])
        write_table(pd.concat(curves) if curves else nothing, folder / "curves.csv", study.params.unit)


if __name__ == "__main__":
    main()
