"""A user's mistake: one sentence and exit code 2, no traceback."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in what the user gave: names the file, image or annotation id, key, and what to do about it.

    Raised in a DataLoader worker it is raised again by torch with a traceback as its text; the sentence is taken out.
    """

    def __init__(self, message: str) -> None:
        if "\n" in message:  # a worker's traceback, whose last line is the sentence
            message = message.rpartition(f"{__name__}.UserError: ")[2]
        super().__init__(message.strip())


def command_line(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap a tool's `main`: a `UserError` becomes `error: <sentence>` on stderr and exit code 2, Ctrl-C becomes 130."""

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return run
