"""Commands: one file each, an argument parser and one call."""

import argparse
from typing import Any

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
    parser = argparse.ArgumentParser(prog=f"detection {name}", description=description, formatter_class=formatter)
    if trust:
        parser.add_argument(
            "--trust",
            action=_Trust,
            default=[],
            metavar="PACKAGE",
            help="open parts of this package too, found in the current folder or the environment; repeatable",
        )
    return parser


class _Trust(argparse.Action):
    """Trust a package from here on, in this process."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        from detection.config.parts import trust

        trust([values])
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])
