"""State of a run of detectors or classifiers, the loop over its epochs, and what it resumes from."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from detection.config import OptimizerConfig
from detection.data.coco_index import Category
from detection.data.sampling import TrainBatches
from detection.errors import Interrupted, UserError
from detection.names import visible
from detection.runs.checkpoint import (
    fitting_state,
    load_meta,
    load_training_state,
    load_weights,
    newest_complete,
    save_checkpoint,
)
from detection.runs.folder import config_json, read_config, write_run_description
from detection.runs.logs import RunLog, progress
from detection.runs.room import require_room
from detection.runs.trackers import Trackers, require_trackers
from detection.system_errors import explain
from detection.training.clock import RunClock
from detection.training.device_batches import DeviceBatches
from detection.training.engine import seed_epoch, train_one_epoch
from detection.training.freezing import freeze
from detection.training.optim import (
    WeightAverage,
    build_optimizer,
    build_scheduler,
    group_lines,
    load_optimizer,
    require_sound_state,
    scaled_learning_rate,
)
from detection.training.preemption import advised, at_once, postponed, requested
from detection.training.random_state import random_state, set_random_state
from detection.training.resuming import has_checkpoint, require_resumable, require_same_data, resume_command

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class Progress:
    """How far a run is: what a resumed run needs to know besides weights and optimizer.

    Attributes:
        epoch: epochs that are done.
        updates: updates of the epoch in progress that are done.
        formed_by: images of a global batch when that epoch began.
        awaits_evaluation: the last epoch is trained and not evaluated yet.
        seconds: of training.
        best: value of the best checkpoint, by `best_metric`.
        best_metric: by which the best was chosen or, after a resume by another one, is compared; empty before.
    """

    epoch: int = 0
    updates: int = 0
    formed_by: int = 0
    awaits_evaluation: bool = False
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

    @property
    def stopped_early(self) -> bool:
        """Whether the run has ended before its last epoch; none does here."""
        return False

    @property
    def ended(self) -> bool:
        """Whether nothing is left to train or to evaluate."""
        done = self.done
        stopped = done.epoch >= self.config.schedule.epochs or (self.stopped_early and not done.updates)
        return stopped and not done.awaits_evaluation

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


def run_epochs(run: TrainingRun, after_epoch: Callable[[Any, RunLog], bool]) -> None:
    """Train until the last epoch, with a log, and leave a checkpoint after each.

    Before that, `after_epoch(run, log)` evaluates where that is due; True ends the run.

    Raises:
        Interrupted: a signal asked for it; the run can be resumed from the update that was at work.
    """
    done, main = run.done, run.accelerator.is_main_process
    kept = {"evaluate_last": done.awaits_evaluation, "keep_updates": done.updates}
    trackers = Trackers(run.config.trackers if main else (), run.folder, config_json(run.config))
    with (
        postponed(),
        closing(trackers),
        closing(RunLog(run.folder, main, done.epoch, trackers=trackers, **kept)) as log,
    ):
        _run_epochs(run, log, after_epoch)


@contextmanager
def resumable(run: TrainingRun) -> Iterator[None]:
    """Have an `Interrupted` of this block state how far the run is saved, and how to go on with it."""

    def advice() -> str:
        if not run.saved:
            return "nothing has been trained yet; the same command with --resume-or-start begins again"
        return f"{run.folder} is saved {run.saved}; go on with `{resume_command(run)}`"

    with advised(advice):
        try:
            yield
        except (OSError, RuntimeError) as error:
            # Where processes wait for each other, the first to end breaks the others' connection.
            if run.accelerator.num_processes > 1 and requested():
                raise Interrupted(requested()) from None
            if (sentence := explain(error)) and run.saved and has_checkpoint(run.folder):
                raise UserError(f"{sentence.removesuffix('.')}; {advice()}.") from error
            raise


def _run_epochs(run: TrainingRun, log: RunLog, after_epoch: Callable[[Any, RunLog], bool]) -> None:
    accelerator, epochs, done = run.accelerator, run.config.schedule.epochs, run.done
    frozen = freeze(run.model, run.frozen, done.epoch)
    model, run.optimizer = accelerator.prepare(run.model, run.optimizer)
    if done.awaits_evaluation and _end_epoch(run, log, after_epoch):
        return
    if done.epoch >= epochs:
        run.print_line(f"nothing left to train: {done.epoch} of {epochs} epochs are done; more by schedule.epochs=N")
    elif run.ended:
        run.print_line(f"nothing left to train: stopped after {done.epoch} epochs; more by a greater early_stopping=N")
        return
    for epoch in range(done.epoch, epochs):
        now_frozen = freeze(run.model, run.frozen, epoch)
        if now_frozen != frozen and model is not run.model:
            # A distributed wrapper fixes which gradients it waits for when it is made. Without one nothing may be made
            # again: the model counts as prepared, and would be left without mixed precision.
            model = accelerator.prepare_model(accelerator.unwrap_model(model, keep_fp32_wrapper=False))
        frozen = now_frozen
        _begin_epoch(run)
        _train_epoch(run, model, log)
        done.epoch, done.updates = epoch + 1, 0
        # What was trained is saved before it is evaluated, which a broken validation image may end.
        done.awaits_evaluation = True
        log.synchronize()
        save_last(run)
        if _end_epoch(run, log, after_epoch):
            break


def _end_epoch(run: TrainingRun, log: RunLog, after_epoch: Callable[[Any, RunLog], bool]) -> bool:
    """Evaluate a trained epoch where that is due, and save that this is done; True ends the run."""
    with at_once():
        ended = after_epoch(run, log)
    run.done.awaits_evaluation = False
    save_last(run)
    return ended


def _begin_epoch(run: TrainingRun) -> None:
    """Set order and random state: of the epoch's start, or of the update after which it was interrupted."""
    done, seed, rank = run.done, run.config.seed, run.accelerator.process_index
    if not done.updates:
        done.formed_by = run.order.global_size
    run.order.set_epoch(done.epoch, done.updates * run.gradient_accumulation_steps, done.formed_by)
    seed_epoch(seed, done.epoch, rank)
    if done.updates and len(run.random_states) == run.accelerator.num_processes:
        with fitting_state(run.last):
            set_random_state(run.random_states[rank], run.accelerator.device)
    elif done.updates:  # another number of processes: streams that none of them has used
        seed_epoch(seed, done.epoch, (done.updates + 1) * 1_000_000 + rank)


def _train_epoch(run: TrainingRun, model: nn.Module, log: RunLog) -> None:
    """Run `train_one_epoch` with a progress bar and a log."""
    epoch, steps = run.done.epoch, run.gradient_accumulation_steps
    batches = DeviceBatches(run.batches, run.accelerator.device)
    began = start = time.perf_counter()
    label = f"epoch {epoch + 1}/{run.config.schedule.epochs}"
    run.clock.begin_epoch((run.config.schedule.epochs - epoch) * run.updates_per_epoch - run.done.updates)
    with progress(label, len(batches), run.accelerator.is_main_process) as bar:

        def log_update(line: dict[str, float]) -> None:
            log.update(epoch, line)
            run.clock.update(line["loss"])
            bar.advance(min(steps, bar.total - bar.done), f"loss {line['loss']:.3f}  {run.clock.note()}")
            nonlocal began
            now = time.perf_counter()
            run.done.seconds, began = run.done.seconds + now - began, now
            run.done.updates += 1
            _save_within_epoch(run, log)

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
    run.waiting.append(batches.waited / (time.perf_counter() - start))


def _save_within_epoch(run: TrainingRun, log: RunLog) -> None:
    """Save after an update, all processes after the same one, where a signal asks for it or the time has come.

    Raises:
        Interrupted: a signal had asked for it, on any process.
    """
    accelerator, minutes = run.accelerator, run.config.checkpoint_minutes
    due = minutes is not None and time.monotonic() - run.saved_at >= 60 * minutes
    number, due = _greatest(accelerator, requested(), int(due))
    if not (number or due):
        return
    state = [random_state(accelerator.device)]
    log.synchronize()
    save_last(run, gather_object(state) if accelerator.num_processes > 1 else state)
    accelerator.wait_for_everyone()
    if number:
        raise Interrupted(number)


def _greatest(accelerator: Accelerator, *values: int) -> tuple[int, ...]:
    """Return the greatest of each value over all processes."""
    if accelerator.num_processes == 1:
        return values
    own = torch.tensor([values], device=accelerator.device)
    return tuple(accelerator.gather(own).amax(0).tolist())  # type: ignore[union-attr]


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
    rates = run.scheduler.base_lrs
    load_optimizer(run.optimizer, state["optimizer"])
    require_sound_state(run.optimizer)
    run.scheduler.load_state_dict(state["scheduler"])
    run.scheduler.base_lrs = rates
    factors = [factor(run.scheduler.last_epoch) for factor in run.scheduler.lr_lambdas]  # type: ignore[attr-defined]
    run.scheduler._last_lr = [rate * factor for rate, factor in zip(rates, factors, strict=True)]
    for group, base, rate in zip(run.optimizer.param_groups, rates, run.scheduler._last_lr, strict=True):
        group["initial_lr"], group["lr"] = base, rate
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    run.done, run.random_states = Progress(**state["progress"]), state.get("random_states", ())
    for name, default in vars(Progress()).items():
        if default is not None and type(getattr(run.done, name)) is not type(default):
            raise TypeError(f"progress.{name} is no {type(default).__name__}")


def describe_run(run: TrainingRun, data: Mapping[str, Any]) -> None:
    """Print how the learning rate was scaled, make the folder, and write what is needed to do the run again."""
    optimizer: OptimizerConfig = run.config.optimizer
    run.print_line(
        f"rate      {optimizer.kind} {scaled_learning_rate(optimizer, run.images_per_update):.3g} = {optimizer.lr:.3g} "
        f"stated for {optimizer.reference_batch} images an update, scaled to the real {run.images_per_update}"
    )
    for line in group_lines(run.optimizer):
        run.print_line(f"group     {line}")
    if run.resumed:
        require_same_data(run.folder, data)
    if run.accelerator.is_main_process:
        # Settings that nothing is trained with do not become those of the run.
        config = read_config(run.folder, type(run.config)) if run.resumed and run.ended else run.config
        require_room(run.folder, run.model, run.optimizer, averaged=run.average is not None)
        with resumable(run), postponed():
            write_run_description(run.folder, config, data, run.accelerator, run.done.epoch if run.resumed else None)
    run.print_line(f"run       {run.folder}")
    run.accelerator.wait_for_everyone()
