"""Detection on image files without annotations: find the files, detect, and write the results."""

import csv
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detection.analysis.attention import attention_over_pixels, write_attention_image
from detection.atomic_write import write_json
from detection.data.coco_index import Category
from detection.data.image_paths import IMAGE_SUFFIXES
from detection.data.images import read_image
from detection.detector import Detector, require_visible
from detection.errors import UserError

if TYPE_CHECKING:
    from detection.predictor import Detections, Predictor


@dataclass(frozen=True)
class ImageFile:
    """An image to detect on: its pixels (3, H, W) uint8 RGB, or None and a sentence with the reason."""

    path: Path
    image: Tensor | None
    problem: str = ""


@dataclass
class PredictionSummary:
    """Images that `write_predictions` wrote, sentences about unreadable ones, and detections per class."""

    images: int = 0
    problems: list[str] = field(default_factory=list)
    detections: Counter[str] = field(default_factory=Counter)


class ImageFiles(Dataset):
    """Decodes image files; one that cannot be used becomes an `ImageFile` with a problem, and the others go on.

    The detector resizes images to `min_size` pixels of the shorter side, and `max_size` at most of the longer.
    """

    def __init__(self, paths: Sequence[Path], min_size: int, max_size: int) -> None:
        self.paths, self.min_size, self.max_size = paths, min_size, max_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> ImageFile:
        path = self.paths[position]
        try:
            image = torch.from_numpy(read_image(path)).permute(2, 0, 1).contiguous()  # (3, H, W)
            require_visible(image.shape[1], image.shape[2], self.min_size, self.max_size, f"image {path}")
        except UserError as error:
            return ImageFile(path, None, str(error))
        return ImageFile(path, image)


def find_images(arguments: Sequence[str]) -> list[Path]:
    """List the image files that files, folders and glob patterns name, each once.

    Args:
        arguments: in the order of the result. A file is taken whatever its name; from a folder the images directly in
            it, sorted; a pattern (`**` for any depth) stands for the images and folders that match it, sorted. Hidden
            files are only taken when named.

    Raises:
        UserError: an argument without any image.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_file():
            images = [path]
        elif path.is_dir():
            images = _images_in(path)
            if not images:
                kinds = ", ".join(sorted(IMAGE_SUFFIXES))
                raise UserError(f"{path}: no image directly in this folder ({kinds}); for those below it: '{path}/**'.")
        elif glob.has_magic(argument):
            matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
            images = [i for m in matches for i in (_images_in(m) if m.is_dir() else [m] if _is_image(m) else [])]
            if not images:
                raise UserError(f"{argument}: no image matches this pattern; check it, and the folder you are in.")
        else:
            raise UserError(f"{argument}: no such file or folder.")
        for image in images:
            found.setdefault(os.path.abspath(image), image)
    return list(found.values())


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_image(path) and not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def image_batches(files: ImageFiles, batch_size: int) -> DataLoader:
    """Load lists of `batch_size` images in order, decoded ahead by up to two processes if there are enough of them."""
    workers = min(2, len(files) // 8, (os.cpu_count() or 1) - 1)
    return DataLoader(files, batch_size=batch_size, num_workers=workers, collate_fn=list)


def detect(
    predictor: "Predictor", batches: Iterable[Sequence[ImageFile]]
) -> "Iterator[tuple[ImageFile, Detections | None]]":
    """Detect on batches of images; yields each with its detections, or None where it has a problem."""
    for batch in batches:
        images = [file.image for file in batch if file.image is not None]
        detections = iter(predictor(images, batch_size=len(batch)))
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
    # Names that are no Unicode are written back as the bytes they are on disk.
    with open(folder / "detections.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(("file", "label", "score", "x1", "y1", "x2", "y2"))
        for image, detections in predictions:
            on_image()
            if image.image is None or detections is None:
                summary.problems.append(image.problem)
                continue
            summary.images += 1
            drawn = f"images/{drawn_names[image.path]}.png"
            detections.draw(image.image).save(folder / drawn, compress_level=3)
            height, width = detections.image_size
            name = str(image.path)
            images.append({"id": summary.images, "file_name": name, "width": width, "height": height, "drawn": drawn})
            found = detections.to_coco(summary.images)
            results += found
            rows = zip(detections.names, found, strict=True)
            table.writerows((name, label, r["score"], *_corners(r["bbox"])) for label, r in rows)
            summary.detections.update(detections.names)
    plain_categories = [{"id": c.id, "name": c.name} for c in categories]
    write_json(folder / "results.json", results, indent=None)
    write_json(folder / "images.json", {"images": images, "categories": plain_categories}, indent=1)
    return summary


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """File names without their suffix, numbered `-2`, `-3` … where they repeat (in any mix of cases)."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        candidates = (path.stem if n == 1 else f"{path.stem}-{n}" for n in count(1))
        stems.append(next(stem for stem in candidates if stem.lower() not in taken))
        taken.add(stems[-1].lower())
    return stems


def _corners(xywh: Sequence[float]) -> tuple[float, ...]:
    x, y, width, height = xywh
    return x, y, round(x + width, 3), round(y + height, 3)
