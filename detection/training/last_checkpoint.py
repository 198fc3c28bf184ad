"""The checkpoint that a run resumes from: its training state is saved, and taken up again."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from detection.runs.checkpoint import (
    fitting_state,
    load_meta,
    load_training_state,
    load_weights,
    newest_complete,
    save_checkpoint,
)
from detection.training.optim import load_optimizer, require_sound_state
from detection.training.resuming import require_resumable
from detection.training.state import Progress, TrainingRun


def save_last(run: TrainingRun, random_states: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write what the run can be resumed from, on the main process; within an epoch with all random states."""
    run.saved_at = time.monotonic()
    if run.accelerator.is_main_process:
        _save_last(run, random_states)
    run.saved = str(run.done)


def _save_last(run: TrainingRun, random_states: Sequence[Mapping[str, Any]]) -> None:
    scaler = run.accelerator.scaler
    state = {
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "average_updates": 0 if run.average is None else run.average.updates,
        "images_per_update": run.requested_images_per_update,
        "random_states": list(random_states),
        "progress": dict(vars(run.done)),
    }
    trained = None if run.average is None else run.model
    progress = {"epoch": run.done.epoch, "updates": run.done.updates, "metrics": run.done.metrics}
    save_checkpoint(run.last, run.evaluated, run.categories, progress, trained=trained, state=state)


def restore(run: TrainingRun) -> None:
    """Take up the state that `save_last` wrote, before anything is prepared for several processes, and print that.

    The learning rate goes on by the schedule of the present config.

    Raises:
        UserError: missing or damaged, or settings that a resumed run may not change.
    """
    checkpoint = newest_complete(run.last)
    state = load_training_state(checkpoint)
    with fitting_state(checkpoint):
        require_resumable(run, state, load_meta(checkpoint)["categories"])
    load_weights(checkpoint, run.model, "model" if run.average is None else "training")
    if run.average is not None:
        load_weights(checkpoint, run.average.module)
    with fitting_state(checkpoint):
        _take_up(run, state)
    run.resumed, run.saved = True, str(run.done)
    run.print_line(f"resume    {run.folder} {run.done}")


def _take_up(run: TrainingRun, state: Mapping[str, Any]) -> None:
    if run.average is not None:
        run.average.updates = int(state["average_updates"])
    if state["scheduler"].keys() != run.scheduler.state_dict().keys():
        raise ValueError("the scheduler is another one")
    # Of the present config: loading the two states brings back the rates of the config that they were saved with.
    rates = run.scheduler.base_lrs
    load_optimizer(run.optimizer, state["optimizer"])
    require_sound_state(run.optimizer)
    run.scheduler.load_state_dict(state["scheduler"])
    run.scheduler.base_lrs = rates
    # LambdaLR computes rates when it is stepped, that is after the first resumed update, which needs them already.
    factors = [factor(run.scheduler.last_epoch) for factor in run.scheduler.lr_lambdas]  # type: ignore[attr-defined]
    run.scheduler._last_lr = [rate * factor for rate, factor in zip(rates, factors, strict=True)]
    for group, base, rate in zip(run.optimizer.param_groups, rates, run.scheduler._last_lr, strict=True):
        group["initial_lr"], group["lr"] = base, rate
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    run.done, run.random_states = Progress(**state["progress"]), state.get("random_states", ())
    # A dataclass takes values of any type; a wrong one would only fail epochs later.
    for name, default in vars(Progress()).items():
        if default is not None and type(getattr(run.done, name)) is not type(default):
            raise TypeError(f"progress.{name} is no {type(default).__name__}")
