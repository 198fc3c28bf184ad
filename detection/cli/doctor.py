"""Report everything wrong with a COCO-style data set, and write a repaired copy.

detection doctor ANNOTATIONS.json IMAGES [--with OTHER.json IMAGES] [--masks]
detection doctor ANNOTATIONS.json IMAGES --fix OUT.json [--boxes READING] [--drop-boxes] [--categories OTHER.json]
detection doctor CONFIG [data.train.annotations=…]         the splits of a config, together

Exit code 0: fit for training; 1: something would break training, or be learned wrong; 2: the input cannot be examined,
or repaired. The code is about the input, with or without --fix; run it on OUT.json to see that the copy is fit. Masks
are not repaired: `data.masks=boxes` trains without them.

READING is what the numbers of a box mean, if not xywh: xyxy, cxcywh, yxhw, yxyx or xyhw; with /1 they are shares of 1
of the image's sides, with *0.5 pixels of an image twice as large; raw: drawn without the EXIF orientation; scaled:
drawn at the size that the file lists.
"""

import argparse
import sys
from pathlib import Path

from detection.cli import command_parser
from detection.errors import UserError, command_line


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("doctor", __doc__, trust=True)
    parser.add_argument("source", metavar="ANNOTATIONS.json|CONFIG")
    parser.add_argument("rest", nargs="*", metavar="IMAGES|key=value", help="folder to which file names are relative")
    together = "examine another split together with the first; repeatable"
    parser.add_argument(
        "--with", dest="others", action="append", nargs=2, type=Path, default=[], metavar=("OTHER.json", "IMAGES"),
        help=together,
    )  # fmt: skip
    parser.add_argument("--masks", action="store_true", help="check masks too, for training with a segmentation loss")
    parser.add_argument("--fix", type=Path, metavar="OUT.json", help="write a repaired copy, and list what changed")
    parser.add_argument(
        "--boxes", metavar="READING", help="what the boxes mean; --fix converts them (xywh: as they are)"
    )
    drop = "--fix: leave out boxes that cannot be kept, and keep their images, where their objects become background"
    parser.add_argument("--drop-boxes", action="store_true", help=drop)
    parser.add_argument("--merge-categories", action="store_true", help="--fix: make one of categories of one name")
    ids = "--fix: give the categories the ids that they have, by name, in another file"
    parser.add_argument("--categories", type=Path, metavar="OTHER.json", help=ids)
    return parser


@command_line
def main(argv: list[str] | None = None) -> int:
    """Examine a data set, print the report, and write the repaired copy if asked to."""
    args = _parser().parse_args(argv)
    sets = _given_sets(args) + [(path, images) for path, images in args.others]
    if args.fix is not None and args.fix.is_dir():
        raise UserError(f"--fix {args.fix} is a folder: name the file to write.")
    if args.fix is not None and any(args.fix.resolve() == path.resolve() for path, _ in sets):
        raise UserError(f"--fix {args.fix} would overwrite the annotations: give the copy another name.")
    if args.fix is not None and args.categories is not None and args.fix.resolve() == args.categories.resolve():
        raise UserError(f"--fix {args.fix} would overwrite the file of --categories: give the copy another name.")
    if args.fix is None and (args.drop_boxes or args.merge_categories or args.categories):
        raise UserError("--drop-boxes, --merge-categories and --categories are for --fix OUT.json: add it.")

    from detection.data.box_readings import parse_reading
    from detection.data.category_repair import categories_of
    from detection.data.doctor import diagnose
    from detection.data.repair import RepairOptions

    reading = None if args.boxes is None else parse_reading(args.boxes)
    categories = None if args.categories is None else categories_of(args.categories)
    options = RepairOptions(reading, args.drop_boxes, args.merge_categories, categories)
    return 0 if diagnose(sets, masks=args.masks, fix=args.fix, options=options) else 1


def _given_sets(args: argparse.Namespace) -> list[tuple[Path, Path]]:
    """Return the annotation file and images of the first arguments, or those of a config's splits."""
    overrides = [word for word in args.rest if "=" in word and not Path(word).is_dir()]
    images = [word for word in args.rest if word not in overrides]
    if len(images) == 1 and not overrides:
        return [(Path(args.source), Path(images[0]))]
    if images or Path(args.source).suffix == ".json":
        raise UserError(f"give {args.source} and its folder of images, or a config and key=value: see --help.")
    if args.fix is not None:
        raise UserError("--fix repairs one file: give ANNOTATIONS.json IMAGES instead of a config.")

    from detection.config import load_config
    from detection.config.files import find_config

    data = load_config(find_config(args.source), overrides).data
    sets = []
    for name in ("train", "val", "test"):
        split = getattr(data, name)
        if bool(split.annotations) != bool(split.images):
            given, other = ("annotations", "images") if split.annotations else ("images", "annotations")
            raise UserError(f"data.{name}.{given} is set and data.{name}.{other} is not: give both, or neither.")
        if split.annotations and split.images:
            sets.append((Path(split.annotations), Path(split.images)))
    if not sets:
        keys = "data=FOLDER, or data.train.annotations=TRAIN.json data.train.images=FOLDER"
        raise UserError(f"{args.source} names no data: add {keys}.")
    return sets


if __name__ == "__main__":
    sys.exit(main())
