"""ONNX files give the logits of the network; the card says what is known of it and nothing else."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from torch import nn

from framebudget import params
from framebudget.commands import serving
from framebudget.commands.export import card, export
from framebudget.console import UserError
from framebudget.models import NETWORKS, weights
from tests.conftest import ROOT


@pytest.mark.parametrize(("model", "T"), [("x3d_m", 6), ("slowfast_r50", 16)])
def test_onnxruntime_gives_the_same_logits_for_any_batch(tmp_path, monkeypatch, model, T):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = NETWORKS[model].build(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    input = params.load(ROOT / "params.yaml").input(model).model_dump()
    file, classes = tmp_path / f"{T}f-s0.pt", ["Ähre", "b", "c"]
    weights.save(file, network, model=model, frames=T, classes=classes, input=input)
    export(file, tmp_path / "out/network.onnx")
    assert b"framebudget/" not in (tmp_path / "out/network.onnx").read_bytes()  # no path of this machine
    session = onnxruntime.InferenceSession(tmp_path / "out/network.onnx")
    network, checkpoint = serving.load(file)
    for B in (1, 3):
        clips_BCTHW = torch.randn(B, 3, T, input["crop"], input["crop"])
        with torch.inference_mode():
            expected_BK = network(clips_BCTHW.to(memory_format=torch.channels_last_3d)).numpy()
        (logits_BK,) = session.run(["logits"], {"clips": clips_BCTHW.numpy()})
        np.testing.assert_allclose(logits_BK, expected_BK, atol=1e-4)
        assert expected_BK.std() > 0.01
    properties = {
        entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "out/network.onnx").metadata_props
    }
    assert (properties["classes"], properties["frames"], properties["input"]) == (classes, T, input)
    text = (tmp_path / "out/network.md").read_text()
    assert "0. Ähre\n1. b\n2. c" in text
    assert "Test accuracy unknown: these weights are not from the study in work/." in text
    assert not list((tmp_path / "out").glob("*.partial"))

    own = tmp_path / "work" / model
    own.mkdir(parents=True)
    shutil.copy(file, own)
    split = pd.DataFrame({"clip": list("abcde"), "group": list("ggghh"), "fold": 0,
                          "subset": ["train"] * 3 + ["validation", "test"]})  # fmt: skip
    split.to_csv(tmp_path / "work/split.csv")
    text = card(checkpoint, file)
    assert "3 of 5 clips of 2 groups; 1 for validation, 1 for the test." in text
    assert "Not evaluated yet." in text
    (tmp_path / "work/tables").mkdir()
    row = {"model": model, "frames": T, "accuracy": 0.625, "low": 0.5, "high": 0.75, "seeds": 3}
    pd.DataFrame([row | {"interval_of": "recipe"}]).to_csv(tmp_path / "work/tables/results.csv")
    text = card(checkpoint, file)
    assert "62.5% of the test clips (mean of 3 seeds, 95% interval for new groups and trainings 50.0% to 75.0%)" in text
    shutil.move(own / file.name, own / f"{T}f-s0-k1.pt")
    pd.concat([split, split.assign(fold=1)]).to_csv(tmp_path / "work/split.csv")
    text = card(checkpoint, file)
    assert "3 of 5 clips of 2 groups; 1 for validation, 1 for the test." in text
    assert "In cross-validation with 2 folds, the networks recognize 62.5% of the test clips" in text


def test_what_would_be_overwritten_stays(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    for name, says in (
        ("README.onnx", "README.md is not a model card"),
        ("card.md", "ends in .onnx"),
        ("x", "ends in"),
    ):
        with pytest.raises(UserError, match=says):
            export(tmp_path / "none.pt", tmp_path / name)
    assert (tmp_path / "README.md").read_text() == "mine"
