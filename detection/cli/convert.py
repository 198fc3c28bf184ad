"""Convert annotations of another format to COCO JSON.

detection convert --from voc ANNOTATIONS IMAGES OUT.json [--ids LIST.txt]
detection convert --from tensorbox IN.json IMAGES OUT.json [--back]

`detection convert --from FORMAT --help` lists the options of a format.
"""

import argparse
import importlib
import sys

from detection.errors import UserError, command_line

FORMATS = {"voc": "detection.data.voc_to_coco", "tensorbox": "detection.data.tensorbox_to_coco"}


@command_line
def main(argv: list[str] | None = None) -> int:
    """Choose the format, whose module reads the other arguments."""
    # Where a format is given, --help is for its module.
    parser = argparse.ArgumentParser(
        prog="detection convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--from", dest="format", metavar="FORMAT", help=f"format to read: {' or '.join(FORMATS)}")
    args, rest = parser.parse_known_args(argv)
    if args.format in FORMATS:
        return importlib.import_module(FORMATS[args.format]).main(rest)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        return 0
    if args.format is None:
        raise UserError(f"give the format to read: --from {' or --from '.join(FORMATS)}.")
    raise UserError(f"--from {args.format}: no such format; choose {' or '.join(FORMATS)}.")


if __name__ == "__main__":
    sys.exit(main())
