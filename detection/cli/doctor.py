"""Report everything wrong with a COCO-style data set.

detection doctor ANNOTATIONS.json IMAGES [--masks] [--fix OUT.json]

Exit code 0: fit for training; 1: something would break training; 2: the input cannot be examined, or repaired.
The code is about ANNOTATIONS.json, with or without --fix; run it on OUT.json to see that the copy is fit. Masks are not
repaired: `data.masks=boxes` trains without them.
"""

import sys
from pathlib import Path

from detection.cli import command_parser
from detection.errors import UserError, command_line


@command_line
def main(argv: list[str] | None = None) -> int:
    """Examine a data set, print the report, and write the repaired copy if asked to."""
    parser = command_parser("doctor", __doc__)
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS.json")
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder to which file names are relative")
    parser.add_argument("--masks", action="store_true", help="check masks too, for training with a segmentation loss")
    parser.add_argument("--fix", type=Path, metavar="OUT.json", help="write a repaired copy, and list what changed")
    args = parser.parse_args(argv)
    if args.fix is not None and args.fix.resolve() == args.annotations.resolve():
        raise UserError(f"--fix {args.fix} would overwrite the annotations: give the copy another name.")

    from detection.data.doctor import diagnose

    return 0 if diagnose(args.annotations, args.images, masks=args.masks, fix=args.fix) else 1


if __name__ == "__main__":
    sys.exit(main())
