"""Find the clips, decode each one, and record what is in it.

    $ python -m framebudget.fetch           (dvc repro fetch)

reads   the clips               <clips>/<class>/<video>; fetch does not copy them
        params.yaml             clips, models, datasets.<dataset>.{fetch, <model>.weights}
writes  work/manifest.csv       clip, path, class, group, frames, fps, width, height, seconds, codec, sha256
        work/index.json         which packet carries which frame, so that a reader decodes only what it needs
        work/skipped.csv        path and reason of every file that is not used
        work/weights.json       the sha256 of the start weights of each network
        data/ucf101             for UCF101: the wanted clips of the public archive, kept between runs

`frames` is counted by decoding. A corrupt or truncated clip stops the stage with its name: to leave it out changes the
study, so that is the user's decision.
"""

import json
import os
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

import pandas as pd
from tqdm import tqdm

from framebudget import params
from framebudget.console import sha256, stage, usage, write_csv, write_text
from framebudget.sources.folder import SourceError, find_clips, listed
from framebudget.sources.ucf101 import fetch_clips
from framebudget.sources.weights import local
from framebudget.video import index
from framebudget.video.reader import ClipError, probe


@stage
def main() -> None:
    p = params.load()
    rule = p.data.fetch
    if p.archive:
        fetch_clips(p.archive, rule.classes, p.folder)
    rows, skipped = find_clips(p.folder, rule.group, rule.classes)
    weights = {
        # not null: a network that joins `models` later makes its own training stage stale, and no other
        model: sha256_of_weights(p.weights(model), model) if model in p.models else "not in models"
        for model in p.data.networks
    }
    manifest, indices = decode(p.folder, rows)
    manifest, copies = without_copies(manifest)
    skipped = pd.DataFrame(skipped + copies, columns=["path", "reason"])
    write_text(Path("work/index.json"), index.dump({path: indices[path] for path in manifest["path"]}))
    write_text(Path("work/weights.json"), json.dumps(weights, indent=2) + "\n")
    write_csv(skipped, Path("work/skipped.csv"))
    write_csv(manifest, Path("work/manifest.csv"))
    summarize(manifest, skipped, rule.group)


def sha256_of_weights(given: str | None, model: str) -> str | None:
    """Of the weights that the trainings of this network start from; downloads them if they are not here."""
    if given is None:
        return None
    from framebudget.models import NETWORKS  # imports torch, which a study from scratch need not wait for here

    return sha256(local(given, NETWORKS[model].zoo))


def decode(clips: Path, rows: list[dict]) -> tuple[pd.DataFrame, dict[str, index.FrameIndex | None]]:
    """The manifest and the frame index of each path. Raises SourceError, which names every clip that is broken."""
    with ProcessPoolExecutor(initializer=confine) as pool:
        results = pool.map(survey, [clips / row["path"] for row in rows], chunksize=4)
        results = list(tqdm(results, total=len(rows), desc="decode", unit="clip", disable=None))
    if errors := [result for result in results if isinstance(result, str)]:
        raise SourceError("\n".join([*errors, f"Repair these files or move them out of {clips}"]))
    manifest = pd.DataFrame([row | facts for row, (facts, _) in zip(rows, results, strict=True)])
    return manifest, {row["path"]: frame_index for row, (_, frame_index) in zip(rows, results, strict=True)}


def confine(extra: int = 2**30) -> None:
    """Make this process of a pool end with its parent, and (on Linux) limit it to `extra` more bytes than it has now.

    Otherwise it waits for clips forever when the parent is killed, and a small MP4 can make FFmpeg allocate gigabytes.
    """

    def end_with_parent() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + extra, hard))


def survey(path: Path) -> tuple[dict, index.FrameIndex | None] | str:
    """The facts about a clip and its frame index; or why it cannot be used."""
    try:
        return probe(path), index.build(path)
    except ClipError as error:
        return str(error)


def without_copies(manifest: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Keep one clip of each content. Returns the manifest, and (path, reason) of each copy.

    A copy could be on both sides of the split. Raises SourceError if a clip and its copy are in two classes.
    """
    first = manifest.sort_values("path", key=lambda path: path.str.len(), kind="stable").drop_duplicates("sha256")
    copies = manifest.drop(first.index)
    pairs = copies.merge(first, on="sha256", suffixes=("", "_first"))
    conflicts = pairs[pairs["class"] != pairs["class_first"]]
    if len(conflicts):
        both = conflicts["path_first"] + " and " + conflicts["path"]
        raise SourceError(f"the same video is in two classes: {listed(both)}; remove it from the wrong one")
    reasons = "the same bytes as " + pairs["path_first"]
    return manifest.drop(copies.index), list(zip(pairs["path"], reasons, strict=True))


def summarize(manifest: pd.DataFrame, skipped: pd.DataFrame, pattern: str | None) -> None:
    """Print what is used and what is skipped."""
    groups = sorted(manifest["group"].unique())
    print(f"{len(manifest)} clips of {manifest['class'].nunique()} classes:")
    for name, rows in manifest.groupby("class"):
        print(f"{len(rows):6}  {name}")
    if pattern:
        print(f"in {len(groups)} groups: {listed(groups, 30)}")
        alike = pd.Series(groups).groupby([group.split("/")[-1].casefold() for group in groups]).agg(list)
        for names in alike[alike.str.len() > 1]:
            print(f"groups {' and '.join(names)} differ only in case or folder; if they are one, training and test "
                  "may share it: rename the clips, or let fetch.group match no folder ([^/] for .)")  # fmt: skip
    else:
        print("fetch.group is null: every clip is its own group. If clips share a person, a scene or a source video, "
              "set fetch.group; otherwise the test accuracy is too high")  # fmt: skip
    for reason, rows in skipped.groupby("reason"):
        print(f"skipped, {reason}: {listed(rows['path'])}")
    if len(skipped):
        print("work/skipped.csv lists all of them")


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
