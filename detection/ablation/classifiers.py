"""Runs of `detection train_classifier`, for ablations (`Ablation(…, kind=CLASSIFIERS)`)."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detection.ablation.run_types import CorruptRun, Kind, Workload, read_json
from detection.analysis.complexity import count_flops, count_parameters
from detection.classification.config import ClassifierConfig, load_config, override
from detection.classification.data import middle
from detection.classification.sources import open_data
from detection.config import to_plain
from detection.training.engine import train_one_epoch
from detection.training.loaders import build_accelerator
from detection.training.optim import build_optimizer

SOME_CLASSES = 10
"""For sizes that must not depend on whether the data is there; so is the side of images that no setting tells."""
SOME_SIDE = 32


@dataclasses.dataclass(frozen=True)
class Answers:
    """Which images a run got right: `correct` (N,) of 0 and 1; `images_key` is equal for equal images."""

    correct: np.ndarray
    images_key: str

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.correct)

    def resampled(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """See `detection.ablation.run_types.PerImageResults`."""
        return {"accuracy": counts @ self.correct / counts.sum(axis=1)}


class ClassifierRuns(Kind):
    """Classifiers, measured by their accuracy."""

    command = ("-m", "detection.cli.train_classifier")
    columns = metrics = ("accuracy",)
    widths = ("network.backbone.channels",)

    def load(self, path: Path) -> ClassifierConfig:
        """See `Kind`."""
        return load_config(path)

    def override(self, config: ClassifierConfig, overrides: Sequence[str]) -> ClassifierConfig:
        """See `Kind`."""
        return override(config, overrides)

    def plain(self, config: ClassifierConfig) -> dict[str, Any]:
        """See `Kind`."""
        return to_plain(config)

    def architecture(self, config: ClassifierConfig) -> Any:
        """The network, what a step does with it, and the size and kind of its images."""
        plain = self.plain(config)
        rest = {key: plain[key] for key in ("network", "batch_size", "precision", "data")}
        return {"optimizer": plain["optimizer"]["kind"], **rest}

    def size(self, config: ClassifierConfig, what: str) -> int:
        """See `Kind`."""
        network = config.network(SOME_CLASSES)
        side = config.data.crop or config.data.size or SOME_SIDE
        return count_parameters(network) if what == "parameters" else _flops(network, side)

    def prepare(self, config: ClassifierConfig) -> None:
        """Nothing is made: what is missing each run tells by itself."""

    def read(self, folder: Path) -> dict[str, float]:
        """See `Kind`."""
        metrics, correct = read_json(folder / "metrics.json", dict), read_json(folder / "correct.json", list)
        if not correct or metrics.get("images") != len(correct) or metrics.get("errors") != correct.count(0):
            raise CorruptRun("metrics.json and correct.json tell different things")
        return {"accuracy": sum(correct) / len(correct)}

    def evidence(self, folder: Path) -> Answers:
        """See `Kind`."""
        try:
            measured = read_json(folder / "metrics.json", dict)["measured"]
            key = read_json(folder / "environment.json", dict)["data"][measured]["sha256"]
        except (KeyError, TypeError):
            raise CorruptRun("environment.json does not tell its data") from None
        return Answers(np.array(read_json(folder / "correct.json", list), float), key)

    def workload(self, config: ClassifierConfig) -> Workload:
        """See `Kind`; of batches that are in memory already, unchanged."""
        accelerator = build_accelerator(config.precision)
        images, _ = open_data(config.data)
        torch.manual_seed(0)
        network = config.network(len(images.classes))
        flops = _flops(network, config.data.crop or images.pixels.shape[-1])
        positions = torch.arange(min(config.batch_size, len(images)))
        drawings = list(middle(images.batch(positions), config.data.crop).to(accelerator.device))
        targets = [{"label": int(images.labels[p]), "image_id": int(p)} for p in positions]
        network.to(accelerator.device)
        optimizer = build_optimizer(dataclasses.replace(config.optimizer, lr=1e-12), network, config.batch_size)
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        model, prepared = accelerator.prepare(network, optimizer)

        def train_step() -> None:
            network.train()
            train_one_epoch(model, [(drawings, targets)], 1, prepared, scheduler, accelerator)

        def infer() -> None:
            network.eval()
            with torch.inference_mode(), accelerator.autocast():
                network(drawings[:1])

        return Workload(count_parameters(network), flops, train_step, infer)

    def progress(self, folder: Path) -> str:
        """See `Kind`."""
        try:
            epochs = json.loads((folder / "config.json").read_text())["schedule"]["epochs"]
            done = json.loads((folder / "checkpoints" / "last" / "meta.json").read_text())["epoch"]
            return f"epoch {done} of {epochs}"
        except (OSError, ValueError, KeyError, TypeError):
            return ""


CLASSIFIERS = ClassifierRuns()


def _flops(network: torch.nn.Module, side: int) -> int:
    return count_flops(network.eval(), torch.zeros(1, 3, side, side))
