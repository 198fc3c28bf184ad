"""Detection on video files: drawn films, and a table of what is found in each frame."""

import csv
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.analysis.visualize import Color, distinct_colors, draw_boxes
from detection.errors import UserError
from detection.names import csv_name, unique_stems
from detection.runs.logs import progress
from detection.tiles import Tiles, fitting_tiles
from detection.video.reading import Frame, Video, open_video, unreadable
from detection.video.writing import FilmWriter

if TYPE_CHECKING:
    from detection.predictor import Detections, Predictor

COLUMNS = "file", "frame", "time", "label", "score", "x1", "y1", "x2", "y2"


@dataclass
class FilmSummary:
    """Counts and problems of one video.

    Attributes:
        path: of the video.
        drawn: name of the drawn film, empty where no frame could be read.
        frames: number of frames read, detected on and drawn.
        expected: number of frames that the file announces, 0 where it announces none.
        problem: a sentence where it could not be read to its end.
        notes: what is worth knowing about the drawn film.
        detections: their number by class.
    """

    path: Path
    drawn: str = ""
    frames: int = 0
    expected: int = 0
    problem: str = ""
    notes: list[str] = field(default_factory=list)
    detections: Counter[str] = field(default_factory=Counter)


def predict_videos(
    predictor: "Predictor", paths: Sequence[Path], folder: Path, batch_size: int, tiles: Tiles | None = None
) -> list[FilmSummary]:
    """Detect on videos, and write `detections.csv` and a drawn film of each to `folder/videos`.

    Args:
        predictor: finds objects in frames.
        paths: of the videos; one that cannot be read is a problem in its summary, and the others go on.
        folder: exists.
        batch_size: frames in one forward pass, and in memory.
        tiles: as a `Predictor` takes them.

    Raises:
        UserError: a film cannot be written.
    """
    (folder / "videos").mkdir()
    summaries = list[FilmSummary]()
    with open(folder / "detections.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for path, stem in zip(paths, unique_stems(paths), strict=True):
            summary = FilmSummary(path)
            summaries.append(summary)
            try:
                with open_video(path) as video:
                    film = FilmWriter(folder / "videos", stem, video.rate)
                    found = _detect(predictor, video, batch_size, tiles)
                    _write(video, found, film, distinct_colors([c.name for c in predictor.categories]), table, summary)
            except UserError as error:
                if summary.frames:  # it was not the video's reading that failed
                    raise
                summary.problem = str(error)
    return summaries


def _detect(
    predictor: "Predictor", video: Video, batch_size: int, tiles: Tiles | None
) -> "Iterator[tuple[Frame, Detections]]":
    frames, detector = video.frames(), predictor.detector
    if first := next(frames, None):
        height, width = first.pixels.shape[:2]
        fitting_tiles(height, width, tiles, detector.min_size, detector.max_size, f"video {video.path}: a frame")
        frames = itertools.chain([first], frames)
    while batch := list(itertools.islice(frames, batch_size)):
        yield from zip(batch, predictor([frame.pixels for frame in batch], batch_size, tiles), strict=True)


def _write(
    video: Video,
    predictions: "Iterable[tuple[Frame, Detections]]",
    film: FilmWriter,
    colors: Mapping[str, Color],
    table: Any,
    summary: FilmSummary,
) -> None:
    """Draw the film and write the rows of a video, and fill in its summary."""
    name, last, uneven = csv_name(str(video.path)), None, 0.0
    summary.expected = video.expected
    try:
        with progress(video.path.name, video.expected) as bar:
            for frame, found in predictions:
                summary.frames += 1
                film.write(_draw(frame, found, colors))
                table.writerows(_rows(name, frame, found))
                summary.detections.update(found.names)
                if last is not None:
                    uneven = max(uneven, abs((frame.seconds - last) * video.rate - 1))
                last = frame.seconds
                bar.advance()
        if not summary.frames:
            raise UserError(unreadable(video.path))
        film.finish()
    finally:
        film.discard()
    summary.drawn, summary.problem, summary.notes = film.path.name, _cut(summary), _notes(video, film, uneven)


def _draw(frame: Frame, found: "Detections", colors: Mapping[str, Color]) -> np.ndarray:
    """Draw detections on a frame at its own size."""
    return draw_boxes(frame.pixels, found.boxes.numpy(), found.names, found.scores.tolist(), colors=colors, min_side=1)


def _rows(name: str, frame: Frame, found: "Detections") -> Iterator[tuple]:
    time = round(frame.seconds, 3)
    for label, score, box in zip(found.names, found.scores.tolist(), found.boxes.tolist(), strict=True):
        yield name, frame.number, time, csv_name(label), round(score, 4), *(round(value, 2) for value in box)


def _cut(summary: FilmSummary) -> str:
    """The sentence about a video that ended early; some files announce a number that is off by a few frames."""
    missing = summary.expected - summary.frames
    if missing <= max(1, summary.expected // 50):
        return ""
    return (
        f"video {summary.path}: {summary.frames} of the {summary.expected} frames that it announces could be read; it "
        "is cut short or damaged from there on: copy it again."
    )


def _notes(video: Video, film: FilmWriter, uneven: float) -> list[str]:
    """Notes on the film; `uneven` is by which share of an even distance in time two frames are too far or too near."""
    notes = []
    if video.rotation:
        notes.append(f"turned by {video.rotation} degrees, as its metadata ask for; boxes are in the turned frames")
    if any(film.padding):
        columns, rows = film.padding
        added = " and ".join(f"{n} {what}" for n, what in ((columns, "column"), (rows, "row")) if n)
        notes.append(f"{added} of pixels added in the drawn film: codecs need an even width and height")
    if not video.states_rate:
        notes.append(f"states no frame rate: drawn with {video.rate:g} frames a second")
    elif uneven > 0.5:
        notes.append(
            f"has frames at uneven times: drawn with {video.rate:.3g} a second; detections.csv has their times"
        )
    return notes
