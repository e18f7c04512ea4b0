from concurrent.futures import ThreadPoolExecutor

import pytest

from framebudget.sources.download import DownloadError, download

CONTENT = bytes(range(256)) * 9000


@pytest.fixture
def url(server):
    server.files["weights.pyth"] = CONTENT
    return server.url + "weights.pyth"


@pytest.mark.parametrize("faults", [[], ["cut"], ["cut", "cut", "stall"], ["500", "503"], ["stall", "500"]])
def test_a_file_comes_whole_whatever_happens_on_the_way(server, url, tmp_path, faults):
    server.faults = faults.copy()
    download(url, tmp_path / "a/weights.pyth")
    assert (tmp_path / "a/weights.pyth").read_bytes() == CONTENT
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"weights.pyth", "weights.pyth.lock"}
    assert len(server.asked) == len(faults) + 1


def test_what_does_not_come_leaves_no_file_and_comes_another_time(server, url, tmp_path):
    server.always = "cut"
    with pytest.raises(DownloadError, match=r"weights.pyth: .*run the same command again"):
        download(url, tmp_path / "weights.pyth")
    assert not (tmp_path / "weights.pyth").exists()
    server.always = None
    download(url, tmp_path / "weights.pyth")
    assert (tmp_path / "weights.pyth").read_bytes() == CONTENT


def test_two_that_want_it_at_once_ask_for_it_once(server, url, tmp_path):
    with ThreadPoolExecutor(2) as users:
        list(users.map(lambda _: download(url, tmp_path / "weights.pyth"), range(2)))
    assert (tmp_path / "weights.pyth").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_missing_file_is_an_error_at_once(server, tmp_path):
    with pytest.raises(DownloadError, match="404"):
        download(server.url + "nowhere.pyth", tmp_path / "nowhere.pyth")
    assert len(server.asked) == 1


def test_without_network(server, tmp_path):
    server.server_close()
    with pytest.raises(DownloadError, match=r"weights.pyth: .*download the file by other means"):
        download(server.url + "weights.pyth", tmp_path / "weights.pyth")
