"""Classification of images, and a trained run evaluated again, under other settings if wished."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy

from detection.analysis.complexity import count_parameters
from detection.atomic_write import write_json
from detection.classification.config import ClassifierConfig, build_classifier, open_classifier_config
from detection.classification.data import Images, middle
from detection.classification.network import Classifier
from detection.classification.sources import open_images
from detection.errors import UserError
from detection.runs.checkpoint import load_meta, load_weights, newest_complete
from detection.runs.logs import progress
from detection.runs.output import require_no_run
from detection.training.loaders import build_accelerator


@dataclass(frozen=True)
class ClassifierResults:
    """Correctness and loss of a classifier on each of N images.

    Attributes:
        correct: (N,) bool, in their order.
        losses: (N,) cross-entropy of each.
    """

    correct: Tensor
    losses: Tensor

    def metrics(self) -> dict[str, float]:
        """Compute the accuracy in [0, 1], the numbers of errors and images, and the mean loss."""
        right, count = int(self.correct.sum()), len(self.correct)
        return {
            "accuracy": right / count,
            "errors": count - right,
            "images": count,
            "loss": self.losses.cpu().double().mean().item(),
        }


@torch.no_grad()
def classify(
    network: Classifier,
    images: Images,
    config: ClassifierConfig,
    accelerator: Accelerator,
    on_batch: Callable[[int], None] = lambda count: None,
) -> ClassifierResults:
    """Classify images, unchanged but for `data.crop`. The network is left in the mode that it came in.

    Args:
        network: the bare one, not a distributed wrapper.
        images: on the network's device.
        config: its settings, with the batch size and the crop.
        accelerator: device and precision.
        on_batch: called with the number of images of each finished batch.
    """
    training = network.training
    network.eval()
    correct, losses = [], []
    for positions in torch.arange(len(images)).split(config.eval_batch_size):
        with accelerator.autocast():
            scores = network(middle(images.batch(positions), config.data.crop))
        labels = images.labels[positions].to(scores.device)
        correct.append((scores.argmax(1) == labels).cpu())
        losses.append(cross_entropy(scores, labels, reduction="none").cpu())
        on_batch(len(positions))
    network.train(training)
    return ClassifierResults(torch.cat(correct), torch.cat(losses))


def open_classifier(
    run: str | Path, device: torch.device | str = "cpu", overrides: Sequence[str] = ()
) -> tuple[Classifier, tuple[str, ...], ClassifierConfig]:
    """Rebuild a run's classifier with its trained weights, ready to classify, the names of its classes and its config.

    Raises:
        UserError: not a classifier's run folder, or weights that do not fit.
    """
    config = open_classifier_config(run, overrides)
    last = newest_complete(Path(run) / "checkpoints" / "last")
    classes = tuple(category.name for category in load_meta(last)["categories"])
    network = build_classifier(config, len(classes))
    load_weights(last, network)
    return network.to(device).eval(), classes, config


def evaluate_classifier(
    run: str | Path, output: str | Path | None = None, device: str | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluate a trained run again and write `metrics.json` and `correct.json`.

    Args:
        run: the run folder.
        output: where they go, not the run folder itself; None for `RUN/evaluation`.
        device: `cpu`, `cuda`, `mps`, or None for a GPU of CUDA if there is one.
        overrides: `key=value` changes of its config, such as `network.backbone.inference_steps=5`.

    Returns:
        The metrics.

    Raises:
        UserError: anything that is missing or does not fit.
    """
    if output:
        require_no_run(Path(output), Path(run))
    network, classes, config = open_classifier(run, overrides=overrides)
    accelerator = build_accelerator(config.precision, device, inference=True)
    _, images = open_images(config.data)
    if images.classes != classes:
        raise UserError(f"{run}: was trained on the classes {', '.join(classes)}, not {', '.join(images.classes)}.")
    with progress("measuring", len(images)) as bar:
        device_images = images.to(accelerator.device)
        results = classify(network.to(accelerator.device), device_images, config, accelerator, bar.advance)
    metrics = {**results.metrics(), "measured": config.data.measure, "parameters": count_parameters(network)}
    write_classifier_results(Path(output) if output else Path(run) / "evaluation", results, metrics)
    return metrics


def write_classifier_results(folder: Path, results: ClassifierResults, metrics: dict[str, Any]) -> None:
    """Write `correct.json`, 1 or 0 for each image in order, and then `metrics.json`."""
    write_json(folder / "correct.json", results.correct.int().tolist())
    write_json(folder / "metrics.json", metrics)
