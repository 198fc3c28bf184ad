"""Room on the disk for the checkpoints of a run, checked before it trains."""

from pathlib import Path

from torch import nn, optim

from detection.errors import UserError
from detection.system_errors import free_bytes

_REST = 1_000_000
"""Bytes for the log, plots and drawn samples of a small run."""


def require_room(folder: Path, model: nn.Module, optimizer: optim.Optimizer, *, averaged: bool) -> None:
    """Check that the checkpoints that a run keeps at the same time fit on its disk.

    Args:
        folder: the run folder.
        model: what is trained.
        optimizer: of the model, whose state is saved, too.
        averaged: whether an average of the weights is saved next to them.

    Raises:
        UserError: there is less room.
    """
    last, best = checkpoint_bytes(model, optimizer, averaged=averaged)
    saved = (path for path in (folder / "checkpoints").rglob("*") if path.is_file() and not path.is_symlink())
    # A new checkpoint is on the disk before the older one goes. One of the two kinds is written at a time, and that to
    # resume from is the larger.
    needed = 2 * last + best - sum(path.stat().st_size for path in saved) + _REST
    free = free_bytes(folder)
    if free < needed:
        raise UserError(
            f"{folder}: the checkpoints of this run need {needed / 1e6:.1f} MB more, and {free / 1e6:.1f} MB are free "
            "on its disk: free some space there, or choose an --output on another disk."
        )


def checkpoint_bytes(model: nn.Module, optimizer: optim.Optimizer, *, averaged: bool) -> tuple[int, int]:
    """Bytes of a checkpoint to resume from, and of one to evaluate, as large as they become while training."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    moments = 2 if isinstance(optimizer, optim.AdamW) else int(bool(optimizer.defaults.get("momentum")))
    parameters = sum(p.nbytes for group in optimizer.param_groups for p in group["params"])
    return weights * (2 if averaged else 1) + moments * parameters, weights
