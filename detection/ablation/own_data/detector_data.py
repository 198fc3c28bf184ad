"""Facts on a detector's data that an ablation needs before it starts: leaks, remarks, overlaps, and amounts."""

import time
from itertools import combinations
from pathlib import Path

import numpy as np

from detection.ablation.workload import Effort
from detection.analysis.anchor_fit import anchor_remarks
from detection.config import Config, SplitConfig
from detection.data.checks import shortened
from detection.data.coco_index import CocoIndex
from detection.data.dataset import DetectionDataset, match_categories
from detection.data.image_identity import file_digests
from detection.data.remarks import training_remarks
from detection.data.repeat_factors import epoch_length
from detection.data.transforms import Transform
from detection.errors import UserError
from detection.evaluation.columns import BoxColumns, GroundTruthColumns
from detection.evaluation.matching import overlapping_pairs
from detection.training.data import needs_validation_loss
from detection.training.loaders import open_split, require_visible_images

_LOADED = 8
"""Images that are loaded to measure how long that takes."""


def open_splits(config: Config) -> dict[str, tuple[CocoIndex, SplitConfig]]:
    """Open the annotations of the splits that are given, by name, and check that their images are there.

    Raises:
        UserError: training or evaluating on them would be refused.
    """
    data = config.data
    names = ("train", "val", *(["test"] if data.test.is_given else []))
    splits = {name: (open_split(f"data.{name}", getattr(data, name)), getattr(data, name)) for name in names}
    for name in names[1:]:
        match_categories(splits["train"][0], splits[name][0])
    for index, split in splits.values():
        require_visible_images(index, config)
        DetectionDataset(index, Path(split.images))
    return splits


def leaks_and_remarks(config: Config) -> list[str]:
    """Sentences: the size of each split, images that two share byte by byte, the doctor's cheap remarks, and anchors.

    Raises:
        UserError: training would be refused, or a split has no object, so that nothing can be learned or measured.
    """
    splits = open_splits(config)
    for name, (index, _) in splits.items():
        if index.iscrowd.all():
            of_crowd = f", but for {len(index.iscrowd)} regions to ignore (iscrowd 1)" if len(index.iscrowd) else ""
            raise UserError(f"{index.path}: data.{name} has no object{of_crowd}; give annotations with boxes.")
    texts = [_size(name, index) for name, (index, _) in splits.items()]
    if len(splits["train"][0].categories) == 1:
        texts.append("one class: context cannot change what class an object has, only which are found, and their order")
    if "test" not in splits:
        texts.append("test: none is given, so the last checkpoint is reported, on val")
    texts += _leaks(splits)
    train, folder = splits["train"]
    for name in splits:
        if name != "train":
            index, other = splits[name]
            texts += training_remarks(train, index, Path(folder.images), Path(other.images))
    for index, split in splits.values():
        if clipped := index.counts["clipped"]:
            doctor = f"`detection doctor {index.path} {split.images}`"
            texts.append(
                f"{index.path}: {clipped} boxes reach outside their image and are clipped; {doctor} names them"
            )
    texts += anchor_remarks(train, config)
    return list(dict.fromkeys(texts))


def _size(name: str, index: CocoIndex) -> str:
    objects = int((~index.iscrowd).sum())
    return f"{name}: {len(index)} images, {objects} objects of {len(index.categories)} classes in {index.path}"


def _leaks(splits: dict[str, tuple[CocoIndex, SplitConfig]]) -> list[str]:
    digests = {}
    for name, (index, split) in splits.items():
        names = [index.file_name(row) for row in range(len(index))]
        of_file = file_digests(Path(split.images), names)
        digests[name] = [of_file.get(file) for file in names]
    texts = []
    for first, second in combinations(splits, 2):
        known = {digest for digest in digests[first] if digest is not None}
        rows = [row for row, digest in enumerate(digests[second]) if digest in known]
        if not rows:
            texts.append(f"no image of {second} is in {first} too, by its bytes")
            continue
        ids = shortened(splits[second][0].image_ids[rows].tolist(), 5)
        texts.append(
            f"leak: {len(rows)} of {len(digests[second])} images of {second} are in {first} too, byte by byte (id "
            f"{ids}): metrics on them are too high; take them out of one split"
        )
    return texts


def overlapping_objects(split: SplitConfig, iou: float = 0.5) -> tuple[int, int]:
    """Count the objects that overlap another of their class and image by an IoU, and all; crowd regions aside."""
    index = open_split("data.train", split)
    rows = np.flatnonzero(~index.iscrowd)
    images = np.searchsorted(index.box_offsets, rows, side="right") - 1
    category, names = index.labels[rows].astype(np.int64) - 1, [c.name for c in index.categories]
    targets = GroundTruthColumns(images, category, index.boxes[rows], np.zeros(len(rows), dtype=bool), names)
    first, second, _ = overlapping_pairs(BoxColumns(images, category, index.boxes[rows]), targets, iou)
    return len(np.unique(first[first != second])), len(rows)


def detector_effort(config: Config) -> Effort:
    """Count the training steps and the evaluated images of a run on one process, and time the loading of an image."""
    splits = open_splits(config)
    index, split = splits["train"]
    transform = Transform(config.data.augmentation, config.detector.min_size, config.detector.max_size)
    train = DetectionDataset(index, Path(split.images), transform, config.seed, split.empty_images)
    epochs, every = config.schedule.epochs, config.evaluate_every
    # An evaluation passes over the images once, and once more for the validation loss; the last epoch always has one.
    passes = -(-epochs // every) * (1 + needs_validation_loss(config))
    # The best checkpoint's results on val are those of its own evaluation.
    evaluated = passes * len(splits["val"][0]) + (len(splits["test"][0]) if "test" in splits else 0)
    threshold = config.data.repeat_threshold
    images = len(train) if threshold is None else epoch_length(train.repeat_factors(threshold))
    steps = epochs * -(-images // config.batch_size)
    return Effort(epochs, steps, evaluated, config.batch_size, _load_seconds(train))


def _load_seconds(train: DetectionDataset) -> float:
    count = min(_LOADED, len(train))
    began = time.perf_counter()
    for row in range(count):
        train[row]
    return (time.perf_counter() - began) / max(1, count)
