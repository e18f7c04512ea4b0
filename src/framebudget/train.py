"""Fine-tune one network at every frame budget and seed.

    $ python -m framebudget.train x3d_m         (dvc repro train_x3d)
    $ python -m framebudget.train slowfast_r50  (dvc repro train_slowfast)

reads   work/split.csv, work/index.json, and the clips that they name; work/weights.json
        params.yaml             protocol, frames, seeds, trainer, train, datasets.<dataset>.{input, train, <network>}
writes  work/<network>/curves.csv           model, frames, seed, fold, epoch, losses, accuracies, learning rate
        work/<network>/<frames>f-s<seed>.pt the weights of the epoch with the best validation accuracy
        mlflow.db                           one run for each training
        work/unfinished/                    the state of interrupted trainings, and finished ones until evaluate has
                                            read them: DVC removes the outputs of a stage that it could not record

The same parameters give the same bytes on one machine, however many workers decode and however often the training was
interrupted. To resume it, run the same command again: it continues after the last full epoch. For a network that is not
in `models`, nothing is trained and the table of curves has no rows.
"""

import logging
import shutil
import textwrap
import warnings
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_only

from framebudget.console import UserError, new_folder, stage, usage
from framebudget.learning.fit import fit
from framebudget.learning.tracking import study_run
from framebudget.models import NETWORKS
from framebudget.study import Study, Training, read_table, write_table
from framebudget.video.dataset import check


@stage
def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("network", choices=NETWORKS)
    network = parser.parse_args().network
    study = Study.load()
    trainings = study.trainings(network)
    if first := rank_zero_only.rank == 0:
        lock = alone(network)  # noqa: F841, held to the end
        begin(study, trainings)
    for training in trainings:
        fit(training)
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
    """Check the clips and the MLflow store (if it goes away later, trainings continue), and print the recipe."""
    if not trainings:
        print("not in `models` (params.yaml): nothing to train")
        return
    check(study.params.folder, study.split)
    study_run(study)
    first = trainings[0]
    window = {"window"} if study.params.protocol == "published" else set()  # it is the budget there
    facts = {"weights": first.weights} | first.input.model_dump(exclude=window) | first.recipe.model_dump()
    recipe = ", ".join(f"{key} {'null' if value is None else value}" for key, value in facts.items())
    print(f"Training {NETWORKS[first.network].name} with")
    print(textwrap.fill(recipe, 100, initial_indent="    ", subsequent_indent="    "))


def collect(study: Study, trainings: list[Training], path: Path) -> None:
    """Put the weights and curves of all trainings into the network's folder."""
    curves = [read_table(training.folder / "curve.csv") for training in trainings]
    with new_folder(path) as folder:
        for training in trainings:
            shutil.copy(training.folder / f"{training.name}.pt", folder)
        nothing = pd.DataFrame(columns=["model", "budget", "seed", "fold", "epoch", "val_accuracy"])
        write_table(pd.concat(curves) if curves else nothing, folder / "curves.csv", study.params.unit)


if __name__ == "__main__":
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="pytorchvideo")
    warnings.filterwarnings("ignore", "Grad strides do not match")  # the weights are channels last
    main()
