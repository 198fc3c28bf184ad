"""The image files that a command line's arguments stand for, and what among them is not taken, with the reason."""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from detection.data.formats import HEIF_SUFFIXES, readable_formats, readable_suffixes
from detection.errors import UserError

_VIDEOS = frozenset(".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split())
_TEXTS = frozenset(".cfg .csv .html .ini .json .jsonl .log .md .py .toml .tsv .txt .xml .yaml .yml".split())
# First bytes of zip, gzip, bzip2, xz, 7z and RAR.
_ARCHIVES = (b"PK\3\4", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")
# HEIF and MP4 both begin with a box `ftyp`; by the brand in it still images differ from videos.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_HEIF = "needs the package pillow-heif (pip install pillow-heif)"
_FRAMES = "`detection predict` takes it by its name; elsewhere give its frames (ffmpeg -i VIDEO FOLDER/%06d.png)"
_UNKNOWN = "no image format that is read"
_FOLDERS, _HIDDEN, _ODD, _BARE = "folder", "hidden file", "broken link or pipe", "file without suffix"


@dataclass(frozen=True)
class FoundImages:
    """Image files in the order of the arguments, each once.

    Attributes:
        paths: the files.
        left_out: what a folder or pattern held and was not taken: numbers by suffix or kind.
    """

    paths: list[Path]
    left_out: Counter[str]

    @property
    def notes(self) -> list[str]:
        """A text for each kind that was not taken, the most frequent first: number, kind and reason."""
        return [f"{number} {_counted(kind, number)}: {_reason(kind)}" for kind, number in self.left_out.most_common()]


def _place(path: str | Path) -> str:
    """A path by which a file is known once, whatever links its folders have; a link itself counts as another image."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def find_images(arguments: Sequence[str]) -> FoundImages:
    """Find the image files that files, folders and glob patterns name.

    Args:
        arguments: in the order of the result. A file is taken whatever its suffix; from a folder the images directly in
            it, sorted; a pattern (`**` for any depth) stands for the images and folders that match it, sorted. Hidden
            files are only taken when named.

    Raises:
        UserError: an argument without any image.
    """
    found: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    searched: set[str] = set()
    for argument in arguments:
        entries, folders = _entries(argument)
        kinds = {} if os.path.isfile(argument) else {path: _kind(path) for path in entries}
        images = [path for path in entries if kinds.get(path) is None]
        if not images:
            raise UserError(_nothing(argument, Counter(kind for kind in kinds.values() if kind)))
        for path in images:
            known = found.setdefault(_place(path), path)
            if len(path.parts) < len(known.parts):  # by the fewest links
                found[_place(path)] = path
        left_out |= {_place(path): kind for path, kind in kinds.items() if kind}
        searched |= {_place(folder) for folder in folders}
    return FoundImages(
        list(found.values()), Counter(k for p, k in left_out.items() if p not in found and p not in searched)
    )


def find_videos(arguments: Sequence[str]) -> list[Path]:
    """Find the videos that arguments name, each once: files, and all that patterns match where none of it is an image.

    Raises:
        UserError: there are videos, and an argument that stands for something else.
    """
    videos: dict[str, Path] = {}
    others = []
    for argument in arguments:
        found = _videos(argument)
        videos |= {os.path.abspath(path): path for path in found}
        others += [] if found else [argument]
    if videos and others:
        first = next(iter(videos.values()))
        raise UserError(
            f"{first} is a video, {others[0]} is none: detect on videos and on images in separate commands."
        )
    return list(videos.values())


def _videos(argument: str) -> list[Path]:
    if os.path.isfile(argument):
        return [Path(argument)] if _is_video(Path(argument)) else []
    if not glob.has_magic(argument) or os.path.isdir(argument):
        return []
    matches = [path for path in map(Path, sorted(glob.glob(argument, recursive=True))) if path.is_file()]
    videos = [path for path in matches if path.suffix.lower() in _VIDEOS]
    return [] if any(_kind(path) is None for path in matches) else videos


def _is_video(path: Path) -> bool:
    if path.suffix.lower() in readable_suffixes():
        return False
    return path.suffix.lower() in _VIDEOS or "is a video" in (describe_other(path) or "")


def _entries(argument: str) -> tuple[list[Path], list[Path]]:
    """Everything that an argument may stand for, sorted, and the folders that were searched for it."""
    path = Path(argument)
    if os.path.isfile(argument):  # False, not an error, for a name that no file can have
        if path.suffix.lower() not in readable_suffixes() and (what := describe_other(path)):
            raise UserError(f"{argument}: {what}.")
        return [path], []
    if os.path.isdir(argument):
        return _inside(path), [path]
    if glob.has_magic(argument):
        matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
        folders = [match for match in matches if match.is_dir()]
        return [e for m in matches for e in (_inside(m) if m.is_dir() else [m])], folders
    raise UserError(f"{argument}: {_no_file(argument)}.")


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror}).") from None


def _kind(path: Path) -> str | None:
    """Return the kind under which an entry of a folder is counted as left out; None for an image."""
    if path.name.startswith("."):
        return _HIDDEN
    if not os.path.isfile(path):
        return _FOLDERS if os.path.isdir(path) else _ODD
    suffix = path.suffix.lower()
    return None if suffix in readable_suffixes() else suffix or _BARE


def _counted(kind: str, number: int) -> str:
    """A kind in singular or plural; a suffix is the same in both."""
    plain = number == 1 or kind.startswith(".")
    return kind if plain else re.sub(r"(folder|file|link|pipe)\b", r"\1s", kind)


def _reason(kind: str) -> str:
    reasons = {
        _FOLDERS: "images in them are taken by a pattern, such as 'FOLDER/**'",
        _HIDDEN: "taken only when named",
        _ODD: "nothing to read",
        _BARE: "taken only when named",
    }
    if kind in HEIF_SUFFIXES:
        return _HEIF
    if kind in _VIDEOS:
        return f"a video; {_FRAMES}"
    return reasons.get(kind, "text, no image" if kind in _TEXTS else _UNKNOWN)


def _nothing(argument: str, left_out: Counter[str]) -> str:
    """The sentence about a folder or pattern without any image."""
    inside = "; ".join(FoundImages([], left_out).notes)
    if os.path.isdir(argument):
        hint = "" if left_out[_FOLDERS] else f"; for those in folders below it: '{argument}/**'"
        held = f" (it holds {inside})" if inside else ""
        return f"{argument}: no image directly in this folder{held}{hint}."
    held = f" (there is {inside})" if inside else ""
    return f"{argument}: no image matches this pattern{held}; check it, and the folder you are in."


def _no_file(argument: str) -> str:
    if "://" in argument:
        return "is a URL, and nothing is fetched; download the image (of a video or stream, save its frames) first"
    if argument == "-":
        return "standard input is not read; save the image to a file and give that"
    if argument.isdecimal():
        return "no such file or folder, and cameras are not read; save images to a folder and give that"
    return "no such file or folder"


def describe_other(path: Path) -> str | None:
    """Return what a file is that is no image, and what to do with it; None where it may be an image or is unknown."""
    try:
        with Image.open(path, formats=readable_formats()):
            return None
    except UnidentifiedImageError:
        pass
    except Exception:  # recognized, then found to be damaged: whoever reads it has the reason
        return None
    with path.open("rb") as file:
        head = file.read(4096)
    if head[4:8] == b"ftyp":
        return f"is HEIC, which {_HEIF}" if head[8:12] in _HEIF_BRANDS else f"is a video; {_FRAMES}"
    # Matroska and WebM, Flash, MPEG program streams, Ogg, and Windows Media; then AVI.
    video = head.startswith((b"\x1aE\xdf\xa3", b"FLV", b"\0\0\1\xba", b"OggS", b"\x30\x26\xb2\x75"))
    if video or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return f"is a video; {_FRAMES}"
    if head.startswith(b"%PDF"):
        return "is a PDF; turn its pages into images first (pdftoppm -png FILE.pdf PAGE)"
    if head.startswith(b"%!PS"):
        return "is PostScript; turn it into an image first"
    if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
        return "is an archive; unpack it and give the folder"
    if not head or not _is_text(head):
        return None
    if b"<svg" in head:
        return "is an SVG drawing; turn it into a PNG first"
    return "is a text file; give the images themselves, their folder or a pattern (of a list: $(cat LIST.txt))"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:  # maybe in the middle of the last character
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return not any(ord(c) < 32 and c not in "\t\n\f\r" for c in text)
