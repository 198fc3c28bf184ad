"""Films written by OpenCV, whose writer reports no error: a codec is tried first, the frames are counted in the end."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from detection.errors import UserError
from detection.video.reading import count_frames, opencv

CODECS = (("mp4v", ".mp4"), ("XVID", ".avi"), ("MJPG", ".avi"))
"""FourCC and suffix, the first that works is taken; H.264 (`avc1`) is missing in OpenCV's wheels."""

_TRIED = 3  # frames by which a codec is tried


class FilmWriter:
    """Writes frames of one size to a video file, and has it decoded again in the end.

    Args:
        folder: gets the file.
        stem: name of the file without its suffix.
        rate: frames a second.

    Attributes:
        path: of the file, once a frame is written.
        codec: the one in use.
        padding: columns and rows added at the right and the bottom, as codecs need an even number of both.
        written: frames so far.
    """

    def __init__(self, folder: Path, stem: str, rate: float) -> None:
        self.folder, self.stem, self.rate = folder, stem, rate
        self.path, self.codec, self.padding, self.written = folder / stem, "", (0, 0), 0
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, frame: np.ndarray) -> None:
        """Append a frame (H, W, 3) uint8 RGB.

        Raises:
            UserError: no codec can write frames of this size, or its size is not the first one's.
        """
        height, width = frame.shape[:2]
        writer = self._writer or self._open(height, width)
        if (height, width) != self._size:
            first = f"{self._size[1]}x{self._size[0]}"
            raise UserError(f"{self.stem}: frame {self.written} is {width}x{height}, the first was {first}: cut there.")
        columns, rows = self.padding
        if columns or rows:
            frame = np.pad(frame, ((0, rows), (0, columns), (0, 0)), mode="edge")
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
        self.written += 1

    def finish(self) -> None:
        """Close the file and count its frames.

        Raises:
            UserError: they are not those that were written.
        """
        if self._writer is None:
            return
        self._writer.release()
        found, _ = count_frames(self._temporary)
        if found != self.written:
            raise UserError(
                f"{self.path.name}: {found} of {self.written} frames are in the written film (codec {self.codec}): is "
                "the disk full?"
            )
        os.replace(self._temporary, self.path)
        self._writer = None

    def discard(self) -> None:
        """Close the file and remove what is written."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            with suppress(OSError):
                self._temporary.unlink()

    @property
    def _temporary(self) -> Path:
        # Plain letters: OpenCV does not take all names on all systems.
        return self.folder / f".writing{self.path.suffix}"

    def _open(self, height: int, width: int) -> Any:
        self._size, self.padding = (height, width), (width % 2, height % 2)
        size = width + width % 2, height + height % 2
        for codec, suffix in CODECS:
            self.path = self.folder / f"{self.stem}{suffix}"
            if _works(self._temporary, codec, self.rate, size):
                self.codec, self._writer = codec, _writer(self._temporary, codec, self.rate, size)
                return self._writer
        tried = ", ".join(codec for codec, _ in CODECS)
        raise UserError(f"{self.stem}: a film of {width}x{height} pixels cannot be written here (tried {tried}).")


def _works(path: Path, codec: str, rate: float, size: tuple[int, int]) -> bool:
    """Whether some frames that are written can be read again."""
    writer = _writer(path, codec, rate, size)
    try:
        if not writer.isOpened():
            return False
        for level in range(_TRIED):
            writer.write(np.full((size[1], size[0], 3), 80 * level, np.uint8))
        writer.release()
        return count_frames(path) == (_TRIED, size[::-1])
    finally:
        writer.release()
        with suppress(OSError):
            path.unlink()


def _writer(path: Path, codec: str, rate: float, size: tuple[int, int]) -> Any:
    cv2 = opencv()
    return cv2.VideoWriter(os.path.abspath(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), rate, size)
