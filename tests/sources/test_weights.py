import pytest

from framebudget.models import NETWORKS, weights
from framebudget.sources.download import DownloadError
from framebudget.sources.weights import cached, local


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub/checkpoints"


def test_kinetics400_comes_over_http_once_and_loads_strictly(server, shared):
    server.files["X3D_M.pyth"] = (shared / "weights/x3d_kinetics400.pyth").read_bytes()
    server.faults = ["cut"]
    zoo = server.url + "X3D_M.pyth"
    file = local("kinetics400", zoo)
    weights.load(NETWORKS["x3d_m"].build(400), file)
    assert file.read_bytes() == server.files["X3D_M.pyth"]
    assert local("kinetics400", zoo) == file
    assert len(server.asked) == 2


def test_files_of_one_name_from_two_places_are_two(server, cache):
    server.files |= {"a/X3D_M.pyth": b"a", "b/X3D_M.pyth": b"b"}
    assert [local(f"{server.url}{folder}/X3D_M.pyth", None).read_bytes() for folder in "ab"] == [b"a", b"b"]
    assert len(list(cache.glob("*.pyth"))) == 2


def test_a_signed_url_is_not_a_long_name():
    _, path = cached("https://host/X3D_M.pyth?signature=" + "a" * 500, None)
    assert path.name.endswith("-X3D_M.pyth")
    assert len(path.name) < 30


def test_what_does_not_come_leaves_no_file(server, cache):
    with pytest.raises(DownloadError, match="404"):
        local(server.url + "X3D_M.pyth", None)
    assert not list(cache.glob("*.pyth"))


def test_a_path_is_used_as_it_is(tmp_path):
    (tmp_path / "own.pyth").touch()
    assert local(str(tmp_path / "own.pyth"), None) == tmp_path / "own.pyth"
    with pytest.raises(
        DownloadError, match=r"nowhere.pyth: no such weight file; .* a file, a URL, kinetics400 or null"
    ):
        local("nowhere.pyth", None)


def test_a_network_that_has_no_published_weights():
    with pytest.raises(DownloadError, match=r"no kinetics400 for this network; name a file or a URL"):
        local("kinetics400", None)
