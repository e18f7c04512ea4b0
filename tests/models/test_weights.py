import pickle

import pytest
import torch

from framebudget.models import NETWORKS, weights


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory):
    """A file like PyTorchVideo's: 400 classes."""
    path = tmp_path_factory.mktemp("weights") / "x3d.pyth"
    torch.manual_seed(1)
    torch.save({"model_state": NETWORKS["x3d_m"].build(400).state_dict()}, path)
    return path


def test_everything_but_the_head_is_loaded(kinetics):
    network = NETWORKS["x3d_m"].build(5)
    head = network.blocks[5].proj.weight.clone()
    weights.load(network, kinetics, NETWORKS["x3d_m"].head)
    given = weights.read(kinetics)["model_state"]
    assert torch.equal(network.blocks[5].proj.weight, head)
    own = network.state_dict()
    assert all(torch.equal(own[key], given[key]) for key in own if not key.startswith(NETWORKS["x3d_m"].head))


def test_real_weights_load(shared):
    weights.load(NETWORKS["x3d_m"].build(5), shared / "weights/x3d_kinetics400.pyth", NETWORKS["x3d_m"].head)


def test_another_networks_weights_are_refused_by_the_keys_that_differ(kinetics):
    with pytest.raises(weights.WeightsError, match=r"x3d.pyth: weights of another network; keys: \d+ missing \(blocks"):
        weights.load(NETWORKS["slowfast_r50"].build(5), kinetics, NETWORKS["slowfast_r50"].head)


def test_another_head_is_refused_where_the_head_counts(kinetics):
    with pytest.raises(weights.WeightsError, match=r"of another shape \(blocks.5.proj.bias"):
        weights.load(NETWORKS["x3d_m"].build(5), kinetics)


class Malice:
    def __reduce__(self):
        return print, ("code of the file was run",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no checkpoint at all", "not a PyTorch checkpoint"),
        (b"", "not a PyTorch checkpoint"),
        (pickle.dumps(Malice()), "not a PyTorch checkpoint"),
        (None, "no such weight file"),
    ],
)
def test_a_file_that_is_no_checkpoint(tmp_path, content, says, capsys):
    path = tmp_path / "file.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(weights.WeightsError, match=says):
        weights.read(path)
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't allocate memory: 99 bytes"), PermissionError(13, "no")]
)
def test_a_fault_of_the_machine_is_not_one_of_the_file(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    torch.save({"model_state": {}}, tmp_path / "file.pt")
    monkeypatch.setattr(torch, "load", fails)
    expected = (PermissionError, "no") if isinstance(error, OSError) else (weights.WeightsError, "too little memory")
    with pytest.raises(expected[0], match=expected[1]):
        weights.read(tmp_path / "file.pt")


def test_a_checkpoint_without_a_model(tmp_path):
    torch.save({"weights": {}}, tmp_path / "file.pt")
    with pytest.raises(weights.WeightsError, match="model_state"):
        weights.read(tmp_path / "file.pt")


def test_the_same_weights_are_the_same_bytes_whatever_the_path(tmp_path):
    network = NETWORKS["x3d_m"].build(3)
    weights.save(tmp_path / "a.pt", network, frames=6)
    weights.save(tmp_path / "another.pt", network, frames=6)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()
    assert weights.read(tmp_path / "a.pt")["frames"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "another.pt"]
