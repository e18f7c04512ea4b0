"""Find the clips, decode each one, and record what is in it.

    $ python -m framebudget.fetch           (dvc repro fetch)

reads   the clips               <clips>/<class>/<video>, or those of a table (sources/table.py); fetch copies none
        params.yaml             clips, models, datasets.<dataset>.{fetch, <model>.weights}
writes  work/manifest.csv       clip, path, class, group, first, frames, fps, width, height, seconds, codec, sha256; and
                                subset if a table of clips has it. first: the number of its first frame in the video
        work/index.json         which packet carries which frame, so that a reader decodes only what it needs
        work/skipped.csv        path and reason of every skipped file
        work/weights.json       the sha256 of the start weights of each network
        data/ucf101             for UCF101: the wanted clips of the public archive, kept between runs

A corrupt or truncated clip stops the stage with its name: leaving it out changes the study, so the user decides.
"""

import contextlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

import pandas as pd
from tqdm import tqdm

from framebudget import params
from framebudget.console import end_with_parent, listed, sha256, stage, usage, write_csv, write_text
from framebudget.processor import cores, memory
from framebudget.repository import exposed, top
from framebudget.sources.folder import SourceError, find_clips
from framebudget.sources.motion import ACTIONS
from framebudget.sources.proof import Truth, prove
from framebudget.sources.table import find_listed, stretch
from framebudget.sources.ucf101 import fetch_clips
from framebudget.sources.weights import local
from framebudget.video import index
from framebudget.video.container import ClipError
from framebudget.video.reader import probe

MOST = 2**31  # bytes of memory that decoding a clip may take


@stage
def main() -> None:
    p = params.load()
    archived = fetch_clips(p.archive, p.data.fetch.classes, p.folder) if p.archive else None
    check_exposed(Path(p.clips))
    rows, skipped = find(p)
    if archived is not None:  # the folder may also hold clips of another archive
        rows = [row for row in rows if row["path"] in archived]
    weights = {model: sha256_of_weights(p, model) for model in p.data.networks}
    manifest, copies = without_copies(decode(p.folder, rows))
    skipped = pd.DataFrame(skipped + copies, columns=["path", "reason"])
    write_text(Path("work/index.json"), index.dump(manifest))
    write_text(Path("work/weights.json"), json.dumps(weights, indent=2) + "\n")
    write_csv(skipped, Path("work/skipped.csv"))
    write_csv(manifest.drop(columns=["frame_index", "shown", "odd"]), Path("work/manifest.csv"))
    summarize(manifest, skipped)


def find(p: params.Params) -> tuple[list[dict], list[tuple[str, str]]]:
    """Rows of clips, and (path, reason) of everything skipped, from a table or a folder. Raises SourceError."""
    rule = p.data.fetch
    if p.dataset == "motion" and (
        p.table or (p.folder.is_dir() and not any((p.folder / name).is_dir() for name in ACTIONS))
    ):
        raise SourceError(f"{p.clips}: not the clips of motion; for your own clips, add -S dataset=folder")
    if p.table:
        return find_listed(p.table, rule.group, rule.classes)
    return find_clips(p.folder, rule.group, rule.classes)


def check_exposed(clips: Path) -> None:
    """Raises SourceError if an experiment would publish these files."""
    if files := exposed(clips):
        raise SourceError(
            f"{clips} is in the repository, where `dvc exp run` would commit {listed(files)}, and `dvc exp push` "
            f"would publish them; move it out, or add a line to .gitignore: /{os.path.relpath(clips, top())}"
        )


def sha256_of_weights(p: params.Params, model: str) -> str | None:
    """The sha256 of the weights that this network's trainings start from. Downloads them if needed."""
    if model not in p.models:
        return "not in models"  # not null: adding the network to `models` later makes only its stage stale
    if (given := p.weights(model)) is None:
        return None
    from framebudget.models import NETWORKS  # imports torch, which is slow and not needed from scratch

    return sha256(local(given, NETWORKS[model].zoo))


def decode(clips: Path, rows: list[dict]) -> pd.DataFrame:
    """The manifest, with the columns frame_index, shown and odd. Raises SourceError, which names every broken clip."""
    paths = list(dict.fromkeys(row["path"] for row in rows))
    at_once = min(cores(), max(1, memory() // MOST))
    with ProcessPoolExecutor(at_once, initializer=confine) as pool:
        futures = [pool.submit(survey, clips / path) for path in paths]
        try:
            watch(futures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    results = [future.result() for future in futures]
    if errors := [result for result in results if isinstance(result, str)]:
        raise SourceError("\n".join([*errors, f"Repair these files or move them out of {clips}"]))
    facts = dict(zip(paths, results, strict=True))
    return pd.DataFrame([cut_out(row, facts[row["path"]]) for row in rows])


def cut_out(row: dict, video: dict) -> dict:
    """A row of the manifest: what a table says about a clip, and the facts about its video. Raises SourceError."""
    row = dict(row)
    first, frames = stretch(row.pop("start", None), row.pop("end", None), row["path"], video["frames"], video["fps"])
    return row | video | {"first": first, "frames": frames, "seconds": round(frames / video["fps"], 3)}


def watch(futures: list[Future], every: float = 60) -> None:
    """Wait for all clips. Shows a bar on a terminal; elsewhere prints a line now and every minute (`every` seconds).

    Raises what a clip's process raises.
    """
    ended, start = SimpleQueue[Future](), time.monotonic()
    for future in futures:
        future.add_done_callback(ended.put)
    with tqdm(total=len(futures), desc="decode", unit="clip", disable=None) as bar:
        done, said = 0, -math.inf
        while done < len(futures):
            if bar.disable and time.monotonic() >= said + every:
                said = time.monotonic()
                print(progress(done, len(futures), said - start), flush=True)
            with contextlib.suppress(Empty):
                ended.get(timeout=max(0, said + every - time.monotonic()) if bar.disable else None).result()
                done += 1
                bar.update()


def progress(done: int, total: int, seconds: float) -> str:
    """A line such as "decode: 120 of 900 clips, 4 min left", if `done` of them took `seconds`."""
    if not done:
        return f"decode: 0 of {total} clips"
    left = seconds / done * (total - done)
    return f"decode: {done} of {total} clips, " + (f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left")


def confine() -> None:
    """Make this pool process end with its parent and, on Linux, limit it to MOST bytes more than it has now.

    Decoding 8192×4320 pixels of 10 bits takes more than 1 GiB; a small MP4 can make FFmpeg allocate any amount.
    """
    end_with_parent()
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = pages * resource.getpagesize() + MOST
        resource.setrlimit(resource.RLIMIT_DATA, (soft if hard < 0 else min(soft, hard), hard))  # below 0: no limit


def survey(path: Path) -> dict | str:
    """The facts about a clip, including its frame index, or the reason it cannot be used."""
    try:
        truth = Truth(path)
        return probe(path, truth.decode) | {"frame_index": prove(truth)}
    except ClipError as error:
        return str(error)


def without_copies(manifest: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Drop copies, which could end up on both sides of the split. Returns the manifest and (path, reason) of each copy.
    Raises SourceError if a clip and its copy are in two classes, or if two files of one video are in two groups."""
    same = ["sha256", "first", "frames"]
    first = manifest.sort_values("path", key=lambda path: path.str.len(), kind="stable").drop_duplicates(same)
    pairs = manifest.drop(first.index).merge(first, on=same, suffixes=("", "_first"))
    both = (pairs["path_first"] + " and " + pairs["path"])[pairs["class"] != pairs["class_first"]]
    if len(both):
        raise SourceError(f"the same video is in two classes: {listed(both)}; remove it from the wrong one")
    names = first.groupby("sha256")[["path", "group"]].nunique()
    for video in names.index[(names > 1).all(axis=1)]:  # of a table: its stretches, by two names of the file
        files = listed(sorted(first["path"][first["sha256"] == video].unique()))
        raise SourceError(f"{files} are one video in several groups; list its clips under one name, or in one group")
    return first.sort_index(), list(zip(pairs["path"], "the same bytes as " + pairs["path_first"], strict=True))


def summarize(manifest: pd.DataFrame, skipped: pd.DataFrame) -> None:
    """Print the clips that are used and the files that are skipped."""
    print(f"{len(manifest)} clips of {manifest['class'].nunique()} classes:")
    print(*counts(manifest), sep="\n")
    classes = pd.Series(sorted(manifest["class"].unique()))
    for _, alike in classes.groupby(classes.str.split().str.join(" ").str.casefold()):
        if len(alike) > 1:
            names = " and ".join(map(repr, alike))
            print(f"classes {names} differ only in case or spaces; if they are the same, put their clips in one folder")
    if not manifest["group"].equals(manifest["clip"]):
        groups = pd.Series(sorted(manifest["group"].unique()))
        print(f"in {len(groups)} groups")
        for _, alike in groups.groupby(groups.str.split("/").str[-1].str.casefold()):
            if len(alike) > 1:
                print(f"groups {' and '.join(alike)} differ only in case or folder; if they are the same, training "
                      "and test may share it: rename clips, or write [^/] for . in fetch.group")  # fmt: skip
    else:
        print("every clip is its own group. If clips share a person, a scene or a source video, set fetch.group; "
              "otherwise the test accuracy may be too high")  # fmt: skip
    for odd, rows in manifest.groupby("odd"):
        print(f"{odd}: {listed(rows['path'])}")
    if varying := manifest["shown"].notna().sum():
        print(f"the frame rate of {varying} clips varies; their frames are taken evenly in time")
    for reason, rows in skipped.groupby("reason"):
        print(f"skipped, {reason}: {listed(rows['path'])}")
    if len(skipped):
        print("work/skipped.csv lists all of them")


def counts(manifest: pd.DataFrame) -> Iterator[str]:
    """A line for each class: its clips and, unless each is a group of its own, its groups."""
    alone = manifest["group"].equals(manifest["clip"])
    for name, rows in manifest.groupby("class"):
        groups = sorted(rows["group"].unique())
        yield f"{len(rows):6}  {name}" + ("" if alone else f", in {len(groups)} groups: {listed(groups, 3)}")


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
