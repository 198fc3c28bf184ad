"""Data sets and loaders of the splits of a detector's run."""

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch.utils.data import DataLoader

from detection.config import Config
from detection.data.dataset import DetectionDataset, match_categories, require_training_boxes
from detection.data.masks import load_masks
from detection.data.sampling import TrainBatches
from detection.data.transforms import Transform
from detection.training.loaders import build_loader, eval_loader, open_split, require_visible_images, train_batches


@dataclass(frozen=True)
class Data:
    """Data sets and loaders of the splits."""

    train: DetectionDataset
    val: DetectionDataset
    train_batches: TrainBatches
    train_loader: DataLoader
    val_loader: DataLoader
    test: DetectionDataset | None
    test_loader: DataLoader | None

    @property
    def splits(self) -> dict[str, DetectionDataset]:
        """Data sets of the splits that there are, by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: dataset for name, dataset in splits.items() if dataset is not None}


def open_data(config: Config, accelerator: Accelerator) -> Data:
    """Open and check all splits.

    Raises:
        UserError: anything about the data that would break training.
    """
    train_index, val_index = open_split("data.train", config.data.train), open_split("data.val", config.data.val)
    match_categories(train_index, val_index)
    require_visible_images(train_index, config)
    test = None
    if config.data.test.is_given:
        test_index = open_split("data.test", config.data.test)
        match_categories(train_index, test_index)
        test = DetectionDataset(test_index, Path(config.data.test.images), categories=train_index.categories)
    transform = Transform(config.data.augmentation, config.detector.min_size, config.detector.max_size)
    segmented, source = config.detector.segmentation is not None, config.data.masks
    files, masks = config.data.train, load_masks(train_index, source) if segmented else None
    kept = config.data.cache_megabytes * 1_000_000
    train = DetectionDataset(
        train_index, Path(files.images), transform, config.seed, files.empty_images, masks, cache_bytes=kept
    )
    require_training_boxes(train)
    val_masks = load_masks(val_index, source) if segmented and needs_validation_loss(config) else None
    val_images, categories = Path(config.data.val.images), train_index.categories
    val = DetectionDataset(val_index, val_images, masks=val_masks, categories=categories, cache_bytes=kept)
    threshold = config.data.repeat_threshold
    batches = train_batches(
        len(train),
        config,
        accelerator,
        aspect_ratios=train.aspect_ratios if config.data.aspect_grouping else None,
        factors=None if threshold is None else train.repeat_factors(threshold),
        image_ids=train.image_ids,
    )
    loader = build_loader(train, batches, config.data.workers, accelerator)
    test_loader = None if test is None else eval_loader(test, config, accelerator)
    return Data(train, val, batches, loader, eval_loader(val, config, accelerator), test, test_loader)


def needs_validation_loss(config: Config) -> bool:
    """Whether the validation loss is computed, for itself or to choose by."""
    return config.validation_loss or config.best_metric == "val_loss"
