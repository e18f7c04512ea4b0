"""What doctor says that a training needs, against the peak of a process that takes a step of it."""

import shutil

from tests.conftest import ROOT, run, set_params

STEP = """
import re
from pathlib import Path
import pandas as pd
import torch
from framebudget import params
from framebudget.learning.fit import Classification
from framebudget.commands.memory import needed
from framebudget.models import NETWORKS
from framebudget.study import Study
(training,) = Study(params.load(), pd.DataFrame({"fold": [0]})).trainings()
estimate = needed(training)
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
task = Classification(NETWORKS["x3d_m"].build(5), training.recipe)
optimizer = task.configure_optimizers()["optimizer"]
clips_BVCTHW, labels_B = torch.rand(16, 1, 3, 8, 112, 112), torch.arange(16) % 5
for _ in range(2):
    task.step((clips_BVCTHW, labels_B, list(range(16))), "train").backward()
    optimizer.step()
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(estimate, 1024 * int(peak[1]) / 1e9)
"""


def test_the_estimate_is_near_what_a_step_needs(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    sizes = {"datasets.motion.x3d_m.short_side": 112, "datasets.motion.x3d_m.crop": 112}
    set_params(tmp_path, models=["x3d_m"], frames=[8], **sizes)
    estimate, peak = map(float, run("python", "-c", STEP, cwd=tmp_path).stdout.split())
    assert peak > 2
    assert 0.8 < estimate / peak < 1.4
