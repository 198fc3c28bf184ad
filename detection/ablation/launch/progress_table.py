"""One table of all cells, kept up to date on a terminal; a line for each event in a pipe."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from detection.ablation.plan import Cell, Plan

_COLORS = {"finished": "green", "failed": "red", "waiting": "dim", "left": "yellow"}


class ProgressTable:
    """What each cell is at; a context, during which a terminal shows the table.

    Args:
        plan: the cells.
        console: where it is shown; None for the standard output.
    """

    def __init__(self, plan: Plan, console: Console | None = None) -> None:
        self.plan = plan
        self.status = {cell.name: "" for cell in plan.cells}
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> "ProgressTable":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.update(self.table(), refresh=True)
            self.live.stop()

    def set(self, cell: Cell, status: str) -> None:
        """Tell what a cell is at; what happens rarely is worth a line in a pipe."""
        self.status[cell.name] = status
        if self.live is None:
            done = sum(s.startswith(("finished", "failed")) for s in self.status.values())
            self.console.print(Text(f"[{done}/{len(self.status)}] {cell.name:40} {status}"))

    def show(self, notes: Mapping[str, str]) -> None:
        """Refresh a terminal's table, with how far each cell at work is, by name."""
        if self.live is not None:
            self.live.update(self.table(notes), refresh=True)

    def table(self, notes: Mapping[str, str] | None = None) -> Table:
        """A row for each variant on each data set, a column for each seed."""
        table = Table("data", "variant", *(f"seed {seed}" for seed in self.plan.ablation.seeds), title=self.plan.name)
        for data in self.plan.ablation.data:
            for variant in self.plan.variants:
                cells = self.plan.of(data, variant)
                table.add_row(data, variant, *(self._text(cell, notes or {}) for cell in cells))
        return table

    def _text(self, cell: Cell, notes: Mapping[str, str]) -> Text:
        status = self.status[cell.name]
        color = next((color for word, color in _COLORS.items() if status.startswith(word)), "")
        return Text(notes.get(cell.name) or status, style=color)
