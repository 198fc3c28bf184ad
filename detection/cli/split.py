"""Split a COCO file in train, val and test, groups of images together and rare classes in each.

detection split ANNOTATIONS.json --fractions train=0.8 val=0.1 test=0.1 [--stratify] [--group KEY|REGEX] [--seed S]

Writes train.json, val.json and test.json next to ANNOTATIONS.json, or into --output: entries, ids and categories stay
as they are, so all parts have the same classes and the same folder of images.

Entries of one file are always in one part. --group keeps images together that are alike, such as those of a film or a
patient: a key of the image entries, or a regular expression for their file names, of which the first group counts:
--group '^([^_]+)_' for film7_0001.jpg.
--stratify spreads every class by the same fractions, rare ones first, so that each part has all classes if their images
suffice.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from detection.atomic_write import write_json
from detection.cli import command_parser
from detection.errors import UserError, command_line
from detection.names import short_line, short_names


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("split", __doc__)
    parser.add_argument("source", type=Path, metavar="ANNOTATIONS.json")
    fractions = "share of the images that each part gets; together 1"
    parser.add_argument("--fractions", nargs="+", required=True, metavar="NAME=FRACTION", help=fractions)
    parser.add_argument("--group", metavar="KEY|REGEX", help="keep images of one group together (default: each alone)")
    parser.add_argument("--stratify", action="store_true", help="spread every class by the same fractions")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the choice; 0")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder to write to (default: that of the file)")
    parser.add_argument("--overwrite", action="store_true", help="replace files of these names")
    return parser


@command_line
def main(argv: list[str] | None = None) -> None:
    """Choose the images of each part, and write and count them."""
    args = _parser().parse_args(argv)
    from detection.data.checks import BOX_KINDS, examine, read_annotations
    from detection.data.splitting import assign, group_names, make_groups, parse_fractions

    fractions, source = parse_fractions(args.fractions), args.source
    folder = source.parent if args.output is None else args.output
    outs = {part: folder / f"{part}.json" for part in fractions}
    for out in outs.values():
        if out.resolve() == source.resolve():
            raise UserError(f"{out} is the file to split; give another folder by --output.")
        if out.exists() and (out.is_dir() or not args.overwrite):
            raise UserError(f"{out} is there already; add --overwrite to replace it, or give --output FOLDER.")
    data = read_annotations(source)
    tables, problems = examine(data, source)
    if others := [problem for problem in problems if problem.kind not in BOX_KINDS]:
        raise UserError(others[0].sentence)
    names = group_names(data["images"], args.group)
    groups = make_groups(names, tables.image_rows.tolist(), tables.category_rows.tolist())
    parts = assign(groups, fractions, args.seed, args.stratify)
    if empty := [part for part, rows in parts.items() if not rows]:
        raise UserError(
            f"{source}: no image is left for {' and '.join(empty)} ({len(names)} images in {len(groups)} groups); give "
            "larger fractions, fewer parts or smaller groups."
        )
    made = {part: _part(data, rows) for part, rows in parts.items()}
    for part, out in outs.items():
        try:
            write_json(out, made[part], indent=None)
        except OSError as error:
            raise UserError(f"{out} cannot be written ({error.strerror}); choose another --output.") from error
    in_groups = "" if args.group is None else f" in {len(groups)} groups"
    if args.group is None and len(groups) < len(names):
        in_groups = f" of {len(groups)} files"
    print(short_line(f"{source}: {len(names)} images{in_groups}, split with seed {args.seed}") + "\n")
    print("\n".join(_table(data, made, outs)))


def _part(data: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    images = [data["images"][row] for row in rows]
    ids = {image["id"] for image in images}
    return {**data, "images": images, "annotations": [item for item in data["annotations"] if item["image_id"] in ids]}


def _table(data: dict[str, Any], made: dict[str, dict[str, Any]], outs: dict[str, Path]) -> list[str]:
    """Return images and boxes by class of each part, and what a part lacks."""
    counts = {part: Counter(item["category_id"] for item in own["annotations"]) for part, own in made.items()}
    names = short_names(category["name"] for category in data["categories"])
    first, wide = max(map(len, [*names, "images"])), max(9, *map(len, made))
    rows = [("images", [len(own["images"]) for own in made.values()])]
    rows += [
        (name, [counts[part][category["id"]] for part in made])
        for name, category in zip(names, data["categories"], strict=True)
    ]
    lines = [" " * first + "".join(f"  {part:>{wide}}" for part in made)]
    lines += [f"{name:{first}}" + "".join(f"  {count:>{wide}}" for count in values) for name, values in rows]
    for column, part in enumerate(made):
        if lacking := [name for name, values in rows[1:] if sum(values) and not values[column]]:
            lines.append(f"{part} has no box of {', '.join(lacking)}")
    return [*lines, "", *(f"{short_line(str(out))}" for out in outs.values())]


if __name__ == "__main__":
    sys.exit(main())
