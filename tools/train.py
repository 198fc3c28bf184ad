"""Train a detector, evaluate it and draw what it sees.

python tools/train.py                                   the quick start
python tools/train.py CONFIG [--output RUN] [key=value ...]
python tools/train.py [CONFIG] --output RUN --resume    go on with a run that was stopped
torchrun --nproc-per-node N tools/train.py CONFIG ...   several processes
"""

import argparse
import subprocess
import sys
from pathlib import Path

from detection.errors import UserError, command_line

ROOT = Path(__file__).resolve().parents[1]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", help="a config file; the quick start if left out")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as schedule.epochs=2")
    parser.add_argument("--output", type=Path, help="the run folder; a new one under runs/ if left out")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output, with its own config")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="the best there is if left out")
    args = parser.parse_intermixed_args(argv)
    if args.config is not None and "=" in args.config:
        args.overrides.insert(0, args.config)
        args.config = None
    if args.resume and args.output is None:
        raise UserError("--resume: name the run to go on with as --output RUN.")
    return args


def draw_scenes(config, main: bool) -> None:
    """Make the ContextScenes set of a config where it is not there yet; one with other parameters is refused."""
    scenes, annotations = config.data.scenes, Path(config.data.train.annotations)
    if scenes is None or not main:
        return
    if not annotations.exists():
        count = f"{scenes.train} + {scenes.val}"
        print(f"drawing {count} pictures of ContextScenes {scenes.task!r} into {annotations.parent}", flush=True)
    sizes = [f"--{name}={getattr(scenes, name)}" for name in ("task", "train", "val", "test", "size", "seed")]
    sizes += [] if scenes.cue else ["--no-cue"]
    sizes += [] if scenes.difficulty is None else [f"--difficulty={scenes.difficulty}"]
    script = ROOT / "datasets" / "context_scenes.py"
    done = subprocess.run(
        [sys.executable, str(script), str(annotations.parent), *sizes], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"{script.name}: {done.stderr.strip().removeprefix('error: ')}")


@command_line
def main(argv: list[str] | None = None) -> None:
    """Open config and data, then train; nothing is written before all of them are sound."""
    args = parse(argv)
    from detection.config import load_config
    from detection.runs import build_accelerator, new_run_folder, open_config
    from detection.training import train

    if args.resume:
        config, folder = open_config(args.output, args.overrides), args.output
    else:
        path = Path(args.config) if args.config else ROOT / "configs" / "quickstart.py"
        config = load_config(path, args.overrides)
        folder = new_run_folder(args.output, path.stem)
    accelerator = build_accelerator(config.precision, args.device)
    draw_scenes(config, accelerator.is_main_process)
    accelerator.wait_for_everyone()
    train(config, folder, accelerator, resume=args.resume)


if __name__ == "__main__":
    sys.exit(main())
