"""Classifiers as a run type: runs of `detection train_classifier` (`Ablation(…, run_type=CLASSIFIERS)`)."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detection.ablation.run_types import CorruptRun, RunType, StaleRun, epoch_progress, read_json
from detection.ablation.workload import Workload, build_workload
from detection.analysis.complexity import count_flops, count_parameters
from detection.classification.config import (
    ClassifierConfig,
    ImageData,
    build_classifier,
    load_classifier_config,
    override_classifier,
)
from detection.classification.data import middle
from detection.classification.sources import files_state, open_images
from detection.config import from_plain
from detection.errors import UserError
from detection.training.loaders import build_accelerator

# Sizes must not depend on whether the data is there; the side is for images whose size no setting gives.
_NOMINAL_CLASSES, _NOMINAL_SIDE = 10, 32


@dataclasses.dataclass(frozen=True)
class ClassificationResults:
    """Correctness of each image.

    Attributes:
        correct: 1 where the predicted class is right, else 0, (N,).
        images_key: equal for equal images.
    """

    correct: np.ndarray
    images_key: str

    @property
    def num_images(self) -> int:
        """Number of images, N."""
        return len(self.correct)

    def resampled(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Accuracy of each resampling, (S,), given how often each image is drawn, (S, N)."""
        return {"accuracy": counts @ self.correct / counts.sum(axis=1)}


class ClassifierRuns(RunType):
    """Classifiers, evaluated by their accuracy."""

    command = ("-m", "detection.cli.train_classifier")
    columns = metrics = ("accuracy",)
    widths = ("network.backbone.channels",)

    def load(self, path: Path) -> ClassifierConfig:
        """Read a classifier's config."""
        return load_classifier_config(path)

    def override(self, config: ClassifierConfig, overrides: Sequence[str]) -> ClassifierConfig:
        """Apply overrides to a classifier's config."""
        return override_classifier(config, overrides)

    def architecture(self, config: ClassifierConfig) -> Any:
        """The network, the settings of a training step, and the data."""
        plain = self.plain(config)
        rest = {key: plain[key] for key in ("network", "batch_size", "precision", "data")}
        return {"optimizer": plain["optimizer"]["kind"], **rest}

    def size(self, config: ClassifierConfig, what: str) -> int:
        """Size of the network for a nominal number of classes; FLOPs on one image."""
        network = build_classifier(config, _NOMINAL_CLASSES)
        side = config.data.crop or config.data.size or _NOMINAL_SIDE
        if what == "parameters":
            return count_parameters(network)
        return count_flops(network.eval(), torch.zeros(1, 3, side, side))

    def prepare(self, config: ClassifierConfig) -> None:
        """Do nothing: each run reports missing data itself."""

    def evaluated_on(self, config: ClassifierConfig) -> str:
        """The last epoch: no classifier is chosen among several."""
        return f"the last epoch on the {config.data.measure} images"

    def read(self, folder: Path) -> dict[str, float]:
        """Read the accuracy, after checking that metrics.json and correct.json agree, and that no image has changed."""
        metrics, correct = read_json(folder / "metrics.json", dict), read_json(folder / "correct.json", list)
        if not correct or metrics.get("images") != len(correct) or metrics.get("errors") != correct.count(0):
            raise CorruptRun("metrics.json and correct.json contradict each other")
        _require_same_data(folder)
        return {"accuracy": sum(correct) / len(correct)}

    def per_image_results(self, folder: Path) -> ClassificationResults:
        """Read the correctness of each image."""
        try:
            measured = read_json(folder / "metrics.json", dict)["measured"]
            key = read_json(folder / "environment.json", dict)["data"][measured]["sha256"]
        except (KeyError, TypeError):
            raise CorruptRun("environment.json does not name its data") from None
        return ClassificationResults(np.array(read_json(folder / "correct.json", list), float), key)

    def workload(self, config: ClassifierConfig) -> Workload:
        """Build the network with a batch of unaugmented images in memory."""
        accelerator = build_accelerator(config.precision)
        images, _ = open_images(config.data)
        torch.manual_seed(0)
        network = build_classifier(config, len(images.classes))
        positions = torch.arange(min(config.batch_size, len(images)))
        batch = list(middle(images.batch(positions), config.data.crop))
        targets = [{"label": int(images.labels[p]), "image_id": int(p)} for p in positions]
        return build_workload(network, config, accelerator, (batch, targets), batch[0], {})

    def progress(self, folder: Path) -> str:
        """Read the epoch from the last checkpoint."""
        meta = folder / "checkpoints" / "last" / "meta.json"
        return epoch_progress(folder, lambda _: json.loads(meta.read_text(encoding="utf-8"))["epoch"])


def _require_same_data(folder: Path) -> None:
    """Check that the images of all parts have not changed since the run; such as were moved away are not compared.

    Raises:
        UserError: the images cannot be opened.
    """
    try:
        data = read_json(folder / "environment.json", dict)["data"]
        recorded = {name: part["sha256"] for name, part in data.items()}
    except (KeyError, TypeError, AttributeError):
        raise CorruptRun("environment.json does not name its data") from None
    try:
        settings = from_plain(read_json(folder / "config.json", dict)["data"], ImageData)
    except (KeyError, TypeError, UserError):
        raise CorruptRun("config.json names no data") from None
    if not (state := files_state(settings)):
        return
    # Variants that augment or crop the same images share them.
    digests = _digests(dataclasses.replace(settings, augmentation=None, crop=None), state)
    changed = [name for name, digest in recorded.items() if digests.get(name) != digest]
    if changed:
        parts = " and ".join(changed)
        raise StaleRun(f"the {parts} images in {settings.root} are no longer those that it was made with")


@functools.cache  # all runs of an ablation share few data sets
def _digests(data: ImageData, state: str) -> dict[str, str]:
    """Hashes of the images of both parts, as a run records them; the state makes those of other files other ones."""
    train, measured = open_images(data)
    return {"train": train.digest(), data.measure: measured.digest()}


CLASSIFIERS = ClassifierRuns()
