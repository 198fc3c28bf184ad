"""Draw COCO data sets of handwritten music from the annotations of MUSCIMA++."""

import sys
from pathlib import Path

from detection.cli import command_parser, require_free
from detection.errors import command_line


@command_line
def main(argv: list[str] | None = None) -> None:
    """Read all pages and draw a set."""
    from detection.data import muscima_to_coco
    from detection.data.muscima import read_pages

    parser = command_parser("muscima", muscima_to_coco.__doc__)
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS", help="folder of MUSCIMA++'s CropObject files")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write: train.json, val.json and images/")
    parser.add_argument("--set", choices=muscima_to_coco.SETS, default="clef", help="what is drawn (default: clef)")
    split_help = "whether writers may be in both splits (default: shared); no piece is"
    parser.add_argument("--split", choices=("shared", "writers"), default="shared", help=split_help)
    args = parser.parse_args(argv)
    require_free(args.out, "OUT")
    print(muscima_to_coco.draw_set(read_pages(args.annotations), args.set, args.split, args.out))


if __name__ == "__main__":
    sys.exit(main())
