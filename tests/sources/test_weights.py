import pytest

from framebudget import models
from framebudget.models import weights
from framebudget.sources.download import DownloadError
from framebudget.sources.weights import KINETICS400, local


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub/checkpoints"


def test_kinetics400_comes_over_http_once_and_loads_strictly(server, shared, monkeypatch):
    server.files["X3D_M.pyth"] = (shared / "weights/x3d_kinetics400.pyth").read_bytes()
    server.faults = ["cut"]
    monkeypatch.setitem(KINETICS400, "x3d_m", server.url + "X3D_M.pyth")
    file = local("kinetics400", "x3d_m")
    weights.load(models.BUILD["x3d_m"](400), file)
    assert file.read_bytes() == server.files["X3D_M.pyth"]
    assert local("kinetics400", "x3d_m") == file
    assert len(server.asked) == 2


def test_files_of_one_name_from_two_places_are_two(server, cache):
    server.files |= {"a/X3D_M.pyth": b"a", "b/X3D_M.pyth": b"b"}
    assert [local(f"{server.url}{folder}/X3D_M.pyth", "x3d_m").read_bytes() for folder in "ab"] == [b"a", b"b"]
    assert len(list(cache.glob("*.pyth"))) == 2


def test_what_does_not_come_leaves_no_file(server, cache):
    with pytest.raises(DownloadError, match="404"):
        local(server.url + "X3D_M.pyth", "x3d_m")
    assert not list(cache.glob("*.pyth"))


def test_a_path_is_used_as_it_is(tmp_path):
    (tmp_path / "own.pyth").touch()
    assert local(str(tmp_path / "own.pyth"), "x3d_m") == tmp_path / "own.pyth"
    with pytest.raises(FileNotFoundError, match=r"nowhere.pyth: no such weight file"):
        local("nowhere.pyth", "x3d_m")
