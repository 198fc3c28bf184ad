"""Image files as pixels: the one place where they are decoded.

Pillow, not OpenCV: OpenCV fills the missing part of a truncated JPEG with gray and goes on. What each kind becomes:

| file | pixels |
|---|---|
| 8-bit gray, palette, YCbCr, 1-bit | the same colors as RGB |
| alpha channel or transparent color | composited over white, as most viewers and annotation tools show it |
| CMYK | RGB by Pillow's plain formula (no color profile) |
| 16-bit gray, 32-bit integer gray | scaled by its depth: the brightest value it can hold → 255 |
| 16-bit color | the high byte (Pillow); where that is nearly black, scaled by its depth as gray is |
| 32-bit integers over 65535 or below 0, floats | refused |
| EXIF orientation | applied if defined (2 … 8) |
| several frames | the first |

The depth of 16 and 32-bit pixels is what the file declares (TIFF's MaxSampleValue); without that the smallest of 8, 12
and 16 bits that holds its brightest pixel, as sensors of 12 bits write 0 … 4095.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from detection.data.formats import readable_formats
from detection.data.stand_ins import START, stand_in
from detection.errors import UserError
from detection.system_errors import explain

MAX_PIXELS = 500_000_000
"""An image with more is refused: as RGB it would take 1.5 GB, several times over."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses from twice this on

_PHOTOMETRIC, _MAX_SAMPLE_VALUE = 262, 281  # tags of TIFF
_SWAPPING = range(5, 9)


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A decoded image file.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        orientation: EXIF orientation that was applied, 1 … 8.
        depth: bits a pixel of an image with more than 8, declared or found; else 8.
    """

    pixels: np.ndarray
    orientation: int
    depth: int


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image file.

    Returns:
        (H, W, 3) uint8 RGB, upright.

    Raises:
        UserError: The file is missing, empty, truncated, no image, or of a kind whose brightness scale is unknown.
    """
    return load_image(path).pixels


def load_image(path: str | Path) -> LoadedImage:
    """Decode an image file, with what was done to it; raises as `read_image`."""
    path = Path(path)
    with _opened(path) as image:
        return _loaded(image, path)


def to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Return an image's pixels as `read_image` has those of its file.

    Args:
        image: of Pillow.
        path: its file, or a name for messages.

    Raises:
        UserError: it is truncated, or of a kind whose brightness scale is unknown.
    """
    try:
        return _loaded(image, path).pixels
    except UserError:
        raise
    except Exception as error:  # as in `_opened`
        raise _unreadable(path, error) from None


def _loaded(image: Image.Image, path: Path) -> LoadedImage:
    orientation = exif_orientation(image)
    image.load()
    depth, pixels = _pixels(image, path)
    # Pillow turns a TIFF upright as it loads it, and takes its orientation away.
    return LoadedImage(_upright(pixels, exif_orientation(image)), orientation, depth)


def image_size(path: Path) -> tuple[int, int]:
    """Return an image's (width, height) from its header, upright as `read_image` has it; raises as `read_image`."""
    with _opened(Path(path)) as image:
        if image.format == "TIFF" and exif_orientation(image) in _SWAPPING:
            image.load()  # Pillow turns it upright; versions differ in whether the size is swapped before that
        return (image.height, image.width) if exif_orientation(image) in _SWAPPING else image.size


def exchanges_sides(path: Path) -> bool:
    """Return whether an image's EXIF orientation makes its width of its height; raises as `read_image`."""
    with _opened(Path(path)) as image:
        return exif_orientation(image) in _SWAPPING


def exif_orientation(image: Image.Image) -> int:
    """Return an image's EXIF orientation; 1 (upright) where it has none, or one that EXIF does not define."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a file with Pillow; whatever goes wrong inside the block, too, is one sentence."""
    try:
        # Opening a pipe would wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            what = "a folder" if path.is_dir() else "a pipe or device"
            raise UserError(f"image {path} is {what}, not a file: give the image itself, or leave it out.")
        with Image.open(path, formats=readable_formats()) as image:
            yield image
    except UserError:
        raise
    except PermissionError:
        raise UserError(f"image {path} may not be read: change its permissions.") from None
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist: check the image folder.") from None
    except UnidentifiedImageError:
        raise UserError(f"image {path} {_instead_of_an_image(path)}.") from None
    except Image.DecompressionBombError:
        million = MAX_PIXELS // 1_000_000
        raise UserError(f"image {path} has more than {million} million pixels: cut it into tiles.") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more.
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = explain(error)
    if reason is not None:  # memory or open files that ran out say nothing about the image
        return UserError(f"image {path} cannot be read: {reason.removeprefix(f'{path}: ')}")
    return UserError(f"image {path} is truncated or damaged ({error}): copy it again, or leave it out.")


def _instead_of_an_image(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(START)
    what = "is not an image that Pillow can read" if start else "is empty (0 bytes)"
    return stand_in(start) or f"{what}: copy it again, or leave it out"


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in _SWAPPING:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _pixels(image: Image.Image, path: Path) -> tuple[int, np.ndarray]:
    """Return an image's depth in bits and its pixels, (H, W, 3) uint8 RGB, as stored."""
    if image.mode == "RGB" and "transparency" not in image.info:
        pixels = np.array(image)
        # Of 16 bits a color Pillow keeps the upper 8, and of a sensor's 12 bits these are below 16.
        return _deep_color(pixels, image, path) if pixels.max(initial=0) < 16 else (8, pixels)
    if image.mode.startswith("I"):
        depth, gray = _scaled(np.asarray(image), image, path)
        return depth, np.repeat(gray[:, :, None], 3, axis=2)  # (H, W, 3)
    if image.mode == "F":
        raise UserError(f"image {path} has floating-point pixels, whose scale is unknown: convert it to 8 bits.")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return 8, np.array(image.convert("RGB"))


def _scaled(values: np.ndarray, image: Image.Image, path: Path) -> tuple[int, np.ndarray]:
    """Return integers' depth, and them as uint8."""
    values = values.astype(np.int64)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0:
        raise UserError(f"image {path} has negative pixels, down to {low}: convert it to 8 or 16 bits without a sign.")
    if high > 65535:
        raise UserError(f"image {path} has 32-bit pixels up to {high}: convert it to 8 or 16 bits.")
    tags = getattr(image, "tag_v2", {})
    declared = _declared_depth(tags.get(_MAX_SAMPLE_VALUE))
    depth = declared if 8 <= declared <= 16 and high < 2**declared else next(b for b in (8, 12, 16) if high < 2**b)
    white = 2**depth - 1
    if tags.get(_PHOTOMETRIC) == 0:
        # White is zero. Pillow turns such images over if they have 8 bits, but not those of 16.
        depth, white = 16, 65535
        values = white - values
    return depth, ((values * 255 + white // 2) // white).astype(np.uint8)


def _declared_depth(value: Any) -> int:
    """Return the bits of TIFF's MaxSampleValue, which has one number or several; 0 without."""
    largest = max(value, default=0) if isinstance(value, tuple) else value
    return int(largest).bit_length() if isinstance(largest, int | float) and 0 <= largest < 2**32 else 0


def _deep_color(pixels: np.ndarray, image: Image.Image, path: Path) -> tuple[int, np.ndarray]:
    """Read a nearly black RGB image again if its file has 16 bits a color, of which Pillow keeps the upper 8."""
    import cv2

    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if found is None or found.dtype != np.uint16 or found.shape != pixels.shape or not found.any():
        return 8, pixels
    return _scaled(found[:, :, ::-1], image, path)  # OpenCV reads BGR
