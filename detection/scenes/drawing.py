"""The pieces a ContextScenes image is drawn from: fields, backgrounds, clutter, outlines and soft-edged painting.

Legend: S is the image's side in pixels and a canvas is (S, S, 3) uint8 RGB; a color is (3,) float32 RGB in 0..255;
an outline is (V, 2) float64 xy in pixels, where pixel i covers [i, i + 1); a field is (H, W) float32 in 0..1 and mixes
two colors.
"""

import cv2
import numpy as np

SUPERSAMPLING = 8
SUBPIXEL_BITS = 4


# Fields: one number a pixel, the texture of an object or of a background.


def solid(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Return a field of zeros: the first color alone."""
    return np.zeros((height, width), np.float32)


def gradient(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Return a ramp from 0 to 1 across the region, in a random direction."""
    ramp = along(rng.uniform(0, 2 * np.pi), height, width)
    return (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)


def stripes(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Return stripes in a random direction; light and dark together are `period` pixels wide."""
    return 0.5 + 0.5 * square_wave(along(rng.uniform(0, np.pi), height, width) + rng.uniform(0, period), period)


def checker(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Return a rotated chessboard whose squares have a side of half a `period`."""
    angle = rng.uniform(0, np.pi)
    across = square_wave(along(angle, height, width) + rng.uniform(0, period), period)
    down = square_wave(along(angle + np.pi / 2, height, width) + rng.uniform(0, period), period)
    return 0.5 + 0.5 * across * down


def dots(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Return round dots on a rotated square grid, `period` pixels apart."""
    angle = rng.uniform(0, np.pi)
    x = (along(angle, height, width) + rng.uniform(0, period)) % period - period / 2
    y = (along(angle + np.pi / 2, height, width) + rng.uniform(0, period)) % period - period / 2
    return np.clip(0.3 * period - np.hypot(x, y) + 0.5, 0, 1).astype(np.float32)


def noise(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Return smooth clouds about `period` pixels across."""
    grid = rng.random((int(height / period) + 3, int(width / period) + 3), np.float32)
    cloud = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return (cloud - cloud.min()) / max(float(np.ptp(cloud)), 1e-6)


TEXTURES = (solid, gradient, stripes, checker, dots, noise)


def along(angle: float, height: int, width: int) -> np.ndarray:
    """Return each pixel center's distance (H, W) along a direction, in pixels."""
    x = np.arange(width, dtype=np.float32) + 0.5
    y = np.arange(height, dtype=np.float32) + 0.5
    return np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y[:, None]


def square_wave(position: np.ndarray, period: float) -> np.ndarray:
    """Return -1 and 1 in turn, changing over one pixel so that edges are soft."""
    return np.clip(np.sin(position * np.float32(2 * np.pi / period)) * np.float32(period / np.pi), -1, 1)


def mix(first: np.ndarray, second: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) float32: `first` where the field is 0, `second` where it is 1."""
    return first + (second - first) * field[:, :, None]


# Colors.


def random_color(rng: np.random.Generator) -> np.ndarray:
    """Return any color, drawn evenly."""
    return rng.uniform(0, 255, 3).astype(np.float32)


def contrasting_color(rng: np.random.Generator, *others: np.ndarray, distance: float = 100.0) -> np.ndarray:
    """Return a random color at least `distance` (RGB, Euclidean) from all `others`, or the farthest of 30 tries."""
    best, best_gap = others[0], -1.0
    for _ in range(30):
        color = random_color(rng)
        gap = min(float(np.linalg.norm(color - other)) for other in others)
        if gap >= distance:
            return color
        if gap > best_gap:
            best, best_gap = color, gap
    return best


# The image before any object.


def background(rng: np.random.Generator, size: int, side: int | None = None) -> np.ndarray:
    """Return a canvas of one structure (gradient, stripes, tiles or clouds) under a wide change of light.

    Args:
        rng: the image's stream.
        size: that all lengths are fractions of, in pixels.
        side: of the canvas in pixels; None for `size`.
    """
    side = side or size
    first = random_color(rng)
    second = first + rng.uniform(-45, 45, 3).astype(np.float32)
    structure = (gradient, stripes, checker, noise)[rng.integers(4)]
    image = mix(first, second, structure(rng, side, side, size * rng.uniform(0.08, 0.35)))
    light = (gradient, noise)[rng.integers(2)](rng, side, side, size * 0.5)
    return np.clip(image * (0.75 + 0.4 * light[:, :, None]), 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a gray canvas of soft light and dark, without any structure that could be taken for a pattern."""
    gray = rng.uniform(60, 170) + 50 * noise(rng, size, size, size * rng.uniform(0.15, 0.4))
    return np.repeat(np.round(gray).astype(np.uint8)[:, :, None], 3, 2)


def cluttered(rng: np.random.Generator, size: int, side: int | None = None) -> np.ndarray:
    """Return a `background` with up to 4 thin lines, 3 arcs and 12 specks that are no objects."""
    side = side or size
    canvas = background(rng, size, side)
    unit = size / 128
    thickness = max(1, round(unit))

    def fixed(*lengths: float) -> tuple[int, ...]:
        return tuple(round(length * (1 << SUBPIXEL_BITS)) for length in lengths)

    for _ in range(rng.integers(0, 5)):
        start, end = fixed(*rng.uniform(0, side, 2)), fixed(*rng.uniform(0, side, 2))
        cv2.line(canvas, start, end, random_color(rng).tolist(), thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    for _ in range(rng.integers(0, 4)):
        center, axes = fixed(*rng.uniform(0, side, 2)), fixed(*rng.uniform(6 * unit, 30 * unit, 2))
        turn, sweep = rng.uniform(0, 360), rng.uniform(40, 150)
        color = random_color(rng).tolist()
        cv2.ellipse(canvas, center, axes, turn, 0, sweep, color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    for _ in range(rng.integers(0, 13)):
        speck = _ring(rng.uniform(0.5, 2.2, 7).tolist()) * unit + rng.uniform(0, side, 2)
        fill(canvas, speck, random_color(rng))
    return canvas


def cluttered_gray(rng: np.random.Generator, size: int, side: int | None = None) -> np.ndarray:
    """Return a `background` with clutter, without color: in front of it only cues have any."""
    gray = cluttered(rng, size, side).mean(2, keepdims=True)
    return np.round(gray).astype(np.uint8).repeat(3, 2)  # (S, S, 3)


# Objects.


def _ring(radii: list[float], phase: float = 0.0) -> np.ndarray:
    """Return points (V, 2) at equal angles around the origin with the given radii."""
    angles = phase + np.arange(len(radii)) * (2 * np.pi / len(radii))
    return np.asarray(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def _cross(arm: float) -> np.ndarray:
    """Return a plus sign whose arms have the given half-width, as (12, 2)."""
    corner = np.array([[1, -arm], [1, arm], [arm, arm]])
    quarter_turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([corner @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)])


def _half_disc() -> np.ndarray:
    """Return the upper half of a disc as (25, 2)."""
    angles = np.linspace(0, np.pi, 25)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


SHAPES: dict[str, np.ndarray] = {
    "circle": _ring([1.0] * 48),
    "cross": _cross(0.34),
    "half-disc": _half_disc(),
    "square": _ring([1.0] * 4, np.pi / 4),
    "star": _ring([1.0, 0.42] * 5),
    "triangle": _ring([1.0] * 3),
}


def pose(outline: np.ndarray, extent: float, angle: float, stretch: float = 1.0) -> np.ndarray:
    """Return the outline stretched, turned and scaled, with its box starting at (0, 0).

    Args:
        outline: (V, 2) of any scale and place.
        extent: square root of the area of the outline's box, in pixels; so no shape has larger boxes than another.
        angle: in radians.
        stretch: how much longer the shape gets along its own x than along its own y.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    turned = outline * [stretch**0.5, stretch**-0.5] @ np.array([[cos, sin], [-sin, cos]])
    turned = turned - turned.min(0)
    return turned * (extent / np.sqrt(turned.max(0).prod()))


def square(left: float, top: float, side: float) -> np.ndarray:
    """Return an upright square (4, 2) by its upper left corner."""
    return [left, top] + side * np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def outline_box(outline: np.ndarray) -> np.ndarray:
    """Return the outline's tight box (4,) xyxy in pixels."""
    return np.concatenate([outline.min(0), outline.max(0)])


def place(
    rng: np.random.Generator, outline: np.ndarray, size: int, taken: list[np.ndarray], overlap: float = 0.1
) -> np.ndarray | None:
    """Return the outline moved to a free place inside the image, or None when 50 tries find none.

    Args:
        rng: the image's stream.
        outline: (V, 2) whose box starts at (0, 0).
        size: side of the image in pixels.
        taken: boxes (4,) xyxy of the objects already there.
        overlap: largest part of the smaller of two boxes that the other may cover; it bounds their IoU too.
    """
    room = size - 2 - outline.max(0)
    if (room < 0).any():
        return None
    for _ in range(50):
        moved = outline + 1 + rng.uniform(0, 1, 2) * room
        if all(_covered(outline_box(moved), box) <= overlap for box in taken):
            return moved
    return None


def _covered(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection of two xyxy boxes as a part of the smaller one."""
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(shared / min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()))


def coverage(outline: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """Return the part of each pixel of a window inside the outline, as (height, width) float32 in 0..1."""
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    # OpenCV counts from pixel centers, an outline from pixel edges: hence the half.
    points = (outline - [left, top]) * SUPERSAMPLING - 0.5
    cv2.fillPoly(fine, [np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)], 255, cv2.LINE_8, SUBPIXEL_BITS)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def window(canvas: np.ndarray, outline: np.ndarray) -> tuple[int, int, int, int]:
    """Return the window (left, top, width, height) of the canvas around an outline, in pixels."""
    left, top = np.clip(np.floor(outline.min(0)), 0, canvas.shape[0] - 1).astype(int).tolist()
    right, bottom = np.clip(np.ceil(outline.max(0)), 1, canvas.shape[0]).astype(int).tolist()
    return left, top, right - left, bottom - top


def fill(canvas: np.ndarray, outline: np.ndarray, colors: np.ndarray) -> None:
    """Blend colors into the canvas inside the outline, in place; colors are (3,), or (h, w, 3) for its `window`."""
    left, top, width, height = window(canvas, outline)
    alpha = coverage(outline, left, top, width, height)[:, :, None]
    target = canvas[top : top + height, left : left + width]
    target[:] = np.round(target * (1 - alpha) + colors * alpha).astype(np.uint8)


def paint(rng: np.random.Generator, canvas: np.ndarray, outline: np.ndarray, fading: float = 0.0) -> None:
    """Fill the outline on the canvas, in place, with a random texture of two colors that stand out from what is there.

    Texture and colors do not depend on the class. `fading`, from 0 to 1, draws the colors towards what is there.
    """
    left, top, width, height = window(canvas, outline)
    behind = canvas[top : top + height, left : left + width].reshape(-1, 3).mean(0, dtype=np.float32)
    first = contrasting_color(rng, behind)
    second = contrasting_color(rng, behind, first)
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    period = rng.uniform(0.25, 0.5) * max(10.0, float(np.sqrt(np.ptp(outline, 0).prod())))
    colors = mix(first, second, texture(rng, height, width, period))
    fill(canvas, outline, colors + (behind - colors) * np.float32(fading))


def paint_beacon(rng: np.random.Generator, canvas: np.ndarray, outline: np.ndarray, color: tuple[int, ...]) -> None:
    """Fill a square outline on the canvas, in place, with a white and a black frame around nearly the given color."""
    core = np.clip(np.asarray(color) + rng.uniform(-20, 20, 3), 0, 255)
    _paint_nested(canvas, outline, {1.0: (245, 245, 245), 0.84: (10, 10, 10), 0.7: tuple(core)})


def paint_ring(canvas: np.ndarray, outline: np.ndarray) -> None:
    """Fill an outline on the canvas, in place, with a black rim, a white ring and a gray middle."""
    _paint_nested(canvas, outline, {1.0: (20, 20, 20), 0.82: (235, 235, 235), 0.5: (110, 110, 110)})


def _paint_nested(canvas: np.ndarray, outline: np.ndarray, colors: dict[float, tuple[int, ...]]) -> None:
    """Fill an outline in several colors, each in the outline scaled about its middle by the color's key."""
    center = outline.mean(0)
    for scale, color in colors.items():
        fill(canvas, center + (outline - center) * scale, np.asarray(color, np.float32))
