"""Draw ContextScenes, data sets in COCO format of which each asks one question of a detector.

    detection scenes datasets/shapes --task shapes

writes OUT/train.json with OUT/train/000001.png … and the same for val and test. An image depends only on the task, its
settings, the seed, its split and its number: drawing more of them, or another split, changes none of the others. Each
task is a file of `detection.scenes`; docs/context_scenes.md shows them all.
"""

import argparse
import sys
from pathlib import Path

from detection.cli import command_parser
from detection.errors import UserError, command_line
from detection.scenes.files import make, split_info
from detection.scenes.tasks import SPLITS, TASKS, require_canvas


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; a `UserError` for a number that is too small, or nothing to make."""
    knobs = {name: task.knob for name, task in TASKS.items()}
    lines = [f"  {name:9} {k.meaning}: {k.low:g} to {k.high:g}, default {k.default:g}" for name, k in knobs.items()]
    parser = command_parser("scenes", __doc__)
    parser.epilog = "\n".join(["what --difficulty D means for each task:", *lines])
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="folder to make")
    parser.add_argument("--task", default="shapes", choices=sorted(TASKS), help="what to draw (default: shapes)")
    for split, count in zip(SPLITS, (400, 100, 0), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"images (default: {count})")
    parser.add_argument("--size", type=int, default=128, metavar="S", help="side of an image in pixels (default: 128)")
    canvas_help = "side of an image, with objects and cues as large as of --size and farther apart (default: --size)"
    parser.add_argument("--canvas", type=int, metavar="S", help=canvas_help)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of all images (default: 0)")
    cue_help = "--no-cue draws the control version: the cue does not depend on the classes"
    parser.add_argument("--cue", action=argparse.BooleanOptionalAction, default=True, help=cue_help)
    parser.add_argument("--difficulty", type=float, metavar="D", help="how hard the task is; see below")
    parser.add_argument("--overwrite", action="store_true", help="replace ContextScenes of other parameters in OUT")
    figure_help = "draw six images with their ground truth, no data"
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help=figure_help)
    options = parser.parse_args(argv)
    for key, least in {"size": 64, "seed": 0, "train": 0, "val": 0, "test": 0}.items():
        if getattr(options, key) < least:
            raise UserError(f"--{key} {getattr(options, key)} is too small: give {least} or more")
    require_canvas(options.task, options.size, options.canvas)
    if (options.out is None) == (options.figure is None):
        raise UserError("give either OUT, the folder to make, or --figure FILE.png")
    return options


@command_line
def main(argv: list[str] | None = None) -> None:
    """Draw a data set, or a figure of one."""
    options = parse(argv)
    made_from = {name: getattr(options, name) for name in ("size", "seed", "cue", "difficulty", "canvas")}
    if options.figure is not None:
        from detection.scenes.figure import write_figure

        write_figure(options.figure, split_info(options.task, "val", 6, **made_from))
        return
    counts = {split: getattr(options, split) for split in SPLITS}
    infos = [split_info(options.task, split, count, **made_from) for split, count in counts.items() if count]
    if not infos:
        raise UserError("no images to make: give --train, --val or --test a number above 0")
    made = make(options.out, infos, options.overwrite)
    total = " + ".join(f"{info['images']} {info['split']}" for info in infos)
    print(f"{options.out}: {total} images" + ("" if made else " are already there, nothing to do"))


if __name__ == "__main__":
    sys.exit(main())
