"""Detection in overlapping tiles of a large image, after SAHI (Akyon et al. 2022), merged by what both tiles see.

The detector shrinks an image to its own size, in which small objects vanish; in tiles they keep their pixels. An object
in the overlap is found in two tiles, and one at a border leaves a fragment. Two detections of a class are one object if
they agree in the region that both tiles see: there a fragment and the complete box are the same. SAHI compares complete
boxes instead, by intersection over the smaller one, which takes an object in front of a larger one for its fragment.

N detections of all tiles; boxes and windows are xyxy in pixels of the image.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detection.detector import require_visible
from detection.errors import UserError

SAME = 0.5
"""IoU from which on two boxes, both cut to what their tiles see together, are one object's."""

COVERED = 0.5
"""Share of a fragment inside a complete box of its class from which on it belongs to that."""

TILE = 640
"""Side that is advised where an image is too thin to be detected in at once."""

Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tiles:
    """Square windows over an image, and with them the image itself, in which the largest objects are complete.

    Attributes:
        size: side in pixels; an image that is smaller in one direction has tiles of its own length there.
        overlap: least share of the side that neighbors have in common: objects up to this size are complete in a tile.
        full_image: detect on the full image, too.
    """

    size: int
    overlap: float = 0.2
    full_image: bool = True

    def __post_init__(self) -> None:
        if self.size < 32:
            raise UserError(f"tiles of {self.size} pixels: must be of 32 or more.")
        if not 0 <= self.overlap <= 0.9:
            raise UserError(f"overlap={self.overlap}: must be between 0 and 0.9, a share of a tile's side.")

    def windows(self, height: int, width: int) -> list[Window]:
        """Return the windows of an image in rows, the last of which end at its border; the full image comes last."""
        rows, columns = self._starts(height), self._starts(width)
        windows = [(x, y, min(x + self.size, width), min(y + self.size, height)) for y in rows for x in columns]
        return [*windows, (0, 0, width, height)] if self.full_image and len(windows) > 1 else windows

    def _starts(self, length: int) -> list[int]:
        if length <= self.size:
            return [0]
        step = max(1, int(self.size * (1 - self.overlap)))
        number = -(-(length - self.size) // step) + 1
        # Spread evenly: with the last tile moved back alone, two would be nearly the same.
        return [round(k * (length - self.size) / (number - 1)) for k in range(number)]


def fitting_tiles(
    height: int, width: int, tiles: Tiles | None, min_size: int, max_size: int, name: str = "an image"
) -> Tiles | None:
    """Return the tiles that an image is detected in: without the full image where that is too thin for a detector.

    Args:
        height: of the image, in pixels.
        width: likewise.
        tiles: those asked for; None for the image at once.
        min_size: see `Detector`.
        max_size: see `Detector`.
        name: of the image, for errors.

    Raises:
        UserError: a tile, or without tiles the image, is too thin.
    """

    def is_visible(height: int, width: int) -> bool:
        with suppress(UserError):
            require_visible(height, width, min_size, max_size)
            return True
        return False

    if tiles is not None:
        require_visible(min(height, tiles.size), min(width, tiles.size), min_size, max_size, f"a tile of {name}")
        return tiles if is_visible(height, width) else replace(tiles, full_image=False)
    if not is_visible(height, width) and is_visible(min(height, TILE), min(width, TILE)):
        raise UserError(
            f"{name} of {width}x{height} pixels is too thin to detect anything in at once: detect in tiles (--tiles "
            f"{TILE}), crop it or leave it out."
        )
    require_visible(height, width, min_size, max_size, name)
    return None


def merge_tiles(
    boxes: Tensor, scores: Tensor, labels: Tensor, tiles: Sequence[int], windows: Sequence[Window]
) -> tuple[Tensor, Tensor]:
    """Merge the detections of all tiles of an image.

    Of one object the best complete box stays; where every tile cuts it, the box around all its fragments.

    Args:
        boxes: (N, 4) float, moved to their place in the image.
        scores: (N,).
        labels: (N,).
        tiles: position in `windows` of the tile of each detection.
        windows: the last is the largest; one that ends inside of it cuts objects there.

    Returns:
        Rows of the detections that stay, best first, and their boxes.
    """
    seen = torch.tensor(windows, dtype=boxes.dtype).reshape(-1, 4)[torch.as_tensor(tiles, dtype=torch.long)]
    cut = _are_cut(boxes, seen, torch.tensor(windows, dtype=boxes.dtype))
    # Complete boxes first, as they take in the fragments of their object, whatever these score.
    order = sorted(range(len(boxes)), key=lambda row: (bool(cut[row]), -float(scores[row])))
    open_rows = torch.ones(len(boxes), dtype=torch.bool)
    tile = torch.as_tensor(tiles, dtype=torch.long)
    merged, kept = boxes.clone(), list[int]()
    for row in order:
        if not open_rows[row]:
            continue
        open_rows[row] = False
        kept.append(row)
        queue = [row]
        while queue:
            member = queue.pop()
            others = (open_rows & (labels == labels[member]) & (tile != tile[member])).nonzero()[:, 0]
            same = _agree(boxes[member], seen[member], boxes[others], seen[others])
            if not cut[row]:
                same |= cut[others] & (_share_inside(boxes[others], boxes[row]) >= COVERED)
            found = others[same]
            open_rows[found] = False
            if cut[row]:  # fragments of an object over several tiles: the first and the last may share no region
                queue += found.tolist()
                merged[row, :2] = torch.cat([merged[row, :2][None], boxes[found, :2]]).amin(0)
                merged[row, 2:] = torch.cat([merged[row, 2:][None], boxes[found, 2:]]).amax(0)
    kept.sort(key=lambda row: -float(scores[row]))
    rows = torch.tensor(kept, dtype=torch.long)
    return rows, merged[rows]


def _are_cut(boxes: Tensor, seen: Tensor, windows: Tensor) -> Tensor:
    """Whether each box ends where its window ends inside the image (N,); boxes end a few pixels off an edge."""
    image = torch.cat([windows[:, :2].amin(0), windows[:, 2:].amax(0)])
    sides = (seen[:, 2:] - seen[:, :2]).repeat(1, 2)
    near = (boxes - seen).abs() <= (sides / 50).clamp(min=2)
    return (near & (seen != image)).any(1)


def _agree(box: Tensor, window: Tensor, boxes: Tensor, windows: Tensor) -> Tensor:
    """Whether boxes (N, 4) in windows (N, 4) and a box in another agree in what both windows see (N,)."""
    region = _intersection(window, windows)
    ours, theirs = _intersection(box, region), _intersection(boxes, region)
    both = _area(_intersection(ours, theirs))
    return both >= SAME * (_area(ours) + _area(theirs) - both).clamp(min=1e-6)


def _share_inside(boxes: Tensor, box: Tensor) -> Tensor:
    return _area(_intersection(boxes, box)) / _area(boxes).clamp(min=1e-6)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
