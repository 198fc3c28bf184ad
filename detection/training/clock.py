"""Time left of a run."""

import time
from dataclasses import dataclass

from detection.runs.logs import duration


@dataclass
class RunClock:
    """Time left of a run, by what its updates have taken here with all evaluations between them.

    Attributes:
        began: when the first update began, by the monotonic clock; None before.
        updates: done since then.
        left: updates still to do.
    """

    began: float | None = None
    updates: int = 0
    left: int = 0

    def note(self) -> str:
        """The time left in words, empty where nothing is left or known."""
        if self.began is None or not self.updates or not self.left:
            return ""
        return f"{duration((time.monotonic() - self.began) / self.updates * self.left)} left of the run"
