"""List the shipped configs, or copy one to start your config from.

detection configs                    names and first lines
detection configs copy NAME DIR      copy one (`finetune`, `ablations/smoke`) into a folder
"""

import ast
import shutil
import sys
from pathlib import Path

from detection.atomic_write import atomic_write
from detection.cli import command_parser
from detection.errors import UserError, command_line


@command_line
def main(argv: list[str] | None = None) -> None:
    """List the configs, or copy one."""
    parser = command_parser("configs", __doc__)
    commands = parser.add_subparsers(dest="command", metavar="copy")
    copy = commands.add_parser("copy", help="copy a shipped config")
    copy.add_argument("name", metavar="NAME")
    copy.add_argument("folder", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    from detection.config.files import find_config, shipped_configs

    if args.command is None:
        shipped = {name: _first_line(path) for name, path in shipped_configs().items()}
        width = max(map(len, shipped), default=0)
        print("\n".join(f"{name:{width}}  {line}" for name, line in shipped.items()))
        return
    source = find_config(args.name)
    target = args.folder / source.name
    if target.exists():
        raise UserError(f"{target}: exists already; choose another folder.")
    try:
        atomic_write(target, lambda temporary: shutil.copyfile(source, temporary))
    except OSError as error:
        raise UserError(f"{args.folder}: cannot be written ({error.strerror}); choose another folder.") from None
    print(f"copied to {target}")


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.splitlines()[0] if docstring else ""


if __name__ == "__main__":
    sys.exit(main())
