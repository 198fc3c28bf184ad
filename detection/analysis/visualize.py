"""Drawing of boxes and labels on images, and of sheets of images. Needs numpy and Pillow only.

Legend: an image is (H, W, 3) uint8 RGB; boxes are xyxy in the image's pixels, pixel i covering [i, i + 1).
"""

import colorsys
import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from detection.names import short_name

Color = tuple[int, int, int]
Mark = tuple[str, Color]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle = tuple[int, int, int, int]

_MOST_ENLARGED = 2048
"""Longer side in pixels up to which small images are enlarged for drawing."""
_LONGEST_TITLE = 120


def class_color(name: str) -> Color:
    """Return a vivid color that depends on the name alone; two names may by chance get similar ones.

    A class that is named after a color has that one.
    """
    if (named := _named(name)) is not None:
        return named
    number = zlib.crc32(name.encode("utf-8", "surrogatepass"))
    return _vivid((number % 360) / 360, number // 360 % 3)


def distinct_colors(names: Sequence[str]) -> dict[str, Color]:
    """Return colors for all classes of a data set that are as far apart as their number allows, for `draw_boxes`.

    A class with the name of a color has that color, and no other class has its hue.
    """
    ordered = sorted(set(names))
    named = {name: color for name in ordered if (color := _named(name)) is not None}
    free = list(range(len(ordered)))
    for color in named.values():
        hue, saturation, _ = colorsys.rgb_to_hsv(*color)
        if saturation:
            free.remove(min(free, key=lambda place: _distance(place / len(ordered), hue)))
    others = (name for name in ordered if name not in named)
    # Grays take no hue, so that some may be left over.
    return named | {name: _vivid(place / len(ordered), place % 3) for name, place in zip(others, free, strict=False)}


def _distance(hue: float, other: float) -> float:
    """Return how far two hues (0..1) are apart on their circle."""
    return abs((hue - other + 0.5) % 1 - 0.5)


def _named(name: str) -> Color | None:
    return ImageColor.getrgb(name.lower())[:3] if name.lower() in ImageColor.colormap else None


def _vivid(hue: float, level: int) -> Color:
    """Return a strong color of the hue (0..1) in one of three brightnesses."""
    saturation, value = ((0.9, 1.0), (0.65, 0.95), (1.0, 0.75))[level]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    *,
    colors: Mapping[str, Color] | None = None,
    min_side: int = 384,
    marks: Sequence[Mark | None] | None = None,
) -> np.ndarray:
    """Draw labeled boxes on a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB; left as it is.
        boxes: (N, 4) xyxy in pixels of `image`; parts outside it are not drawn.
        labels: N class names.
        scores: N scores in 0..1, printed behind the names, NaN is not; the highest is drawn on top.
        colors: RGB color by class name; a name not in it gets its `class_color`.
        min_side: an image whose shorter side is below this many pixels is first enlarged by an integer factor f.
        marks: for each box a word in front of its label and the color of a frame around it, or None.

    Returns:
        The drawn image (f·H, f·W, 3) uint8.

    Raises:
        ValueError: the numbers of boxes, labels and scores differ.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)  # (N, 4), also of an empty list
    marks = [None] * len(boxes) if marks is None else marks
    if len(labels) != len(boxes) or len(marks) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        raise ValueError(f"{len(boxes)} boxes, {len(labels)} labels, {None if scores is None else len(scores)} scores")
    factor = max(1, min(math.ceil(min_side / min(image.shape[:2])), _MOST_ENLARGED // max(image.shape[:2])))
    drawing = Image.fromarray(image.repeat(factor, 0).repeat(factor, 1))
    draw = ImageDraw.Draw(drawing)
    side = min(drawing.size)
    letters = _letters(boxes * factor, side)
    font = ImageFont.load_default(letters)
    width = max(1, round(min(side, 36 * letters) / 250))

    order = range(len(boxes)) if scores is None else np.argsort(scores, kind="stable").tolist()
    palette = {name: (colors or {}).get(name) or class_color(name) for name in labels}
    corners = [_pixels(box * factor, drawing.size) for box in boxes]
    for index in order:
        # A dark rim keeps a box visible on a background of the same color.
        x0, y0, x1, y1 = corners[index]
        if (mark := marks[index]) is not None:
            far = 2 * width + 1
            draw.rectangle((x0 - far, y0 - far, x1 + far, y1 + far), outline=mark[1], width=2 * width + 2)
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0), width=width + 2)
        draw.rectangle(corners[index], outline=palette[labels[index]], width=width)
    occupied: list[Rectangle] = []
    # The best detection takes its place first, so it is the last to be moved aside.
    for index in reversed(order):
        mark, score = marks[index], math.nan if scores is None else scores[index]
        word = f"{mark[0]}: " if mark is not None and mark[0] else ""
        text = word + short_name(labels[index]) + ("" if math.isnan(score) else f" {score:.2f}")
        occupied.append(_draw_label(draw, text, corners[index], font, palette[labels[index]], occupied))
    return np.array(drawing)


def _letters(boxes: np.ndarray, side: int) -> float:
    """Return the size in pixels of the letters on an image with this shorter side.

    It is halved until it fits most boxes (N, 4): on a large photograph of many small objects labels would hide all.
    Halved, so that frames of a film mostly have the same.
    """
    size, sides = max(11.0, side / 36), (boxes[:, 2:] - boxes[:, :2]).min(1)
    while size >= 22 and len(sides) and np.median(sides) < 3 * size:
        size /= 2
    return size


def shrink(image: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """Shrink an image (H, W, 3) uint8 whose longer side has more than `longest` pixels; returns it and the factor."""
    factor = longest / max(image.shape[:2])
    if factor >= 1:
        return image, 1.0
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX)), factor


def _pixels(box: np.ndarray, size: tuple[int, int]) -> Rectangle:
    """Return the first and last pixels (x0, y0, x1, y1) of a box, inside an image of the given (width, height)."""
    limits = np.array([*size, *size]) - 1
    x0, y0, x1, y1 = np.clip(np.round(box - [0, 0, 1, 1]), 0, limits).astype(int).tolist()
    return x0, y0, max(x0, x1), max(y0, y1)


def _draw_label(
    draw: ImageDraw.ImageDraw, text: str, box: Rectangle, font: Font, color: Color, occupied: Sequence[Rectangle]
) -> Rectangle:
    """Write a label at its box, hiding no earlier label if possible; return the rectangle it takes."""
    width, height = draw.im.size
    text = _shorten(text, font, width)
    left, top, right, bottom = (math.ceil(edge) for edge in font.getbbox(text, anchor="la"))
    wide, high = right - left + 4, bottom - top + 4
    x0, y0, _, y1 = box
    x = min(x0, max(0, width - wide))
    ys = [min(max(0, y), max(0, height - high)) for y in (y0 - high, y0, y1 - high + 1, y1 + 1)]
    places = [(x, y, min(x + wide, width) - 1, min(y + high, height) - 1) for y in ys]
    place = next((place for place in places if not any(_touch(place, other) for other in occupied)), places[0])
    draw.rectangle(place, fill=color)
    draw.text((place[0] + 2 - left, place[1] + 2 - top), text, fill=text_color(color), font=font)
    return place


def _touch(a: Rectangle, b: Rectangle) -> bool:
    """Return whether two rectangles share a pixel."""
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _shorten(text: str, font: Font, width: int) -> str:
    """Return the text, with its end left out where it is wider than `width` pixels."""
    kept = text
    while len(kept) > 1 and font.getlength(kept) + 6 > width:
        text = text[:-1]
        kept = text + "..."
    return kept


def text_color(background: Color) -> Color:
    """Return black or white, whichever stands out from the background (luminance as of ITU-R BT.601)."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def with_legend(image: np.ndarray, entries: Sequence[Mark]) -> np.ndarray:
    """Add a line below an image (H, W, 3) uint8 that explains colors: a square of each, and its word behind it."""
    font = ImageFont.load_default(max(11, min(image.shape[:2]) / 24))
    line = math.ceil(font.getbbox("Ag", anchor="la")[3]) + 8
    strip = Image.new("RGB", (image.shape[1], line), "white")
    draw, x = ImageDraw.Draw(strip), 8
    for word, color in entries:
        draw.rectangle((x, 4, x + line - 9, line - 5), fill=color, outline=(0, 0, 0))
        draw.text((x + line - 2, 2), word, fill=(0, 0, 0), font=font)
        x += line + math.ceil(font.getlength(word)) + 12
    return np.concatenate([image, np.array(strip)])


def contact_sheet(
    images: Sequence[np.ndarray], columns: int, *, titles: Sequence[str] | None = None, gap: int = 8
) -> np.ndarray:
    """Lay images out in rows.

    Args:
        images: images (H, W, 3) uint8 of any sizes; all get the room of the largest.
        columns: images in a row.
        titles: a line of text above each image.
        gap: pixels between images and around them.

    Returns:
        One white image (H, W, 3) uint8 that holds them all.

    Raises:
        ValueError: there are no images, or not as many titles.
    """
    if not images or (titles is not None and len(titles) != len(images)):
        raise ValueError(f"{len(images)} images and {None if titles is None else len(titles)} titles")
    columns = min(columns, len(images))
    high, wide = np.max([image.shape[:2] for image in images], axis=0).tolist()
    font = ImageFont.load_default(max(11, min(high, wide) / 24))
    line = math.ceil(font.getbbox("Ag", anchor="la")[3]) + 4 if titles is not None else 0
    row_height, column_width = high + line + gap, wide + gap
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * column_width + gap, rows * row_height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        x, y = gap + index % columns * column_width, gap + index // columns * row_height
        if titles is not None:
            draw.text(
                (x, y), _shorten(short_name(titles[index], _LONGEST_TITLE), font, wide), fill=(0, 0, 0), font=font
            )
        sheet.paste(Image.fromarray(image), (x, y + line))
    return np.array(sheet)
