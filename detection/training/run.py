"""A training run from a config to a complete run folder, read top to bottom."""

import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from detection.analysis.samples import draw_samples
from detection.analysis.visualize import contact_sheet
from detection.config import Config
from detection.data.coco_index import CocoIndex
from detection.data.dataset import DetectionDataset, match_categories, require_training_boxes
from detection.data.masks import load_masks
from detection.data.sampling import TrainBatches
from detection.data.transforms import Transform
from detection.detector import Detector, build_detector
from detection.evaluation import evaluate_detections, metrics_table, write_evaluation
from detection.pretrained import load_pretrained
from detection.runs.checkpoint import load_training_state, load_weights, save_checkpoint
from detection.runs.folder import write_run_description
from detection.runs.logs import RunLog, progress
from detection.training.amplitudes import start_amplitude
from detection.training.engine import seed_epoch, train_one_epoch, validation_loss
from detection.training.evaluate import detect_split
from detection.training.freezing import freeze
from detection.training.loaders import build_loader, eval_loader, open_split
from detection.training.optim import WeightAverage, build_optimizer, build_scheduler, scaled_learning_rate
from detection.weights import LoadReport


@dataclass
class Progress:
    """How far a run is: what a resumed run needs to know besides weights and optimizer."""

    epoch: int = 0
    best: float | None = None
    best_epoch: int = -1
    evaluations_without_best: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Indices, data sets and loaders of both splits."""

    train_index: CocoIndex
    val_index: CocoIndex
    train: DetectionDataset
    val: DetectionDataset
    train_batches: TrainBatches
    train_loader: DataLoader
    val_loader: DataLoader


def open_data(config: Config, accelerator: Accelerator) -> Data:
    """Open and check both splits.

    Raises:
        UserError: anything about the data that would break training.
    """
    train_index, val_index = open_split("data.train", config.data.train), open_split("data.val", config.data.val)
    match_categories(train_index, val_index)
    transform = Transform(config.data.augmentation, config.detector.min_size, config.detector.max_size)
    segmented, source = config.detector.segmentation is not None, config.data.masks
    train = DetectionDataset(
        train_index,
        Path(config.data.train.images),
        transform,
        config.seed,
        config.data.train.empty_images,
        load_masks(train_index, source) if segmented else None,
    )
    require_training_boxes(train)
    val_masks = load_masks(val_index, source) if segmented and _measures_validation_loss(config) else None
    val = DetectionDataset(val_index, Path(config.data.val.images), masks=val_masks)
    batches = TrainBatches(
        len(train),
        config.batch_size,
        seed=config.seed,
        aspect_ratios=train.aspect_ratios if config.data.aspect_grouping else None,
        num_processes=accelerator.num_processes,
        rank=accelerator.process_index,
    )
    loader = build_loader(train, batches, config.data.workers, accelerator)
    return Data(train_index, val_index, train, val, batches, loader, eval_loader(val, config, accelerator))


def _measures_validation_loss(config: Config) -> bool:
    return config.validation_loss or config.best_metric == "val_loss"


@dataclass
class Job:
    """A run at work: its settings, its parts, and how far it is."""

    config: Config
    folder: Path
    accelerator: Accelerator
    data: Data
    detector: Detector
    optimizer: Any
    scheduler: LRScheduler
    average: WeightAverage | None
    done: Progress
    best_results: list[dict[str, Any]] | None = None
    """What the best checkpoint detects, where this process has measured it; a resumed run may not have."""

    @property
    def evaluated(self) -> Detector:
        """The detector that is measured and kept: the moving average where there is one."""
        return self.detector if self.average is None else self.average.module  # type: ignore[return-value]

    def say(self, line: str) -> None:
        """Print a line, once for all processes."""
        if self.accelerator.is_main_process:
            print(line, flush=True)


def train(config: Config, folder: str | Path, accelerator: Accelerator, *, resume: bool = False) -> dict[str, Any]:
    """Train, evaluate, keep the best, and leave a complete run folder.

    Args:
        config: everything the run is made of.
        folder: the run folder, made here once all inputs are known to be sound.
        accelerator: device, precision and processes.
        resume: go on from `checkpoints/last`.

    Returns:
        The metrics of the best checkpoint, on the main process.

    Raises:
        UserError: unusable input, or a loss that is not finite.
    """
    began, folder = time.perf_counter(), Path(folder)
    job = prepare(config, folder, accelerator, resume)
    with closing(RunLog(folder, accelerator.is_main_process, keep_epochs=job.done.epoch)) as log:
        run_epochs(job, log)
    metrics = finish(job)
    job.say(f"finished  {folder} in {(time.perf_counter() - began) / 60:.1f} min")
    if config.note:
        job.say(f"note      {config.note}")
    accelerator.end_training()
    return metrics


def prepare(config: Config, folder: Path, accelerator: Accelerator, resume: bool) -> Job:
    """Open the data, build the detector and what moves it, and say what is about to happen.

    Raises:
        UserError: unusable input; nothing is written then.
    """
    torch.manual_seed(config.seed)
    data = open_data(config, accelerator)
    detector = build_detector(config.detector, len(data.train.categories), resize_in_training=False)
    names = [category.name for category in data.train.categories]
    reports = [] if resume else load_pretrained(detector, config.detector.weights, names)
    freeze(detector, config.freeze, 0)
    images_per_update = config.batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    optimizer = build_optimizer(config.optimizer, detector.to(accelerator.device), images_per_update)
    updates_per_epoch = -(-len(data.train_batches) // config.gradient_accumulation_steps)
    scheduler = build_scheduler(config.schedule, optimizer, updates_per_epoch)
    amplitude = None if resume else start_amplitude(detector, data.train, accelerator, reports)
    average = None if config.ema is None else WeightAverage(detector, config.ema)
    job = Job(config, folder, accelerator, data, detector, optimizer, scheduler, average, Progress())
    if resume:
        restore(job)
        job.say(f"resume    {folder} after {job.done.epoch} epochs")
    describe(job, reports, images_per_update)
    if amplitude is not None:
        job.say(f"amplitude {amplitude:.3g}, the descriptors' of pool.reference; normalized sources start from it")
    if accelerator.is_main_process:
        write_run_description(folder, config, {"train": data.train_index, "val": data.val_index}, accelerator)
    job.say(f"run       {folder}")
    accelerator.wait_for_everyone()
    return job


def run_epochs(job: Job, log: RunLog) -> None:
    """Train and evaluate until the last epoch, or until the best has not improved for long enough."""
    config, accelerator = job.config, job.accelerator
    frozen = freeze(job.detector, config.freeze, job.done.epoch)
    model, job.optimizer = accelerator.prepare(job.detector, job.optimizer)
    for epoch in range(job.done.epoch, config.schedule.epochs):
        now_frozen = freeze(job.detector, config.freeze, epoch)
        if now_frozen != frozen and model is not job.detector:
            # A distributed wrapper fixes which gradients it waits for when it is made. Without one nothing may be made
            # again: the detector counts as prepared, and would be left without mixed precision.
            model = accelerator.prepare_model(accelerator.unwrap_model(model, keep_fp32_wrapper=False))
        frozen = now_frozen
        seed_epoch(config.seed, epoch, accelerator.process_index)
        _train_epoch(job, model, epoch, log)
        job.done.epoch = epoch + 1
        last = job.done.epoch == config.schedule.epochs
        if last or job.done.epoch % config.evaluate_every == 0:
            evaluate_epoch(job, log)
        if accelerator.is_main_process:
            save_last(job)
        without = job.done.evaluations_without_best
        if config.early_stopping is not None and without >= config.early_stopping and not last:
            job.say(f"stopped   no better {config.best_metric} in {without} evaluations")
            break


def _train_epoch(job: Job, model: nn.Module, epoch: int, log: RunLog) -> None:
    """`train_one_epoch` with a progress bar and a log."""
    config, batches = job.config, job.data.train_batches
    batches.set_epoch(epoch)
    label = f"epoch {epoch + 1}/{config.schedule.epochs}"
    with progress(label, len(batches), job.accelerator.is_main_process) as bar:

        def log_update(line: dict[str, float]) -> None:
            log.update(epoch, line)
            bar.advance(min(config.gradient_accumulation_steps, bar.total - bar.done), f"loss {line['loss']:.3f}")

        train_one_epoch(
            model,
            job.data.train_loader,
            len(batches),
            job.optimizer,
            job.scheduler,
            job.accelerator,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            clip_norm=config.optimizer.clip_norm,
            average=job.average,
            log=log_update,
            failures=job.folder,
        )


def evaluate_epoch(job: Job, log: RunLog) -> None:
    """Measure the validation split, and keep the weights if they are the best so far."""
    config, data, accelerator, done = job.config, job.data, job.accelerator, job.done
    results = detect_split(job.evaluated, data.val_loader, accelerator, data.val.categories, "evaluating")
    extra = {}
    if _measures_validation_loss(config):
        extra["val_loss"] = validation_loss(job.evaluated, data.val_loader, accelerator, config.seed)
    shared: list[Any] = [None]
    if accelerator.is_main_process:
        metrics = {**evaluate_detections(data.val_index.to_coco(), results), **extra}
        log.evaluation(done.epoch - 1, metrics)
        images = _draw(job, results, metrics)
        if images:
            log.image("samples", contact_sheet(list(images.values()), columns=2))
        shared = [{k: v for k, v in metrics.items() if isinstance(v, int | float)}]
        told = {k: metrics[k] for k in ("AP", "AP50", "AP75", *extra)}
        job.say(f"epoch {done.epoch:3d} " + "".join(f" {k} {v:.3f} " for k, v in told.items()))
        for note in metrics["notes"] if metrics["AP"] <= 0 else []:
            job.say(f"note      {note}")
    if accelerator.num_processes > 1:
        broadcast_object_list(shared)
    done.metrics = shared[0]
    _keep_if_best(job, results)


def _keep_if_best(job: Job, results: list[dict[str, Any]]) -> None:
    done, name = job.done, job.config.best_metric
    value = done.metrics[name]
    better = done.best is None or (value < done.best if name == "val_loss" else value > done.best)
    done.evaluations_without_best = 0 if better else done.evaluations_without_best + 1
    if better:
        done.best, done.best_epoch, job.best_results = value, done.epoch, results
        if job.accelerator.is_main_process:
            made = {"epoch": done.epoch, "metrics": done.metrics}
            save_checkpoint(job.folder / "checkpoints" / "best", job.evaluated, job.data.train.categories, made)


def _draw(job: Job, results: list[dict[str, Any]], metrics: dict[str, Any]) -> dict[str, np.ndarray]:
    """Ground truth beside detections for the fixed samples, at the score of the best F1 (0.5 where nothing was found)."""
    data, best = job.data, metrics["best_f1"]["score"]
    return draw_samples(data.val_index, data.val.images, results, job.config.samples, best if best > 0 else 0.5)


def finish(job: Job) -> dict[str, Any]:
    """Write metrics, results, plots and samples of the best checkpoint, and leave its weights in the detector."""
    accelerator, data, folder = job.accelerator, job.data, job.folder
    accelerator.wait_for_everyone()
    load_weights(folder / "checkpoints" / "best", job.detector)
    results = job.best_results
    if results is None:
        results = detect_split(job.detector, data.val_loader, accelerator, data.val.categories, "evaluating the best")
    if not accelerator.is_main_process:
        return {}
    ground_truth = data.val_index.to_coco()
    metrics = {**evaluate_detections(ground_truth, results), "epoch": job.done.best_epoch}
    write_evaluation(folder, ground_truth, results, metrics, losses_log=folder / "log.jsonl")
    (folder / "samples").mkdir(exist_ok=True)
    for name, image in _draw(job, results, metrics).items():
        Image.fromarray(image).save(folder / "samples" / f"{name}.png")
    job.say(f"\nbest checkpoint: epoch {job.done.best_epoch} by {job.config.best_metric}\n\n{metrics_table(metrics)}\n")
    for note in metrics["notes"]:
        job.say(f"note      {note}")
    return metrics


def save_last(job: Job) -> None:
    """Write what the run can be resumed from."""
    scaler = job.accelerator.scaler
    state = {
        "optimizer": job.optimizer.state_dict(),
        "scheduler": job.scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "average_updates": 0 if job.average is None else job.average.updates,
        "progress": dict(vars(job.done)),
    }
    save_checkpoint(
        job.folder / "checkpoints" / "last",
        job.evaluated,
        job.data.train.categories,
        {"epoch": job.done.epoch, "metrics": job.done.metrics},
        trained=None if job.average is None else job.detector,
        state=state,
    )


def restore(job: Job) -> None:
    """Take up the state that `save_last` wrote, before anything is prepared for devices or processes.

    Raises:
        UserError: missing or damaged.
    """
    checkpoint = job.folder / "checkpoints" / "last"
    state = load_training_state(checkpoint)
    load_weights(checkpoint, job.detector, "model" if job.average is None else "training")
    if job.average is not None:
        load_weights(checkpoint, job.average.module)
        job.average.updates = state["average_updates"]
    job.optimizer.load_state_dict(state["optimizer"])
    job.scheduler.load_state_dict(state["scheduler"])
    if job.accelerator.scaler is not None and state["scaler"] is not None:
        job.accelerator.scaler.load_state_dict(state["scaler"])
    job.done = Progress(**state["progress"])


def describe(job: Job, reports: list[LoadReport], images_per_update: int) -> None:
    """Say what is trained on, what was left out, which weights were loaded, and how the rate was scaled."""
    config, data = job.config, job.data
    for name, dataset in (("train", data.train), ("val", data.val)):
        counts = dataset.counts
        odd = {
            "images without boxes": counts["images_without_boxes"],
            "images left out": counts["images_left_out"],
            "crowd regions ignored in training": counts["crowd_left_out"],
            "boxes clipped to their image": counts["clipped"],
            "bad boxes dropped": counts["dropped"],
        }
        notes = "".join(f", {number} {what}" for what, number in odd.items() if number)
        job.say(f"{name:9} {counts['images']} images, {counts['boxes']} boxes{notes} ({dataset.index.path})")
    job.say(f"classes   {', '.join(c.name for c in data.train.categories)}")
    if data.train.masks is not None:
        filled = "every box, filled (data.masks=boxes)" if config.data.masks == "boxes" else "the annotations' own"
        job.say(f"masks     {filled}")
    for report in reports:
        job.say(f"weights   {report}")
    total = sum(p.numel() for p in job.detector.parameters()) / 1e6
    trained = sum(p.numel() for p in job.detector.parameters() if p.requires_grad) / 1e6
    job.say(f"detector  {total:.2f} M parameters, {trained:.2f} M of them trained in the first epoch")
    accelerator, optimizer = job.accelerator, config.optimizer
    job.say(f"device    {accelerator.device}, {accelerator.num_processes} process(es), precision {config.precision}")
    job.say(
        f"rate      {optimizer.kind} {scaled_learning_rate(optimizer, images_per_update):.3g} = {optimizer.lr:.3g} "
        f"stated for {optimizer.reference_batch} images an update, scaled to the real {images_per_update}"
    )
