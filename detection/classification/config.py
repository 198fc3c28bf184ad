"""The settings of a classifier's training: `Config`'s counterpart, of the same kinds and rules (`detection.config`)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from detection.classification.augment import ImageAugmentation
from detection.classification.network import Classifier
from detection.config import OptimizerConfig, Part, ScheduleConfig, serialization
from detection.config.config import validate_optimization
from detection.config.files import apply_overrides, run_file
from detection.errors import UserError
from detection.runs.folder import read_config_json


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
        test_fraction: part of each class that is kept for the test where the data has no test part of its own.
        split_seed: chooses it.
        measure: what is measured at the end: `test`; or `validation`, to choose settings by: the same fraction once
            more, of the training images, which are then not trained on.
    """

    kind: Literal["digits", "MNIST", "CIFAR10", "SVHN", "SVHN_extra", "folder"]
    root: str = "datasets"
    size: int | None = None
    crop: int | None = None
    augmentation: ImageAugmentation | None = None
    test_fraction: float = 0.2
    split_seed: int = 0
    measure: Literal["test", "validation"] = "test"


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Everything a classifier's run is made of.

    Attributes:
        network: a partial of `Classifier`; its number of classes comes from the data.
        data: what it learns from and is measured on.
        optimizer: how weights move.
        schedule: for how long.
        batch_size: images of one forward pass, on each process.
        eval_batch_size: images of one forward pass when it is measured.
        evaluate_every: epochs between the measurements that are logged, None for none. They choose nothing: what is
            reported is the last epoch's.
        precision: `no` for float32, or mixed precision in `bf16` or `fp16`.
        seed: of weights, order, augmentation and dropout.
    """

    network: Part
    data: ImageData
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: int = 64
    eval_batch_size: int = 256
    evaluate_every: int | None = None
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ClassifierConfig:
    """Run a config file and apply `key=value` overrides to its `config`.

    Raises:
        UserError: no such file, no `config = ClassifierConfig(...)` in it, or an override that does not fit.
    """
    path = Path(path)
    config = run_file(path, "config file").get("config")
    if not isinstance(config, ClassifierConfig):
        raise UserError(f"{path}: must end in `config = ClassifierConfig(...)`; found {type(config).__name__}.")
    return override(config, overrides)


def open_config(run: str | Path, overrides: Sequence[str] = ()) -> ClassifierConfig:
    """The config of a run, from its `config.json`, with overrides.

    Raises:
        UserError: not a classifier's run folder, or an override that does not fit.
    """
    plain = read_config_json(run)
    if not isinstance(plain, dict) or "network" not in plain:
        raise UserError(f"{run}: not a classifier's run; give a folder that train_classifier.py wrote.")
    try:
        config = serialization.from_plain(plain, ClassifierConfig)
    except UserError as error:
        raise UserError(f"{Path(run) / 'config.json'}: {error}") from None
    return override(config, overrides)


def override(config: ClassifierConfig, overrides: Sequence[str]) -> ClassifierConfig:
    """Return `config` with `dotted.key=value` strings applied in order, and the result checked.

    Raises:
        UserError: an unknown key (names the nearest one) or a value of the wrong type or out of range.
    """
    config = apply_overrides(config, overrides)
    validate(config)
    return config


def validate(config: ClassifierConfig) -> None:
    """Check types, names of parts' settings, and the ranges of numbers; what is wrong is named with its key.

    Raises:
        UserError: a setting that does not exist, or of the wrong type, or out of range.
    """
    serialization.from_plain(serialization.to_plain(config), ClassifierConfig)
    if not issubclass(config.network.func, Classifier):  # type: ignore[arg-type]
        raise UserError(f"network: must be a Classifier, not a {config.network.func.__name__}; change its `backbone`.")
    positive = {
        "batch_size": config.batch_size,
        "eval_batch_size": config.eval_batch_size,
        "evaluate_every": config.evaluate_every,
        "data.size": config.data.size,
        "data.crop": config.data.crop,
    }
    for key, value in positive.items():
        if value is not None and not value > 0:
            raise UserError(f"{key}={value}: must be greater than 0.")
    for key, value in {"seed": config.seed, "data.split_seed": config.data.split_seed}.items():
        if value < 0:
            raise UserError(f"{key}={value}: must be 0 or more.")
    if not 0 < config.data.test_fraction < 1:
        raise UserError(f"data.test_fraction={config.data.test_fraction}: must lie between 0 and 1.")
    validate_optimization(config.optimizer, config.schedule)
