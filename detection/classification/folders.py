"""Pictures of a folder, each class in a folder of its own."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize

from detection.classification.data import Images
from detection.data.image_paths import IMAGE_SUFFIXES
from detection.data.images import read_image
from detection.errors import UserError


def open_folder(root: Path, size: int | None) -> tuple[Images, Images | None]:
    """Read `train/CLASS/*` and `test/CLASS/*`, or else `CLASS/*`, which gives no test pictures.

    Args:
        root: the folder.
        size: side in pixels that the shorter side of each picture is brought to, the longer one losing its ends; None:
            as they are.

    Raises:
        UserError: not such a folder, a damaged picture, pictures of several sizes, or other classes in the test.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder.")
    if not all((root / part).is_dir() for part in ("train", "test")):
        return _open_classes(root, size), None
    train, test = (_open_classes(root / part, size) for part in ("train", "test"))
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(f"{root}: train and test must have the same classes; in one of them only: {', '.join(odd)}.")
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise UserError(f"{root}: train and test have pictures of two sizes; bring all to one by data.size=PIXELS.")
    return train, test


def _open_classes(folder: Path, size: int | None) -> Images:
    """Every picture below `folder/CLASS`, by class and name."""
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [sorted(p for p in (folder / c).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) for c in classes]
    few = [c for c, found in zip(classes, files, strict=True) if len(found) < 2]
    if len(classes) < 2 or few:
        found = f"fewer than two pictures in {few[0]!r}" if few else f"{len(classes)} folders"
        raise UserError(f"{folder}: must hold a folder for each of two classes or more, with pictures; found {found}.")
    pixels: list[Tensor] = []
    for path in (path for found in files for path in found):
        pixels.append(_read(path, size))
        if pixels[-1].shape != pixels[0].shape:
            raise UserError(f"{path}: its size is not that of {files[0][0]}; bring all to one by data.size=PIXELS.")
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor([len(found) for found in files]))
    return Images(torch.stack(pixels), labels, tuple(classes))


def _read(path: Path, size: int | None) -> Tensor:
    pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1)
    return pixels if size is None else center_crop(resize(pixels, [size]), [size, size])
