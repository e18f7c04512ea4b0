"""The `framebudget` command."""

import argparse
import sys
from pathlib import Path

from framebudget.console import stage


@stage
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="framebudget",
        description="How many frames does an action need?",
        epilog="The study itself: dvc repro. Is all there that it needs? framebudget doctor",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    motion = commands.add_parser(
        "motion",
        help="render the embedded clips",
        description="Render the motion clips.",
        epilog="example: framebudget motion data/motion --scenes 64",
    )
    motion.add_argument("folder", help="where to write <Action>/v_<Action>_gNN_c01.avi")
    motion.add_argument("--scenes", type=int, default=64, help="how many scenes (default: 64)")
    motion.set_defaults(run=run_motion)
    doctor = commands.add_parser(
        "doctor",
        help="is all there that the study needs?",
        description="What is installed, on which device, whether data and remotes are reachable, and what to do about "
        "what is missing. Ends with 1 if the study lacks anything.",
        epilog="example: framebudget doctor",
    )
    doctor.set_defaults(run=run_doctor)
    predict = commands.add_parser(
        "predict",
        help="the best classes of a video",
        description="The best classes of a video by a network that `dvc repro` has trained.",
        epilog="example: framebudget predict data/motion/Sway/v_Sway_g01_c01.avi --model x3d_m --frames 16",
    )
    predict.add_argument("video")
    predict.add_argument("--model", default="x3d_m", help="x3d_m or slowfast_r50 (default: x3d_m)")
    predict.add_argument("--frames", type=int, help="frame budget (default: the largest that was trained)")
    predict.add_argument("--top", type=int, default=5, help="how many classes (default: 5)")
    predict.set_defaults(run=run_predict)
    arguments = parser.parse_args()
    arguments.run(arguments)


def run_motion(arguments: argparse.Namespace) -> None:
    from framebudget.sources.motion import write_motion

    write_motion(Path(arguments.folder), arguments.scenes)


def run_doctor(_: argparse.Namespace) -> None:
    from framebudget.doctor import examine

    sys.exit(examine())


def run_predict(arguments: argparse.Namespace) -> None:
    from framebudget.predict import best_classes, trained_weights

    weights = trained_weights(Path("work") / arguments.model, arguments.frames)
    for name, probability in best_classes(Path(arguments.video), weights)[: arguments.top]:
        print(f"{probability:6.1%}  {name}")


if __name__ == "__main__":
    main()
