"""Frames of a video file, upright as its metadata turn them, with the time of each.

H×W a frame's size in pixels.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from detection.errors import UserError

PLAIN_RATE = 25.0
"""Frames a second of a video that states none, or none that is possible."""

# Boxes at the top level of MP4 and QuickTime files.
_BOXES = b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"styp", b"moof", b"sidx"


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: from 0.
        seconds: since the video's beginning.
        pixels: (H, W, 3) uint8 RGB.
    """

    number: int
    seconds: float
    pixels: np.ndarray


class Video:
    """An open video.

    Attributes:
        path: of the file.
        rate: frames a second, on average.
        states_rate: whether the file states that.
        expected: number of frames that the file announces, 0 where it announces none.
        rotation: degrees by which its metadata turn the frames; they are read upright.
    """

    def __init__(self, path: Path, capture: Any, cv2: ModuleType) -> None:
        self.path, self._capture, self._time = path, capture, cv2.CAP_PROP_POS_MSEC
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.states_rate = math.isfinite(rate) and 0 < rate <= 1000
        self.rate = rate if self.states_rate else PLAIN_RATE
        expected = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.expected = int(expected) if math.isfinite(expected) and 0 < expected < 1e9 else 0
        self.rotation = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360

    def frames(self) -> Iterator[Frame]:
        """Yield the frames up to the first that cannot be decoded."""
        number, last = 0, -1.0
        while True:
            is_read, pixels = self._capture.read()
            if not is_read or pixels is None:
                return
            seconds = self._capture.get(self._time) / 1000
            if not (math.isfinite(seconds) and seconds > last):  # without a time stamp
                seconds = number / self.rate if last < 0 else last + 1 / self.rate
            yield Frame(number, seconds, pixels[:, :, ::-1])  # OpenCV reads BGR
            number, last = number + 1, seconds


def opencv() -> ModuleType:
    """Return OpenCV, which prints nothing itself about a file and fetches nothing that it refers to.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file,crypto,data")
    try:
        import cv2
    except ImportError:
        raise UserError("videos need OpenCV: pip install 'context-detection[video]'.") from None
    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is not None:  # where it was imported before
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    return cv2


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a video file.

    Raises:
        UserError: it is missing, empty, cut short before its index, or of a kind that is not decoded here.
    """
    cv2 = opencv()
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        raise UserError(f"video {path} cannot be read ({error.strerror}).") from None
    if is_empty:
        raise UserError(f"video {path} is empty (0 bytes): copy it again.")
    # By FFmpeg alone: other readers take a % in a name for the number of an image.
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise UserError(unreadable(path))
        yield Video(path, capture, cv2)
    finally:
        capture.release()


def count_frames(path: Path) -> tuple[int, tuple[int, int]]:
    """Decode a video, and return its number of frames and their height and width; 0 where it cannot be opened."""
    cv2 = opencv()
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    try:
        number = 0
        while capture.isOpened() and capture.grab():
            number += 1
        width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        return number, (height, width)
    finally:
        capture.release()


def unreadable(path: Path) -> str:
    """Return the sentence about a file of which OpenCV reads no frame: an MP4 without its index is cut short."""
    size, place, kinds = path.stat().st_size, 0, list[bytes]()
    with path.open("rb") as file:
        while place + 8 <= size and len(kinds) < 10_000:
            file.seek(place)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if kind not in _BOXES:
                break
            kinds.append(kind)
            length = int.from_bytes(head[8:16], "big") if length == 1 else length
            place = place + length if length >= 8 else size  # 0: to the end
    if kinds and (b"moov" not in kinds or place > size):
        what = "is cut short: its index at the end, which every frame needs, is incomplete or missing: copy it again"
    else:
        what = (
            "has no frame that can be read: it is no video, is damaged, or OpenCV lacks its codec: convert it by ffmpeg"
        )
    return f"video {path} {what}."
