"""Convert annotations of another format to COCO JSON.

detection convert --from yolo DATA [OUT_FOLDER]          all splits of a YOLO folder or data.yaml
detection convert --from yolo LABELS IMAGES OUT.json [--categories classes.txt]
detection convert --from cvat ANNOTATIONS.xml IMAGES OUT.json
detection convert --from labelme FOLDER IMAGES OUT.json
detection convert --from dota LABELS IMAGES OUT.json
detection convert --from voc ANNOTATIONS IMAGES OUT.json [--ids LIST.txt]
detection convert --from tensorbox IN.json IMAGES OUT.json [--back]

`detection convert --from FORMAT --help` describes a format and its options. Everything that is left out or changed is
counted, nothing is written unless all is read, and what is written is examined as by `detection doctor`.
"""

import argparse
import importlib
import sys
from pathlib import Path

from detection.atomic_write import write_json
from detection.cli import command_parser
from detection.data.conversion import Conversion
from detection.data.folder_layout import find_splits
from detection.data.importing.yolo_layout import SPLITS
from detection.errors import UserError, command_line
from detection.names import short_line

FORMATS = {
    "yolo": "detection.data.importing.yolo",
    "cvat": "detection.data.importing.cvat",
    "labelme": "detection.data.importing.labelme",
    "dota": "detection.data.importing.dota",
    "voc": "detection.data.voc_to_coco",
    "tensorbox": "detection.data.tensorbox_to_coco",
}
_NAMES = f"{', '.join(list(FORMATS)[:-1])} or {list(FORMATS)[-1]}"


@command_line
def main(argv: list[str] | None = None) -> None:
    """Choose the format, whose module reads and converts, write the files, and examine them."""
    # Where a format is given, --help is about it.
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--from", dest="format")
    args, rest = chooser.parse_known_args(argv)
    if args.format not in FORMATS:
        parser = command_parser("convert", __doc__)
        parser.add_argument("--from", metavar="FORMAT", help=f"format to read: {_NAMES}")
        parser.parse_known_args(rest)
        if args.format is None:
            raise UserError(f"give the format to read: --from {_NAMES}.")
        raise UserError(f"--from {args.format}: no such format; choose {_NAMES}.")
    converter = importlib.import_module(FORMATS[args.format])
    parser = command_parser(f"convert --from {args.format}", converter.__doc__)
    converter.add_arguments(parser)
    categories_help = "categories of a COCO file, or names with commas between or in a text file, numbered from 1"
    parser.add_argument("--categories", metavar="A.json|LIST.txt|NAMES", help=f"{categories_help} (default: see above)")
    parser.add_argument("--no-check", action="store_true", help="do not examine what was written")
    options = parser.parse_args(rest)
    if hasattr(options, "images") and not options.images.is_dir():
        raise UserError(f"{options.images} is no folder; give the folder of images as IMAGES")
    conversions = converter.convert(options)
    inputs = _inputs(options)
    for conversion in conversions:
        if conversion.out.is_dir():
            raise UserError(f"{conversion.out} cannot be written: it is a folder; name a file as OUT.json")
        if conversion.out.resolve() in inputs:
            raise UserError(f"{conversion.out} is a file to read; give another OUT.json")
    for conversion in conversions:
        _write(conversion)
    if isinstance(paths := getattr(options, "paths", None), list) and len(paths) < 3:
        print(_how_to_train(conversions, paths[0] if paths[0].is_dir() else paths[0].parent))
    examined = [(conversion.out, conversion.images) for conversion in conversions if conversion.images is not None]
    if examined and not options.no_check:
        from detection.data.doctor import diagnose

        print()
        diagnose(examined)


def _inputs(options: argparse.Namespace) -> set[Path]:
    """Return the files and folders that were given to be read."""
    given = [getattr(options, key, None) for key in ("source", "ids", "categories")]
    given += getattr(options, "paths", [])[:2]  # the third of YOLO is OUT.json
    return {Path(path).resolve() for path in given if path is not None}


def _how_to_train(conversions: list[Conversion], folder: Path) -> str:
    """Return how training finds what was made of a data set's folder."""
    made = {(conversion.out.resolve(), Path(str(conversion.images)).resolve()) for conversion in conversions}
    try:
        found = {(files.annotations.resolve(), files.images.resolve()) for files in find_splits(folder).values()}
    except UserError:
        found = None
    if found == made:
        return short_line(f"train on it by data={folder}")
    keys = (f"data.{c.out.stem}.annotations={c.out} data.{c.out.stem}.images={c.images}" for c in conversions)
    named = [key for key, c in zip(keys, conversions, strict=True) if c.out.stem in SPLITS]
    if not named:
        return short_line(f"split it by detection split {conversions[0].out} --fractions train=0.8 val=0.2 --stratify")
    return short_line(f"train on it by {' '.join(named)}")


def _write(conversion: Conversion) -> None:
    try:
        write_json(conversion.out, conversion.data, indent=None)
    except OSError as error:
        raise UserError(f"{conversion.out} cannot be written ({error.strerror}); choose another OUT.json") from error
    print(f"{short_line(str(conversion.out))}: {conversion.report}")


if __name__ == "__main__":
    sys.exit(main())
