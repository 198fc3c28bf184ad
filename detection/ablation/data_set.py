"""Data of an ablation that are not drawn: COCO-style sets in a folder of the user's."""

import os
from pathlib import Path

from detection.errors import UserError


def data_folder(name: str, needs: str) -> Path:
    """Return the absolute path of a set's folder, below the one that the environment variable DATA names.

    Args:
        name: of the set; empty for the folder of all sets.
        needs: what has to be there, for the message.

    Raises:
        UserError: DATA is not set.
    """
    if not os.environ.get("DATA"):
        raise UserError(f"set DATA=FOLDER, with {needs}.")
    return Path(os.path.abspath(os.environ["DATA"])) / name


def data_set(folder: str | os.PathLike[str]) -> list[str]:
    """Return the overrides of a config that train and validate on a folder's train.json, val.json and images/."""
    splits = ("train", "val")
    return [
        *(f"data.{split}.annotations={os.path.join(folder, split)}.json" for split in splits),
        *(f"data.{split}.images={os.path.join(folder, 'images')}" for split in splits),
    ]
