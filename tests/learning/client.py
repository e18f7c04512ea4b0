"""A client of MLflow, run by test_tracking.py: a training of so many frames logs twenty epochs, in its study's run."""

import sys
from dataclasses import replace

import pandas as pd

from framebudget import params
from framebudget.learning.tracking import study_run, training_run
from framebudget.study import Study

if __name__ == "__main__":
    frames = int(sys.argv[1])
    study = Study(params.load(), pd.read_json("split.json", dtype=False))
    client, _ = study_run(study)
    run_id = training_run(replace(study.trainings("x3d_m")[0], budget=frames, T=frames))
    for epoch in range(20):
        client.log_metric(run_id, "val_accuracy", frames + epoch / 100, step=epoch)
    client.log_text(run_id, "x", "note.txt")
    client.set_terminated(run_id)
