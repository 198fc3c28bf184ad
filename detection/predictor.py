"""A trained run as a function from images to detections.

H×W image in pixels, N detections of one image, K classes. Boxes are xyxy in pixels of the upright image.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detection.analysis.visualize import distinct_colors, draw_boxes
from detection.data.coco_index import Category
from detection.data.images import read_image, to_rgb
from detection.errors import UserError
from detection.runs.folder import best_or_last, open_run
from detection.runs.own_files import read_bounded_json
from detection.tiles import Tiles, fitting_tiles, merge_tiles
from detection.training.engine import coco_results
from detection.training.loaders import inference_precision

if TYPE_CHECKING:
    import supervision  # pyright: ignore[reportMissingImports]

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a PIL image, an array (H, W, 3) uint8 RGB, or a tensor (3, H, W) RGB, uint8 or float in [0, 1]."""

_TAKEN = "a path, a PIL image, an ndarray (H, W, 3) of uint8 RGB, or a tensor (3, H, W) of uint8 or of float in [0, 1]"
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one image, best first; tensors are on the CPU.

    Attributes:
        boxes: (N, 4) float32 xyxy in pixels of the image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, 1 … K: label k is `categories[k - 1]`.
        image_size: height and width of the image.
        categories: of the data that the detector was trained on, with their original ids.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    image_size: tuple[int, int]
    categories: tuple[Category, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.categories[label - 1].name for label in self.labels.tolist()]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results: `image_id`, `category_id` as in the training data, `bbox` xywh in pixels and `score`."""
        found = {"boxes": self.boxes, "labels": self.labels, "scores": self.scores}
        return coco_results(found, image_id, self.categories)

    def draw(self, image: ImageLike) -> Image.Image:
        """Draw boxes, names and scores on a copy of the image.

        Args:
            image: the one that they were found in; a small one is enlarged by an integer factor.

        Raises:
            ValueError: it has another size.
        """
        pixels = _as_tensor(image, "the image")
        if tuple(pixels.shape[1:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"these detections are of an image of {width}x{height} pixels, this one has "
                f"{pixels.shape[2]}x{pixels.shape[1]}: draw on the image that they were found in."
            )
        if pixels.is_floating_point():
            pixels = (pixels * 255).round().byte()
        rgb = pixels.permute(1, 2, 0).contiguous().cpu().numpy()  # (H, W, 3)
        colors = distinct_colors([category.name for category in self.categories])
        return Image.fromarray(draw_boxes(rgb, self.boxes.numpy(), self.names, self.scores.tolist(), colors=colors))

    def to_supervision(self) -> "supervision.Detections":
        """Convert to `supervision.Detections`, class names included; needs the package `supervision`."""
        import supervision  # pyright: ignore[reportMissingImports]

        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )


class Predictor:
    """Detect objects with a trained run, in files or in images in memory.

    Args:
        run_or_checkpoint: a run folder, for its best checkpoint, or one of its checkpoints: `RUN/checkpoints/last`, or
            the `model.safetensors` in it.
        device: where the detector goes; None for a GPU if there is one.
        score: least score of a detection; None for that of the checkpoint's best F1, or 0.5 where it was not measured.
            The run's `detector.head.score_threshold` is a lower limit.
        trust: packages other than `detection` whose parts the run may name.

    Raises:
        UserError: no such run or checkpoint, or one that cannot be opened.
        ValueError: a score outside of [0, 1].
    """

    def __init__(
        self,
        run_or_checkpoint: str | Path,
        device: str | torch.device | None = None,
        score: float | None = None,
        *,
        trust: Sequence[str] = (),
    ) -> None:
        if score is not None and not 0 <= score <= 1:
            raise ValueError(f"score={score}: must be between 0 and 1.")
        self.run, checkpoint = split_run(Path(run_or_checkpoint))
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.detector, self.categories, self.config = open_run(self.run, self.device, checkpoint, trust=trust)
        self.score, self.score_reason = choose_score(self.run, score, checkpoint)

    @overload
    def __call__(
        self, images: ImageLike, batch_size: int | None = None, tiles: Tiles | int | None = None
    ) -> Detections: ...

    @overload
    def __call__(
        self, images: Sequence[ImageLike], batch_size: int | None = None, tiles: Tiles | int | None = None
    ) -> list[Detections]: ...

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        batch_size: int | None = None,
        tiles: Tiles | int | None = None,
    ) -> Detections | list[Detections]:
        """Detect in one image, or in each of a list.

        Args:
            images: a path, a PIL image, an array (H, W, 3) of uint8, a tensor (3, H, W) of uint8 or of float in [0, 1],
                or a list of these; arrays and tensors are RGB (OpenCV reads BGR: give `image[:, :, ::-1]`). Files and
                PIL images are read as in training: EXIF orientation applied, any mode turned into 8-bit RGB.
            batch_size: images of a list, or tiles of one, in one forward pass; None for the run's `eval_batch_size`.
                Images of several sizes are padded to the largest of their batch, which changes scores and proposals at
                their borders a little, as in any detector with padding; 1 for an image as it is alone.
            tiles: detect in overlapping tiles of each image, with `Tiles`' defaults where it is their side in pixels;
                for small objects in large images. The full image is one of them, unless it is too thin.

        Returns:
            The detections of the image, or a list of the detections of each image.

        Raises:
            TypeError: an image of another type, shape or number format.
            ValueError: a float tensor outside of [0, 1], or a batch size below 1.
            UserError: a file that cannot be read, or an image too thin to detect anything in.
        """
        size = self.config.eval_batch_size if batch_size is None else _whole("batch_size", batch_size)
        if size < 1:
            raise ValueError(f"batch_size={size}: must be 1 or more.")
        tiles = tiles if tiles is None or isinstance(tiles, Tiles) else Tiles(_whole("tiles", tiles))
        if isinstance(images, str) or not isinstance(images, Sequence):
            image = _as_tensor(images, "the image")
            return self._detect([image])[0] if tiles is None else self._detect_in_tiles(image, tiles, size)
        if tiles is not None:
            return [self._detect_in_tiles(_as_tensor(im, f"images[{i}]"), tiles, size) for i, im in enumerate(images)]
        found: list[Detections] = []
        for start in range(0, len(images), size):
            batch = enumerate(images[start : start + size], start)
            found += self._detect([_as_tensor(image, f"images[{i}]") for i, image in batch])
        return found

    @torch.no_grad()
    def _detect(self, images: list[Tensor]) -> list[Detections]:
        dtype = _AUTOCAST.get(inference_precision(self.config.precision, self.device.type))
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            found = self.detector.eval()([image.to(self.device) for image in images])
        return [self._select(f, image) for f, image in zip(found, images, strict=True)]

    def _detect_in_tiles(self, image: Tensor, tiles: Tiles, batch_size: int) -> Detections:
        """Detect in the tiles of an image (3, H, W), and merge what they find."""
        height, width = image.shape[1:]
        used = fitting_tiles(height, width, tiles, self.detector.min_size, self.detector.max_size)
        assert used is not None
        windows = used.windows(height, width)
        found: list[Detections] = []
        for start in range(0, len(windows), batch_size):
            found += self._detect([image[:, y0:y1, x0:x1] for x0, y0, x1, y1 in windows[start : start + batch_size]])
        moved = [f.boxes + torch.tensor(w[:2] * 2) for f, w in zip(found, windows, strict=True)]
        scores, labels = torch.cat([f.scores for f in found]), torch.cat([f.labels for f in found])
        positions = [number for number, f in enumerate(found) for _ in range(len(f))]
        rows, boxes = merge_tiles(torch.cat(moved), scores, labels, positions, windows)
        return Detections(boxes, scores[rows], labels[rows], (height, width), self.categories)

    def _select(self, found: dict[str, Tensor], image: Tensor) -> Detections:
        """Keep what reaches the score and move it to the CPU."""
        # In float32, as the score of the best F1 is the shortest decimal of one.
        kept = (found["scores"].float() >= torch.tensor(self.score, dtype=torch.float32)).cpu()
        boxes, scores, labels = (found[key].cpu()[kept] for key in ("boxes", "scores", "labels"))
        return Detections(boxes.float(), scores.float(), labels, (image.shape[1], image.shape[2]), self.categories)


def choose_score(run: Path, asked: float | None, checkpoint: str | None = None) -> tuple[float, str]:
    """Choose the least score of a detection, with its origin in words: `asked`, that of the best F1, or 0.5.

    The best F1 is that of the checkpoint, which is named as in `open_run`.
    """
    if asked is not None:
        return asked, "as asked for"
    is_last = (checkpoint or best_or_last(run)) == "last"
    path = (run / "last" if is_last else run) / "metrics.json"
    try:
        best = float(read_bounded_json(path)["best_f1"]["score"])
    except (OSError, UserError, ValueError, KeyError, TypeError, OverflowError):
        return 0.5, f"there is no best F1 in {path}"
    if not best <= 1:
        return 0.5, f"the score of the best F1 in {path} is damaged"
    return (best, f"of the best F1 in {path}") if best >= 0 else (0.5, f"the best F1 in {path} is 0")


def split_run(path: Path) -> tuple[Path, str | None]:
    """Return a run folder and the name of the checkpoint in it, None for the best there is."""
    inner = path.absolute()
    if inner.name == "model.safetensors":
        inner = inner.parent
    if (path / "config.json").is_file():
        return path, None
    if inner.name == "checkpoints" and (inner.parent / "config.json").is_file():
        return inner.parent, None
    run = inner.parent.parent
    return (run, inner.name) if (run / "config.json").is_file() else (path, None)


def _whole(name: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}={value!r}: must be a whole number.") from None


def _as_tensor(image: object, name: str) -> Tensor:
    """An image (3, H, W), uint8 or float32 in [0, 1]; `name` is for errors."""
    if isinstance(image, str | Path):
        return _channels_first(read_image(image))
    if isinstance(image, Image.Image) and 0 not in image.size:
        return _channels_first(to_rgb(image, Path(getattr(image, "filename", "") or "in memory")))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
        return _channels_first(image.copy())
    if isinstance(image, Tensor) and image.shape[:-2] == (3,) and image.numel():
        if image.dtype == torch.uint8:
            return image
        if image.is_floating_point():
            return _in_unit_range(image.detach().float(), name)
    raise TypeError(f"{name}: must be {_TAKEN}, or a list of these; got {_description(image)}.")


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()  # (3, H, W)


def _in_unit_range(image: Tensor, name: str) -> Tensor:
    low, high = image.min().item(), image.max().item()
    if 0 <= low and high <= 1:
        return image
    remedy = "divide it by 255, or give uint8" if high > 1 and low >= 0 else "give RGB before any normalization"
    raise ValueError(f"{name}: a float tensor must be in [0, 1], this one goes from {low:.4g} to {high:.4g}: {remedy}.")


def _description(image: object) -> str:
    if isinstance(image, np.ndarray | Tensor):
        return f"{type(image).__name__} of {str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
    if isinstance(image, Image.Image):
        return f"{type(image).__name__} of {image.size[0]}x{image.size[1]} pixels"
    return type(image).__name__
