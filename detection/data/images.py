"""Image files as pixels: the one place where they are decoded.

Pillow, not OpenCV: OpenCV fills the missing part of a truncated JPEG with gray and goes on. What each kind becomes:

| file | pixels |
|---|---|
| 8-bit gray, palette, YCbCr, 1-bit | the same colors as RGB |
| alpha channel or transparent color | composited over white, as most viewers and annotation tools show it |
| CMYK | RGB by Pillow's plain formula (no color profile) |
| 16-bit gray | divided by 257 and rounded: 0 → 0, 65535 → 255 |
| 16-bit color | the high byte (Pillow) |
| 32-bit integer gray | as 16-bit if it stays within 0 … 65535, else refused; float refused |
| EXIF orientation | applied |
| several frames | the first |
"""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from detection.errors import UserError


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image file.

    Returns:
        (H, W, 3) uint8 RGB, upright.

    Raises:
        UserError: The file is missing, empty, truncated, no image, or of a kind whose brightness scale is unknown.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            image.load()
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                image = ImageOps.exif_transpose(image)
            return to_rgb(image, path)
    except UserError:
        raise
    except PermissionError:
        raise UserError(f"image {path} may not be read: change its permissions.") from None
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist: check the image folder.") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        what = "is empty (0 bytes)" if empty else "is not an image that Pillow can read"
        raise UserError(f"image {path} {what}: copy it again, or leave it out.") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more.
        raise UserError(f"image {path} is truncated or damaged ({error}): copy it again, or leave it out.") from None


def image_size(path: Path) -> tuple[int, int]:
    """Return an image's (width, height) from its header, upright as `read_image` has it."""
    try:
        with Image.open(path) as image:
            # Orientations from 5 on swap the axes.
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no readable image; replace it or leave it out") from error


def to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Return an image's pixels, (H, W, 3) uint8 RGB; `path` is for the `UserError` where their scale is unknown."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image), path)
    if image.mode == "F":
        raise UserError(f"image {path} has floating-point pixels, whose scale is unknown: convert it to 8 bits.")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _from_16_bit(gray: np.ndarray, path: Path) -> np.ndarray:
    gray = gray.astype(np.int64)
    if gray.min() < 0 or gray.max() > 65535:
        raise UserError(f"image {path} has 32-bit pixels up to {gray.max()}: convert it to 8 or 16 bits.")
    return np.repeat(((gray + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
