"""A training run from a config to a complete run folder, read top to bottom."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from detection.checkpoint import load_training_state, load_weights, save_checkpoint
from detection.config import Config
from detection.data.coco_index import CocoIndex
from detection.data.dataset import DetectionDataset, match_categories, require_training_boxes
from detection.data.sampling import TrainBatches
from detection.data.transforms import Transform
from detection.detector import Detector, build_detector, load_pretrained
from detection.engine import train_one_epoch, validation_loss
from detection.errors import UserError
from detection.evaluation import evaluate_detections, metrics_table, write_evaluation
from detection.freezing import freeze
from detection.logs import RunLog, progress
from detection.optim import WeightAverage, build_optimizer, build_scheduler, scaled_learning_rate
from detection.runs import build_loader, detect_split, eval_loader, open_split, write_run_description
from detection.samples import draw_samples
from detection.visualize import contact_sheet


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
    train = DetectionDataset(
        train_index, Path(config.data.train.images), transform, config.seed, config.data.train.empty_images
    )
    require_training_boxes(train)
    val = DetectionDataset(val_index, Path(config.data.val.images))
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


def train(config: Config, folder: Path, accelerator: Accelerator, *, resume: bool = False) -> dict[str, Any]:
    """Train, evaluate, keep the best, and leave a complete run folder.

    Args:
        config: everything the run is made of.
        folder: the run folder, made here once all inputs are known to be sound.
        accelerator: device, precision and processes.
        resume: go on from `checkpoints/last`.

    Returns:
        The metrics of the best checkpoint.

    Raises:
        UserError: unusable input, or a loss that is not finite.
    """
    began = time.perf_counter()
    say = print if accelerator.is_main_process else _silent
    torch.manual_seed(config.seed)
    data = open_data(config, accelerator)
    describe_data(data, say)
    detector = build_detector(config.detector, len(data.train.categories), resize_in_training=False)
    if not resume:
        for report in load_pretrained(detector, config.detector.weights):
            say(f"weights   {report}")
    frozen = freeze(detector, config.freeze, 0)
    images_per_update = config.batch_size * config.accumulate * accelerator.num_processes
    optimizer = build_optimizer(config.optimizer, detector.to(accelerator.device), images_per_update)
    updates_per_epoch = -(-len(data.train_batches) // config.accumulate)
    scheduler = build_scheduler(config.schedule, optimizer, updates_per_epoch)
    average = None if config.ema is None else WeightAverage(detector, config.ema)
    done = Progress()
    if resume:
        done = restore(folder / "checkpoints" / "last", detector, optimizer, scheduler, average, accelerator)
        say(f"resume    {folder} after {done.epoch} epochs")
    describe_training(config, detector, images_per_update, accelerator, say)
    if accelerator.is_main_process:
        write_run_description(folder, config, {"train": data.train_index, "val": data.val_index}, accelerator)
    say(f"run       {folder}")
    accelerator.wait_for_everyone()

    log = RunLog(folder, accelerator.is_main_process, keep_epochs=done.epoch)
    frozen = freeze(detector, config.freeze, done.epoch)
    model, optimizer = accelerator.prepare(detector, optimizer)
    for epoch in range(done.epoch, config.schedule.epochs):
        now_frozen = freeze(detector, config.freeze, epoch)
        if now_frozen != frozen:
            # A distributed wrapper fixes which gradients it waits for when it is made.
            model = accelerator.prepare_model(accelerator.unwrap_model(model, keep_fp32_wrapper=False))
            frozen = now_frozen
        _seed_epoch(config.seed, epoch, accelerator.process_index)
        data.train_batches.set_epoch(epoch)
        num_batches = len(data.train_batches)
        with progress(f"epoch {epoch + 1}/{config.schedule.epochs}", num_batches, accelerator.is_main_process) as bar:

            def log_update(line: dict[str, float], epoch: int = epoch, bar: Any = bar) -> None:
                log.update(epoch, line)
                bar.advance(min(config.accumulate, bar.total - bar.done), f"loss {line['loss']:.3f}")

            train_one_epoch(
                model,
                data.train_loader,
                num_batches,
                optimizer,
                scheduler,
                accelerator,
                accumulate=config.accumulate,
                clip_norm=config.optimizer.clip_norm,
                average=average,
                log=log_update,
                failures=folder,
            )
        done.epoch = epoch + 1
        evaluated = detector if average is None else average.module
        last = done.epoch == config.schedule.epochs
        if last or done.epoch % config.evaluate_every == 0:
            evaluate_epoch(config, folder, data, evaluated, accelerator, log, done, say)
        stop = config.early_stopping is not None and done.evaluations_without_best >= config.early_stopping
        if accelerator.is_main_process:
            save_last(folder, detector, average, optimizer, scheduler, accelerator, data, done)
        if stop and not last:
            say(f"stopped   no better {config.best_metric} in {done.evaluations_without_best} evaluations")
            break
    log.close()
    metrics = finish(config, folder, data, detector, accelerator, done)
    say(f"finished  {folder} in {(time.perf_counter() - began) / 60:.1f} min")
    accelerator.end_training()
    return metrics


def evaluate_epoch(
    config: Config,
    folder: Path,
    data: Data,
    detector: Detector,
    accelerator: Accelerator,
    log: RunLog,
    done: Progress,
    say: Callable[[str], None],
) -> None:
    """Measure the validation split, keep the weights if they are the best so far, and tell `done`."""
    results = detect_split(detector, data.val_loader, accelerator, data.val.categories, "evaluating")
    loss = None
    if config.validation_loss or config.best_metric == "val_loss":
        loss = validation_loss(detector, data.val_loader, accelerator, config.seed)
    shared: list[Any] = [None, None]
    if accelerator.is_main_process:
        metrics = evaluate_detections(data.val_index.to_coco(), results)
        if loss is not None:
            metrics["val_loss"] = loss
        line = f"epoch {done.epoch:3d}  AP {metrics['AP']:.3f}  AP50 {metrics['AP50']:.3f}  AP75 {metrics['AP75']:.3f}"
        say(line + ("" if loss is None else f"  val_loss {loss:.3f}"))
        log.evaluation(done.epoch - 1, metrics)
        score = metrics["best_f1"]["score"]
        pictures = draw_samples(data.val_index, data.val.images, results, config.samples, score)
        if pictures:
            log.picture("samples", contact_sheet(list(pictures.values()), columns=2))
        shared = [{k: v for k, v in metrics.items() if isinstance(v, int | float)}, metrics["notes"]]
    if accelerator.num_processes > 1:
        broadcast_object_list(shared)
    done.metrics, notes = shared
    for note in notes if done.metrics["AP"] <= 0 else []:
        say(f"note      {note}")
    if config.best_metric not in done.metrics:
        raise UserError(f"best_metric={config.best_metric}: not measured; known: {', '.join(sorted(done.metrics))}.")
    value = done.metrics[config.best_metric]
    better = done.best is None or (value < done.best if config.best_metric == "val_loss" else value > done.best)
    done.evaluations_without_best = 0 if better else done.evaluations_without_best + 1
    if better:
        done.best, done.best_epoch = value, done.epoch
        if accelerator.is_main_process:
            progress_made = {"epoch": done.epoch, "metrics": done.metrics}
            save_checkpoint(folder / "checkpoints" / "best", detector, data.train.categories, progress_made)


def finish(
    config: Config, folder: Path, data: Data, detector: Detector, accelerator: Accelerator, done: Progress
) -> dict[str, Any]:
    """Evaluate the best checkpoint once more and write metrics, results, plots and samples for it."""
    accelerator.wait_for_everyone()
    detector = accelerator.unwrap_model(detector, keep_fp32_wrapper=False)
    load_weights(folder / "checkpoints" / "best", detector)
    results = detect_split(detector, data.val_loader, accelerator, data.val.categories, "evaluating the best")
    metrics: dict[str, Any] = {}
    if accelerator.is_main_process:
        truth = data.val_index.to_coco()
        metrics = evaluate_detections(truth, results)
        metrics["epoch"] = done.best_epoch
        write_evaluation(folder, truth, results, metrics, losses_log=folder / "log.jsonl")
        (folder / "samples").mkdir(exist_ok=True)
        score = metrics["best_f1"]["score"]
        pictures = draw_samples(data.val_index, data.val.images, results, config.samples, score)
        for name, picture in pictures.items():
            Image.fromarray(picture).save(folder / "samples" / f"{name}.png")
        print(f"\nbest checkpoint: epoch {done.best_epoch} by {config.best_metric}\n\n{metrics_table(metrics)}\n")
        for note in metrics["notes"]:
            print(f"note      {note}")
    return metrics


def save_last(
    folder: Path,
    detector: Detector,
    average: WeightAverage | None,
    optimizer: Any,
    scheduler: LRScheduler,
    accelerator: Accelerator,
    data: Data,
    done: Progress,
) -> None:
    """Write what the run can be resumed from."""
    state = {
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
        "average_updates": 0 if average is None else average.updates,
        "progress": dict(vars(done)),
    }
    evaluated, trained = (detector, None) if average is None else (average.module, detector)
    summary = {"epoch": done.epoch, "metrics": done.metrics}
    save_checkpoint(
        folder / "checkpoints" / "last", evaluated, data.train.categories, summary, trained=trained, state=state
    )


def restore(
    checkpoint: Path,
    detector: Detector,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    average: WeightAverage | None,
    accelerator: Accelerator,
) -> Progress:
    """Take up the state that `save_last` wrote, before anything is prepared for devices or processes.

    Raises:
        UserError: missing or damaged.
    """
    state = load_training_state(checkpoint)
    load_weights(checkpoint, detector, "model" if average is None else "training")
    if average is not None:
        load_weights(checkpoint, average.module)
        average.updates = state["average_updates"]
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    return Progress(**state["progress"])


def describe_data(data: Data, say: Callable[[str], None]) -> None:
    """Say what is trained on and what was left out."""
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
        say(f"{name:9} {counts['images']} images, {counts['boxes']} boxes{notes} ({dataset.index.path})")
    say(f"classes   {', '.join(c.name for c in data.train.categories)}")


def describe_training(
    config: Config, detector: Detector, images_per_update: int, accelerator: Accelerator, say: Callable[[str], None]
) -> None:
    """Say what is about to happen: size, device, learning rate."""
    total = sum(p.numel() for p in detector.parameters())
    trained = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    lr = scaled_learning_rate(config.optimizer, images_per_update)
    say(f"detector  {total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M of them trained in the first epoch")
    say(f"device    {accelerator.device}, {accelerator.num_processes} process(es), precision {config.precision}")
    say(
        f"rate      {config.optimizer.kind} {lr:.3g} = {config.optimizer.lr:.3g} stated for "
        f"{config.optimizer.reference_batch} images an update, scaled to the real {images_per_update}"
    )


def _seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """The random state of an epoch depends on nothing before it, so that a resumed run repeats an unbroken one."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint32)[0]))


def _silent(*_: Any) -> None:
    pass
