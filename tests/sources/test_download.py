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


def test_another_process_resumes_it_where_it_was_cut(server, url, tmp_path):
    server.always = "cut"
    with pytest.raises(DownloadError, match=r"weights.pyth: .* are kept in .*weights.pyth.partial"):
        download(url, tmp_path / "weights.pyth")
    assert not (tmp_path / "weights.pyth").exists()
    held = (tmp_path / "weights.pyth.partial").stat().st_size
    assert held > len(CONTENT) / 2
    server.always, server.sent = None, 0
    download(url, tmp_path / "weights.pyth")
    assert (tmp_path / "weights.pyth").read_bytes() == CONTENT
    assert server.sent == len(CONTENT) - held


def test_two_that_want_it_at_once_ask_for_it_once(server, url, tmp_path):
    with ThreadPoolExecutor(2) as users:
        list(users.map(lambda _: download(url, tmp_path / "weights.pyth"), range(2)))
    assert (tmp_path / "weights.pyth").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_killed_before_the_last_rename_it_asks_for_nothing_more(server, url, tmp_path):
    (tmp_path / "weights.pyth.partial").write_bytes(CONTENT)
    (tmp_path / "weights.pyth.partial.etag").write_text(server.etag)
    download(url, tmp_path / "weights.pyth")
    assert (tmp_path / "weights.pyth").read_bytes() == CONTENT
    assert server.sent == 0


def test_a_file_that_has_changed_begins_anew(server, url, tmp_path):
    (tmp_path / "weights.pyth.partial").write_bytes(b"of another time")
    (tmp_path / "weights.pyth.partial.etag").write_text('"0"')
    download(url, tmp_path / "weights.pyth")
    assert (tmp_path / "weights.pyth").read_bytes() == CONTENT


def test_a_missing_file_is_an_error_at_once(server, tmp_path):
    with pytest.raises(DownloadError, match="404"):
        download(server.url + "nowhere.pyth", tmp_path / "nowhere.pyth")
    assert len(server.asked) == 1


def test_without_network(server, tmp_path):
    server.server_close()
    with pytest.raises(DownloadError, match=r"weights.pyth: .*download the file yourself"):
        download(server.url + "weights.pyth", tmp_path / "weights.pyth")
