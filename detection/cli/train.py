"""Train a detector, evaluate it, and draw its detections.

detection train                                     the quick start
detection train CONFIG [--output RUN] [key=value ...]
detection train --output RUN --resume               continue a run that was stopped
detection train [CONFIG] --resume-or-start ...      continue it, or begin: the same command for a job that is run again
torchrun --nproc-per-node N -m detection.cli.train CONFIG ...   several processes

CONFIG is a file, or the name of a shipped config (`detection configs` lists them).
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detection.cli import CHANGES, DEVICE, DEVICES, command_parser
from detection.errors import UserError, command_line
from detection.training.preemption import advised, watch


def training_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command that trains."""
    parser = command_parser(name, description, trust=True)
    parser.add_argument("config", nargs="?", help="a config file or name, for a new run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=CHANGES)
    parser.add_argument("--output", type=Path, help="the run folder; a new one under runs/ if left out")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output, with its own config")
    go_on = "go on with --output (or the newest runs/NAME) if it has a checkpoint, begin there if it has none"
    parser.add_argument("--resume-or-start", action="store_true", help=go_on)
    parser.add_argument("--device", choices=DEVICES, help=DEVICE)
    return parser


def parse_training(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; a config may be left out before `key=value`."""
    args = parser.parse_args(argv)
    if args.config is not None and "=" in args.config:
        args.overrides.insert(0, args.config)
        args.config = None
    if args.resume and args.output is None:
        raise UserError("--resume: name the run to go on with as --output RUN.")
    if args.resume and args.config is not None:
        raise UserError(
            f"--resume goes on with the run's own config, and {args.config} would not be read: leave it out (changes "
            "are key=value), or give --resume-or-start to begin where there is no run."
        )
    return args


@command_line
def main(argv: list[str] | None = None) -> None:
    """Open config and data, then train; nothing is written before both are sound."""
    args = parse_training(training_parser("train", __doc__), argv)
    with until_signaled():
        _train(args)


@contextmanager
def until_signaled() -> Iterator[None]:
    """End this process when a signal asks for it, from before its libraries are loaded until its end."""
    with watch(until_exit=True), advised(lambda: "this command has trained nothing yet; give it again"):
        yield


def choose_run(
    args: argparse.Namespace, load: Callable[..., Any], reopen: Callable[..., Any]
) -> tuple[Any, Path, bool]:
    """Choose the config and folder of a run, and whether it goes on from a checkpoint there.

    Args:
        args: the command line.
        load: reads the config of a file, with overrides.
        reopen: reads that of a run folder, likewise.

    Raises:
        UserError: settings that cannot be read, or a folder that cannot be used.
    """
    from detection.config.files import find_config
    from detection.runs.folder import has_checkpoint, is_begun
    from detection.training.resuming import choose_folder, is_restarted

    output: Path = args.output
    go_on = args.resume_or_start or is_restarted()
    if args.resume:
        return reopen(output, args.overrides), output, True
    if go_on and args.config is None and output is not None and (has_checkpoint(output) or is_begun(output)):
        return reopen(output, args.overrides), output, has_checkpoint(output)
    path = find_config(args.config or "quickstart")
    config = load(path, args.overrides)
    return config, *choose_folder(output, path.stem, go_on=go_on)


def folder_name(args: argparse.Namespace) -> str | None:
    """Name of a new run whose folder is the first free one under `runs/`; None where the folder is decided."""
    from detection.training.resuming import is_restarted

    decided = args.output is not None or args.resume_or_start or is_restarted()
    return None if decided else Path(args.config or "quickstart").stem


def _train(args: argparse.Namespace) -> None:
    from detection.config import load_config
    from detection.detector import require_buildable
    from detection.runs.folder import open_config, taken_folder
    from detection.scenes.ensure import ensure_scenes
    from detection.training.loaders import build_accelerator
    from detection.training.run import train

    config, folder, resume = choose_run(args, load_config, open_config)
    accelerator = build_accelerator(config.precision, args.device)
    require_buildable(config.detector, num_classes=1)  # before images are drawn or read
    # The others wait, and then find the images; all would draw the same files.
    if accelerator.is_main_process:
        ensure_scenes(config.data)
    accelerator.wait_for_everyone()
    with taken_folder(folder, folder_name(args), accelerator) as folder:
        train(config, folder, accelerator, resume=resume)


if __name__ == "__main__":
    sys.exit(main())
