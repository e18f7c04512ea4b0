"""Damage clips, archives, weights, states and tables in thousands of ways; nothing worse than an error may happen.

    $ python -m tests.hostile.fuzz                        # 22,000 inputs; five minutes
    $ python -m tests.hostile.fuzz --kinds clip --share 0.1 --seed 1 --keep found
    $ python -m tests.hostile.fuzz --kinds clip --share 0.1 --clips FOLDER          # real ones, half a second each

Every input is a small file that the tests make, changed in one to eight places (mutate.py); which, follows from --seed
and its number alone. The project's own functions read it, in a process that may have 2 GiB more memory than at its
start, and 10 seconds an input. What may come out: the right thing (of a clip, exactly the frames that plain decoding in
order gives), or the error that the docstrings name. Anything else, be it another exception, a signal, or too much time
or memory, is wrong; the exit status is then 1. Of some damaged clips FFmpeg itself makes other frames each time that
memory lies otherwise: there the frames are *undefined*, and only the rest is checked.

Prints a Markdown table.
"""

import argparse
import contextlib
import io
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest.mock import patch

import av
import numpy as np
import pandas as pd
import torch
from av.video.reformatter import VideoReformatter
from torch import nn
from tqdm import tqdm

from framebudget import params
from framebudget.commands import serving
from framebudget.commands.predict import videos_of
from framebudget.console import MANIFEST, SPLIT, UserError, read_csv, write_csv
from framebudget.fetch import confine
from framebudget.learning.callbacks import LastEpoch
from framebudget.models import NETWORKS, Network, weights
from framebudget.sources.folder import SourceError
from framebudget.sources.motion import draw_scene, render
from framebudget.sources.proof import build
from framebudget.sources.ucf101 import fetch_clips
from framebudget.split import leaked, subsets
from framebudget.video import index
from framebudget.video.container import ClipError
from framebudget.video.dataset import Clips
from framebudget.video.reader import glance, probe, read_frames, stream_frames
from tests.conftest import ROOT
from tests.hostile.mutate import mutated

SECONDS = 10
CONVERT = VideoReformatter()  # every frame's own would keep its threads, while all frames are held
OUTCOMES = ("right", "refused", "undefined", "wrong")
STUDY = params.load(ROOT / "params.yaml").datasets["folder"]
ENCODINGS = {  # suffix: codec and its options
    "avi": ("mpeg4", {"bf": "2", "g": "6"}),
    "mp4": ("libx264", {"x264-params": "keyint=6:bframes=2:threads=1"}),
    "mov": ("png", {}),
    "mkv": ("libx264", {"x264-params": "keyint=6:open-gop=1:threads=1"}),
    "webm": ("libvpx-vp9", {"g": "6", "cpu-used": "8"}),
    "ts": ("mpeg2video", {"bf": "2", "g": "6"}),
    "mpg": ("mpeg1video", {"g": "6"}),
    "flv": ("flv1", {"g": "6"}),
    "wmv": ("wmv2", {"g": "6"}),
    "3gp": ("h263", {"g": "6"}),
}
server = multiprocessing.get_context("forkserver")  # of a process that has imported this and has no threads
server.set_forkserver_preload(["tests.hostile.fuzz"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--share", type=float, default=1, help="of the inputs of each kind (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that go wrong")
    parser.add_argument("--clips", type=Path, help="damage the videos of this folder, not those that are made here")
    arguments = parser.parse_args()
    if arguments.clips:
        found = {path.name: path.read_bytes() for path in videos_of([arguments.clips])}
        KINDS["clip"] = KINDS["clip"]._replace(seeds=lambda: found)
    keep = arguments.keep and arguments.keep.absolute()
    rows, failures = [], []
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            row, wrong = fuzz(kind, round(KINDS[kind].inputs * arguments.share), arguments.seed, keep)
        rows.append(row)
        failures += wrong
    print(pd.DataFrame(rows).round(1).to_markdown(index=False))
    print("", *failures, sep="\n")
    return int(bool(failures))


class Kind(NamedTuple):
    """seeds: {file name: content}. read: raises `error` if it cannot be used, AssertionError if the result is wrong."""

    inputs: int
    seeds: Callable[[], dict[str, bytes]]
    read: Callable[[Path], None]
    error: type[Exception]
    text: bool = False


def fuzz(kind: str, inputs: int, seed: int, keep: Path | None) -> tuple[dict, list[str]]:
    """A row of the table, and a line for each input that went wrong."""
    seeds, start, outcomes, failures, done, worst = KINDS[kind].seeds(), time.monotonic(), Counter(), [], 0, [0.0, 0]
    bar = tqdm(total=inputs, desc=kind, unit="input", disable=None)
    while done < inputs:
        here, there = server.Pipe(duplex=False)
        process = server.Process(target=read_all, args=(kind, seeds, seed, range(done, min(done + 500, inputs)), there))
        process.start()
        there.close()
        here.recv()  # the first one waits for the server's imports
        while here.poll(SECONDS):
            try:
                outcome, detail, seconds, memory = here.recv()
            except EOFError:
                break
            worst = [max(worst[0], seconds), max(worst[1], memory)]
            outcomes[outcome] += 1
            failures += [f"{kind} {done}: {detail}"] if outcome == "wrong" else []
            done += 1
            bar.update()
        else:
            process.kill()
        process.join()
        if process.exitcode:
            outcomes["wrong"] += 1
            failures.append(f"{kind} {done}: exit status {process.exitcode}; -9 after more than {SECONDS} s")
            done += 1
    bar.close()
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        for failure in failures:
            number = int(failure.split(":")[0].split()[1])
            name, content = damaged(kind, seeds, seed, number)
            (keep / f"{kind}-{number}-{name}").write_bytes(content)
    row = {"kind": kind, "inputs": inputs} | {name: outcomes[name] for name in OUTCOMES}
    minutes = (time.monotonic() - start) / 60
    return row | {"slowest, s": worst[0], "most memory, MiB": worst[1], "minutes": minutes}, failures


def damaged(kind: str, seeds: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """The input of this number and its name; a function of the arguments alone."""
    random = Random(f"{seed} {kind} {number}")
    name = random.choice(sorted(seeds))
    return name, mutated(seeds[name], random, KINDS[kind].text)


def read_all(kind: str, seeds: dict[str, bytes], seed: int, numbers: range, pipe: Connection) -> None:
    """In a process of its own: say of each input what came out, how long it took, and how much memory there was."""
    warnings.simplefilter("ignore")
    table()  # the first table with text makes Arrow reserve a gigabyte, half of what confine() leaves
    confine()
    before = resident()
    pipe.send("ready")
    for number in numbers:
        name, content = damaged(kind, seeds, seed, number)
        folder, start = Path(f"{kind}-{number}"), time.monotonic()
        folder.mkdir()
        (folder / name).write_bytes(content)
        outcome, detail = "right", ""
        try:
            KINDS[kind].read(folder / name)
        except Undefined:
            outcome = "undefined"
        except KINDS[kind].error as error:
            outcome = "refused" if str(error) else "wrong"
        except BaseException as error:
            outcome, detail = "wrong", "".join(traceback.format_exception(error)[-2:]).strip()
        if Path("planted").exists():
            outcome, detail = "wrong", "code of the file was run"
        pipe.send((outcome, detail, time.monotonic() - start, resident() - before))
        shutil.rmtree(folder)


def resident() -> int:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def clips() -> dict[str, bytes]:
    frames, made = render(draw_scene(1), "Sway")[:20:, ::2, ::2], {}
    for suffix, (codec, options) in ENCODINGS.items():
        file = io.BytesIO()
        with av.open(
            file, "w", format={"mkv": "matroska", "ts": "mpegts", "mpg": "mpeg", "wmv": "asf"}.get(suffix, suffix)
        ) as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.width, stream.height = (128, 96) if codec == "h263" else frames.shape[2:0:-1]
            stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
            for array in frames:
                container.mux(
                    stream.encode(
                        av.VideoFrame.from_ndarray(array, format="rgb24").reformat(stream.width, stream.height)
                    )
                )
            container.mux(stream.encode())
        made[f"clip.{suffix}"] = file.getvalue()
    return made


def read_clip(path: Path) -> None:
    facts = probe(path)
    with contextlib.suppress(ClipError):
        glance(path)
    truth = list(map(picture, plain_decoding(path)))
    if not all(map(np.array_equal, truth, map(picture, list(plain_decoding(path))))):
        raise Undefined
    N = len(truth)
    assert facts["frames"] == N, f"{facts['frames']} frames, not {N}"
    wanted = [0, N - 1, N // 2, N // 3, 0]
    for frame_index in (None, build(path)):
        for number, frame in zip(wanted, read_frames(path, wanted, index=frame_index), strict=True):
            assert np.array_equal(frame, truth[number]), f"frame {number} is another, {frame_index and 'with an index'}"
    rows = np.array([[0, N // 2], [N // 3, N - 1]])
    for row, frames in zip(rows, stream_frames(path, rows, 32), strict=True):
        assert np.array_equal(frames, read_frames(path, row, 32)), f"streamed frames {row} are others"


class Undefined(Exception):
    """FFmpeg gives other pictures when all are held until the last: what it refers to is no frame, but old memory."""


def plain_decoding(path: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"  # what stands for damaged parts depends on the threads
        yield from container.decode(stream)


def picture(frame: av.VideoFrame) -> np.ndarray:
    return np.rot90(CONVERT.reformat(frame, format="rgb24").to_ndarray(), frame.rotation // 90)


def archives() -> dict[str, bytes]:
    made = {}
    for name, compression in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            for member in ("Bowling/v_Bowling_g01_c01", "Bowling/v_Bowling_g02_c01", "Diving/v_Diving_g01_c01"):
                archive.writestr(f"UCF-101/{member}.avi", Random(member).randbytes(500) * 3)
        made[name] = file.getvalue()
    return made


def read_archive(path: Path) -> None:
    fetch_clips(str(path), "all", path.parent / "clips")
    with zipfile.ZipFile(path) as archive:
        checksums = {info.CRC for info in archive.infolist()}
    for file in path.parent.rglob("*"):
        if file.is_file() and file.name not in (path.name, "clips.lock"):
            assert file.parent.parent == path.parent / "clips", f"{file} is outside of its folder"
            assert zlib.crc32(file.read_bytes()) in checksums, f"{file} is another file"


def tiny(K: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Conv3d(4, K, 1))


def tiny_networks() -> dict[str, Network]:
    return {key: replace(network, build=tiny, head="2.") for key, network in NETWORKS.items()}


def given_weights() -> dict[str, bytes]:
    facts = {"model": "x3d_m", "frames": 6, "seed": 0, "classes": ["a", "b", "c"], "input": STUDY.input.model_dump()}
    weights.save(Path("own.pt"), tiny(), **facts)
    torch.save({"model_state": tiny().state_dict()} | facts, "old.pt", _use_new_zipfile_serialization=False)
    return {name: Path(name).read_bytes() for name in ("own.pt", "old.pt")}


def read_weights(path: Path) -> None:
    with patch.dict(NETWORKS, tiny_networks()):
        serving.load(path)


def states() -> dict[str, bytes]:
    network = tiny()
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3, 1, 2, 2)).sum().backward()
    optimizer.step()
    state = dict.fromkeys(LastEpoch.KEYS) | {
        "state_dict": network.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "curve": [{"epoch": 0}],
        "best": {},
    }
    torch.save(state, "last.ckpt")
    return {"last.ckpt": Path("last.ckpt").read_bytes()}


def table() -> pd.DataFrame:
    rows = [(name, group) for name in ("Sway", "=Größe", "NA") for group in range(8)]
    table = pd.DataFrame(rows, columns=["class", "group"]).astype({"group": str})
    table["clip"] = table["class"] + "/" + table["group"]
    return table.assign(
        path=table["clip"] + ".avi", first=0, frames=30, fps=25.0, width=112, height=84, sha256="0" * 64
    )


def manifests() -> dict[str, bytes]:
    write_csv(table(), Path("manifest.csv"))
    return {"manifest.csv": Path("manifest.csv").read_bytes()}


def read_manifest(path: Path) -> None:
    manifest = read_csv(path, MANIFEST)
    [subset] = subsets(manifest, STUDY.split)
    assert set(subset) == {"train", "validation", "test"}
    assert not leaked(manifest.assign(subset=subset))


def splits() -> dict[str, bytes]:
    write_csv(table().assign(label=1, fold=0, subset="train"), Path("split.csv"))
    return {"split.csv": Path("split.csv").read_bytes()}


def read_split(path: Path) -> None:
    Clips(Path("clips"), read_csv(path, SPLIT).assign(frame_index=None, shown=None), 6, STUDY.input, 0, None)


def indices() -> dict[str, bytes]:
    found = index.FrameIndex([0, 2, 1, -1, 3], [0, 4], [0, None], skip=True, unpack=False)
    clips = table().assign(shown=None)
    clips["frame_index"] = [None if path == "Sway/0.avi" else found for path in clips["path"]]
    return {"index.json": index.dump(clips).encode()}


KINDS = {
    "clip": Kind(12_000, clips, read_clip, ClipError),
    "zip": Kind(2_000, archives, read_archive, SourceError),
    "weights": Kind(2_000, given_weights, read_weights, weights.WeightsError),
    "state of a training": Kind(1_000, states, LastEpoch, UserError),
    "params.yaml": Kind(
        2_000, lambda: {"params.yaml": (ROOT / "params.yaml").read_bytes()}, params.load, UserError, text=True
    ),
    "manifest.csv": Kind(1_000, manifests, read_manifest, UserError, text=True),
    "split.csv": Kind(1_000, splits, read_split, UserError, text=True),
    "index.json": Kind(1_000, indices, lambda path: index.joined(table(), path), UserError, text=True),
}


if __name__ == "__main__":
    sys.exit(main())
