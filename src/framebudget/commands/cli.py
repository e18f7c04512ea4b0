"""The `framebudget` command: every subcommand has a parser and, below it, what it runs. `--help` loads nothing slow."""

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from framebudget.console import UserError, stage


@stage
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="framebudget",
        description="How many frames does an action need?",
        epilog="To run the study itself: dvc repro. To check that it has all it needs: framebudget doctor",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_motion, add_doctor, add_predict, add_export):
        add(commands)
    arguments = parser.parse_args()
    arguments.run(arguments)


def subcommand(
    commands: argparse._SubParsersAction, run: Callable[[argparse.Namespace], None], summary: str, *examples: str
) -> argparse.ArgumentParser:
    """The parser of a subcommand that is called as the function `run`, whose docstring describes it."""
    parser = commands.add_parser(
        run.__name__,
        help=summary,
        description=run.__doc__,
        epilog="\n  ".join(["examples:" if len(examples) > 1 else "example:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="x3d_m",
        help="x3d_m or slowfast_r50 of work/, a weight file, or models:/… of MLflow (default: x3d_m)",
    )
    parser.add_argument("--frames", type=count, help="frame budget (default: the largest that was trained)")


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < 1e9:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


def add_motion(commands: argparse._SubParsersAction) -> None:
    parser = subcommand(commands, motion, "render the embedded clips", "framebudget motion data/motion --scenes 64")
    parser.add_argument("folder", type=Path, help="where to write <Action>/v_<Action>_gNN_c01.avi")
    parser.add_argument("--scenes", type=count, default=64, help="how many scenes (default: 64)")


def motion(arguments: argparse.Namespace) -> None:
    """Render the motion clips."""
    from framebudget.sources.motion import write_motion

    write_motion(arguments.folder, arguments.scenes)


def add_doctor(commands: argparse._SubParsersAction) -> None:
    subcommand(commands, doctor, "check that the study has all it needs", "framebudget doctor")


def doctor(_: argparse.Namespace) -> None:
    """Check packages, device, disk, git, MLflow, parameters, clips, weights, remotes. Exit with 1 if one is missing."""
    from framebudget.commands.doctor import examine

    sys.exit(examine())


def add_predict(commands: argparse._SubParsersAction) -> None:
    parser = subcommand(
        commands,
        predict,
        "the classes of videos, as a whole or over time",
        "framebudget predict data/motion/Sway --model slowfast_r50 --frames 16",
        "framebudget predict match.mp4 --window 2 --timeline match.png",
        "framebudget predict clip.mp4 --model models:/framebudget-x3d_m@best-motion --json",
        "inotifywait -qm -e close_write --format %w%f camera/ | framebudget predict -",
    )
    parser.add_argument("videos", nargs="+", help="files, folders, or - for names on standard input, as they come")
    add_model(parser)
    parser.add_argument("--top", type=count, default=5, help="how many classes (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object per video, on one line")
    parser.add_argument("--window", type=seconds, help="slide windows of this many seconds over the video")
    parser.add_argument("--step", type=seconds, help="seconds from one window to the next (default: half a window)")
    parser.add_argument(
        "--timeline", type=Path, metavar="PICTURE", help="draw the probabilities over time: .png, .svg or .pdf"
    )


def predict(arguments: argparse.Namespace) -> None:
    """Print the best classes of videos, as a network that `dvc repro` has trained sees them."""
    from framebudget.commands.predict import run

    if arguments.step and not arguments.window:
        raise UserError("--step works only with --window")
    sys.exit(run(arguments))


def add_export(commands: argparse._SubParsersAction) -> None:
    parser = subcommand(
        commands,
        export,
        "a trained network as ONNX, with a model card",
        "framebudget export x3d_m.onnx --model x3d_m --frames 16",
    )
    parser.add_argument("onnx", type=Path, help="file to write; the card has the same name with .md")
    add_model(parser)


def export(arguments: argparse.Namespace) -> None:
    """Write a trained network as ONNX (any batch size, its own frames and crop), and a model card beside it."""
    from framebudget.commands.export import export
    from framebudget.commands.predict import weight_file

    export(weight_file(arguments.model, arguments.frames), arguments.onnx)


if __name__ == "__main__":
    main()
