"""State of a run of detectors or classifiers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

from accelerate import Accelerator
from torch import nn

from detection.data.coco_index import Category
from detection.data.sampling import TrainBatches
from detection.names import visible
from detection.runs.trackers import require_trackers
from detection.training.clock import RunClock
from detection.training.optim import WeightAverage, build_optimizer, build_scheduler

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class Progress:
    """Progress of a run, which a resumed one needs besides weights and optimizer.

    Attributes:
        epoch: epochs that are done.
        updates: updates of the epoch in progress that are done.
        formed_by: images of a global batch when that epoch began.
        awaits_evaluation: the last epoch is trained and not evaluated yet.
        evaluated_epoch: epochs that were done at the last evaluation; 0 before it, and where it was not kept yet.
        seconds: of training.
        best: value of the best checkpoint, by `best_metric`.
        best_metric: by which the best was chosen or, after a resume by another one, is compared; empty before.
        best_epoch: number of epochs after which the best checkpoint was saved; -1 before there is one.
        evaluations_without_best: evaluations since then in which `best_metric` was defined and not better.
        metrics: numbers of the last evaluation, by name.
    """

    epoch: int = 0
    updates: int = 0
    formed_by: int = 0
    awaits_evaluation: bool = False
    evaluated_epoch: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_metric: str = ""
    best_epoch: int = -1
    evaluations_without_best: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"after {self.epoch} epochs" + (f" and {self.updates} updates" if self.updates else "")


@dataclass(kw_only=True)
class TrainingRun(Generic[Model]):
    """A run at work, with the optimizer and the schedule of its config.

    Attributes:
        config: its settings, with `schedule`, `optimizer` and `seed`.
        folder: the run folder.
        accelerator: device, precision and processes.
        model: the bare module that the optimizer moves, on its device.
        order: positions of the images of each batch, by epoch.
        batches: images and targets in that order.
        categories: label k is `categories[k - 1]` for a detector, `categories[k]` for a classifier.
        frozen: for `freeze`.
        gradient_accumulation_steps: batches an update.
        average: moving average of the weights, which is evaluated and kept where there is one.
        done: how far the run is.
        resumed: whether it goes on from a checkpoint.
        random_states: of each process, where it goes on within an epoch.
        saved: how far the last checkpoint is, empty where there is none.
        saved_at: when it was written, or the run began, by the monotonic clock.
        waiting: share of its time in which each epoch trained here waited for data.
        clock: time that the run takes here, and still will, and the mean loss of the epoch.
        command: that trains such runs.
    """

    command: ClassVar[str] = "train"

    config: Any
    folder: Path
    accelerator: Accelerator
    model: Model
    order: TrainBatches
    batches: Any
    categories: Sequence[Category]
    frozen: Mapping[str, int | None] = field(default_factory=dict)
    gradient_accumulation_steps: int = 1
    average: WeightAverage | None = None
    done: Progress = field(default_factory=Progress)
    resumed: bool = False
    random_states: Sequence[Mapping[str, Any]] = ()
    saved: str = ""
    saved_at: float = field(default_factory=time.monotonic)
    waiting: list[float] = field(default_factory=list)
    clock: RunClock = field(default_factory=RunClock)

    def __post_init__(self) -> None:
        require_trackers(self.config.trackers)
        self.batches_per_epoch = len(self.order)  # before any are skipped
        fused = self.accelerator.scaler is None
        self.optimizer = build_optimizer(self.config.optimizer, self.model, self.images_per_update, fused=fused)
        self.scheduler = build_scheduler(self.config.schedule, self.optimizer, self.updates_per_epoch)

    @property
    def updates_per_epoch(self) -> int:
        """Updates of an epoch."""
        return -(-self.batches_per_epoch // self.gradient_accumulation_steps)

    def print_epoch(self, values: Mapping[str, float] = MappingProxyType({}), digits: int = 3) -> None:
        """Print the line of the epoch that is done, with what an evaluation measured, if there was one."""
        place = f"epoch {self.done.epoch:3d} of {self.config.schedule.epochs}"
        self.print_line("  ".join([place, *self.clock.texts(values, digits)]))

    @property
    def images_per_update(self) -> int:
        """Images an update, over all processes and accumulation, which ends with the epoch."""
        return self.order.global_size * min(self.gradient_accumulation_steps, self.batches_per_epoch)

    @property
    def requested_images_per_update(self) -> int:
        """Images an update by the settings, more than there are where an epoch has fewer batches than they ask for."""
        return self.order.global_size * self.gradient_accumulation_steps

    def stops_early(self, config: Any) -> bool:
        """True where a config ends the run here, before its last epoch, in subclasses that stop early; False here."""
        return False

    def ends(self, config: Any) -> bool:
        """True where a config leaves nothing to train or to evaluate."""
        done = self.done
        stopped = done.epoch >= config.schedule.epochs or (self.stops_early(config) and not done.updates)
        return stopped and not done.awaits_evaluation

    @property
    def ended(self) -> bool:
        """True where nothing is left to train or to evaluate."""
        return self.ends(self.config)

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
            print("\n".join(map(visible, line.split("\n"))), flush=True)
