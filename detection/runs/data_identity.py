"""Identity of a run's data, hashes of annotations and of images, as `environment.json` records it."""

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from detection.data.dataset import DetectionDataset
from detection.data.image_identity import images_digest
from detection.runs.logs import progress


def describe_splits(splits: Mapping[str, DetectionDataset], accelerator: Accelerator) -> dict[str, dict[str, Any]]:
    """Describe each split for `environment.json`; the main process reads the images, where they have changed, for all.

    Returns:
        By name of the split its `annotations` and their `sha256`, its `image_folder` and `images_sha256`, and its
        counts.

    Raises:
        UserError: an image cannot be read.
    """
    digests: list[Any] = [None]
    if accelerator.is_main_process:
        digests = [{name: _images_digest(name, dataset) for name, dataset in splits.items()}]
    if accelerator.num_processes > 1:
        broadcast_object_list(digests)
    return {
        name: {
            "annotations": str(dataset.index.path),
            "sha256": dataset.index.digest,
            "image_folder": str(dataset.images),
            "images_sha256": digests[0][name],
            **dataset.index.counts,
        }
        for name, dataset in splits.items()
    }


def _images_digest(name: str, dataset: DetectionDataset) -> str:
    index = dataset.index
    with progress(f"reading {name} images", len(index)) as bar:
        names = [index.file_name(row) for row in range(len(index))]
        return images_digest(dataset.images, names, lambda count, total: bar.advance(count))
