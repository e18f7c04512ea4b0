"""Compare `framebudget predict` with its upper limit: the slower of reading alone and the network alone.

    $ python benchmarks/predicting.py FOLDER [--frames 16] [--crop 112] [--window 0] [--rounds 3]

FOLDER holds videos. Prints a Markdown table of windows per second: reading and preparing them alone, X3D-M alone (on
what was read), one after the other, and `predict`; medians over the rounds ± half their range; and the speed of
`predict` as a share of the slower of the first two. Without --window, three windows of 2 s a video, or one if it is
shorter. All share the cores, and take turns.
"""

import statistics
import time
from pathlib import Path

import torch

from framebudget.commands import predict
from framebudget.commands.serving import middle_logits
from framebudget.console import usage
from framebudget.models import NETWORKS
from framebudget.models.layers import for_evaluation
from framebudget.models.replay import Replay
from framebudget.params import Input


def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("folder")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--window", type=float, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = for_evaluation(NETWORKS["x3d_m"].build(10).to(device))
    side = arguments.crop
    spec = Input(
        short_side=side * 8 // 7,
        crop=side,
        window=2.0,
        sampling="dynamic",
        stride=1,
        short="repeat_last",
        flip=False,
        scale_jitter=0,
        color_jitter=0,
    )
    checkpoint = {"frames": arguments.frames, "input": spec.model_dump()}
    videos, window = list(predict.videos_of([arguments.folder])), arguments.window or None
    replay = Replay(network)
    list(predict.predict(videos[:1], replay, checkpoint, window))  # on a GPU, this compiles and captures
    speeds = {"reading alone": [], "network alone": [], "one after the other": [], "predict": []}
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        batches = list(predict.read(videos, checkpoint, window))
        read = time.perf_counter()
        for batch in batches:
            middle_logits(replay, batch.frames_NTHWC, side, device).cpu()
        computed = time.perf_counter()
        N = sum(len(batch.times) for batch in batches)
        list(predict.predict(videos, replay, checkpoint, window))
        both = time.perf_counter() - computed
        for name, seconds in zip(speeds, (read - start, computed - read, computed - start, both), strict=True):
            speeds[name].append(N / seconds)
    name = Path(arguments.folder).name
    print(f"{name}: {len(videos)} videos, {N} windows of {arguments.frames} frames, {side} px\n")
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    cells = [f"{middle[name]:.1f} ± {(max(values) - min(values)) / 2:.1f}" for name, values in speeds.items()]
    share = middle["predict"] / min(middle["reading alone"], middle["network alone"])
    print(f"| {' | '.join(speeds)} | of the limit |\n|" + " --- |" * 5 + f"\n| {' | '.join(cells)} | {share:.2f} |")


if __name__ == "__main__":
    main()
