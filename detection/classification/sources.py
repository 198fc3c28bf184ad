"""Sources of images with a class: scikit-learn's digits, torchvision's data sets, folders."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize

from detection.classification.config import ImageData
from detection.classification.data import Images, split_by_class
from detection.data.image_paths import IMAGE_SUFFIXES
from detection.data.images import read_image
from detection.errors import UserError

# torchvision's class; its arguments for training, and for the test; its files.
_TORCHVISION: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any], str]] = {
    "MNIST": ("MNIST", [{"train": True}], {"train": False}, "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"),
    "CIFAR10": ("CIFAR10", [{"train": True}], {"train": False}, "cifar-10-batches-py/ (data_batch_1 … test_batch)"),
    "SVHN": ("SVHN", [{"split": "train"}], {"split": "test"}, "{train,test}_32x32.mat"),
    "SVHN_extra": ("SVHN", [{"split": "train"}, {"split": "extra"}], {"split": "test"}, "{train,extra,test}_32x32.mat"),
}

# Of torchvision's sets, below `data.root`.
_FILES = {
    "MNIST": "MNIST/raw/*",
    "CIFAR10": "cifar-10-batches-py/*",
    "SVHN": "t*_32x32.mat",
    "SVHN_extra": "*_32x32.mat",
}


def open_images(config: ImageData) -> tuple[Images, Images]:
    """Open the images to train on, and those to evaluate on.

    Raises:
        UserError: nothing there, or nothing that can be used; names what belongs where.
    """
    train, test = _open_source(config)
    if test is None:
        train, test = split_by_class(train, config.test_fraction, config.split_seed)
    if config.measure == "validation":
        train, test = split_by_class(train, config.test_fraction, config.split_seed)
    if not len(test):
        raise UserError(
            f"data.measure={config.measure}: no class has an image to spare for that; give more of each class."
        )
    height, width = train.pixels.shape[2:]
    if height != width:
        raise UserError(f"data.size: the images are {width}x{height}, not square; make them so by data.size=PIXELS.")
    if config.crop is not None and (config.crop > width or (width - config.crop) % 2):
        raise UserError(
            f"data.crop={config.crop}: is cut out of the middle of {width}x{width} pixels, so it must be smaller by an "
            "even number."
        )
    return train, test


def files_state(config: ImageData) -> str:
    """Return a hash of names, sizes and times of change of the files that `open_images` reads.

    Empty where there are none: they were moved away, or the images come with a package.
    """
    root, state, found = Path(config.root), hashlib.sha256(), False
    if config.kind == "folder":  # classes may be links
        tops = [top for part in _parts(root) if part.is_dir() for top in part.iterdir()]
    else:
        tops = [*root.glob(_FILES[config.kind])] if config.kind in _FILES else []
    files = sorted(path for top in tops for path in _files_of(top))
    if config.kind == "folder":
        files = [path for path in files if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    for path in files:
        status, found = os.stat(path), True
        state.update(os.fsencode(path) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return state.hexdigest() if found else ""


def _files_of(top: Path) -> list[str]:
    """The file, or all files in the folder."""
    if top.is_file():
        return [str(top)]
    files = (os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names)
    return [path for path in files if os.path.isfile(path)]


def _parts(root: Path) -> list[Path]:
    """The folders of classes in a folder: `train` and `test`, or that itself."""
    parts = [root / "train", root / "test"]
    return parts if all(part.is_dir() for part in parts) else [root]


def _open_source(config: ImageData) -> tuple[Images, Images | None]:
    if config.kind == "folder":
        return open_folder(Path(config.root), config.size)
    if config.kind == "digits":
        return _resized(_digits(), config.size), None
    train, test = _torchvision(config.kind, config.root)
    return _resized(train, config.size), _resized(test, config.size)


def _digits() -> Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "data.kind=digits: scikit-learn, which has them, is not installed: pip install 'context-detection[digits]'."
        ) from None
    digits: Any = load_digits()
    pixels = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8))[:, None]  # (N, 1, 8, 8)
    return Images(pixels, torch.from_numpy(digits.target).long(), tuple(map(str, digits.target_names)))


def _torchvision(kind: str, root: str) -> tuple[Images, Images]:
    name, train, test, files = _TORCHVISION[kind]
    dataset = getattr(torchvision.datasets, name)
    try:
        *parts, last = [_from_torchvision(dataset(root, download=False, **which)) for which in (*train, test)]
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"data.root={root}: torchvision finds no complete {name} there ({reason}); nothing is downloaded: put "
            f"{files} into {root}, as torchvision.datasets.{name}(…, download=True) leaves them elsewhere."
        ) from None
    pixels, labels = torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])
    return Images(pixels, labels, last.classes), last


def _from_torchvision(dataset: Any) -> Images:
    """MNIST holds a tensor (N, H, W), CIFAR an array (N, H, W, 3), SVHN one (N, 3, H, W)."""
    pixels = torch.as_tensor(dataset.data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[1] != 3:
        pixels = pixels.permute(0, 3, 1, 2)
    labels = torch.as_tensor(dataset.labels if hasattr(dataset, "labels") else dataset.targets).long()
    return Images(pixels.contiguous(), labels, tuple(getattr(dataset, "classes", map(str, range(10)))))


def _resized(images: Images, size: int | None) -> Images:
    if size is None or images.pixels.shape[-1] == size:
        return images
    return Images(resize(images.pixels, [size, size]), images.labels, images.classes)


def open_folder(root: Path, size: int | None) -> tuple[Images, Images | None]:
    """Read `train/CLASS/*` and `test/CLASS/*`, or else `CLASS/*`, which gives no test images.

    Args:
        root: the folder.
        size: side in pixels that the shorter side of each image is brought to, the longer one losing its ends; None:
            as they are.

    Raises:
        UserError: not such a folder, a damaged image, images of several sizes, or other classes in the test.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder.")
    parts = _parts(root)
    if len(parts) == 1:
        return _open_classes(root, size), None
    train, test = (_open_classes(part, size) for part in parts)
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(f"{root}: train and test must have the same classes; in one of them only: {', '.join(odd)}.")
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise UserError(f"{root}: train and test have images of two sizes; bring all to one by data.size=PIXELS.")
    return train, test


def _open_classes(folder: Path, size: int | None) -> Images:
    """Every image below `folder/CLASS`, by class and name."""
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [sorted(p for p in (folder / c).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) for c in classes]
    few = [c for c, found in zip(classes, files, strict=True) if len(found) < 2]
    if len(classes) < 2 or few:
        found = f"fewer than two images in {few[0]!r}" if few else f"{len(classes)} folders"
        raise UserError(f"{folder}: must hold a folder for each of two classes or more, with images; found {found}.")
    pixels: list[Tensor] = []
    for path in (path for found in files for path in found):
        pixels.append(_read(path, size))
        if pixels[-1].shape != pixels[0].shape:
            raise UserError(f"{path}: its size is not that of {files[0][0]}; bring all to one by data.size=PIXELS.")
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor([len(found) for found in files]))
    return Images(torch.stack(pixels), labels, tuple(classes))


def _read(path: Path, size: int | None) -> Tensor:
    pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1)  # (3, H, W)
    return pixels if size is None else center_crop(resize(pixels, [size]), [size, size])
