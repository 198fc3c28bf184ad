"""Formats of image files: those that Pillow decodes, with HEIC where the package pillow-heif is installed."""

from functools import cache

from PIL import Image

_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow recognizes but does not decode by itself; EPS would be run by another program."""

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".heics", ".heifs", ".hif"})


@cache
def readable_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are decoded, the frequent ones first."""
    Image.preinit()
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        pass
    else:
        register_heif_opener()
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_DECODED)


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that are decoded, in lower case."""
    formats = readable_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)
