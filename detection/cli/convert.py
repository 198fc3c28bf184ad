"""Convert annotations of another format to COCO JSON.

detection convert --from voc ANNOTATIONS IMAGES OUT.json [--ids LIST.txt]
detection convert --from tensorbox IN.json IMAGES OUT.json [--back]

`detection convert --from FORMAT --help` lists the options of a format.
"""

import argparse
import importlib
import sys

from detection.errors import command_line

FORMATS = {"voc": "detection.data.voc_to_coco", "tensorbox": "detection.data.tensorbox_to_coco"}


@command_line
def main(argv: list[str] | None = None) -> int:
    """Choose the format, whose module reads the other arguments."""
    parser = argparse.ArgumentParser(
        prog="detection convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("--from", dest="format", choices=sorted(FORMATS), help="format that is read")
    args, rest = parser.parse_known_args(argv)
    if args.format is None:
        if {"-h", "--help"} & set(rest):
            parser.print_help()
            return 0
        parser.error("give the format that is read: --from " + " or --from ".join(sorted(FORMATS)))
    return importlib.import_module(FORMATS[args.format]).main(rest)


if __name__ == "__main__":
    sys.exit(main())
