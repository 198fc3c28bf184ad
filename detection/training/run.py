"""A training run from a config to a complete run folder, read top to bottom."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image

from detection.analysis.anchor_fit import anchor_remarks
from detection.analysis.samples import draw_samples
from detection.analysis.visualize import contact_sheet
from detection.channels_last import to_channels_last
from detection.config import Config
from detection.data.dataset import DetectionDataset
from detection.data.federated import federated_remark
from detection.data.remarks import training_remarks
from detection.detector import Detector, build_detector
from detection.errors import UserError
from detection.evaluation import (
    evaluate_detections,
    is_defined,
    metric_text,
    metrics_table,
    write_evaluation,
    write_metrics,
)
from detection.evaluation.columns import CocoDataset, CocoResults
from detection.heads import name_classes
from detection.pretrained import load_pretrained
from detection.runs.checkpoint import (
    load_meta,
    load_weights,
    newest_complete,
    require_fitting_weights,
    save_checkpoint,
)
from detection.runs.data_identity import describe_splits
from detection.runs.folder import read_config_json
from detection.runs.lock import writing
from detection.runs.logs import RunLog
from detection.training.activation_checkpoints import checkpoint_stages
from detection.training.amplitudes import start_amplitude
from detection.training.compiling import CountedBackend, compile_parts
from detection.training.data import Data, needs_validation_loss, open_data
from detection.training.determinism import deterministic
from detection.training.engine import validation_loss
from detection.training.epoch_notes import print_epoch_notes
from detection.training.evaluate import detect_split
from detection.training.freezing import freeze
from detection.training.last_checkpoint import restore
from detection.training.loop import describe_run, finished, resumable, run_epochs
from detection.training.memory import peak_memory
from detection.training.optim import WeightAverage
from detection.training.preemption import postponed, watch
from detection.training.run_lines import print_data, print_model
from detection.training.state import TrainingRun


@dataclass(kw_only=True)
class DetectorRun(TrainingRun[Detector]):
    """A detector's run at work.

    Attributes:
        best_results: what the best checkpoint detects, where this process has evaluated it.
        last_results: what the last epoch's weights detect, likewise.
        compiled: counts compiled graphs, where parts are compiled.
        graphs: their number at the last print.
    """

    config: Config
    data: Data
    best_results: list[dict[str, Any]] | None = None
    last_results: list[dict[str, Any]] | None = None
    compiled: CountedBackend | None = None
    graphs: int = 0

    def stops_early(self, config: Config) -> bool:
        """True once a config's `early_stopping` evaluations in a row were not better; False without that limit."""
        return config.early_stopping is not None and self.done.evaluations_without_best >= config.early_stopping


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
        Interrupted: a signal asked for it; what was trained is saved.
    """
    began = time.perf_counter()
    with writing(Path(folder), accelerator.is_main_process), watch(), deterministic(config.deterministic):
        run = prepare(config, Path(folder), accelerator, resume)
        with resumable(run):
            run_epochs(run, after_epoch)
            metrics = finish(run)
        with finished(run):
            peak = peak_memory(accelerator.device)
            memory = f", {peak} of memory at most" if peak else ""
            run.print_line(f"finished  {folder} in {(time.perf_counter() - began) / 60:.1f} min{memory}")
            if config.note:
                run.print_line(f"note      {config.note}")
            accelerator.end_training()
    return metrics


def prepare(config: Config, folder: Path, accelerator: Accelerator, resume: bool) -> DetectorRun:
    """Open the data, build the detector and its optimizer, and print what is about to happen.

    Raises:
        UserError: unusable input; nothing is written then.
    """
    torch.manual_seed(config.seed)
    data = open_data(config, accelerator)
    detector = build_detector(config.detector, len(data.train.categories), resize_in_training=False)
    names = [category.name for category in data.train.categories]
    name_classes(detector, names)
    reports = [] if resume else load_pretrained(detector, config.detector.weights, names)
    freeze(detector, config.freeze, 0)
    # Convolutions compute in this layout; the others' maps would be transposed for each.
    to_channels_last(detector.to(accelerator.device))
    amplitude = None if resume else start_amplitude(detector, data.train, accelerator, reports)
    run = DetectorRun(
        config=config,
        folder=folder,
        accelerator=accelerator,
        model=detector,
        order=data.train_batches,
        batches=data.train_loader,
        categories=data.train.categories,
        frozen=config.freeze,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        average=None if config.ema is None else WeightAverage(detector, config.ema),
        data=data,
    )
    if resume:
        restore(run)
        _forget_unusable_best(run)
        _measure_best_by(run, config.best_metric)
        done = run.done
        if done.epoch >= config.schedule.epochs and (done.best_epoch < 0 or 0 < done.evaluated_epoch < done.epoch):
            done.awaits_evaluation = True  # it has become the last epoch, which is always evaluated
    # After the average was copied from the detector: stages copied later would run the detector's own.
    if config.checkpoint_backbone:
        checkpoint_stages(detector.backbone)
    if config.compile:
        run.compiled = compile_parts(detector)
    print_data(run)
    if accelerator.is_main_process:
        remarks = training_remarks(data.train.index, data.val.index, data.train.images, data.val.images)
        for remark in [*remarks, *anchor_remarks(data.train.index, config)]:
            run.print_line(f"check     {remark}")
        if remark := federated_remark(data.val.index.path):
            run.print_line(f"check     {remark}")
    print_model(run, reports)
    if amplitude is not None:
        note = "the descriptors' of pool.reference; normalized sources start from it"
        run.print_line(f"amplitude {amplitude:.3g}, {note}")
    describe_run(run, describe_splits(data.splits, accelerator))
    return run


def _forget_unusable_best(run: DetectorRun) -> None:
    """After a resume without the weights of the best so far, choose among those that follow."""
    done = run.done
    if done.best_epoch < 0:
        return
    try:
        require_fitting_weights(newest_complete(run.folder / "checkpoints" / "best"), run.model)
    except UserError:
        first = done.epoch if done.epoch >= run.config.schedule.epochs or done.awaits_evaluation else done.epoch + 1
        lost = f"the best checkpoint, of epoch {done.best_epoch}, is missing or damaged"
        run.print_line(f"note      {lost}: the best is chosen among the epochs from {first} on")
        done.best, done.best_epoch, done.evaluations_without_best = None, -1, 0


def _measure_best_by(run: DetectorRun, name: str) -> None:
    """After a resume under another `best_metric`, compare what follows with the best checkpoint by the new one."""
    done = run.done
    # Checkpoints from before the metric was kept there have none.
    before = done.best_metric = done.best_metric or read_config_json(run.folder).get("best_metric", name)
    nothing_left = done.epoch >= run.config.schedule.epochs and not done.awaits_evaluation
    if done.best_epoch < 0 or before == name or nothing_left:
        return
    meta = load_meta(newest_complete(run.folder / "checkpoints" / "best"))
    # A run that ended between this checkpoint and its state names an earlier epoch.
    done.best_epoch, value = meta["epoch"], meta["metrics"].get(name, math.nan)
    done.best, done.best_metric = (value if is_defined(name, value) else None), name
    done.evaluations_without_best = 0
    run.print_line(f"note      the best so far is epoch {done.best_epoch} by {before}, with {metric_text(name, value)}")


def after_epoch(run: DetectorRun, log: RunLog) -> bool:
    """Evaluate where that is due, and return whether the best has not improved for long enough."""
    config, done = run.config, run.done
    print_epoch_notes(run)
    last = done.epoch >= config.schedule.epochs
    if last or done.epoch % config.evaluate_every == 0:
        evaluate_epoch(run, log)
    else:
        run.print_epoch()
    if last or not run.stops_early(config):
        return False
    run.print_line(f"stopped   no better {config.best_metric} in {done.evaluations_without_best} evaluations")
    return True


def evaluate_epoch(run: DetectorRun, log: RunLog) -> None:
    """Evaluate on the validation split, and keep the weights if they are the best so far."""
    config, data, accelerator, done = run.config, run.data, run.accelerator, run.done
    results = detect_split(run.evaluated, data.val_loader, accelerator, data.val.categories, "evaluating")
    extra = {}
    if needs_validation_loss(config):
        extra["val_loss"] = validation_loss(run.evaluated, data.val_loader, accelerator, config.seed)
    shared: list[Any] = [None]
    if accelerator.is_main_process:
        metrics = {**evaluate_detections(data.val.index.to_coco(), results), **extra}
        log.evaluation(done.epoch - 1, metrics)
        images = _draw(run, results, metrics)
        if images:
            log.image("samples", contact_sheet(list(images.values()), columns=2))
        shared = [{k: v for k, v in metrics.items() if isinstance(v, int | float)}]
        printed = {k: metrics[k] for k in ("AP", "AP50", "AP75", *extra)}
        run.print_epoch(printed)
        for note in metrics["notes"] if metrics["AP"] <= 0 else []:
            run.print_line(f"note      {note}")
    if accelerator.num_processes > 1:
        broadcast_object_list(shared)
    done.metrics, done.evaluated_epoch, run.last_results = shared[0], done.epoch, results
    _keep_if_best(run, results)


def _keep_if_best(run: DetectorRun, results: list[dict[str, Any]]) -> None:
    """Keep the weights if they are the best so far, or the newest as long as `best_metric` has not been defined."""
    done, name = run.done, run.config.best_metric
    value = done.metrics[name]
    defined = is_defined(name, value)
    better = done.best is None or (defined and (value < done.best if name == "val_loss" else value > done.best))
    better |= defined and done.epoch == done.best_epoch  # evaluated again after a resume
    if not defined and (done.best is not None or done.best_epoch < 0):
        waits = "; the newest checkpoint counts as the best until it is" if done.best is None else ""
        run.print_line(f"note      {name} is not defined at epoch {done.epoch}, and chooses no checkpoint{waits}")
    if defined:
        done.evaluations_without_best = 0 if better else done.evaluations_without_best + 1
        done.best = value if better else done.best
    if better:
        done.best_epoch, done.best_metric, run.best_results = done.epoch, name, results
        if run.accelerator.is_main_process:
            progress = {"epoch": done.epoch, "metrics": done.metrics}
            with postponed():
                save_checkpoint(run.folder / "checkpoints" / "best", run.evaluated, run.categories, progress)


def _draw(run: DetectorRun, results: list[dict[str, Any]], metrics: dict[str, Any]) -> dict[str, np.ndarray]:
    """Draw ground truth next to detections from the score of the best F1 on, 0.5 where nothing was found."""
    data, best = run.data, metrics["best_f1"]["score"]
    names = [category.name for category in run.categories]
    return draw_samples(data.val.index, data.val.images, results, run.config.samples, best if best > 0 else 0.5, names)


def finish(run: DetectorRun) -> dict[str, Any]:
    """Write metrics, results, plots and samples of the best checkpoint, and leave its weights in the detector.

    Metrics and results of the last epoch go to `last/`, those of the best checkpoint on the test split to `test/`.
    """
    accelerator, data, folder, categories = run.accelerator, run.data, run.folder, run.categories
    accelerator.wait_for_everyone()
    results, last, on_test = run.best_results, run.last_results, None
    if last is None:
        last = detect_split(run.evaluated, data.val_loader, accelerator, categories, "evaluating the last")
    load_weights(newest_complete(folder / "checkpoints" / "best"), run.model)
    if run.done.best_epoch == run.done.epoch:
        results = last
    elif results is None:
        results = detect_split(run.model, data.val_loader, accelerator, categories, "evaluating the best")
    if data.test_loader is not None:
        on_test = detect_split(run.model, data.test_loader, accelerator, categories, "evaluating on the test split")
    if not accelerator.is_main_process:
        return {}
    ground_truth = data.val.index.to_coco()
    metrics = {**_measured(ground_truth, results), "epoch": run.done.best_epoch, "split": "val"}
    of_last = metrics if results is last else {**metrics, **_measured(ground_truth, last)}
    write_metrics(folder / "last", last, {**of_last, "epoch": run.done.epoch})
    tested = None if data.test is None or on_test is None else _write_test(run, data.test, on_test)
    # Last, because a folder with metrics.json is a finished run.
    names = [category.name for category in categories]
    write_evaluation(folder, ground_truth, results, metrics, losses_log=folder / "log.jsonl", all_classes=names)
    samples, drawn = folder / "samples", _draw(run, results, metrics)
    samples.mkdir(exist_ok=True)
    for name, image in drawn.items():
        Image.fromarray(image).save(samples / f"{name}.png")
    for earlier in samples.glob("*.png"):  # before a resume, of other weights
        if earlier.stem not in drawn:
            earlier.unlink()
    _print_metrics(run, metrics, tested)
    return metrics


def _measured(ground_truth: CocoDataset, results: CocoResults) -> dict[str, Any]:
    return evaluate_detections(ground_truth, results, errors=True)


def _write_test(run: DetectorRun, test: DetectionDataset, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Write metrics, results and plots of the best checkpoint on the test split."""
    ground_truth = test.index.to_coco()
    metrics = {**_measured(ground_truth, results), "epoch": run.done.best_epoch, "split": "test"}
    names = [category.name for category in run.categories]
    write_evaluation(run.folder / "test", ground_truth, results, metrics, all_classes=names)
    return metrics


def _print_metrics(run: DetectorRun, metrics: dict[str, Any], tested: dict[str, Any] | None) -> None:
    by = "" if run.done.best is not None else ", the newest, since it was never defined"
    best = f"best checkpoint: epoch {run.done.best_epoch} by {run.done.best_metric}{by}"
    run.print_line(f"\n{best}\n\n{metrics_table(metrics)}\n")
    for note in metrics["notes"]:
        run.print_line(f"note      {note}")
    if tested is not None:
        values = "  ".join(metric_text(name, tested[name]) for name in ("AP", "AP50", "AP75"))
        run.print_line(f"test      {values}  on {tested['images']} images that chose nothing ({run.folder / 'test'})")
        for note in tested["notes"]:
            run.print_line(f"note      test split: {note}")
