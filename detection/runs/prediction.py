"""Detection on image files without annotations: read the files, detect, and write the results."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from detection.analysis.attention import attention_over_pixels, write_attention_image
from detection.analysis.visualize import shrink
from detection.atomic_write import write_json
from detection.cores import usable_cores
from detection.data.coco_index import Category
from detection.data.images import read_image
from detection.data.shared_batches import SharedCollate, has_shared_memory
from detection.data.transforms import resized_shape
from detection.detector import Detector
from detection.errors import UserError
from detection.names import csv_name, unique_stems
from detection.runs.image_files import describe_other
from detection.tiles import Tiles, fitting_tiles
from detection.training.loaders import DataLoader
from detection.training.preemption import outlive_signals

if TYPE_CHECKING:
    from detection.predictor import Detections, Predictor


LARGEST_DRAWN = 8192
"""Most pixels of the longer side of a drawn image."""

STRONGLY_SHRUNK = 8
"""An image whose sides shrink this often for the detector is reported: what is small in it is lost."""


@dataclass(frozen=True)
class ImageFile:
    """An image to detect on.

    Attributes:
        path: of the file.
        image: its pixels (3, H, W) uint8 RGB, or None where there is a problem.
        problem: a sentence with the reason why it cannot be used.
        shrinking: factor by which its sides shrink for the detector; below 1 they grow.
    """

    path: Path
    image: Tensor | None
    problem: str = ""
    shrinking: float = 1.0


@dataclass
class PredictionSummary:
    """Counts and problems of a `write_predictions`.

    Attributes:
        images: number of images written.
        problems: a sentence for each image that could not be used.
        detections: their number by class.
        shrunk: factors of the images that were `STRONGLY_SHRUNK`, by file.
    """

    images: int = 0
    problems: list[str] = field(default_factory=list)
    detections: Counter[str] = field(default_factory=Counter)
    shrunk: dict[Path, float] = field(default_factory=dict)


class ImageFiles(Dataset):
    """Decodes image files; one that cannot be used becomes an `ImageFile` with a problem, and the others go on.

    The detector resizes images, or their `tiles`, to `min_size` pixels of the shorter side, and `max_size` at most of
    the longer.
    """

    def __init__(self, paths: Sequence[Path], min_size: int, max_size: int, tiles: Tiles | None = None) -> None:
        self.paths, self.min_size, self.max_size, self.tiles = paths, min_size, max_size, tiles

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> ImageFile:
        path = self.paths[position]
        try:
            image = torch.from_numpy(read_image(path)).permute(2, 0, 1).contiguous()  # (3, H, W)
            height, width = image.shape[1:]
            fitting_tiles(height, width, self.tiles, self.min_size, self.max_size, f"image {path}")
        except UserError as error:
            other = describe_other(path) if os.path.isfile(path) else None
            return ImageFile(path, None, f"image {path} {other}." if other else str(error))
        if self.tiles is not None:
            height, width = min(height, self.tiles.size), min(width, self.tiles.size)
        shrinking = max(height, width) / max(resized_shape(height, width, self.min_size, self.max_size))
        return ImageFile(path, image, shrinking=shrinking)


def image_batches(files: ImageFiles, batch_size: int) -> DataLoader:
    """Load lists of `batch_size` images in order, decoded ahead by up to two processes if there are enough of them."""
    workers = min(2, len(files) // 8, usable_cores() - 1) if has_shared_memory() else 0
    return DataLoader(
        files,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=SharedCollate(list),
        worker_init_fn=outlive_signals,
    )


def detect(
    predictor: "Predictor", batches: Iterable[Sequence[ImageFile]], tiles: Tiles | None = None, tile_batch: int = 1
) -> "Iterator[tuple[ImageFile, Detections | None]]":
    """Detect on batches of images; yields each with its detections, or None where it has a problem.

    With `tiles`, `tile_batch` of them are in one forward pass; a full image that is too thin for it is left out.
    """
    for batch in batches:
        if tiles is not None:
            for file in batch:
                yield file, None if file.image is None else predictor(file.image, tile_batch, tiles)
            continue
        images = [file.image for file in batch if file.image is not None]
        detections = iter(predictor(images, len(batch)))
        for file in batch:
            yield file, None if file.image is None else next(detections)


def write_attention(
    folder: Path, detector: Detector, batches: Iterable[Sequence[ImageFile]], paths: Sequence[Path]
) -> None:
    """Draw the attention of the detector's context in each image that can be read, into `folder/attention`.

    The detector is in evaluation mode, and files have the names that `write_predictions` gives.
    """
    device = next(detector.parameters()).device
    names = dict(zip(paths, unique_stems(paths), strict=True))
    (folder / "attention").mkdir()
    for batch in batches:
        read = [(file.path, file.image) for file in batch if file.image is not None]
        maps = attention_over_pixels(detector, [image.to(device) for _, image in read]) if read else []
        for (path, image), weights in zip(read, maps, strict=True):
            write_attention_image(folder / "attention" / f"{names[path]}.png", image, weights)


def write_predictions(
    folder: Path,
    predictions: "Iterable[tuple[ImageFile, Detections | None]]",
    paths: Sequence[Path],
    categories: Sequence[Category],
    on_image: Callable[[], None] = lambda: None,
) -> PredictionSummary:
    """Write drawn images, COCO results and images, and a table.

    The table shows names as `csv_name` does; images.json has the names of files and categories as they are.

    Args:
        folder: gets `images/`, `results.json`, `images.json` and `detections.csv`.
        predictions: of `detect`; read one at a time.
        paths: the files that `predictions` will be of.
        categories: of the detector.
        on_image: called for each image.
    """
    drawn_names = dict(zip(paths, unique_stems(paths), strict=True))
    summary, images, results = PredictionSummary(), list[dict[str, Any]](), list[dict[str, Any]]()
    (folder / "images").mkdir()
    with open(folder / "detections.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("file", "label", "score", "x1", "y1", "x2", "y2"))
        for image, detections in predictions:
            on_image()
            if image.image is None or detections is None:
                summary.problems.append(image.problem)
                continue
            summary.images += 1
            drawn = f"images/{drawn_names[image.path]}.png"
            if image.shrinking >= STRONGLY_SHRUNK:
                summary.shrunk[image.path] = image.shrinking
            draw(detections, image.image).save(folder / drawn, compress_level=3)
            height, width = detections.image_size
            name = str(image.path)
            images.append({"id": summary.images, "file_name": name, "width": width, "height": height, "drawn": drawn})
            found = detections.to_coco(summary.images)
            results += found
            rows = zip(map(csv_name, detections.names), found, strict=True)
            table.writerows((csv_name(name), label, r["score"], *_corners(r["bbox"])) for label, r in rows)
            summary.detections.update(detections.names)
    plain_categories = [{"id": c.id, "name": c.name} for c in categories]
    write_json(folder / "results.json", results, indent=None)
    write_json(folder / "images.json", {"images": images, "categories": plain_categories}, indent=1)
    return summary


def draw(detections: "Detections", image: Tensor) -> Image.Image:
    """Draw detections on their image (3, H, W) uint8, of which the longer side shrinks to `LARGEST_DRAWN`."""
    small, factor = shrink(image.permute(1, 2, 0).numpy(), LARGEST_DRAWN)  # (H, W, 3)
    if factor == 1:
        return detections.draw(image)
    height, width = small.shape[:2]
    return replace(detections, boxes=detections.boxes * factor, image_size=(height, width)).draw(small)


def _corners(xywh: Sequence[float]) -> tuple[float, ...]:
    x, y, width, height = xywh
    return x, y, round(x + width, 3), round(y + height, 3)
