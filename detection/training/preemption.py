"""Signals that ask a process to end: SIGTERM, SIGINT (Ctrl-C), and SIGUSR1 and SIGUSR2, which cluster schedulers send.

Where nothing is lost by it, a signal raises `Interrupted` at once. In a `postponed` block it is only noted, so that a
training saves its state at the next update; signals that follow closely are one with the first.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from detection.errors import Interrupted

# SIGBREAK is how Windows asks a group of processes to end.
SIGNALS = tuple(
    getattr(signal, n) for n in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGBREAK") if hasattr(signal, n)
)

_TOGETHER = 1.0
"""Seconds in which signals count as one: a launcher hands on what the process group has received, too."""


class _Received:
    """Signals that this process has received since `watch` began."""

    depth = 0
    number = 0
    count = 0
    last = -_TOGETHER
    is_postponed = False
    pid = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.pid:  # a forked child has inherited this handler; it ends as others do
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        first, now = not self.number, time.monotonic()
        self.count += now - self.last >= _TOGETHER
        self.number, self.last = self.number or number, now
        impatient = self.count > 2 or (self.count == 2 and number == signal.SIGINT)
        if impatient or (first and not self.is_postponed):
            raise Interrupted(self.number)


_received = _Received()


@contextmanager
def watch(*, until_exit: bool = False) -> Iterator[None]:
    """Turn signals into `Interrupted` in this block; nothing is done in another thread than the main one.

    A second Ctrl-C, or a third signal, raises at once even where signals are `postponed`. Handlers that somebody else
    has set stay.

    Args:
        until_exit: after an interruption, ignore further signals; for a process that ends then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _received.depth:
        with _nested():
            yield
        return
    defaults = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
    previous = {n: handler for n in SIGNALS if (handler := signal.getsignal(n)) in defaults}
    _received.__dict__.clear()  # back to the defaults, which are the class's
    _received.pid = os.getpid()
    for number in previous:
        signal.signal(number, _received.handle)
    try:
        with _nested():
            yield
    finally:
        for number, handler in previous.items():
            # Ignored, and not merely handled: Python lets go of its handlers some time before its process has ended.
            signal.signal(number, signal.SIG_IGN if until_exit and _received.number else handler)
        _received.__dict__.clear()  # what comes after this block in the same process is not asked to end


@contextmanager
def _nested() -> Iterator[None]:
    _received.depth += 1
    try:
        yield
    finally:
        _received.depth -= 1


def requested() -> int:
    """Return the first signal that was received in this `watch`, 0 for none and outside of one."""
    return _received.number


@contextmanager
def postponed() -> Iterator[None]:
    """Note signals in this block, and raise `Interrupted` after it unless it is in another such block."""
    before, _received.is_postponed = _received.is_postponed, True
    try:
        yield
    finally:
        _received.is_postponed = before
    if not before:
        _raise_if_requested()


@contextmanager
def at_once() -> Iterator[None]:
    """Raise `Interrupted` in this block of a `postponed` one, also for signals that were noted before."""
    before, _received.is_postponed = _received.is_postponed, False
    try:
        _raise_if_requested()
        yield
    finally:
        _received.is_postponed = before


def _raise_if_requested() -> None:
    if _received.number:
        raise Interrupted(_received.number)


@contextmanager
def advised(advice: Callable[[], str]) -> Iterator[None]:
    """Add what is saved and how to go on to an `Interrupted` of this block that has no advice yet."""
    try:
        yield
    except Interrupted as interrupt:
        raise Interrupted(interrupt.number, interrupt.advice or advice()) from None


@contextmanager
def blocked() -> Iterator[None]:
    """Keep signals from this thread, and from processes that start in this block; they arrive after it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before, known = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS), _received.number
    # Another thread may receive one, which Python then handles in this one.
    is_postponed, _received.is_postponed = _received.is_postponed, True
    try:
        yield
    finally:
        _received.is_postponed = is_postponed
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if not known and not is_postponed:
        _raise_if_requested()


def outlive_signals(worker: int = 0) -> None:
    """Have a loading process end with its parent alone, although a signal to the process group reaches it, too.

    Args:
        worker: its number, which a DataLoader gives.
    """
    sys.excepthook = _leave_out_lost_connections
    if not hasattr(signal, "sigwaitinfo"):  # macOS and Windows
        for number in SIGNALS:
            if number != signal.SIGTERM:  # by which the parent ends its loading processes
                signal.signal(number, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # Only a blocked signal can be waited for, and the new thread inherits that it is blocked.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _leave_out_lost_connections(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an error unless the parent has gone while it was fetching a batch: multiprocessing prints that, too."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


def _end_with_parent() -> None:
    # The parent ends its loading processes by SIGTERM; from anyone else it is not meant for them. It is not always
    # `os.getppid()`: a fork server may be between them.
    parent = multiprocessing.parent_process()
    while parent is not None and signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)  # `sys.exit` would end this thread alone
