"""Annotation files of one image each, in a folder and the folders below it, and the images that they belong to."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from detection.data.checks import shortened
from detection.data.image_names import folder_names, may_mean
from detection.data.importing.images import ImageFinder
from detection.errors import UserError


def label_files(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a suffix, in lower case, in a folder and below it; without those of hidden folders."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() == suffix and not path.is_dir())
    plain = (path for path in files if not path.name.startswith("._"))
    return sorted(p for p in plain if not any(part.startswith(".") for part in p.relative_to(folder).parts[:-1]))


@dataclass
class LabeledImages(ImageFinder):
    """Finds the images of annotation files, and names those files that several images fit.

    Attributes:
        remedy: for a file that several images fit.
        ambiguous: a line for each of those, where they are left out.
    """

    remedy: str = ""
    ambiguous: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._by_stem_of_name, self._folders = self._stems(), folder_names(self.folder)
        self._by_place: dict[str, list[str]] = {}
        for files in self._by_stem_of_name.values():
            for file in files:
                self._by_place.setdefault(os.path.splitext(file)[0], []).append(file)

    def at(self, place: Path) -> str | None:
        """Return the image of a relative path without suffix; None if there is none, or several."""
        fits = self._by_place.get(place.as_posix(), [])
        return fits[0] if len(fits) == 1 else None

    def _not_there(self, written: str, source: str) -> None:
        name = Path(written.replace("\\", "/")).name
        files = self._by_stem_of_name.get(name) or self._by_stem_of_name.get(Path(name).stem, [])
        fits = sorted(file for file in files if may_mean(written, file, self._folders))
        if len(fits) < 2:
            super()._not_there(written, source)
        elif self.skip_missing:
            self.ambiguous.append(f"{source}, image {written}")
        else:
            raise UserError(
                f"{source}: several images in {self.folder} fit {written} ({shortened(fits, 3)}); {self.remedy}, or "
                "add --skip-missing to leave such annotations out"
            )
