"""A switch for ONNX files for lines of any length, in whose graphs no length may become a constant."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from detection.errors import UserError

_any_length = ContextVar("_any_length", default=False)


@contextmanager
def lines_of_any_length() -> Iterator[None]:
    """Refuse a cell whose scan could only be unrolled for one length."""
    token = _any_length.set(True)
    try:
        yield
    finally:
        _any_length.reset(token)


def refuse_any_length(reason: str) -> None:
    """Raise a `UserError` with a reason, a clause, where lines of any length are wanted."""
    if _any_length.get():
        raise UserError(
            f"--dynamic: {reason}, so that its steps are written out for lines of one length; leave --dynamic out, for "
            "a file of one size."
        )


def is_of_any_length() -> bool:
    """Return whether a graph is traced in which lengths are values."""
    return torch.onnx.is_in_onnx_export() and _any_length.get()
