"""A classifier's run from a config to a complete run folder, by the detectors' engine."""

import time
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from detection.analysis.complexity import count_parameters
from detection.atomic_write import write_json
from detection.classification.config import ClassifierConfig
from detection.classification.data import Batches, Images
from detection.classification.evaluation import Measured, measure, write_measured
from detection.classification.network import Classifier
from detection.classification.sources import open_data
from detection.config import to_plain
from detection.data.coco_index import Category
from detection.data.sampling import TrainBatches
from detection.errors import UserError
from detection.runs.checkpoint import load_training_state, load_weights, save_checkpoint
from detection.runs.environment import environment
from detection.runs.logs import RunLog, progress
from detection.training.engine import seed_epoch, train_one_epoch
from detection.training.optim import build_optimizer, build_scheduler, scaled_learning_rate


@dataclass
class Job:
    """A run: its settings, its parts, and how far it is.

    Attributes:
        train: what it is trained on.
        measured: what it is measured on.
        epoch: finished epochs.
        seconds: that training took in them.
    """

    config: ClassifierConfig
    folder: Path
    accelerator: Accelerator
    train: Images
    measured: Images
    network: Classifier
    optimizer: Any
    scheduler: LRScheduler
    epoch: int = 0
    seconds: float = 0.0

    @property
    def last(self) -> Path:
        """The folder of its checkpoint."""
        return self.folder / "checkpoints" / "last"

    def say(self, line: str) -> None:
        """Print a line, once for all processes."""
        if self.accelerator.is_main_process:
            print(line, flush=True)


def train(
    config: ClassifierConfig, folder: str | Path, accelerator: Accelerator, *, resume: bool = False
) -> dict[str, Any]:
    """Train, measure the last epoch's weights, and leave a complete run folder.

    Args:
        config: everything the run is made of.
        folder: the run folder, made here once all inputs are known to be sound.
        accelerator: device, precision and processes.
        resume: go on from `checkpoints/last`.

    Returns:
        The metrics, on the main process.

    Raises:
        UserError: unusable input, or a loss that is not finite.
    """
    job = prepare(config, Path(folder), accelerator, resume)
    with closing(RunLog(job.folder, accelerator.is_main_process, keep_epochs=job.epoch)) as log:
        run_epochs(job, log)
    metrics = finish(job)
    accelerator.end_training()
    return metrics


def prepare(config: ClassifierConfig, folder: Path, accelerator: Accelerator, resume: bool) -> Job:
    """Open the data, build the network and what moves it, and say what is about to happen.

    Raises:
        UserError: unusable input; nothing is written then.
    """
    torch.manual_seed(config.seed)
    images, measured = open_data(config.data)
    network = config.network(len(images.classes))
    _require_fitting(network, config, images)
    network.measure(images.pixels)
    network.to(accelerator.device)
    images_per_update = config.batch_size * accelerator.num_processes
    optimizer = build_optimizer(config.optimizer, network, images_per_update)
    scheduler = build_scheduler(config.schedule, optimizer, -(-len(images) // images_per_update))
    job = Job(config, folder, accelerator, images, measured, network, optimizer, scheduler)
    if resume:
        restore(job)
    describe(job, images_per_update)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", to_plain(config))
        write_json(folder / "environment.json", surroundings(job))
    job.train, job.measured = images.to(accelerator.device), measured.to(accelerator.device)
    accelerator.wait_for_everyone()
    return job


def run_epochs(job: Job, log: RunLog) -> None:
    """Train until the last epoch, and measure between epochs where that is asked for."""
    config, accelerator = job.config, job.accelerator
    order = TrainBatches(
        len(job.train),
        config.batch_size,
        seed=config.seed,
        num_processes=accelerator.num_processes,
        rank=accelerator.process_index,
    )
    batches = Batches(job.train, order, config.data.augmentation, config.data.crop)
    model, job.optimizer = accelerator.prepare(job.network, job.optimizer)
    for epoch in range(job.epoch, config.schedule.epochs):
        began = time.perf_counter()
        order.set_epoch(epoch)
        seed_epoch(config.seed, epoch, accelerator.process_index)
        _train_epoch(job, model.train(), batches, epoch, log)
        job.epoch, job.seconds = epoch + 1, job.seconds + time.perf_counter() - began
        if not accelerator.is_main_process:
            continue
        if config.evaluate_every is not None and job.epoch % config.evaluate_every == 0:
            numbers = _measure(job, job.measured).numbers()
            log.evaluation(epoch, numbers)
            job.say(f"epoch {job.epoch:3d}  accuracy {numbers['accuracy']:.4f}  loss {numbers['loss']:.4f}")
        save(job)


def _train_epoch(job: Job, model: nn.Module, batches: Batches, epoch: int, log: RunLog) -> None:
    """`train_one_epoch` with a progress bar and a log."""
    label = f"epoch {epoch + 1}/{job.config.schedule.epochs}"
    with progress(label, len(batches), job.accelerator.is_main_process) as bar:

        def log_update(line: dict[str, float]) -> None:
            log.update(epoch, line)
            bar.advance(1, f"loss {line['loss']:.3f}")

        train_one_epoch(
            model,
            batches,
            len(batches),
            job.optimizer,
            job.scheduler,
            job.accelerator,
            clip_norm=job.config.optimizer.clip_norm,
            log=log_update,
            failures=job.folder,
        )


def finish(job: Job) -> dict[str, Any]:
    """Measure what was trained and write `metrics.json` and `correct.json`."""
    job.accelerator.wait_for_everyone()
    if not job.accelerator.is_main_process:
        return {}
    measured, trained = _measure(job, job.measured), _measure(job, job.train).numbers()
    metrics = {
        **measured.numbers(),
        "measured": job.config.data.measure,
        "parameters": count_parameters(job.network),
        "seconds": round(job.seconds, 1),
        "epochs": job.epoch,
        **{f"train_{name}": trained[name] for name in ("accuracy", "errors", "images", "loss")},
    }
    write_measured(job.folder, measured, metrics)
    job.say(
        f"finished  {job.folder}: accuracy {metrics['accuracy']:.4f} on the {metrics['measured']} images, "
        f"{metrics['errors']} of {metrics['images']} wrong; {metrics['train_accuracy']:.4f} on the training images; "
        f"{job.seconds:.0f} s of training"
    )
    return metrics


def _measure(job: Job, images: Images) -> Measured:
    return measure(job.network, images, job.config, job.accelerator)


def _require_fitting(network: Classifier, config: ClassifierConfig, images: Images) -> None:
    side, stride = config.data.crop or images.pixels.shape[-1], max(network.backbone.strides.values())
    if side % stride:
        raise UserError(
            f"data.{'crop' if config.data.crop else 'size'}: images of {side}x{side} pixels for a backbone of stride "
            f"{stride}; choose a multiple of {stride}."
        )


def save(job: Job) -> None:
    """Write what the run can be resumed from, and opened."""
    scaler = job.accelerator.scaler
    state = {
        "optimizer": job.optimizer.state_dict(),
        "scheduler": job.scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "epoch": job.epoch,
        "seconds": job.seconds,
    }
    categories = [Category(k, name) for k, name in enumerate(job.train.classes)]
    save_checkpoint(job.last, job.network, categories, {"epoch": job.epoch}, state=state)


def restore(job: Job) -> None:
    """Take up what `save` wrote.

    Raises:
        UserError: missing or damaged.
    """
    state = load_training_state(job.last)
    load_weights(job.last, job.network)
    job.optimizer.load_state_dict(state["optimizer"])
    job.scheduler.load_state_dict(state["scheduler"])
    if job.accelerator.scaler is not None and state["scaler"] is not None:
        job.accelerator.scaler.load_state_dict(state["scaler"])
    job.epoch, job.seconds = state["epoch"], state["seconds"]


def describe(job: Job, images_per_update: int) -> None:
    """Say what is trained on, and how the rate was scaled."""
    config, optimizer = job.config, job.config.optimizer
    side = job.train.pixels.shape[-1]
    seen = f", {config.data.crop}x{config.data.crop} of each seen" if config.data.crop else ""
    if job.epoch:
        job.say(f"resume    {job.folder} after {job.epoch} epochs")
    job.say(f"train     {len(job.train)} images of {side}x{side}{seen}")
    job.say(f"measured  {len(job.measured)} images ({config.data.measure})")
    job.say(f"classes   {', '.join(job.train.classes)}")
    job.say(f"network   {count_parameters(job.network)} parameters")
    job.say(
        f"rate      {optimizer.kind} {scaled_learning_rate(optimizer, images_per_update):.3g} = {optimizer.lr:.3g} "
        f"stated for {optimizer.reference_batch} images an update, scaled to the real {images_per_update}"
    )
    job.say(f"run       {job.folder}")


def surroundings(job: Job) -> dict[str, Any]:
    """Versions, code, data, machine and command of a run: its `environment.json`."""
    known = environment(job.config, {}, job.accelerator)  # type: ignore[arg-type]
    parts = {"train": job.train, job.config.data.measure: job.measured}
    known["data"] = {name: {"images": len(images), "sha256": images.digest()} for name, images in parts.items()}
    if job.config.data.kind == "digits":
        known["versions"]["scikit-learn"] = version("scikit-learn")
    return known
