"""The console script `detection`: one command a file of `detection.cli`."""

import ast
import difflib
import importlib
import sys
from pathlib import Path

from detection import __version__
from detection.names import printable_streams

_NO_COMMANDS = ("__init__", "main")


def commands() -> dict[str, str]:
    """Return the commands and the first line of each one's docstring, without importing any."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if path.stem not in _NO_COMMANDS)
    texts = ((path.stem, ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))) for path in files)
    return {name: (text or "").splitlines()[0] for name, text in texts}


def main(argv: list[str] | None = None) -> int:
    """Run a command, or list them all."""
    argv = sys.argv[1:] if argv is None else argv
    printable_streams()
    known = commands()
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, known))
        print("usage: detection COMMAND ...\n")
        print("\n".join(f"  {name:{width}}  {line}" for name, line in known.items()))
        print("\n`detection COMMAND --help` describes one.")
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    name = argv[0].replace("-", "_")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`detection --help` lists the commands."
        print(f"error: {argv[0]}: no such command; {hint}", file=sys.stderr)
        return 2
    return importlib.import_module(f"detection.cli.{name}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
