"""How well a network with Kinetics-400 weights, never trained on UCF101, recognizes its clips.

    $ python reports/zero_shot/zero_shot.py WEIGHTS CLASSES UCF101 [--frames 4 6 8 16]

WEIGHTS: of X3D, a file, a URL or kinetics400; CLASSES: JSON, {index: name} of Kinetics-400; UCF101: <class>/<video>.
A clip counts as recognized if a Kinetics class of the same action is the best, or among the five best; ApplyEyeMakeup
has none. Three windows of 1.6 s, which are the 48 frames that X3D-XS was trained with, at 160 px.

writes  reports/zero_shot/predictions.csv   frames, clip, the five best classes, and the place of the first right one
"""

import json
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from framebudget.commands.predict import predict
from framebudget.console import usage, write_csv
from framebudget.models import NETWORKS, weights
from framebudget.models.layers import for_evaluation
from framebudget.models.replay import Replay
from framebudget.params import Input
from framebudget.sources.folder import find_clips
from framebudget.sources.weights import local
from framebudget.video.container import ClipError

SAME = {
    "Archery": ["archery"],
    "BaseballPitch": ["catching or throwing baseball"],
    "Basketball": ["dribbling basketball", "dunking basketball", "playing basketball", "shooting basketball"],
    "BenchPress": ["bench pressing"],
    "Biking": ["riding a bike", "riding mountain bike"],
    "Diving": ["diving cliff", "springboard diving"],
    "HorseRace": ["riding or walking with horse"],
    "Swing": ["swinging on something"],
    "TaiChi": ["tai chi"],
    "WalkingWithDog": ["walking the dog"],
}
INPUT = Input(
    short_side=182, crop=160, window=1.6, sampling="dynamic", stride=12, short="repeat_last",
    flip=False, scale_jitter=0, color_jitter=0,
)  # fmt: skip


def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("weights")
    parser.add_argument("classes", type=Path)
    parser.add_argument("ucf101", type=Path)
    parser.add_argument("--frames", nargs="+", type=int, default=[4, 6, 8, 16])
    arguments = parser.parse_args()
    names = json.loads(arguments.classes.read_text())
    classes = [names[str(k)] for k in range(len(names))]
    network = NETWORKS["x3d_m"].build(len(classes))
    weights.load(network, local(arguments.weights, NETWORKS["x3d_m"].zoo))  # strictly: the head too
    replay = Replay(for_evaluation(network))
    clips, _ = find_clips(arguments.ucf101, None)
    rows = []
    for T in arguments.frames:
        checkpoint = {"frames": T, "classes": classes, "input": INPUT.model_dump()}  # as if the study had trained it
        predictions = predict([arguments.ucf101 / clip["path"] for clip in clips], replay, checkpoint)
        for clip, prediction in zip(clips, tqdm(predictions, f"{T} frames", unit="clip", disable=None), strict=True):
            if isinstance(prediction, ClipError):
                raise prediction
            best = [classes[k] for k in (-prediction.logits_NK.mean(0)).argsort(stable=True)]
            place = min((best.index(name) + 1 for name in SAME.get(clip["class"], [])), default="")
            rows.append({"frames": T, "clip": clip["clip"], "place": place, "best": "; ".join(best[:5])})
    write_csv(pd.DataFrame(rows), Path(__file__).with_name("predictions.csv"))
    for T, table in pd.DataFrame(rows).groupby("frames"):
        places = pd.to_numeric(table["place"])
        of = f"of {places.count()} clips whose action Kinetics has, {len(table)} in all"
        print(f"{T:2d} frames: top-1 {(places == 1).sum()}, top-5 {(places <= 5).sum()}, {of}")


if __name__ == "__main__":
    main()
