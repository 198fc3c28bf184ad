"""Merge COCO files to one, categories by name.

detection merge A.json IMAGES_A B.json IMAGES_B [C.json IMAGES_C …] OUT.json [--ignore-case]

Images, boxes and categories get new numbers from 1; categories of one name are one class, in the order of the files.
File names become relative to the deepest folder that holds all IMAGES, so images of one name in different folders stay
two images; a file that several annotation files list is one image with the boxes of all, equal boxes once. Licenses and
infos are kept. What is written is examined as by `detection doctor`.
"""

import sys
from collections import Counter
from pathlib import Path

from detection.atomic_write import write_json
from detection.cli import command_parser
from detection.errors import UserError, command_line
from detection.names import short_line


@command_line
def main(argv: list[str] | None = None) -> None:
    """Join the files, and write and examine the result."""
    parser = command_parser("merge", __doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="A.json IMAGES_A … OUT.json")
    case = "make one class of names that differ only in case or spaces around them"
    parser.add_argument("--ignore-case", action="store_true", help=case)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.json")
    parser.add_argument("--no-check", action="store_true", help="do not examine what was written")
    args = parser.parse_args(argv)
    *pairs, out = args.paths
    if len(pairs) < 4 or len(pairs) % 2:
        raise UserError("give two annotation files or more, each with its folder of images, and OUT.json at the end.")
    files, folders = pairs[::2], pairs[1::2]
    if out.exists() and out.resolve() in [file.resolve() for file in files]:
        raise UserError(f"{out} is one of the files to join; give another OUT.json.")
    if out.exists() and (out.is_dir() or not args.overwrite):
        raise UserError(f"{out} is there already; give another OUT.json, or add --overwrite to replace a file.")

    from detection.data.conversion import conversion_report
    from detection.data.merging import Merger, common_folder

    merger = Merger(common_folder(folders), args.ignore_case)
    for file, folder in zip(files, folders, strict=True):
        merger.add(file, folder)
    data = merger.result()
    try:
        write_json(out, data, indent=None)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); choose another OUT.json") from error
    root = merger.root
    shown = root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root
    report = conversion_report(data, dict(Counter(merger.counts)), {"worth knowing": merger.remarks})
    print(f"{short_line(str(out))}: {report}\n  its images are relative to {short_line(str(shown))}")
    if not args.no_check:
        from detection.data.doctor import diagnose

        print()
        diagnose([(out, shown)])


if __name__ == "__main__":
    sys.exit(main())
