"""Find the clips, decode each of them, and write down what is there.

    $ python -m framebudget.fetch           (dvc repro fetch)

reads   the clips               <clips>/<class>/<video>; they are not copied
        params.yaml             clips, datasets.<dataset>.{fetch, <model>.weights}
writes  work/manifest.csv       clip, path, class, group, frames, fps, width, height, seconds, codec, sha256
        work/packets.json       which packet carries which frame, for reading no more than is needed
        work/weights.json       the sha256 of the weights that each training starts from
        data/ucf101             only of that data set: the wanted clips of the public archive, kept from run to run

`frames` is counted by decoding. A clip that cannot be decoded, or not whole, ends the stage with its name.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from framebudget import params
from framebudget.console import sha256, stage, write_csv, write_text
from framebudget.params import MODELS
from framebudget.sources.folder import find_clips
from framebudget.sources.ucf101 import fetch_clips
from framebudget.sources.weights import local
from framebudget.video import packets
from framebudget.video.reader import learn, probe


@stage
def main() -> None:
    p = params.load()
    rule, clips = p.data.fetch, p.folder
    if p.archive:
        fetch_clips(p.archive, rule.classes, clips)
    rows, left_out = find_clips(clips, rule.group, rule.classes)
    starts = {model: p.weights(model) and sha256(local(p.weights(model), model)) for model in MODELS}
    for reason in left_out:
        tqdm.write(f"left out: {reason}")
    if not rule.group:
        tqdm.write("fetch.group is null: every clip counts as a group of its own; if several clips share a person, a "
                   "scene or a source video, name them, or the test accuracy will flatter")  # fmt: skip
    with ProcessPoolExecutor() as pool:
        found = pool.map(survey, [clips / row["path"] for row in rows], chunksize=4)
        facts, learned = zip(*tqdm(found, total=len(rows), desc="decode", unit="clip", disable=None), strict=True)
    manifest = pd.DataFrame([row | fact for row, fact in zip(rows, facts, strict=True)])
    write_text(Path("work/packets.json"), packets.dump(dict(zip(manifest["path"], learned, strict=True))))
    write_text(Path("work/weights.json"), json.dumps(starts, indent=2) + "\n")
    write_csv(manifest, Path("work/manifest.csv"))


def survey(path: Path) -> tuple[dict, packets.Packets | None]:
    return probe(path), learn(path)


if __name__ == "__main__":
    main()
