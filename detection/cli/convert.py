"""Convert annotations of another format to COCO JSON.

detection convert --from voc ANNOTATIONS IMAGES OUT.json [--ids LIST.txt]
detection convert --from tensorbox IN.json IMAGES OUT.json [--back]

`detection convert --from FORMAT --help` describes a format and its options.
"""

import argparse
import importlib
import sys
from pathlib import Path

from detection.atomic_write import write_json
from detection.cli import command_parser
from detection.errors import UserError, command_line
from detection.names import short_line

FORMATS = {"voc": "detection.data.voc_to_coco", "tensorbox": "detection.data.tensorbox_to_coco"}


@command_line
def main(argv: list[str] | None = None) -> None:
    """Choose the format, whose module reads and converts, and write the file."""
    # Where a format is given, --help is about it.
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--from", dest="format")
    args, rest = chooser.parse_known_args(argv)
    if args.format not in FORMATS:
        parser = command_parser("convert", __doc__)
        parser.add_argument("--from", metavar="FORMAT", help=f"format to read: {' or '.join(FORMATS)}")
        parser.parse_known_args(rest)
        if args.format is None:
            raise UserError(f"give the format to read: --from {' or --from '.join(FORMATS)}.")
        raise UserError(f"--from {args.format}: no such format; choose {' or '.join(FORMATS)}.")
    converter = importlib.import_module(FORMATS[args.format])
    parser = command_parser(f"convert --from {args.format}", converter.__doc__)
    converter.add_arguments(parser)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images")
    parser.add_argument("out", type=Path, metavar="OUT.json", help="file to write")
    categories_help = "take the categories of a COCO file, or number comma-separated names from 1 (default: see above)"
    parser.add_argument("--categories", metavar="A.json|NAMES", help=categories_help)
    options = parser.parse_args(rest)
    if not options.images.is_dir():
        raise UserError(f"{options.images} is no folder; give the folder of images as IMAGES")
    if options.out.is_dir():
        raise UserError(f"{options.out} cannot be written: it is a folder; name a file as OUT.json")
    data, report = converter.convert(options)
    try:
        write_json(options.out, data, indent=None)
    except OSError as error:
        raise UserError(f"{options.out} cannot be written ({error.strerror}); choose another OUT.json") from error
    print(f"{short_line(str(options.out))}: {report}")


if __name__ == "__main__":
    sys.exit(main())
