"""The images of annotations that name them as they were on another machine."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detection.data.image_names import folder_names, match_names, may_mean
from detection.data.image_paths import IMAGE_SUFFIXES, missing_and_escaping
from detection.errors import UserError
from detection.names import short_line


@dataclass
class ImageFinder:
    """Finds files in a folder and the folders below it.

    Attributes:
        folder: of the images.
        skip_missing: leave out annotations whose image is not there.
        left_out: a line for each of those.
    """

    folder: Path
    skip_missing: bool = False
    left_out: list[str] = field(default_factory=list)

    def find(self, written: Sequence[str], sources: Sequence[str]) -> list[str | None]:
        """Return the file that each name must mean, relative to the folder.

        A name may have backslashes, folders in front, another case, or another suffix or none, if only one file fits
        and the name's folder is not there. How many names changed is printed, but for suffixes that are added.

        Args:
            written: the names.
            sources: the annotation that has each, for messages.

        Returns:
            The files; None for those that are left out.

        Raises:
            UserError: a file is not there, unless `skip_missing`.
        """
        missing, escaping = missing_and_escaping(self.folder, written)
        matches = match_names(self.folder, written, sorted({*missing, *escaping}))
        found: list[str | None] = list(written)
        by_stem = len(matches) < len(missing) + len(escaping)
        stems, folders = (self._stems(), folder_names(self.folder)) if by_stem else ({}, set())
        changed = []
        for row in (*missing, *escaping):
            file = matches[row].name if row in matches else self._by_stem(written[row], stems, folders)
            found[row] = file
            if file is None:
                self._not_there(written[row], sources[row])
            elif os.path.splitext(file)[0] != written[row]:
                changed.append(f"{written[row]} is {file}")
        if changed:
            print(short_line(f"images found under another name: {len(changed)} (first {changed[0]})"))
        return found

    def _by_stem(self, written: str, stems: dict[str, list[str]], folders: set[str]) -> str | None:
        name = written.replace("\\", "/").rpartition("/")[2]
        for stem in (name, Path(name).stem):
            if len(files := stems.get(stem, [])) == 1:
                return files[0] if may_mean(written, files[0], folders) else None
        return None

    def _stems(self) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for parent, _, names in os.walk(self.folder):
            for name in names:
                if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("._"):
                    file = os.path.relpath(os.path.join(parent, name), self.folder).replace(os.sep, "/")
                    stems.setdefault(Path(name).stem, []).append(file)
        return stems

    def _not_there(self, written: str, source: str) -> None:
        if not self.skip_missing:
            raise UserError(
                f"{source}: no image {written} in {self.folder}; give the right IMAGES folder, or add --skip-missing "
                "to leave such annotations out"
            )
        self.left_out.append(f"{source}, image {written}")


def add_skip_missing(parser: argparse.ArgumentParser) -> None:
    """Add the option that leaves out annotations whose image is not there."""
    parser.add_argument("--skip-missing", action="store_true", help="leave out annotations whose image is not there")
