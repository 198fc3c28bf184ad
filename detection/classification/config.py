"""The settings of a classifier's training, by the rules of `detection.config`."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from detection.classification.augment import ImageAugmentation
from detection.classification.network import Classifier
from detection.config import OptimizerConfig, ScheduleConfig, from_plain
from detection.config.files import run_file
from detection.config.keys import apply_overrides
from detection.config.reopening import require_reopening
from detection.errors import UserError, building
from detection.ranges import ImagesAtOnce, Pixels, Positive, Range, Seed
from detection.runs.folder import read_config, read_config_json
from detection.runs.trackers import TrackerName


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Square images, each of one class; the classes are the data's own.

    Attributes:
        kind: `digits`, scikit-learn's 1797 handwritten ones of 8×8; torchvision's `MNIST`, `CIFAR10` or `SVHN`, or
            `SVHN_extra`, which trains on its additional images too; or `folder`: `train/CLASS/*` and `test/CLASS/*`,
            or `CLASS/*`, of which a part is kept for the test.
        root: of a folder, that folder; of torchvision's sets, the folder they are in. Nothing is downloaded.
        size: side in pixels that images are brought to (what does not fit a square is cut off); None: as they are.
        crop: side of the part that is seen: the middle in the test, moved by `augmentation.shift` in training; None:
            all.
        augmentation: random changes of training images, or None.
        test_fraction: part of each class that is kept for the test where the data has no test part.
        split_seed: random seed of that choice.
        measure: part that is evaluated at the end: `test`; or `validation`, to choose settings by: the same fraction
            once more, of the training images, which are then not trained on.
    """

    kind: Literal["digits", "MNIST", "CIFAR10", "SVHN", "SVHN_extra", "folder"]
    root: str = "datasets"
    size: Pixels | None = None
    crop: Pixels | None = None
    augmentation: ImageAugmentation | None = None
    test_fraction: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.2
    split_seed: Seed = 0
    measure: Literal["test", "validation"] = "test"


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Everything a classifier's run is made of.

    Attributes:
        network: a partial of `Classifier`; its number of classes comes from the data.
        data: images to train and evaluate on.
        optimizer: kind and settings.
        schedule: epochs and learning rate.
        batch_size: images of one forward pass in training, on each process.
        eval_batch_size: images of one forward pass in evaluation.
        evaluate_every: epochs between the evaluations that are logged, None for none. They choose nothing: the last
            epoch is reported.
        checkpoint_minutes: minutes after which the state is saved within an epoch, too, to resume from; None for never.
        trackers: experiment trackers that get losses and metrics, too: `wandb`, `mlflow`.
        precision: `no` for float32, or mixed precision in `bf16` or `fp16`.
        seed: random seed of weights, order, augmentation and dropout.
    """

    network: partial[Classifier]
    data: ImageData
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: ImagesAtOnce = 64
    eval_batch_size: ImagesAtOnce = 256
    evaluate_every: Annotated[int, Range(1, 1_000_000)] | None = None
    checkpoint_minutes: Positive | None = None
    trackers: tuple[TrackerName, ...] = ()
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: Seed = 0


def build_classifier(config: ClassifierConfig, num_classes: int) -> Classifier:
    """Build the network.

    Raises:
        UserError: settings that it cannot be built from.
    """
    with building("network"):
        return config.network(num_classes)


def load_classifier_config(path: str | Path, overrides: Sequence[str] = ()) -> ClassifierConfig:
    """Run a config file and apply `key=value` overrides to its `config`.

    Raises:
        UserError: no such file, no `config = ClassifierConfig(...)` in it, or an override that does not fit.
    """
    path = Path(path)
    config = run_file(path, "config file").get("config")
    if not isinstance(config, ClassifierConfig):
        raise UserError(f"{path}: must end in `config = ClassifierConfig(...)`; found {type(config).__name__}.")
    return override_classifier(config, overrides)


def open_classifier_config(run: str | Path, overrides: Sequence[str] = ()) -> ClassifierConfig:
    """Read the config of a run from its `config.json`, and apply overrides.

    Raises:
        UserError: not a classifier's run folder, or an override that does not fit.
    """
    if "network" not in read_config_json(run):
        raise UserError(f"{run}: not a classifier's run; give a folder that `detection train_classifier` wrote.")
    return override_classifier(read_config(run, ClassifierConfig), overrides)


def override_classifier(config: ClassifierConfig, overrides: Sequence[str]) -> ClassifierConfig:
    """Return `config` with `dotted.key=value` strings applied in order, and the result checked.

    Raises:
        UserError: an unknown key (names the nearest one) or a value of the wrong type or out of range.
    """
    config = from_plain(apply_overrides(config, overrides), ClassifierConfig)
    require_reopening(config)
    return config
