"""What runs of detectors and classifiers share: their state, the loop over epochs, and what a run resumes from."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from detection.config import OptimizerConfig
from detection.data.coco_index import Category
from detection.data.sampling import TrainBatches
from detection.runs.checkpoint import load_training_state, load_weights, save_checkpoint
from detection.runs.logs import RunLog, progress
from detection.training.engine import seed_epoch, train_one_epoch
from detection.training.freezing import freeze
from detection.training.optim import WeightAverage, scaled_learning_rate

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class Progress:
    """How far a run is: what a resumed run needs to know besides weights and optimizer."""

    epoch: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = -1
    evaluations_without_best: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class TrainingRun(Generic[Model]):
    """A run at work.

    Attributes:
        config: its settings, with `schedule`, `optimizer` and `seed`.
        model: the bare module that the optimizer moves.
        order: positions of the images of each batch, by epoch.
        batches: images and targets in that order.
        categories: label k is `categories[k - 1]` for a detector, `categories[k]` for a classifier.
        frozen: for `freeze`.
        gradient_accumulation_steps: batches an update.
        average: moving average of the weights, which is evaluated and kept where there is one.
        done: how far the run is.
    """

    config: Any
    folder: Path
    accelerator: Accelerator
    model: Model
    optimizer: Optimizer
    scheduler: LRScheduler
    order: TrainBatches
    batches: Any
    categories: Sequence[Category]
    frozen: Mapping[str, int | None] = field(default_factory=dict)
    gradient_accumulation_steps: int = 1
    average: WeightAverage | None = None
    done: Progress = field(default_factory=Progress)

    @property
    def evaluated(self) -> Model:
        """The model that is evaluated and kept: the moving average where there is one."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    @property
    def last(self) -> Path:
        """The checkpoint that the run resumes from."""
        return self.folder / "checkpoints" / "last"

    def print_line(self, line: str) -> None:
        """Print a line, once for all processes."""
        if self.accelerator.is_main_process:
            print(line, flush=True)


def run_epochs(run: TrainingRun, log: RunLog, after_epoch: Callable[[], bool]) -> None:
    """Train until the last epoch, and leave a checkpoint after each.

    Args:
        run: moved on in place.
        log: of the updates.
        after_epoch: evaluates where that is due, before the checkpoint is written; True ends the run.
    """
    accelerator, epochs, done = run.accelerator, run.config.schedule.epochs, run.done
    frozen = freeze(run.model, run.frozen, done.epoch)
    model, run.optimizer = accelerator.prepare(run.model, run.optimizer)
    for epoch in range(done.epoch, epochs):
        began = time.perf_counter()
        now_frozen = freeze(run.model, run.frozen, epoch)
        if now_frozen != frozen and model is not run.model:
            # A distributed wrapper fixes which gradients it waits for when it is made. Without one nothing may be made
            # again: the model counts as prepared, and would be left without mixed precision.
            model = accelerator.prepare_model(accelerator.unwrap_model(model, keep_fp32_wrapper=False))
        frozen = now_frozen
        run.order.set_epoch(epoch)
        seed_epoch(run.config.seed, epoch, accelerator.process_index)
        _train_epoch(run, model, log)
        done.epoch, done.seconds = epoch + 1, done.seconds + time.perf_counter() - began
        ended = after_epoch()
        if accelerator.is_main_process:
            save_last(run)
        if ended:
            break


def _train_epoch(run: TrainingRun, model: nn.Module, log: RunLog) -> None:
    """Run `train_one_epoch` with a progress bar and a log."""
    epoch, batches, steps = run.done.epoch, run.batches, run.gradient_accumulation_steps
    label = f"epoch {epoch + 1}/{run.config.schedule.epochs}"
    with progress(label, len(batches), run.accelerator.is_main_process) as bar:

        def log_update(line: dict[str, float]) -> None:
            log.update(epoch, line)
            bar.advance(min(steps, bar.total - bar.done), f"loss {line['loss']:.3f}")

        train_one_epoch(
            model,
            batches,
            len(batches),
            run.optimizer,
            run.scheduler,
            run.accelerator,
            gradient_accumulation_steps=steps,
            clip_norm=run.config.optimizer.clip_norm,
            average=run.average,
            log=log_update,
            failures=run.folder,
        )


def save_last(run: TrainingRun) -> None:
    """Write what the run can be resumed from."""
    scaler = run.accelerator.scaler
    state = {
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "average_updates": 0 if run.average is None else run.average.updates,
        "progress": dict(vars(run.done)),
    }
    trained = None if run.average is None else run.model
    progress = {"epoch": run.done.epoch, "metrics": run.done.metrics}
    save_checkpoint(run.last, run.evaluated, run.categories, progress, trained=trained, state=state)


def restore(run: TrainingRun) -> None:
    """Take up the state that `save_last` wrote, before anything is prepared for devices or processes.

    Raises:
        UserError: missing or damaged.
    """
    state = load_training_state(run.last)
    load_weights(run.last, run.model, "model" if run.average is None else "training")
    if run.average is not None:
        load_weights(run.last, run.average.module)
        run.average.updates = state["average_updates"]
    run.optimizer.load_state_dict(state["optimizer"])
    run.scheduler.load_state_dict(state["scheduler"])
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    run.done = Progress(**state["progress"])


def print_learning_rate(run: TrainingRun, images_per_update: int) -> None:
    """Print how the learning rate was scaled."""
    optimizer: OptimizerConfig = run.config.optimizer
    run.print_line(
        f"rate      {optimizer.kind} {scaled_learning_rate(optimizer, images_per_update):.3g} = {optimizer.lr:.3g} "
        f"stated for {optimizer.reference_batch} images an update, scaled to the real {images_per_update}"
    )
