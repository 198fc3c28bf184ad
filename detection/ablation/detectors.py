"""Detectors as a run type: runs of `detection train`."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detection.ablation.own_data.detector_data import (
    detector_effort,
    leaks_and_remarks,
    open_splits,
    overlapping_objects,
)
from detection.ablation.own_data.drawn_changes import draw_changes
from detection.ablation.run_types import ChangedImages, CorruptRun, RunType, StaleRun, epoch_progress, read_json
from detection.ablation.workload import Effort, Workload, build_workload
from detection.analysis.complexity import count_flops, count_parameters
from detection.channels_last import to_channels_last
from detection.config import Config, load_config, override
from detection.config.differences import differences
from detection.data.checks import file_digest
from detection.data.folder_layout import data_overrides
from detection.data.image_identity import images_changed
from detection.detector import Detector, build_detector
from detection.errors import UserError
from detection.evaluation.bootstrap import DetectionResults, detection_results
from detection.evaluation.coco import AP_METRICS, METRICS
from detection.evaluation.results import read_ground_truth, read_results
from detection.heads import name_classes
from detection.runs.records import data_key, read_record
from detection.scenes.ensure import ensure_scenes
from detection.scenes.tasks import TASKS
from detection.training.activation_checkpoints import checkpoint_stages
from detection.training.data import open_data
from detection.training.loaders import build_accelerator

# Keys of a config, and of its `detector`, with which a trained run may be evaluated again.
_EVALUATED = ("data", "eval_batch_size", "precision", "note")
_EVALUATED_DETECTOR = ("min_size", "max_size", "inference")
_NOMINAL_CLASSES = 3  # sizes must not depend on whether the data is there


class DetectorRuns(RunType):
    """Detectors, evaluated by COCO's metrics."""

    command = ("-m", "detection.cli.train")
    evaluate_command = ("-m", "detection.cli.evaluate")
    columns = ("AP", "AP50", "APs", "APm", "APl")
    metrics = AP_METRICS
    widths = ("detector.backbone.channels", "detector.backbone.body.channels", "detector.backbone.out_channels")

    def load(self, path: Path) -> Config:
        """Read a detector's config."""
        return load_config(path)

    def override(self, config: Config, overrides: Sequence[str]) -> Config:
        """Apply overrides to a detector's config."""
        return override(config, overrides)

    def expand(self, overrides: Sequence[str]) -> Sequence[str]:
        """Replace `data=FOLDER` by the files that it holds."""
        return data_overrides(overrides)

    def architecture(self, config: Config) -> Any:
        """The detector but for its initial weights, the settings of a training step, and the data."""
        plain = self.plain(config)
        rest = {k: plain[k] for k in ("batch_size", "precision", "freeze", "checkpoint_backbone", "data")}
        return {"detector": _parts(plain), "optimizer": plain["optimizer"]["kind"], **rest}

    def model(self, config: Config) -> Any:
        """The detector but for its initial weights: data sets and training steps share one."""
        return _parts(self.plain(config))

    def size(self, config: Config, what: str) -> int:
        """Size of the detector at its initialization for a nominal number of classes; FLOPs on one image of noise."""
        detector = _initialize(config, _NOMINAL_CLASSES)
        if what == "parameters":
            return count_parameters(detector)
        side = config.detector.min_size
        return count_flops(detector.eval(), [torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))])

    def prepare(self, config: Config) -> None:
        """Draw ContextScenes as the command would, so that no two runs draw the same set at once, and open the data."""
        ensure_scenes(config.data)
        open_splits(config)

    def evaluated_on(self, config: Config) -> str:
        """The last epoch on the validation split or, with a test split, the best checkpoint on that."""
        if config.data.test.is_given:
            return f"the best checkpoint by {config.best_metric} on the validation split, on the test split"
        return "the last epoch on the validation split"

    def chance(self, config: Config) -> dict[str, float]:
        """AP50 by chance of a task of ContextScenes."""
        chance = None if config.data.scenes is None else TASKS[config.data.scenes.task].chance
        return {} if chance is None else {"AP50": chance}

    def read(self, folder: Path) -> dict[str, float]:
        """Read COCO's metrics, after checking that results, weights and data are those of the run."""
        source = _source(folder)
        values = _values(folder, source)
        _require_weights(folder, f"checkpoints/{source.checkpoint}/model.safetensors")
        _require_same_data(read_json(folder / "environment.json", dict))
        return values

    def per_image_results(self, folder: Path) -> DetectionResults:
        """Match a run's results to its ground truth."""
        source = _source(folder)
        return _per_image(folder, source, read_record(folder).get("data", {}).get(source.split, {}))

    def evaluation_config(self, config: Config, changes: Sequence[str]) -> Config:
        """Apply changes of the data that are evaluated on, and of the sizes of images inside the detector."""
        changed = override(config, changes)
        before, after = self.plain(config), self.plain(changed)
        for plain in (before, after):
            plain["detector"] = {key: v for key, v in plain["detector"].items() if key not in _EVALUATED_DETECTOR}
        trained = [key for key in before if key not in _EVALUATED and before[key] != after[key]]
        if trained:
            (first, *_) = differences(before[trained[0]], after[trained[0]], trained[0])
            raise UserError(f"{first.split('=')[0]} belongs to the training; change data or sizes of images.")
        split = _reported_split(changed)
        if before["data"] != after["data"] and before["data"][split] == after["data"][split]:
            raise UserError(
                f"these runs are reported on data.{split}, which the changes leave as it is; change "
                f"data.{split}.annotations and data.{split}.images too."
            )
        return changed

    def prepare_evaluation(self, config: Config) -> None:
        """Draw ContextScenes of the split that is evaluated on."""
        ensure_scenes(config.data, [_reported_split(config)])

    def evaluate_arguments(self, run: Path, output: Path, config: Config) -> list[str]:
        """Evaluate the weights that `read` reports on the same split."""
        return [str(run), "--output", str(output), *_options(_reported_split(config))]

    def read_evaluation(self, output: Path) -> dict[str, float]:
        """Read COCO's metrics, after checking that options, results and data are those of `evaluate_arguments`."""
        source, record = _source_of_evaluation(output)
        _require_planned(read_json(output / "evaluation.json", dict), source)
        values = _values(output.parent, source)
        _require_same_data({"data": {source.split: record}})
        return values

    def per_image_evaluation(self, output: Path) -> DetectionResults:
        """Match the results of an evaluation to its ground truth."""
        return _per_image(output.parent, *_source_of_evaluation(output))

    def workload(self, config: Config) -> Workload:
        """Build the detector at its initialization, with the first images of its data, in a training's memory format.

        At random weights there are as many boxes as the config allows, so that costs that grow with their number are at
        their maximum.
        """
        accelerator = build_accelerator(config.precision)
        data = open_data(dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0)), accelerator)
        detector = _initialize(config, len(data.train.categories))
        name_classes(detector, [category.name for category in data.train.categories])
        to_channels_last(detector)
        image, _ = data.val[0]
        images, targets = zip(*(data.train[i] for i in range(min(config.batch_size, len(data.train)))), strict=True)
        work = build_workload(detector, config, accelerator, (list(images), list(targets)), image, config.freeze)
        if config.checkpoint_backbone:
            checkpoint_stages(detector.backbone)
        return work

    def effort(self, config: Config) -> Effort:
        """Count steps and evaluated images from the annotations, and load a few images."""
        return detector_effort(config)

    def data_remarks(self, config: Config) -> list[str]:
        """Compare the images of the splits by their bytes, then what the doctor finds without opening images."""
        return leaks_and_remarks(config)

    def overlap(self, config: Config) -> tuple[int, int]:
        """Count them in the training annotations."""
        return overlapping_objects(config.data.train)

    def changed_images(self, pairs: Sequence[tuple[Path, Path]], names: tuple[str, str], most: int) -> ChangedImages:
        """Compare the results that `read` reports, each run at its score of the best F1."""
        return draw_changes(pairs, names, most, _source(pairs[0][0]).split)

    def progress(self, folder: Path) -> str:
        """Read the epoch from the last line of the log."""
        return epoch_progress(folder, _logged_epoch)


DETECTORS = DetectorRuns()


@dataclasses.dataclass(frozen=True)
class _Source:
    """Folder of a run's metrics and results that an ablation reads, their checkpoint, split and ground truth."""

    folder: str
    checkpoint: str
    split: str
    annotations: Path

    def read(self, run: Path, name: str, kind: type) -> Any:
        """Read a JSON file of it; a `CorruptRun` where that fails."""
        return read_json(run / self.folder / name, kind, f"{self.folder}/{name}")


def _source(folder: Path) -> _Source:
    try:
        return _source_of(read_json(folder / "config.json", dict))
    except (KeyError, TypeError):
        raise CorruptRun("config.json names no validation data") from None


def _source_of(plain: dict[str, Any]) -> _Source:
    """The source of a training with a serialized config; a `KeyError` or `TypeError` where it names no data."""
    data = plain["data"]
    tested = any(data["test"][key] for key in ("annotations", "images"))
    annotations = Path(data["test" if tested else "val"]["annotations"])
    return _Source("test", "best", "test", annotations) if tested else _Source("last", "last", "val", annotations)


def _source_of_evaluation(output: Path) -> tuple[_Source, dict[str, Any]]:
    """Return the place of an evaluation's results, and the record of its data."""
    plain = read_json(output / "evaluation.json", dict)
    try:
        split, checkpoint, record = plain["split"], plain["checkpoint"], plain["data"][plain["split"]]
        return _Source(output.name, checkpoint, split, Path(record["annotations"])), record
    except (KeyError, TypeError):
        raise CorruptRun("evaluation.json does not name its data") from None


def _reported_split(config: Config) -> str:
    return "test" if config.data.test.is_given else "val"


def _options(split: str) -> list[str]:
    """The options with which a reported split is evaluated: the checkpoint is one that was not chosen on it."""
    return ["--split", split, "--checkpoint", "best" if split == "test" else "last"]


def _require_planned(plain: dict[str, Any], source: _Source) -> None:
    """Check that an evaluation was not made by other options, which leave its config as it is."""
    try:
        planned = _source_of(plain["config"])
    except (KeyError, TypeError):
        raise CorruptRun("evaluation.json holds no readable config") from None
    found = ["--split", source.split, "--checkpoint", source.checkpoint or "best"]
    found += ["--context-from", str(plain["context_from"])] if plain.get("context_from") else []
    found += ["--ignore-classes"] if plain.get("classes_ignored") else []
    if found != (expected := _options(planned.split)):
        raise StaleRun(f"it was evaluated with {' '.join(found)} instead of {' '.join(expected)}")
    if source.annotations != planned.annotations:
        raise StaleRun(f"it was evaluated on {source.annotations} instead of {planned.annotations}")


def _values(folder: Path, source: _Source) -> dict[str, float]:
    """Read the metrics of a source, after checking that its results are as many as they count."""
    metrics = source.read(folder, "metrics.json", dict)
    missing = [name for name in (*METRICS, "per_class", "detections") if name not in metrics]
    if missing:
        raise CorruptRun(f"{source.folder}/metrics.json lacks {missing[0]}")
    results = source.read(folder, "results.json", list)
    if len(results) != metrics["detections"]:
        found = f"holds {len(results)} detections and metrics.json {metrics['detections']}"
        raise CorruptRun(f"{source.folder}/results.json {found}")
    values = {name: _metric(metrics[name]) for name in AP_METRICS}
    try:
        of_classes = [(name, of_class["AP"], of_class["AP50"]) for name, of_class in metrics["per_class"].items()]
    except (KeyError, TypeError, AttributeError):
        raise CorruptRun(f"{source.folder}/metrics.json holds no AP and AP50 of each class in per_class") from None
    for name, ap, ap50 in of_classes:
        values |= {f"AP/{name}": _metric(ap), f"AP50/{name}": _metric(ap50)}
    return values


def _per_image(folder: Path, source: _Source, record: dict[str, Any]) -> DetectionResults:
    ground_truth = read_ground_truth(source.annotations, federated=False)
    results = read_results(folder / source.folder / "results.json", ground_truth)
    return detection_results(ground_truth, results, data_key({"sha256": file_digest(source.annotations)} | record))


def _logged_epoch(folder: Path) -> int:
    with (folder / "log.jsonl").open("rb") as file:
        # The end alone: this is read again and again while the run trains.
        file.seek(max(0, file.seek(0, 2) - 4000))
        return json.loads(file.read().splitlines()[-1])["epoch"] + 1


def _metric(value: Any) -> float:
    """A metric of metrics.json, where −1 marks one that is not defined."""
    if not isinstance(value, int | float):
        raise CorruptRun(f"metrics.json holds {value!r} instead of a number")
    return math.nan if value == -1 else float(value)


def _require_weights(folder: Path, name: str) -> None:
    """Check that a safetensors file has its full length, from its header: the first 8 bytes are the header's length."""
    try:
        with (folder / name).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            end = max((t["data_offsets"][1] for key, t in header.items() if key != "__metadata__"), default=0)
            if file.seek(0, 2) != 8 + length + end:
                raise ValueError("it is cut off")
    except FileNotFoundError:
        raise CorruptRun(f"{name} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise CorruptRun(f"{name} cannot be read ({error})") from None


def _require_same_data(environment: dict[str, Any]) -> None:
    """Check that annotations and images of all splits have not changed since the run."""
    try:
        splits = [(split["annotations"], split["sha256"], split) for split in environment["data"].values()]
    except (KeyError, TypeError, AttributeError):
        raise CorruptRun("environment.json does not name its data") from None
    for annotations, digest, split in splits:
        if not Path(annotations).is_file():
            raise StaleRun(f"{annotations}, which it was trained or evaluated on, is gone")
        if file_digest(Path(annotations)) != digest:
            raise StaleRun(f"{annotations} has changed since")
        if images_changed(split):
            raise StaleRun(f"images in {split['image_folder']} have changed since")


def _parts(plain: dict[str, Any]) -> dict[str, Any]:
    """The settings of the detector's parts, of a config's plain data."""
    return {k: v for k, v in plain["detector"].items() if k != "weights"}


def _initialize(config: Config, num_classes: int) -> Detector:
    torch.manual_seed(0)
    return build_detector(config.detector, num_classes, resize_in_training=False)
