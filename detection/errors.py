"""A user's mistake: one sentence and exit code 2, no traceback."""

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable

from detection.system_errors import explain

from detection.names import LONGEST_LINE, printable_streams, shorten, visible


class UserError(Exception):
    """A mistake in what the user gave: names the file, image or annotation id, key, and what to do about it.

    Raised in a DataLoader worker it is raised again by torch with a traceback as its text; the sentence is taken out.
    """

    def __init__(self, message: str) -> None:
        if "\n" in message:  # a worker's traceback, whose last line is the sentence
            message = message.rpartition(f"{__name__}.UserError: ")[2]
        super().__init__(message.strip())


class Interrupted(KeyboardInterrupt):
    """A signal that asked this process to end.

    Attributes:
        number: of the signal; the exit code is 128 more.
        advice: what is saved and how to go on; empty where nothing is known of it.
    """

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}" + (f": {advice}" if advice else ""))
        self.number, self.advice = number, advice


def command_line(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap a tool's `main`: a `UserError` becomes `error: <sentence>` and exit code 2, a signal its number plus 128.

    Whatever is printed, a terminal whose encoding lacks a character gets it escaped.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        printable_streams()
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            print(f"error: {shorten(visible(str(error)), LONGEST_LINE)}", file=sys.stderr)
            return 2
        except Interrupted as interrupt:
            if os.environ.get("RANK", "0") == "0":  # one of several processes is enough
                print(interrupt, file=sys.stderr)
            return 128 + interrupt.number
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            if (sentence := explain(error)) is None:
                raise
            print(f"error: {sentence}", file=sys.stderr)
            return 2

    return run


def _excepthook(args: threading.ExceptHookArgs) -> None:
    """Leave out a thread's traceback of what the main thread meets, too: TensorBoard writes in a thread."""
    if args.exc_value is None or explain(args.exc_value) is None:
        threading.__excepthook__(args)
