"""Runs that repeat to the bit on one device: operations without such a form are an error."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from detection.errors import UserError


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Allow deterministic operations only, if that is wanted; the settings before come back afterwards.

    Raises:
        UserError: an operation has no deterministic form.
    """
    if not wanted:
        yield
        return
    # cuBLAS reads it once, when it is first used; without a fixed workspace its sums have no fixed order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    memory: Any = torch.utils.deterministic
    cudnn: Any = torch.backends.cudnn
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fills = cudnn.benchmark, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Every element is written before it is read; to fill memory first takes time.
    cudnn.benchmark, memory.fill_uninitialized_memory = False, False
    try:
        yield
    except RuntimeError as error:
        # torch has no exception type for this: the text alone names the operation.
        found = re.search(r"(\S+) does not have a deterministic implementation", str(error))
        if found is None:
            raise
        raise UserError(
            f"deterministic=true: {found[1]} has no form that repeats on this device; choose another part, or set "
            "deterministic=false."
        ) from error
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        cudnn.benchmark, memory.fill_uninitialized_memory = benchmark, fills
