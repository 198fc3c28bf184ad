"""Evidence, over a complete data set, that its boxes mean something else than COCO's left, top, width, height.

Two kinds, both relative to the reading as given. By geometry: boxes that fit their images under the other reading
alone. By content: in image after image, the sides of boxes are on edges under the other reading, and less so as given.
M boxes, N images, R readings.
"""

from dataclasses import dataclass, field

import numpy as np

from detection.data.box_readings import AS_GIVEN, ORDERS, Placement, Reading, fits, to_xywh
from detection.data.edge_scores import edge_scores

MIN_BOXES, MIN_IMAGES = 10, 3
"""With fewer boxes or images no reading is reported."""

_MIN_ALONE = 8  # boxes that fit under a reading alone, where there is no other evidence
_MIN_FITTING = 0.97
_MIN_SCORED_IMAGES = 6
_BOXES_PER_IMAGE = 30
_SAMPLED_IMAGES = 300

_SHARES = tuple(Reading(order, canvas) for canvas in (1.0, 100.0, 1000.0) for order in ("xywh", "xyxy", "cxcywh"))
_CANVASES = tuple(Reading("xywh", canvas) for canvas in (320.0, 416.0, 512.0, 640.0, 800.0, 1024.0, 1280.0))
_FACTORS = tuple(Reading(factor=f) for f in (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0, 3.0, 4.0))
_ORDERS = tuple(Reading(order) for order in ORDERS if order != "xywh")
RAW, SCALED = Reading(frame="raw"), Reading(frame="scaled")
READINGS = (*_ORDERS, RAW, SCALED, *_SHARES, *_FACTORS, *_CANVASES)
"""In the order in which they are preferred."""


@dataclass(frozen=True)
class Finding:
    """A reading for which there is evidence.

    Attributes:
        reading: what the boxes seem to be.
        boxes: number of boxes examined.
        fitting: boxes that fit their image under it.
        fitting_as_given: boxes that fit as given.
        images: images whose edges were compared; 0: none were.
        agreeing: of these, the ones whose edges agree better with it than with the boxes as given.
    """

    reading: Reading
    boxes: int
    fitting: int
    fitting_as_given: int
    images: int = 0
    agreeing: int = 0

    @property
    def sentence(self) -> str:
        """The finding and its evidence."""
        parts = []
        if self.reading.canvas == 1:
            parts.append("as given they are within one pixel")
        if self.fitting > self.fitting_as_given:
            parts.append(
                f"so read {self.fitting} of {self.boxes} boxes fit their image, as given {self.fitting_as_given}"
            )
        if self.images:
            parts.append(
                f"in {self.agreeing} of {self.images} images the boxes' sides are closer to edges when so read"
            )
        return f"the boxes look like {self.reading.words}: {'; '.join(parts)}"


@dataclass
class EdgeEvidence:
    """Mean edge scores of images under each reading.

    Attributes:
        scores: for each image, R + 1 means over its boxes: as given, then under each of `READINGS`; NaN: unknown.
    """

    scores: list[np.ndarray] = field(default_factory=list)

    def of(self, reading: Reading) -> tuple[int, int, float, float]:
        """Compare a reading with the boxes as given.

        Returns:
            Images compared, images better under the reading, the t value of the difference and the gain: the mean
            score under the reading over that as given.
        """
        table = np.array(self.scores).reshape(-1, len(READINGS) + 1)  # (images, R + 1)
        pairs = table[:, [0, READINGS.index(reading) + 1]]
        pairs = pairs[np.flatnonzero(np.isfinite(pairs).all(axis=1))]
        if len(pairs) == 0:
            return 0, 0, 0.0, 0.0
        differences = pairs[:, 1] - pairs[:, 0]
        # At least 0.1: over few images the spread may be small by chance, and t large for no reason.
        spread = max(float(differences.std(ddof=1)) if len(pairs) > 1 else np.inf, 0.1)
        t = float(differences.mean()) / (spread / len(pairs) ** 0.5)
        return len(pairs), int((differences > 0).sum()), t, float(pairs[:, 1].mean())


def score_image(
    pixels: np.ndarray, boxes: np.ndarray, listed: tuple[int, int], orientation: int, seed: int
) -> np.ndarray:
    """Return an image's R + 1 mean edge scores; see `EdgeEvidence`.

    Args:
        pixels: (H, W, 3), upright.
        boxes: (M, 4) as in the file.
        listed: width and height as in the file.
        orientation: EXIF orientation.
        seed: of the random places that boxes are compared with.
    """
    boxes = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), _BOXES_PER_IMAGE)).astype(int)]
    n = len(boxes)
    size = np.tile([pixels.shape[1], pixels.shape[0]], (n, 1))
    placement = Placement(size, np.tile(listed, (n, 1)), np.full(n, orientation))
    different = {RAW: orientation != 1, SCALED: min(listed) > 0 and listed != (pixels.shape[1], pixels.shape[0])}
    tried = [AS_GIVEN, *(reading for reading in READINGS if different.get(reading, True))]
    xywh = np.stack([to_xywh(reading, boxes, placement) for reading in tried])  # (R, M, 4)
    with np.errstate(all="ignore"):
        corners = np.concatenate([xywh[..., :2], xywh[..., :2] + xywh[..., 2:]], axis=2)
        usable = (np.abs(corners) < 1e7).all(axis=2, keepdims=True)  # (R, M, 1); NaN is not
        corners = np.where(usable, corners, 0).reshape(-1, 4)  # (R * M, 4)
        scores = edge_scores(pixels, corners, np.random.default_rng(seed)).reshape(len(tried), n)  # (R, M)
        # A reading under which a box is not in the image at all has nothing on edges.
        inside = np.stack([fits(part, size) for part in xywh])  # (R, M)
        scores = np.where(inside, scores, 0.0)
    known = ~np.isnan(scores)
    means = np.where(
        known.any(axis=1), np.where(known, scores, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1), np.nan
    )
    table = np.full(len(READINGS) + 1, np.nan)
    table[[0, *(READINGS.index(reading) + 1 for reading in tried[1:])]] = means
    return table


def sample_images(rows: np.ndarray) -> np.ndarray:
    """Return those of the images with boxes whose edges are compared."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLED_IMAGES)).astype(int)] if len(rows) else rows


def find_reading(
    boxes: np.ndarray, image_rows: np.ndarray, placement: Placement, edges: EdgeEvidence | None = None
) -> Finding | None:
    """Return the reading other than COCO's for which there is evidence, None where there is not.

    Args:
        boxes: (M, 4) as in the file.
        image_rows: (M,) the image of each.
        placement: of the boxes.
        edges: from the images' content; None: by geometry only.
    """
    usable = np.flatnonzero(np.isfinite(boxes).all(axis=1) & (placement.sizes > 0).all(axis=1) & boxes.any(axis=1))
    boxes, image_rows, placement = boxes[usable], image_rows[usable], placement.of(usable)
    if len(boxes) < MIN_BOXES or len(np.unique(image_rows)) < MIN_IMAGES:
        return None
    as_given = fits(boxes, placement.sizes)
    ends_as_given = bool((np.abs(_reach(boxes, placement.sizes) - 0.975) < 0.075).all())
    # Pixels over 1: shares of 1 are no pixels, whatever fits.
    shares = bool((np.abs(boxes) <= 1.01).all(axis=1).mean() > _MIN_FITTING)
    candidates = [r for r in READINGS if (r.canvas == 1.0) == shares and (edges is not None or r in _ORDERS or shares)]
    found: list[tuple[float, Finding]] = []
    for reading in candidates:
        if reading == SCALED and not (placement.listed != placement.sizes).any():
            continue
        if reading == RAW and (placement.orientations == 1).all():
            continue
        read = to_xywh(reading, boxes, placement)
        fitting = fits(read, placement.sizes)
        if fitting.mean() < _MIN_FITTING:
            continue
        content = edges.of(reading) if edges is not None else (0, 0, 0.0, 0.0)
        reach = float(_reach(read, placement.sizes).min())
        # At another scale boxes end elsewhere than their images do.
        scaled = reading.factor != 1 or reading.canvas is not None
        if scaled and not shares and ends_as_given:
            continue
        least = 0.3 if scaled and reach < 0.95 else 0.05
        weight = _weight(reading, as_given, fitting, content, shares, least) - abs(1 - reach)
        if weight > 0:
            images, agreeing = content[:2] if content[2] > 3 else (0, 0)
            finding = Finding(reading, len(boxes), int(fitting.sum()), int(as_given.sum()), images, agreeing)
            found.append((weight, finding))
    return max(found, key=lambda item: item[0])[1] if found else None


def _reach(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return (2,) shares of their images' width and height at which (M, 4) xywh boxes end, but for a hundredth."""
    with np.errstate(all="ignore"):
        return np.quantile((boxes[:, :2] + boxes[:, 2:]) / sizes, 0.99, axis=0)


def _weight(
    reading: Reading,
    as_given: np.ndarray,
    fitting: np.ndarray,
    content: tuple[int, int, float, float],
    shares: bool,
    least: float,
) -> float:
    """Return how much speaks for a reading, 0 where it is not enough; images count from a mean score of `least` on."""
    images, agreeing, t, score = content
    alone, against = int((fitting & ~as_given).sum()), int((as_given & ~fitting).sum())
    convincing = images >= _MIN_SCORED_IMAGES and t > 4.5 and agreeing >= 0.75 * images and score > least
    contradicted = images >= _MIN_SCORED_IMAGES and t < -3
    if shares:
        return 1 + max(score, 0)
    if contradicted:
        return 0
    by_geometry = alone >= max(_MIN_ALONE, 0.02 * len(as_given)) and against <= 0.02 * alone
    # Other scales than 1 fit by chance: they need the images.
    if by_geometry and (reading in _ORDERS or reading in (RAW, SCALED)):
        return 1 + max(score, 0) + (10 if convincing else 0)
    return 10 + score if convincing and against <= max(0.02 * len(as_given), alone) else 0
