"""The `framebudget` command."""

import argparse
import signal
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
        help="the classes of videos, as a whole or over time",
        description="The best classes of videos by a network that `dvc repro` has trained.",
        epilog="examples: framebudget predict data/motion/Sway --model slowfast_r50 --frames 16\n"
        "          framebudget predict match.mp4 --window 2 --timeline match.png\n"
        "          framebudget predict clip.mp4 --model models:/framebudget-x3d_m@best-motion --json\n"
        "          inotifywait -qm -e close_write --format %w%f camera/ | framebudget predict -",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument("videos", nargs="+", help="files, folders, or - for names on standard input, as they come")
    add_model(predict)
    predict.add_argument("--top", type=count, default=5, help="how many classes (default: 5)")
    predict.add_argument("--json", action="store_true", help="a JSON object a line for each video")
    predict.add_argument("--window", type=seconds, help="seconds: windows so long slide over the video")
    predict.add_argument("--step", type=seconds, help="seconds from one window to the next (default: half a window)")
    predict.add_argument("--timeline", metavar="PICTURE", help="draw the probabilities over time: .png, .svg or .pdf")
    predict.set_defaults(run=run_predict)
    export = commands.add_parser(
        "export",
        help="a trained network as ONNX, with a model card",
        description="Write a trained network as ONNX (any batch, its frames and crop), and a model card beside it.",
        epilog="example: framebudget export x3d_m.onnx --model x3d_m --frames 16",
    )
    export.add_argument("onnx", help="file to write; the card is the same with .md")
    add_model(export)
    export.set_defaults(run=run_export)
    arguments = parser.parse_args()
    arguments.run(arguments)


def run_motion(arguments: argparse.Namespace) -> None:
    from framebudget.sources.motion import write_motion

    write_motion(Path(arguments.folder), arguments.scenes)


def run_doctor(_: argparse.Namespace) -> None:
    from framebudget.doctor import examine

    sys.exit(examine())


def add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        default="x3d_m",
        help="x3d_m or slowfast_r50 of work/, a weight file, or models:/… of MLflow (default: x3d_m)",
    )
    command.add_argument("--frames", type=count, help="frame budget (default: the largest that was trained)")


def count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def seconds(text: str) -> float:
    if not 0 < (number := float(text)) < 1e9:
        raise ValueError
    return number


def run_predict(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from framebudget import predict
    from framebudget.models import trained
    from framebudget.sources.folder import printable
    from framebudget.video.reader import ClipError

    if arguments.step and not arguments.window:
        raise ValueError("--step: with --window only")
    streamed = arguments.videos == ["-"]
    if streamed:
        sys.stdin.reconfigure(errors="surrogateescape")  # as file names come
        lists = ([Path(line.rstrip("\n"))] for line in sys.stdin if line.strip())
    else:
        lists = [list(predict.videos_of(arguments.videos))]
    named = streamed or len(lists[0]) > 1
    if arguments.timeline and (named or not arguments.window):
        raise ValueError("--timeline: of one video, with --window")
    network, checkpoint = trained.load(predict.weight_file(arguments.model, arguments.frames))
    windows, failed = bool(arguments.window), False
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end as other commands do, when `| head` has seen enough
    for videos in lists:
        for said in predict.predict(videos, network, checkpoint, arguments.window, arguments.step):
            if isinstance(said, ClipError):
                tqdm.write(f"error: {printable(str(said))}", file=sys.stderr)
                failed = True
                continue
            if arguments.json:
                answer = predict.as_json(said, checkpoint, arguments.top, windows=windows)
            else:
                answer = predict.as_text(said, checkpoint, arguments.top, named=named, windows=windows)
            tqdm.write(answer)
            sys.stdout.flush()
            if arguments.timeline:
                from framebudget.report import plots

                figure = plots.timeline(said.times, said.probabilities_NK, checkpoint["classes"])
                plots.write(figure, Path(arguments.timeline))
    if failed:
        sys.exit(1)


def run_export(arguments: argparse.Namespace) -> None:
    from framebudget.export import export
    from framebudget.predict import weight_file

    export(weight_file(arguments.model, arguments.frames), Path(arguments.onnx))


if __name__ == "__main__":
    main()
