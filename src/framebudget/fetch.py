"""Find the clips, decode each of them, and write down what is there.

    $ python -m framebudget.fetch           (dvc repro fetch)

reads   the clips               <clips>/<class>/<video>; they are not copied
        params.yaml             clips, datasets.<dataset>.{fetch, <model>.weights}
writes  work/manifest.csv       clip, path, class, group, frames, fps, width, height, seconds, codec, sha256
        work/index.json         which packet carries which frame, for reading no more than is needed
        work/skipped.csv        path and reason of whatever else lies there
        work/weights.json       the sha256 of the weights that each training starts from
        data/ucf101             only of that data set: the wanted clips of the public archive, kept from run to run

`frames` is counted by decoding. Clips that cannot be decoded, or not whole, end the stage with their names: a
study without them would be another one, so leaving them out is for the user to say, by moving them away.
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
from framebudget.params import MODELS
from framebudget.sources.folder import SourceError, find_clips, listed
from framebudget.sources.ucf101 import fetch_clips
from framebudget.sources.weights import local
from framebudget.video import index
from framebudget.video.reader import ClipError, probe


@stage
def main() -> None:
    p = params.load()
    rule, clips = p.data.fetch, p.folder
    if p.archive:
        fetch_clips(p.archive, rule.classes, clips)
    rows, skipped = find_clips(clips, rule.group, rule.classes)
    starts = {model: p.weights(model) and sha256(local(p.weights(model), model)) for model in MODELS}
    with ProcessPoolExecutor(initializer=confine) as pool:
        found = pool.map(survey, [clips / row["path"] for row in rows], chunksize=4)
        surveyed = list(tqdm(found, total=len(rows), desc="decode", unit="clip", disable=None))
    if broken := [said for said in surveyed if isinstance(said, str)]:
        raise SourceError("\n".join([*broken, f"Mend these files or move them out of {clips}"]))
    manifest = pd.DataFrame([row | facts for row, (facts, _) in zip(rows, surveyed, strict=True)])
    learned = dict(zip(manifest["path"], [carried for _, carried in surveyed], strict=True))
    manifest, copies = without_copies(manifest)
    skipped = pd.DataFrame(skipped + copies, columns=["path", "reason"])
    write_text(Path("work/index.json"), index.dump({path: learned[path] for path in manifest["path"]}))
    write_text(Path("work/weights.json"), json.dumps(starts, indent=2) + "\n")
    write_csv(skipped, Path("work/skipped.csv"))
    write_csv(manifest, Path("work/manifest.csv"))
    tell(manifest, skipped, rule.group)


def confine(most: int = 2**30) -> None:
    """Let this process of a pool end with its parent, and have so many bytes of memory more than now (on Linux).

    One whose parent was killed would wait for ever for another clip; and a small MP4 can make FFmpeg take gigabytes.
    """

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + most, hard))


def survey(path: Path) -> tuple[dict, index.FrameIndex | None] | str:
    """Facts of a clip, and its index; or why it cannot be used."""
    try:
        return probe(path), index.build(path)
    except ClipError as error:
        return str(error)


def without_copies(manifest: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The clips, each of them once, and (path, reason) of its copies: testing on what was trained on tests nothing.

    Raises SourceError if a clip lies in two classes.
    """
    first = manifest.sort_values("path", key=lambda path: path.str.len(), kind="stable").drop_duplicates("sha256")
    again = manifest.drop(first.index)
    pairs = again.merge(first, on="sha256", suffixes=("", "_first"))
    torn = pairs[pairs["class"] != pairs["class_first"]]
    if len(torn):
        both = torn["path_first"] + " and " + torn["path"]
        raise SourceError(f"the same video in two classes: {listed(both)}; remove it where it does not belong")
    reasons = "the same bytes as " + pairs["path_first"]
    return manifest.drop(again.index), list(zip(pairs["path"], reasons, strict=True))


def tell(manifest: pd.DataFrame, skipped: pd.DataFrame, pattern: str | None) -> None:
    """What was taken, and what was not."""
    groups = sorted(manifest["group"].unique())
    print(f"{len(manifest)} clips of {manifest['class'].nunique()} classes:")
    for name, rows in manifest.groupby("class"):
        print(f"{len(rows):6}  {name}")
    if pattern:
        print(f"in {len(groups)} groups: {listed(groups, 30)}")
        alike = pd.Series(groups).groupby([group.split("/")[-1].casefold() for group in groups]).agg(list)
        for names in alike[alike.str.len() > 1]:
            print(f"groups {' and '.join(names)} differ in case or folder alone; if that is one, it may be trained "
                  "and tested on: rename its clips, or keep fetch.group within a name, [^/] for .")  # fmt: skip
    else:
        print("fetch.group is null: every clip counts as a group of its own; if several clips share a person, a "
              "scene or a source video, name them, or the test accuracy will flatter")  # fmt: skip
    for reason, rows in skipped.groupby("reason"):
        print(f"skipped, {reason}: {listed(rows['path'])}")
    if len(skipped):
        print("all that was skipped: work/skipped.csv")


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
