"""A request: the part of an ablation's file that is asked for, and how that is carried out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from detection.ablation.size_matched import Size

if TYPE_CHECKING:
    from detection.ablation.ablation import Ablation
    from detection.ablation.launch.slurm import SlurmOptions


@dataclass
class Request:
    """A request to an ablation, as a command makes it.

    Attributes:
        file: of the ablation, or a shipped one's name.
        output: the ablation's folder.
        overrides: changes of the base of all runs.
        variants: only these; empty: all. `data` and `seeds` are of the same kind.
        match: what the size-matched controls have as much of as their variants; None: there are none.
        slurm: resources of each job; None: runs are processes on this machine.
        workers: runs at a time; None: as many as the launcher finds fit.
        resume: continue stopped runs from their last checkpoint.
        dry_run, report_only: change nothing; run nothing.
        budget_hours: of an ablation with a question, which its runs have to fit into; None: no limit.
        cost_rounds: of measuring costs; None: as `rounds_of` says.
        measure_costs: measure them in this process, and do nothing else.
        argv: the command's arguments, which the report shows and the process that measures costs repeats.
        environment: variables that were set before the command, as `NAME=value`.
        remarks: sentences for the report, in the order in which they were found.
        began: the clock's seconds when the command started.
    """

    file: Path
    output: Path
    overrides: Sequence[str] = ()
    variants: Sequence[str] = ()
    data: Sequence[str] = ()
    seeds: Sequence[int] = ()
    match: Size | None = None
    slurm: "SlurmOptions | None" = None
    workers: int | None = None
    resume: bool = False
    dry_run: bool = False
    report_only: bool = False
    budget_hours: float | None = None
    cost_rounds: int | None = None
    measure_costs: bool = False
    argv: Sequence[str] = ()
    environment: Sequence[str] = ()
    remarks: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def rounds_of(self, ablation: "Ablation") -> int:
        """Rounds of measuring costs: 10, and 5 and never none with a question, whose answer is made of them."""
        if ablation.question is None:
            return 10 if self.cost_rounds is None else self.cost_rounds
        return 5 if self.cost_rounds is None else max(1, self.cost_rounds)
