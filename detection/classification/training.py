"""A classifier's run from a config to a complete run folder, by the detectors' engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator

from detection.analysis.complexity import count_parameters
from detection.classification.config import ClassifierConfig, build_classifier
from detection.classification.data import Batches, Images
from detection.classification.evaluation import ClassifierResults, classify, write_classifier_results
from detection.classification.network import Classifier
from detection.classification.sources import open_images
from detection.data.coco_index import Category
from detection.errors import UserError
from detection.runs.lock import writing
from detection.runs.logs import RunLog
from detection.training.last_checkpoint import restore
from detection.training.loaders import train_batches
from detection.training.loop import describe_run, finished, resumable, run_epochs
from detection.training.preemption import watch
from detection.training.state import TrainingRun


@dataclass(kw_only=True)
class ClassifierRun(TrainingRun[Classifier]):
    """A classifier's run at work, with the images to train on, and those to evaluate on."""

    command: ClassVar[str] = "train_classifier"

    config: ClassifierConfig
    train: Images
    measured: Images


def train_classifier(
    config: ClassifierConfig, folder: str | Path, accelerator: Accelerator, *, resume: bool = False
) -> dict[str, Any]:
    """Train, evaluate the last epoch's weights, and leave a run folder, as `detection.training.run.train` does.

    Returns:
        The metrics, on the main process.

    Raises:
        UserError: unusable input, or a loss that is not finite.
        Interrupted: a signal asked for it; what was trained is saved.
    """
    with writing(Path(folder), accelerator.is_main_process), watch():
        run = _prepare(config, Path(folder), accelerator, resume)
        with resumable(run):
            run_epochs(run, _after_epoch)
            metrics = _finish(run)
        with finished(run):
            accelerator.end_training()
    return metrics


def _prepare(config: ClassifierConfig, folder: Path, accelerator: Accelerator, resume: bool) -> ClassifierRun:
    """Open the data, build the network and its optimizer, and print what is about to happen.

    Raises:
        UserError: unusable input; nothing is written then.
    """
    torch.manual_seed(config.seed)
    train, measured = open_images(config.data)
    network = build_classifier(config, len(train.classes))
    _require_fitting(network, config, train)
    network.set_statistics(train.pixels)
    order = train_batches(len(train), config, accelerator)
    on_device = train.to(accelerator.device)
    run = ClassifierRun(
        config=config,
        folder=folder,
        accelerator=accelerator,
        model=network.to(accelerator.device),
        order=order,
        batches=Batches(on_device, order, config.data.augmentation, config.data.crop),
        categories=[Category(k, name) for k, name in enumerate(train.classes)],
        train=on_device,
        measured=measured.to(accelerator.device),
    )
    if resume:
        restore(run)
    side = train.pixels.shape[-1]
    seen = f", {config.data.crop}x{config.data.crop} of each seen" if config.data.crop else ""
    run.print_line(f"train     {len(train)} images of {side}x{side}{seen}")
    run.print_line(f"measured  {len(measured)} images ({config.data.measure})")
    run.print_line(f"classes   {', '.join(train.classes)}")
    run.print_line(f"network   {count_parameters(network)} parameters")
    parts = {"train": train, config.data.measure: measured}
    describe_run(run, {name: {"images": len(images), "sha256": images.digest()} for name, images in parts.items()})
    return run


def _require_fitting(network: Classifier, config: ClassifierConfig, images: Images) -> None:
    side, stride = config.data.crop or images.pixels.shape[-1], max(network.backbone.strides.values())
    if side % stride:
        raise UserError(
            f"data.{'crop' if config.data.crop else 'size'}: images of {side}x{side} pixels for a backbone of stride "
            f"{stride}; choose a multiple of {stride}."
        )


def _after_epoch(run: ClassifierRun, log: RunLog) -> bool:
    """Evaluate between epochs where that is asked for; no run ends early."""
    epoch, every, measured = run.done.epoch, run.config.evaluate_every, {}
    if run.accelerator.is_main_process and every is not None and epoch % every == 0:
        metrics = _classify(run, run.measured).metrics()
        log.evaluation(epoch - 1, metrics)
        measured = {name: metrics[name] for name in ("accuracy", "loss")}
    run.print_epoch(measured, digits=4)
    return False


def _finish(run: ClassifierRun) -> dict[str, Any]:
    """Evaluate what was trained, and write `metrics.json` and `correct.json`."""
    run.accelerator.wait_for_everyone()
    if not run.accelerator.is_main_process:
        return {}
    results, trained = _classify(run, run.measured), _classify(run, run.train).metrics()
    metrics = {
        **results.metrics(),
        "measured": run.config.data.measure,
        "parameters": count_parameters(run.model),
        "seconds": round(run.done.seconds, 1),
        "epochs": run.done.epoch,
        **{f"train_{name}": trained[name] for name in ("accuracy", "errors", "images", "loss")},
    }
    write_classifier_results(run.folder, results, metrics)
    run.print_line(
        f"finished  {run.folder}: accuracy {metrics['accuracy']:.4f} on the {metrics['measured']} images, "
        f"{metrics['errors']} of {metrics['images']} wrong; {metrics['train_accuracy']:.4f} on the training images; "
        f"{run.done.seconds:.0f} s of training"
    )
    return metrics


def _classify(run: ClassifierRun, images: Images) -> ClassifierResults:
    return classify(run.model, images, run.config, run.accelerator)
