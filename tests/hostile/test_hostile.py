"""Files made to do harm: each is read as what it is, or refused with the error that the docstrings name."""

import csv
import os
import pickle
import re
import resource
import shutil
import struct
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import requests
import torch
import yaml
from dvc.utils.serialize import parse_yaml
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPResponse

from framebudget import fetch, params
from framebudget.commands import serving
from framebudget.console import UserError, read_csv, write_csv
from framebudget.learning.callbacks import LastEpoch
from framebudget.models import NETWORKS, weights
from framebudget.params import ParamsError
from framebudget.sources.folder import SourceError, find_clips
from framebudget.sources.proof import build
from framebudget.sources.ucf101 import fetch_clips, limited
from framebudget.video.container import ClipError
from framebudget.video.dataset import check
from framebudget.video.reader import glance, probe, read_frames
from tests.conftest import ROOT, decode_all, ready_to_train, run, set_params
from tests.hostile import fuzz
from tests.video.test_index import encode

INPUTS = sorted((ROOT / "tests/hostile/inputs").iterdir())


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_what_is_not_damaged_is_right_and_what_is_does_no_harm(kind, monkeypatch):
    for name, content in fuzz.KINDS[kind].seeds().items():
        monkeypatch.setitem(NETWORKS, "x3d_m", fuzz.tiny_networks()["x3d_m"])
        path = Path(f"seed of {name}", name)
        path.parent.mkdir()
        path.write_bytes(content)
        fuzz.KINDS[kind].read(path)
    row, failures = fuzz.fuzz(kind, 150, 7, None)
    assert not failures
    assert 0 < row["refused"] < 150


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name)
def test_what_has_done_harm_once(path, tmp_path):
    kind = {".zip": "zip", ".json": "index.json"}.get(path.suffix, "clip")
    (tmp_path / path.name).write_bytes(path.read_bytes())
    try:
        fuzz.KINDS[kind].read(tmp_path / path.name)
    except fuzz.KINDS[kind].error as error:
        assert str(error)


def picture(side: int) -> bytes:
    """A PNG of black pixels: small as a file."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packed, row = zlib.compressobj(1), bytes(1 + 3 * side)
    pixels = b"".join(packed.compress(row) for _ in range(side)) + packed.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def movie(*pictures: bytes) -> Path:
    """A .mov of PNGs, said to be of 64×64 pixels."""
    with av.open("movie.mov", "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        for number, content in enumerate(pictures):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            packet.time_base = stream.time_base or av.time_base
            container.mux(packet)
    return Path("movie.mov")


def patched(clip: Path, *places: tuple[bytes, int, bytes]) -> Path:
    """The clip with other bytes so far behind the first occurrence of a name."""
    content = bytearray(clip.read_bytes())
    for name, offset, value in places:
        at = content.index(name) + offset
        content[at : at + len(value)] = value
    path = Path("patched" + clip.suffix)
    path.write_bytes(content)
    return path


def little(number: int) -> bytes:
    return number.to_bytes(4, "little", signed=number < 0)


def big(number: int) -> bytes:
    return number.to_bytes(4, "big")


def mp4(clip: Path) -> Path:
    return encode(Path("clip.mp4"), "libx264", {"bf": "2"}, "yuv420p", decode_all(clip)[:25])


def test_a_picture_that_would_fill_the_memory_is_never_made():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ClipError, match=r"movie\.mov: broken while decoding"):
        probe(movie(picture(64), picture(9000)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB; the picture has 237 MiB


def test_a_header_of_30_000_pixels(clip):
    place = b"strf", 8 + 4, little(30_000) * 2
    path = patched(clip, place)
    assert probe(path)["width"] == 112  # what the packets themselves say
    np.testing.assert_array_equal(read_frames(path, [0, 47]), read_frames(clip, [0, 47]))
    with pytest.raises(ClipError, match=r"patched\.avi: broken while decoding"):
        probe(patched(encode(Path("raw.avi"), "rawvideo", {}, "yuv420p", decode_all(clip)[:3]), place))


def test_more_pixels_than_8k():
    path = encode(Path("large.avi"), "mpeg4", {}, "yuv420p", np.zeros((1, 4400, 8176, 3), np.uint8))
    for read in (probe, build, lambda path: read_frames(path, [0])):
        with pytest.raises(ClipError, match=r"large\.avi: .* more than 35,389,440 pixels"):
            read(path)


def test_pictures_of_several_sizes_and_slivers():
    with pytest.raises(ClipError, match=r"frames of 2 sizes, \[\(64, 64\), \(65, 65\)\]"):
        probe(movie(picture(64), picture(65)))
    with pytest.raises(ClipError, match="several sizes"):
        read_frames(Path("movie.mov"), [0, 1])
    encode(Path("sliver.avi"), "ffv1", {}, "yuv420p", np.zeros((1, 2, 2048, 3), np.uint8))
    with pytest.raises(ClipError, match="2048×2 pixels; no side may be longer than 16 times the other"):
        probe(Path("sliver.avi"))


def test_a_billion_frames_in_an_avi(clip):
    path = patched(clip, (b"avih", 8 + 16, little(10**9)), (b"strh", 8 + 32, little(10**9)))
    for read in (probe, glance):  # or predict would make a list of a billion windows
        with pytest.raises(ClipError, match="truncated, 48 of 1000000000 announced frames"):
            read(path)


@pytest.mark.parametrize("frames", [3 * 10**7, 10**9])
def test_a_billion_frames_in_an_mp4_end_in_a_process_that_has_but_two_gigabytes(clip, frames):
    """FFmpeg makes an index of all that the header declares."""
    places = (b"stsz", 8, big(100) + big(frames)), (b"stts", 12, big(frames)), (b"stsc", 16, big(frames))
    path = patched(mp4(clip), *places)
    with ProcessPoolExecutor(1, initializer=fetch.confine) as pool:
        message = pool.submit(fetch.survey, path).result(60)
        peak = pool.submit(resource.getrusage, resource.RUSAGE_SELF).result().ru_maxrss
    assert "patched.mp4" in message
    assert peak < resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 2**21  # KiB


def test_no_frames_per_second(clip):
    for bad in ((25, 0), (0, 1), (0, 0)):
        path = patched(clip, (b"strh", 8 + 20, little(bad[0]) + little(bad[1])), (b"avih", 8, little(0)))
        assert probe(path)["fps"] == 25  # FFmpeg falls back to what the stream itself says


@pytest.mark.parametrize(("scale", "rate", "says"), [(2**31 - 1, 1, "4.7e-10"), (1, 2**31 - 1, "2.1e\\+09")])
def test_frame_rates_that_no_camera_has(clip, scale, rate, says):
    path = patched(clip, (b"strh", 8 + 20, little(scale) + little(rate)))
    for read in (probe, glance):
        with pytest.raises(ClipError, match=f"patched.avi: the container states {says} frames per second"):
            read(path)


def test_negative_times_change_no_frame(clip):
    """An edit list that begins before the clip, and frames shown before they are decoded."""
    for place in ((b"elst", 16, big(2**32 - 512)), (b"ctts", 16, big(2**32 - 5000))):
        path = patched(mp4(clip), place)
        truth = list(map(fuzz.picture, fuzz.plain_decoding(path)))
        assert 20 < probe(path)["frames"] == len(truth)
        np.testing.assert_array_equal(read_frames(path, range(len(truth)), index=build(path)), truth)


def test_what_never_ends_is_no_clip(clip):
    for name in ("Sway/a.avi", "Spin/b.avi"):
        Path(name).parent.mkdir()
        os.link(clip, name)
    os.mkfifo("Spin/endless.avi")
    Path("Spin/zero.avi").symlink_to("/dev/zero")
    rows, skipped = find_clips(Path(), None)
    assert [row["path"] for row in rows] == ["Spin/b.avi", "Sway/a.avi"]
    assert skipped == [(f"Spin/{name}.avi", "a pipe or device, not a file") for name in ("endless", "zero")]
    for name in ("endless", "zero"):
        for read in (probe, glance, build):
            with pytest.raises(ClipError, match=f"Spin/{name}.avi: a pipe or device, not a file"):
                read(Path(f"Spin/{name}.avi"))
    seen = pd.DataFrame([{"path": "Spin/endless.avi", "sha256": ""}])  # it was a clip when fetch saw it
    with pytest.raises(ClipError, match=r"Spin/endless\.avi: missing, or changed since fetch"):
        check(Path(), seen)


def test_a_server_cannot_fill_the_memory():
    response = requests.Response()
    response.status_code = 206
    chunked = {"Content-Length": "10", "Transfer-Encoding": "chunked"}
    for size in ({}, {"Content-Length": str(2**30)}, {"Content-Length": "-1"}, chunked):
        response.raw = HTTPResponse(headers=size)
        with pytest.raises(SourceError, match="not the archive of UCF101: a part of it has more than 67,108,864 bytes"):
            limited(response)
    response.raw = HTTPResponse(headers={"Content-Length": "10"})
    limited(response)


def test_a_cover_is_no_clip(clip):
    """A picture before the video, as players show it; and the video's own frames."""
    path = Path("cover.mkv")
    with av.open(str(path), "w") as container, av.open(str(clip)) as source:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        video = container.add_stream_from_template(source.streams.video[0])
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode())
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
    assert probe(path)["frames"] == 48
    np.testing.assert_array_equal(read_frames(path, [0, 47]), read_frames(clip, [0, 47]))


def test_a_list_of_other_files_opens_none_of_them(server, clip):
    Path("secret.avi").write_bytes(clip.read_bytes())
    server.files["part.ts"] = clip.read_bytes()
    lists = {
        "near.avi": "ffconcat version 1.0\nfile secret.avi\n",
        "far.avi": f"ffconcat version 1.0\nfile {server.url}part.ts\n",
        "hls.ts": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{server.url}part.ts\n#EXT-X-ENDLIST\n",
        "session.mp4": "v=0\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }
    for name, content in lists.items():
        Path(name).write_text(content)
        for read in (probe, glance, build):
            with pytest.raises(ClipError, match=f"{name}: cannot be opened as a video"):
                read(Path(name))
    for name in (f"{server.url}part.ts", "concat:secret.avi|secret.avi", "subfile,,start,0,end,0,,:secret.avi"):
        with pytest.raises(ClipError, match="cannot be opened"):
            probe(Path(name))
    assert not server.asked


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnop")), "unknown"),
        ("dataset: &a [*a]\n", "dataset: Input should be a valid string"),
        ("dataset: " + "[" * 3000, "not YAML"),
        ("dataset: " + "{a: " * 25 + "1" + "}" * 25, "dataset: Input should be a valid string"),
        ("dataset: !!python/object/apply:os.system ['touch planted']\n", "not YAML"),
        ("dataset: 2001-99-99\n", "not YAML"),
        ("frames: " + "9" * 5000 + "\n", "not YAML"),
        ("dataset: \xff\n", "not YAML"),
        ("frames: 1000000000\n", "less than or equal to 1024"),
        ("a: &a {k: 1}\n" + "".join(f"{b}: &{b} {{<<: [*{a}, *{a}]}}\n" for a, b in pairwise("abcd")), "unknown key"),
        ("frames: 6\nframes: 8\n", "duplicate key"),
        ("a: !!bool foo\n", "not YAML"),
        ("a: !!int ''\n", "not YAML"),
        ("- 1\n", "Input should be"),
        ("", "Input should be"),
    ],
)  # fmt: skip
def test_params_that_no_study_has(content, says):
    Path("params.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=says) as raised:
        params.load()
    assert len(str(raised.value)) < 5000
    assert not Path("planted").exists()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("seeds", [99999999999999999999], "seeds.0: Input should be less than 4294967296"),
        ("datasets.folder.train", {1: 2}, r"datasets.folder.train.1.\[key\]: Input should be a valid string"),
        ("train.lr", float("inf"), "train.lr: Input should be a finite number"),
        ("datasets.motion.input.stride", 99999999999999999999, "input.stride: Input should be less than"),
        ("train.scheduler_args.gamma", date(2001, 1, 1), "scheduler_args.gamma: input was not a valid JSON value"),
    ],
)
def test_values_of_no_study_are_named(key, value, says):
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    set_params(Path(), **{key: value})
    with pytest.raises(ParamsError, match=says):
        params.load()


def test_numbers_are_read_as_dvc_reads_them():
    """Or a stage would use another number than the one by which DVC sees that it changed."""
    text = re.sub(r"^seeds:.*(\n- .*)*", "seeds: 010", (ROOT / "params.yaml").read_text(), flags=re.MULTILINE)
    Path("params.yaml").write_text(text.replace("lr: 0.01\n", "lr: 1e-3\n"))
    p = params.load()
    assert (p.seeds, p.train.lr) == ([10], 0.001)
    assert parse_yaml(Path("params.yaml").read_text(), "params.yaml")["seeds"] == 10


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_any_value_anywhere_in_params_is_taken_or_named(data):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    section, names = content, []
    while isinstance(section, dict) and section and (not names or data.draw(st.booleans())):
        above, name = section, data.draw(st.sampled_from(sorted(section)))
        section, names = section[name], [*names, name]
    above[name] = data.draw(values)
    Path("params.yaml").write_text(yaml.safe_dump(content))
    try:
        p = params.load()
    except ParamsError as error:
        assert names[0] in str(error) or "datasets." in str(error)
    else:
        assert p.recipe("x3d_m").epochs > 0


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=9, max_size=9))
def test_any_name_comes_back_from_a_table(names):
    write_csv(fuzz.table().head(9).assign(group=names), Path("any.csv"))
    assert read_csv(Path("any.csv"), fuzz.MANIFEST)["group"].tolist() == names


class Malice:
    def __reduce__(self):
        return os.system, ("touch planted",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "as before torch 1.6"])
def test_no_code_of_a_weight_file_or_a_state_is_run(zipped):
    planted = {"model_state": {"weight": Malice()}, "state_dict": Malice(), "best": Malice()}
    torch.save(planted, "planted.pt", _use_new_zipfile_serialization=zipped, pickle_module=pickle)
    torch.load("planted.pt", weights_only=False)
    assert Path("planted").exists()  # so it would do harm
    Path("planted").unlink()
    for read in (weights.read, serving.load, LastEpoch):
        with pytest.raises(UserError, match=r"planted.pt: not a PyTorch checkpoint, or damaged"):
            read(Path("planted.pt"))
    assert not Path("planted").exists()


def test_a_planted_state_ends_the_training(clips, tmp_path):
    study = ready_to_train(clips, tmp_path, frames=[2], **{"train.epochs": 1, "workers": 0})
    run("python", "-m", "framebudget.train", "x3d_m", cwd=study)
    (folder,) = (study / "work/trainings").iterdir()
    (folder / "finished.json").unlink()  # so the training is unfinished
    torch.save({"state_dict": Malice()}, folder / "last.ckpt")
    result = run("python", "-m", "framebudget.train", "x3d_m", cwd=study, check=False)
    assert result.returncode == 1
    says = "last.ckpt: not a PyTorch checkpoint, or damaged (UnpicklingError); to start over: rm -r "
    assert says in result.stderr
    assert not (study / "planted").exists()


@pytest.mark.parametrize(
    "weight", [None, 1, torch.ones(1).to_sparse(), torch.ones(1, dtype=torch.complex64), torch.ones(1, device="meta")]
)
def test_weights_that_are_none(weight):
    torch.save({"model_state": {"weight": weight}}, "file.pt")
    network = torch.nn.Linear(1, 1, bias=False)
    with pytest.raises(weights.WeightsError, match=r"file.pt: weights of another network; keys: 1 of another shape"):
        weights.load(network, Path("file.pt"))
    torch.save({"model_state": {1: torch.ones(1)}}, "file.pt")
    with pytest.raises(weights.WeightsError, match="not a checkpoint of PyTorchVideo"):
        weights.load(network, Path("file.pt"))


def test_compressed_weights_are_not_unpacked():
    with zipfile.ZipFile("file.pt", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(weights.WeightsError, match=r"file.pt: not a PyTorch checkpoint, or damaged"):
        weights.read(Path("file.pt"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": ["a", "b\r\nforged", "c"]}, "control a terminal"),
        ({"classes": ["a", "a", "b"]}, "a class is listed twice"),
        ({"classes": ["a", "", "b"]}, "classes.1: String should have at least 1 character"),
        ({"classes": [str(k) for k in range(30_000)]}, "their last layer does not have 30000 classes"),
        ({"frames": 1024, "input": {"short_side": 4096}}, "1024 frames of 4096² pixels"),
        ({"input": {"window": float("inf")}}, "input.window: Input should be a finite number"),
        ({"nan": True}, "some weights are not finite"),
    ],
)
def test_networks_that_no_training_has_left(monkeypatch, change, says):
    monkeypatch.setitem(NETWORKS, "x3d_m", fuzz.tiny_networks()["x3d_m"])
    network, spec = fuzz.tiny(), fuzz.STUDY.input.model_dump()
    if change.pop("nan", False):
        network[0].weight.data[0] = float("nan")
    facts = {"model": "x3d_m", "frames": 6, "classes": ["a", "b", "c"]} | change
    weights.save(Path("own.pt"), network, **facts | {"input": spec | change.get("input", {})})
    with pytest.raises(weights.WeightsError, match=rf"own\.pt: .*{says}"):
        serving.load(Path("own.pt"))


def test_a_state_of_something_else():
    torch.save({"state_dict": {}}, "last.ckpt")
    says = r"last\.ckpt: not the state of a training, best, curve, .* missing; to start over: rm -r"
    with pytest.raises(UserError, match=says):
        LastEpoch(Path("last.ckpt"))


def test_one_bit_of_the_weights_is_enough():
    torch.save({"model_state": {"weight": torch.ones(1000)}}, "file.pt")
    content = bytearray(Path("file.pt").read_bytes())
    content[content.index(torch.ones(2).numpy().tobytes()) + 400] ^= 1
    Path("file.pt").write_bytes(content)
    with pytest.raises(weights.WeightsError, match="damaged"):
        weights.read(Path("file.pt"))


def test_an_archive_of_other_compressions_or_endless_names():
    for compression, name, says in (
        (zipfile.ZIP_LZMA, "Bowling", "is compressed in an unusual way"),  # which may ask for 4 GB at once
        (zipfile.ZIP_DEFLATED, "B" * 300, "name too long"),
    ):
        with zipfile.ZipFile("UCF101.zip", "w", compression) as archive:
            archive.writestr(f"v_{name}_g01_c01.avi", bytes(1000))
        with pytest.raises((SourceError, OSError), match=says):
            fetch_clips("UCF101.zip", "all", Path("clips"))
        assert not [path for path in Path("clips").rglob("*") if path.is_file()]


NAMES = ["=1+1", "+1", "-1", "@x", "'x", "''x", "x=1", "Größe", "a\nb", ""]


def test_no_cell_of_a_table_is_run_by_a_spreadsheet_and_every_name_comes_back():
    table = fuzz.table().head(len(NAMES)).assign(**{"class": NAMES, "group": NAMES[::-1]})
    write_csv(table, Path("table.csv"))
    with Path("table.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert len(cells) == 10 * (1 + len(NAMES))
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    again = read_csv(Path("table.csv"), fuzz.MANIFEST)
    assert again["class"].tolist() == NAMES
    assert again["group"].tolist() == NAMES[::-1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("path,", "road,"), "manifest.csv: no column 'path'; make it again: dvc repro"),
        ((",30,", ",-30,"), "impossible numbers in column frames"),
        ((",30,", ",many,"), "manifest.csv: .*many"),
        ((",25,", ",inf,"), "impossible numbers in column fps"),
        ((",25,", ",,"), "manifest.csv"),
    ],
)
def test_a_table_that_no_stage_wrote(change, says):
    write_csv(fuzz.table(), Path("manifest.csv"))
    Path("manifest.csv").write_text(Path("manifest.csv").read_text().replace(*change))
    with pytest.raises(UserError, match=says):
        read_csv(Path("manifest.csv"), fuzz.MANIFEST)
