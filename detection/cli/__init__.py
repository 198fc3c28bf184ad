"""Commands: one file each, an argument parser and one call.

Slow imports, torch above all, are inside of functions: help and a mistyped option are answered without them.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detection.errors import UserError

CHANGES = "changes of settings; a key may be its shortest unique ending (epochs=2, context=NoContext)"
"""Help on `key=value`."""

DEVICES = ("cpu", "cuda", "mps")
DEVICE = "CUDA's GPU if left out, else the CPU; the GPU of a Mac, mps, only if it is named"
"""Help on `--device`."""


def command_parser(name: str, description: str | None, *, trust: bool = False) -> argparse.ArgumentParser:
    """Return an empty parser of the command `detection NAME`.

    Args:
        name: of the command.
        description: the docstring of its module.
        trust: whether the command opens runs or configs, whose parts may come from other packages (`--trust`).
    """
    formatter = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=f"detection {name}", description=description, formatter_class=formatter)
    if trust:
        parser.add_argument(
            "--trust",
            action=_Trust,
            default=[],
            metavar="PACKAGE",
            help="open parts of this package too, found in the current folder or the environment; repeatable",
        )
    return parser


def require_free(output: Path | None, option: str = "--output") -> None:
    """Check that there is nothing yet where a folder is to be written, or an empty folder.

    Raises:
        UserError: there is.
    """
    if output is not None and os.path.lexists(output) and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: exists already and is not an empty folder; choose another {option}.")


class _Parser(argparse.ArgumentParser):
    """A parser in whose command lines options may stand between files, as in those of other tools."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Return the arguments as `argparse` does; parsers of subcommands keep its order."""
        # `parse_intermixed_args` raises a TypeError for a parser with subcommands.
        if any(action.nargs == argparse.PARSER for action in self._actions):
            return super().parse_args(args, namespace)
        return self.parse_intermixed_args(args, namespace)


class _Trust(argparse.Action):
    """Trust a package from here on, in this process."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        from detection.config.parts import trust

        trust([values])
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])
