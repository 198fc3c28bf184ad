"""The logs of a run at work: `log.jsonl`, TensorBoard, and a progress bar (plain lines in a pipe)."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from detection.atomic_write import atomic_write, naming
from detection.names import file_stem, short_name
from detection.runs.trackers import Trackers

_SECONDS_BETWEEN_LINES = 20


class RunLog:
    """Writes losses and metrics to `log.jsonl` and TensorBoard; only the main process does.

    Of a resumed run the lines of the first `keep_epochs` stay; later epochs are done again, and with `evaluate_last`
    the evaluation of the last of them; of the epoch that follows, `keep_updates` updates stay. A line that was cut off
    is left out, and so are damaged ones, with a note of their number. Where lines are missing, steps go on from
    `updates_before`.

    What is written goes to the `trackers`, too.

    Raises:
        OSError: a line or file cannot be written, by any method; with the path of the log.
    """

    def __init__(
        self,
        folder: Path,
        main: bool = True,
        keep_epochs: int = 0,
        *,
        evaluate_last: bool = False,
        keep_updates: int = 0,
        updates_before: int = 0,
        trackers: Trackers | None = None,
    ) -> None:
        self.main = main
        self.trackers = trackers
        self.step = 0
        if not main:
            return
        from torch.utils.tensorboard import SummaryWriter

        path = self.path = folder / "log.jsonl"
        complete = _complete_lines(path)
        kept = [line for line in complete if line["epoch"] < keep_epochs]
        if evaluate_last:
            kept = [line for line in kept if "lr" in line or line["epoch"] < keep_epochs - 1]
        kept += [line for line in complete if line["epoch"] == keep_epochs and "lr" in line][:keep_updates]
        self.step = max([updates_before, *(line.get("step", 0) for line in kept)])
        text = "".join(json.dumps(line) + "\n" for line in kept)
        atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        # Line by line, so that a killed process leaves all updates but perhaps a part of the last line.
        self.file = path.open("a", buffering=1, encoding="utf-8")
        begun = (folder / "tensorboard").exists()
        # TensorBoard drops events from this step on: the last one that is kept must stay.
        self.board = SummaryWriter(_board_folder(folder), purge_step=self.step + 1 if kept or begun else None)

    def update(self, epoch: int, line: Mapping[str, float]) -> None:
        """Write losses, learning rate and the like of one update of the weights."""
        if not self.main:
            return
        self.step += 1
        with naming(self.path):
            self.file.write(json.dumps({"step": self.step, "epoch": epoch, **line}) + "\n")
            for name, value in line.items():
                self.board.add_scalar(f"train/{name}", value, self.step)
        if self.trackers is not None:
            self.trackers.log({f"train/{name}": value for name, value in line.items()}, self.step)

    def evaluation(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of an evaluation after an epoch, those that are numbers."""
        if not self.main:
            return
        scalars = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        with naming(self.path):
            self.file.write(json.dumps({"step": self.step, "epoch": epoch, **scalars}) + "\n")
            of_classes = metrics.get("per_class", {}).items()
            shown = {f"val/{name}": value for name, value in scalars.items()}
            shown |= {f"val_AP_of_class/{short_name(name)}": of_class["AP"] for name, of_class in of_classes}
            # COCO's evaluation gives -1 for a metric that is not defined, which would be a point far off in a curve.
            shown = {name: value for name, value in shown.items() if value != -1}
            for name, value in shown.items():
                self.board.add_scalar(name, value, self.step)
            self.board.flush()
        if self.trackers is not None:
            self.trackers.log({**shown, "epoch": epoch}, self.step)

    def image(self, name: str, image: np.ndarray) -> None:
        """Show an image (H, W, 3) uint8 in TensorBoard."""
        if self.main:
            with naming(self.path):
                self.board.add_image(name, image, self.step, dataformats="HWC")
            if self.trackers is not None:
                self.trackers.image(name, image, self.step)

    def synchronize(self) -> None:
        """Have all lines on the disk, before the checkpoint that they lead to."""
        if self.main:
            with naming(self.path):
                self.board.flush()
                os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the files."""
        if self.main:
            with naming(self.path), closing(self.board):
                self.file.close()


def _board_folder(folder: Path) -> Path:
    """The folder of a run's events, named as the run, since TensorBoard shows a folder's name; an older one stays."""
    boards = folder / "tensorboard"
    if any(path.is_file() for path in (boards.iterdir() if boards.is_dir() else ())):
        return boards  # of a run from before events had a folder of the run's name
    older = sorted(path for path in boards.iterdir() if path.is_dir()) if boards.is_dir() else []
    parts = folder.resolve().parts
    # A run of an ablation is OUTPUT/runs/DATA/VARIANT/seed-N.
    name = "-".join(parts[-3:]) if parts[-1].startswith("seed-") else parts[-1]
    return older[0] if older else boards / file_stem(name)


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log without those that are damaged, as a kill or a power cut leaves the last one."""
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    lines = [_log_line(text) for text in texts]
    complete = [line for line in lines if line is not None]
    damaged = len(lines) - len(complete) - (bool(lines) and lines[-1] is None)
    if damaged:
        print(f"note: {path}: {damaged} damaged lines are left out", file=sys.stderr)
    return complete


def _log_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
        return line if type(line["epoch"]) is int and type(line.get("step", 0)) is int else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def duration(seconds: float) -> str:
    """Return a time for people: `45 s`, `13 min`, `2 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class Bar:
    """Progress of one pass over data; made by `progress`."""

    def __init__(self, label: str, total: int, rich_bar: Progress | None, silent: bool) -> None:
        self.label, self.total, self.rich_bar, self.silent = label, total, rich_bar, silent
        self.done, self.began = 0, time.perf_counter()
        self.printed = self.began
        self.task = rich_bar.add_task(label, total=total or None, note="") if rich_bar else None

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more as done."""
        self.done += amount
        if self.rich_bar is not None and self.task is not None:
            self.rich_bar.update(self.task, advance=amount, note=note)
        elif not self.silent and time.perf_counter() - self.printed > _SECONDS_BETWEEN_LINES:
            self.printed = time.perf_counter()
            print(f"{self.label}: {self._state()}  {note}".rstrip(), flush=True)

    def _state(self) -> str:
        """Return the count, of its total and with the time left unless the total is unknown or passed."""
        if self.done > self.total:
            return f"{self.done}"
        left = (self.printed - self.began) / self.done * (self.total - self.done)
        return f"{self.done}/{self.total}, {duration(left)} left"


@contextmanager
def progress(label: str, total: int, main: bool = True) -> Iterator[Bar]:
    """Show a bar with the time left on a terminal, a plain line now and then in a pipe, nothing on other processes.

    A total of 0 is unknown.
    """
    label = short_name(label)
    if not (main and sys.stdout.isatty()):
        yield Bar(label, total, None, silent=not main)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = ("left", TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
    with Progress(*columns, *left, transient=True) as rich_bar:
        yield Bar(label, total, rich_bar, silent=False)
