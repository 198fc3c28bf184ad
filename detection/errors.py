"""A user's mistake: one sentence and exit code 2, no traceback."""

import contextlib
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

from detection.names import printable_streams, short_line
from detection.system_errors import explain


class UserError(Exception):
    """A mistake in what the user gave: names the file, image or annotation id, key, and what to do about it.

    Raised in a DataLoader worker it is raised again by torch with a traceback as its text; the sentence is taken out.
    """

    def __init__(self, message: str) -> None:
        if "\n" in message:  # a worker's traceback, whose last line is the sentence
            message = message.rpartition(f"{__name__}.UserError: ")[2]
        super().__init__(message.strip())


@contextlib.contextmanager
def building(what: str) -> Iterator[None]:
    """Raise whatever goes wrong while `what` is built of settings as one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{what}: cannot be built from these settings: {type(error).__name__}: {reason} "
            f"({os.path.basename(frame.filename)}, line {frame.lineno}); check what was changed last."
        ) from error


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
    """Wrap a tool's `main`, so that a person's mistake and what the system refuses are one sentence, no traceback.

    A `UserError` and an error that `system_errors.explain` knows become `error: <sentence>` and exit code 2, a signal
    its number plus 128. Where nobody reads the output any longer, as after `| head`, the command ends as by SIGPIPE.
    Whatever is printed, a terminal whose encoding lacks a character gets it escaped.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        _open_streams()
        printable_streams()
        hooks = threading.excepthook, sys.unraisablehook
        threading.excepthook, sys.unraisablehook = _excepthook, _unraisablehook
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            return _refused(str(error))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
            return 128 + getattr(signal, "SIGPIPE", 13)  # Windows has none
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
            return _refused(sentence)
        finally:
            threading.excepthook, sys.unraisablehook = hooks

    return run


def _open_streams() -> None:
    """Put a file that keeps nothing in the place of a stream that was closed before this process began."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def _refused(sentence: str) -> int:
    print(f"error: {short_line(sentence)}", file=sys.stderr)
    return 2


def _excepthook(args: threading.ExceptHookArgs) -> None:
    """Leave out a thread's traceback of what the main thread meets, too: TensorBoard writes in a thread."""
    if args.exc_value is None or explain(args.exc_value) is None:
        threading.__excepthook__(args)


def _unraisablehook(args: "sys.UnraisableHookArgs") -> None:
    """Leave out such a traceback where Python cannot raise: torch reports a killed process in a signal's handler."""
    if args.exc_value is None or explain(args.exc_value) is None:
        sys.__unraisablehook__(args)
