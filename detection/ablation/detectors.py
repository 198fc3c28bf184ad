"""Runs of `detection train`, for ablations."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detection.ablation.run_types import CorruptRun, Kind, StaleRun, Workload, read_json
from detection.analysis.complexity import count_flops, count_parameters
from detection.config import Config, load_config, override, to_plain
from detection.data.checks import file_digest
from detection.detector import Detector, build_detector
from detection.evaluation.bootstrap import DetectionResults, detection_results
from detection.evaluation.coco import METRICS
from detection.evaluation.results import read_ground_truth, read_results
from detection.scenes.ensure import ensure_scenes
from detection.training.engine import train_one_epoch
from detection.training.freezing import freeze
from detection.training.loaders import build_accelerator
from detection.training.optim import build_optimizer
from detection.training.run import open_data

WEIGHTS = Path("checkpoints", "best", "model.safetensors")


class DetectorRuns(Kind):
    """Detectors, measured by COCO's numbers."""

    command = ("-m", "detection.cli.train")
    columns = ("AP", "AP50", "APs", "APm", "APl")
    metrics = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    widths = ("detector.backbone.channels", "detector.backbone.body.channels")

    def load(self, path: Path) -> Config:
        """See `Kind`."""
        return load_config(path)

    def override(self, config: Config, overrides: Sequence[str]) -> Config:
        """See `Kind`."""
        return override(config, overrides)

    def plain(self, config: Config) -> dict[str, Any]:
        """See `Kind`."""
        return to_plain(config)

    def architecture(self, config: Config) -> Any:
        """The detector but for its starting weights, what a step does with it, and the images it is measured on."""
        plain = self.plain(config)
        detector = {k: v for k, v in plain["detector"].items() if k != "weights"}
        rest = {k: plain[k] for k in ("batch_size", "precision", "freeze", "data")}
        return {"detector": detector, "optimizer": plain["optimizer"]["kind"], **rest}

    def size(self, config: Config, what: str) -> int:
        """See `Kind`."""
        return detector_size(config, what)

    def prepare(self, config: Config) -> None:
        """Draw ContextScenes as the command would, so that two runs do not draw the same set at once."""
        ensure_scenes(config.data)

    def read(self, folder: Path) -> dict[str, float]:
        """See `Kind`."""
        metrics = read_json(folder / "metrics.json", dict)
        missing = [name for name in (*METRICS, "per_class", "detections") if name not in metrics]
        if missing:
            raise CorruptRun(f"metrics.json lacks {missing[0]}")
        results = read_json(folder / "results.json", list)
        if len(results) != metrics["detections"]:
            raise CorruptRun(f"results.json holds {len(results)} detections and metrics.json {metrics['detections']}")
        _require_weights(folder / WEIGHTS)
        _require_same_data(read_json(folder / "environment.json", dict))
        numbers = {name: _number(metrics[name]) for name in self.metrics}
        for name, of_class in metrics["per_class"].items():
            numbers |= {f"{metric}/{name}": _number(of_class[metric]) for metric in ("AP", "AP50")}
        return numbers

    def evidence(self, folder: Path) -> DetectionResults:
        """See `Kind`."""
        annotations = Path(read_json(folder / "config.json", dict)["data"]["val"]["annotations"])
        ground_truth = read_ground_truth(annotations)
        return detection_results(
            ground_truth, read_results(folder / "results.json", ground_truth), file_digest(annotations)
        )

    def workload(self, config: Config) -> Workload:
        """See `Kind`."""
        return detector_workload(config)

    def progress(self, folder: Path) -> str:
        """See `Kind`."""
        try:
            epochs = json.loads((folder / "config.json").read_text())["schedule"]["epochs"]
            with (folder / "log.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 4000))
                line = json.loads(file.read().splitlines()[-1])
            return f"epoch {line['epoch'] + 1} of {epochs}"
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return ""


DETECTORS = DetectorRuns()


def _number(value: Any) -> float:
    """A metric; COCO marks one that is not defined by −1."""
    if not isinstance(value, int | float):
        raise CorruptRun(f"metrics.json holds {value!r} in the place of a number")
    return math.nan if value == -1 else float(value)


def _require_weights(path: Path) -> None:
    """Check that a safetensors file is as long as its head says: it begins with 8 bytes, the length of that head."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(length))
            end = max((t["data_offsets"][1] for name, t in head.items() if name != "__metadata__"), default=0)
            if file.seek(0, 2) != 8 + length + end:
                raise ValueError("it is cut off")
    except FileNotFoundError:
        raise CorruptRun(f"{WEIGHTS} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise CorruptRun(f"{WEIGHTS} cannot be read ({error})") from None


def _require_same_data(environment: dict[str, Any]) -> None:
    """Check that both splits have the bytes that the run saw."""
    try:
        splits = [(split["annotations"], split["sha256"]) for split in environment["data"].values()]
    except (KeyError, TypeError, AttributeError):
        raise CorruptRun("environment.json does not tell its data") from None
    for annotations, digest in splits:
        if not Path(annotations).is_file():
            raise StaleRun(f"{annotations}, which it was made with, is gone")
        if file_digest(Path(annotations)) != digest:
            raise StaleRun(f"{annotations} has changed since")


SOME_CLASSES = 3
"""For sizes that must not depend on whether the data is there."""


def detector_size(config: Config, what: str) -> int:
    """`parameters`, or `flops` on one image of noise, of the detector at its start of seed 0, for a few classes."""
    detector = _start(config, SOME_CLASSES)
    if what == "parameters":
        return count_parameters(detector)
    side = config.detector.min_size
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    return count_flops(detector.eval(), [noise])


def detector_workload(config: Config) -> Workload:
    """The detector at its start of seed 0, on the first images of its own data.

    The learning rate is next to nothing, so that the weights stay as they are and boxes with them, step after step. At
    a random start boxes are as many as they may be, so that what depends on their number is at its dearest.

    Raises:
        UserError: the data is not there.
    """
    accelerator = build_accelerator(config.precision)
    data = open_data(dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0)), accelerator)
    detector = _start(config, len(data.train.categories))
    image = data.val[0][0]
    parameters, flops = count_parameters(detector), count_flops(detector.eval(), [image])
    detector.to(accelerator.device)
    batch = [data.train[i] for i in range(min(config.batch_size, len(data.train)))]
    step = _train_step(config, detector, tuple(map(list, zip(*batch, strict=True))), accelerator)
    return Workload(parameters, flops, step, _inference(detector, image.to(accelerator.device), accelerator))


def _start(config: Config, num_classes: int) -> Detector:
    torch.manual_seed(0)
    return build_detector(config.detector, num_classes, resize_in_training=False)


def _train_step(config: Config, detector: Detector, batch: Any, accelerator: Any) -> Callable[[], object]:
    freeze(detector, config.freeze, 0)
    optimizer = build_optimizer(dataclasses.replace(config.optimizer, lr=1e-12), detector, config.batch_size)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    model, prepared = accelerator.prepare(detector, optimizer)

    def step() -> None:
        freeze(detector, config.freeze, 0)
        torch.manual_seed(1)
        train_one_epoch(model, [batch], 1, prepared, scheduler, accelerator)

    return step


def _inference(detector: Detector, image: Tensor, accelerator: Any) -> Callable[[], object]:
    def look() -> None:
        detector.eval()
        with torch.inference_mode(), accelerator.autocast():
            detector([image])

    return look
