"""Commands: one file each, an argument parser and one call."""

import argparse


def command_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return an empty parser of the command `detection NAME`, described by its module's docstring."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"detection {name}", description=description, formatter_class=formatter)
