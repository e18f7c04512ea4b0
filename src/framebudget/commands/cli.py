"""The `framebudget` command. Each subcommand is a function below its arguments. `--help` imports nothing slow."""

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from framebudget.console import UserError, stage, usage

PARSER = argparse.ArgumentParser(
    prog="framebudget",
    description="How many frames does an action need?",
    epilog="To run the study itself: dvc repro. To check that everything is in place: framebudget doctor",
)
COMMANDS = PARSER.add_subparsers(required=True, metavar="COMMAND")


def command(*arguments: tuple[tuple, dict]) -> Callable[[Callable], Callable]:
    """Make a function a subcommand with these arguments. Its docstring is the help."""

    def register(run: Callable) -> Callable:
        own = usage(run.__doc__)
        looks = {"description": own.description, "epilog": own.epilog, "formatter_class": own.formatter_class}
        parser = COMMANDS.add_parser(run.__name__, help=own.description, **looks)
        parser.set_defaults(run=run)
        for names, options in arguments:
            parser.add_argument(*names, **options)
        return run

    return register


def argument(*names: str, **options: object) -> tuple[tuple, dict]:
    return names, options


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < 1e9:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


MODEL = argument(
    "--model", default="x3d_m", help="a network trained in work/, a weight file, or MLflow's models:/… (default: x3d_m)"
)
FRAMES = argument("--frames", type=count, help="frame budget (default: the largest trained)")


@command(
    argument("folder", type=Path, help="where to write <Action>/v_<Action>_gNN_c01.avi"),
    argument("--scenes", type=count, default=120, help="how many scenes (default: 120)"),
)
def motion(arguments: argparse.Namespace) -> None:
    """Render the clips of the data set motion.

    $ framebudget motion data/motion --scenes 120
    """
    from framebudget.sources.motion import write_motion

    write_motion(arguments.folder, arguments.scenes)


@command()
def doctor(_: argparse.Namespace) -> None:
    """Check that everything the study needs is in place. Exit with 1 if anything is missing.

    $ framebudget doctor
    """
    from framebudget.commands.doctor import examine

    sys.exit(examine())


@command(
    argument("videos", nargs="+", help="files, folders, or - to read names from standard input as they arrive"),
    MODEL,
    FRAMES,
    argument("--top", type=count, default=5, help="how many classes to print (default: 5)"),
    argument("--json", action="store_true", help="one JSON object per video, on one line"),
    argument("--csv", action="store_true", help="a table: one row per video or window, a column for every class"),
    argument("--window", type=seconds, help="slide windows of this many seconds over the video"),
    argument("--step", type=seconds, help="seconds from one window to the next (default: half a window)"),
    argument("--timeline", type=Path, metavar="PICTURE", help="draw the probabilities over time: .png, .svg or .pdf"),
)
def predict(arguments: argparse.Namespace) -> None:
    """Predict the classes of videos, as a whole or over time, with a network that `dvc repro` trained.

    $ framebudget predict data/motion/Sway --model slowfast_r50 --frames 16
    $ framebudget predict match.mp4 --window 2 --timeline match.png
    $ framebudget predict clip.mp4 --model models:/framebudget-x3d_m@best-motion --json
    $ framebudget predict holidays/ --csv > holidays.csv
    $ inotifywait -qm -e close_write --format %w%f camera/ | framebudget predict -
    """
    from framebudget.commands.predict import run

    if arguments.step and not arguments.window:
        raise UserError("--step works only with --window")
    if arguments.json and arguments.csv:
        raise UserError("--json and --csv: choose one")
    sys.exit(run(arguments))


@command(argument("onnx", type=Path, help="file to write; the model card gets the same name with .md"), MODEL, FRAMES)
def export(arguments: argparse.Namespace) -> None:
    """Export a trained network to ONNX, for any batch size, with a model card beside it.

    $ framebudget export x3d_m.onnx --model x3d_m --frames 16
    """
    from framebudget.commands.export import export
    from framebudget.commands.predict import weight_file

    with weight_file(arguments.model, arguments.frames) as file:
        export(file, arguments.onnx)


@stage
def main() -> None:
    arguments = PARSER.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
