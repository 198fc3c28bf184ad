"""The loop over the epochs of a run of detectors or classifiers."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from detection.config import OptimizerConfig
from detection.errors import Interrupted, UserError
from detection.runs.checkpoint import fitting_state
from detection.runs.folder import config_json, has_checkpoint, read_config, remove_results, write_run_description
from detection.runs.logs import RunLog, progress
from detection.runs.room import require_room
from detection.runs.trackers import Trackers
from detection.system_errors import explain
from detection.training.device_batches import DeviceBatches
from detection.training.engine import seed_epoch, train_one_epoch
from detection.training.freezing import freeze
from detection.training.last_checkpoint import save_last
from detection.training.optim import group_lines, scaled_learning_rate
from detection.training.preemption import advised, at_once, postponed, requested
from detection.training.random_state import random_state, set_random_state
from detection.training.resuming import require_same_data, resume_command
from detection.training.state import TrainingRun

_EVALUATED = ("data", "detector", "eval_batch_size", "samples")
"""Settings that a resumed run may change and that its evaluation reads."""


def run_epochs(run: TrainingRun, after_epoch: Callable[[Any, RunLog], bool]) -> None:
    """Train until the last epoch, with a log, and leave a checkpoint after each.

    Before that, `after_epoch(run, log)` evaluates where that is due; True ends the run.

    Raises:
        Interrupted: a signal asked for it; the run can be resumed from the update that was at work.
    """
    done, main = run.done, run.accelerator.is_main_process
    open_log = partial(
        RunLog,
        run.folder,
        main,
        done.epoch,
        evaluate_last=done.awaits_evaluation,
        keep_updates=done.updates,
        updates_before=done.epoch * run.updates_per_epoch + done.updates,
    )
    trackers = Trackers(run.config.trackers if main else (), run.folder, config_json(run.config))
    with postponed(), closing(trackers), closing(open_log(trackers=trackers)) as log:
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


@contextmanager
def finished(run: TrainingRun) -> Iterator[None]:
    """Have an `Interrupted` of this block, in which trackers may still send, state that the run is complete."""
    with advised(lambda: f"{run.folder} is finished"):
        yield


def _run_epochs(run: TrainingRun, log: RunLog, after_epoch: Callable[[Any, RunLog], bool]) -> None:
    accelerator, epochs, done = run.accelerator, run.config.schedule.epochs, run.done
    # Before the model is prepared, which fixes the gradients that processes wait for (see below).
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
    # The epoch's weights are saved, and a resumed run evaluates them again: nothing is lost by an interruption here.
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
    # A signal may reach one process only, and their clocks differ: one that asks for it has all save.
    number, due = _greatest(accelerator, requested(), int(due))
    if not (number or due):
        return
    # Within an epoch the random streams go on from here; an epoch's start depends on the seed alone.
    state = [random_state(accelerator.device)]
    log.synchronize()
    save_last(run, gather_object(state) if accelerator.num_processes > 1 else state)
    # Where one process ends, torchrun ends the others: not before the main one has written the checkpoint.
    accelerator.wait_for_everyone()
    if number:
        raise Interrupted(number)


def _greatest(accelerator: Accelerator, *values: int) -> tuple[int, ...]:
    """Return the greatest of each value over all processes."""
    if accelerator.num_processes == 1:
        return values
    own = torch.tensor([values], device=accelerator.device)
    return tuple(accelerator.gather(own).amax(0).tolist())  # type: ignore[union-attr]


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
        config = _kept_config(run) if run.resumed and run.ended else run.config
        require_room(run.folder, run.model, run.optimizer, averaged=run.average is not None)
        with resumable(run), postponed():
            if run.resumed and (not run.ended or _is_changed(run, config)):
                remove_results(run.folder)
            write_run_description(run.folder, config, data, run.accelerator, run.done.epoch if run.resumed else None)
    run.print_line(f"run       {run.folder}")
    run.accelerator.wait_for_everyone()


def _is_changed(run: TrainingRun, config: Any) -> bool:
    return config_json(config) != config_json(read_config(run.folder, type(config)))


def _kept_config(run: TrainingRun) -> Any:
    """The config of a run with nothing left to train: as it was trained, and as it is evaluated now."""
    before, now = read_config(run.folder, type(run.config)), run.config
    if run.ends(before):
        evaluated = {name: getattr(now, name) for name in _EVALUATED if hasattr(before, name)}
        return dataclasses.replace(before, **evaluated)
    epochs = max(run.done.epoch, now.schedule.epochs)
    return dataclasses.replace(now, schedule=dataclasses.replace(now.schedule, epochs=epochs))
