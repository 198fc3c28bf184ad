"""One table of all runs, updated in place on a terminal; a line per event in a pipe."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from detection.ablation.plan import Plan, Run
from detection.names import short_line, short_name
from detection.runs.logs import duration

_COLORS = {"finished": "green", "failed": "red", "waiting": "dim", "left": "yellow"}


class ProgressTable:
    """Progress of each run; a context manager, which shows the table on a terminal (None: the standard output).

    The time left is what runs have taken here on average, for each that has not ended.

    Args:
        plan: names the runs.
        console: where it is shown.
        slots: runs at the same time.
    """

    def __init__(self, plan: Plan, console: Console | None = None, slots: int = 1) -> None:
        self.plan, self.slots = plan, max(1, slots)
        self.began, self.starts, self.taken = time.monotonic(), dict[str, float](), list[float]()
        self.progress = {run.name: "" for run in plan.runs}
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> "ProgressTable":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.refresh({})
            self.live.stop()

    def update(self, run: Run, progress: str) -> None:
        """Set the progress of a run; a pipe gets a line."""
        self.progress[run.name] = progress = short_line(progress)
        if progress.startswith("running"):
            self.starts[run.name] = time.monotonic()
        elif has_ended(progress) and run.name in self.starts:
            self.taken.append(time.monotonic() - self.starts.pop(run.name))
        if self.live is None:
            times = f"; {self.times()}" if self.taken and has_ended(progress) else ""
            self.console.print(Text(f"[{self.done}/{len(self.progress)}] {run.name:40} {progress}{times}"))

    @property
    def done(self) -> int:
        """Number of runs that have ended."""
        return sum(map(has_ended, self.progress.values()))

    def times(self) -> str:
        """The time since the table was made, and that left, once a run has ended here."""
        now = time.monotonic()
        texts = [f"{duration(now - self.began)} elapsed"]
        if self.taken and (waiting := len(self.progress) - self.done):
            mean = sum(self.taken) / len(self.taken)
            rest = [max(0.0, mean - (now - start)) for start in self.starts.values()]
            left = (sum(rest) + mean * max(0, waiting - len(rest))) / min(self.slots, waiting)
            texts.append(f"about {duration(left)} left")
        return ", ".join(texts)

    def refresh(self, notes: Mapping[str, str]) -> None:
        """Draw a terminal's table again, with a note such as `epoch 3 of 9` for each running run, by name."""
        if self.live is not None:
            self.live.update(self._table(notes), refresh=True)

    def _table(self, notes: Mapping[str, str]) -> Table:
        """A row for each variant on each data set, a column for each seed."""
        seeds = (f"seed {seed}" for seed in self.plan.ablation.seeds)
        state = f"{self.done}/{len(self.progress)} done, {self.times()}"
        table = Table("data", "variant", *seeds, title=f"{escape(short_name(self.plan.name))}: {state}")
        for data in self.plan.ablation.data:
            for variant in self.plan.variants:
                table.add_row(data, variant, *(self._text(run, notes) for run in self.plan.of(data, variant)))
        return table

    def _text(self, run: Run, notes: Mapping[str, str]) -> Text:
        progress = self.progress[run.name]
        color = next((color for word, color in _COLORS.items() if progress.startswith(word)), "")
        return Text(notes.get(run.name) or progress, style=color)


def has_ended(progress: str) -> bool:
    """Whether a run with this progress has finished or failed."""
    return progress.startswith(("finished", "failed"))
