"""Time left of a run, and the mean loss of its epoch."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from detection.evaluation import metric_text
from detection.runs.logs import duration


@dataclass
class RunClock:
    """Time left of a run, by what its updates have taken here with all evaluations between them.

    Attributes:
        began: when the first update began, by the monotonic clock; None before.
        updates: done since then.
        left: updates still to do.
        losses: one of each update of this epoch that this process has done; a resumed epoch lacks the earlier ones.
    """

    began: float | None = None
    updates: int = 0
    left: int = 0
    losses: list[float] = field(default_factory=list)

    def begin_epoch(self, left: int) -> None:
        """Begin an epoch, with so many updates left of the run."""
        self.began = time.monotonic() if self.began is None else self.began
        self.left, self.losses = left, []

    def update(self, loss: float) -> None:
        """Count an update of the weights, and keep its loss for the mean of the epoch."""
        self.updates, self.left = self.updates + 1, self.left - 1
        self.losses.append(loss)

    def note(self) -> str:
        """The time left in words, empty where nothing is left or known."""
        if self.began is None or not self.updates or not self.left:
            return ""
        return f"{duration((time.monotonic() - self.began) / self.updates * self.left)} left of the run"

    def texts(self, values: Mapping[str, float], digits: int) -> list[str]:
        """Return the parts of an epoch's line: its mean loss, measured values, and the time left, as far as known."""
        loss = [f"train loss {sum(self.losses) / len(self.losses):.3f}"] if self.losses else []
        measured = [metric_text(name, value, digits) for name, value in values.items()]
        return [*loss, *measured, *filter(None, [self.note()])]
