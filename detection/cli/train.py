"""Train a detector, evaluate it, and draw its detections.

detection train                                     the quick start
detection train CONFIG [--output RUN] [key=value ...]
detection train [CONFIG] --output RUN --resume     continue a run that was stopped
torchrun --nproc-per-node N -m detection.cli.train CONFIG ...   several processes

CONFIG is a file, or the name of a shipped config (`detection configs` lists them).
"""

import argparse
import sys
from pathlib import Path

from detection.cli import command_parser
from detection.errors import UserError, command_line


def training_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command that trains."""
    parser = command_parser(name, description, trust=True)
    parser.add_argument("config", nargs="?", help="a config file or name, for a new run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as schedule.epochs=2")
    parser.add_argument("--output", type=Path, help="the run folder; a new one under runs/ if left out")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output, with its own config")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="the best there is if left out")
    return parser


def parse_training(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; a config may be left out before `key=value`."""
    args = parser.parse_intermixed_args(argv)
    if args.config is not None and "=" in args.config:
        args.overrides.insert(0, args.config)
        args.config = None
    if args.resume and args.output is None:
        raise UserError("--resume: name the run to go on with as --output RUN.")
    return args


@command_line
def main(argv: list[str] | None = None) -> None:
    """Open config and data, then train; nothing is written before both are sound."""
    args = parse_training(training_parser("train", __doc__), argv)
    from detection.config import load_config
    from detection.config.files import find_config
    from detection.detector import require_buildable
    from detection.runs.folder import new_run_folder, open_config
    from detection.scenes.ensure import ensure_scenes
    from detection.training.loaders import build_accelerator
    from detection.training.run import train

    if args.resume:
        config, folder = open_config(args.output, args.overrides), args.output
    else:
        path = find_config(args.config or "quickstart")
        config = load_config(path, args.overrides)
        folder = new_run_folder(args.output, path.stem)
    accelerator = build_accelerator(config.precision, args.device)
    require_buildable(config.detector, num_classes=1)  # before images are drawn or read
    if accelerator.is_main_process:
        ensure_scenes(config.data)
    accelerator.wait_for_everyone()
    train(config, folder, accelerator, resume=args.resume)


if __name__ == "__main__":
    sys.exit(main())
