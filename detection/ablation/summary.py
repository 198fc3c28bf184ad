"""The figures of an ablation. It fails closed: a variant that lacks a seed has no mean and no difference.

Every figure is about all seeds of the ablation or is not there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detection.ablation.launch.status import State
from detection.ablation.plan import Cell, Plan
from detection.ablation.run_types import CorruptRun, PerImageResults
from detection.errors import UserError
from detection.evaluation.intervals import RESAMPLINGS, Interval, bootstrap_counts, difference_interval

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Spread:
    """A metric over seeds.

    Attributes:
        mean: of all seeds.
        sd: their standard deviation (over n − 1); None of one seed.
        values: of each seed.
    """

    mean: float
    sd: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """What a finished cell says.

    Attributes:
        numbers: its metrics.
        images_key: of the images that it was measured on.
        num_images: how many they are.
        resampled: its metrics on bootstrap samples of them, (S,) each.
    """

    numbers: Mapping[str, float]
    images_key: str
    num_images: int
    resampled: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Summary:
    """All runs of an ablation.

    Attributes:
        plan: its cells.
        runs: by the name of the cell; those that count.
        missing: why a cell does not count, by its name.
    """

    plan: Plan
    runs: Mapping[str, Run]
    missing: Mapping[str, str]

    def spread(self, data: str, variant: str, metric: str) -> Spread | None:
        """A metric of a variant; None where a seed is missing, or the metric is not defined."""
        runs = self._runs(data, variant)
        if runs is None:
            return None
        values = np.array([run.numbers.get(metric, math.nan) for run in runs])
        if np.isnan(values).any():
            return None
        sd = float(values.std(ddof=1)) if len(values) > 1 else None
        return Spread(float(values.mean()), sd, tuple(values.tolist()))

    def difference(self, data: str, variant: str, metric: str, against: str | None = None) -> Interval | None:
        """Variant − reference, seed by seed; None where either lacks a seed, or saw other images.

        Args:
            data: the data set.
            variant: whose difference it is.
            metric: of which number.
            against: the variant that it is compared with; None for the ablation's reference.
        """
        mine, theirs = self._runs(data, variant), self._runs(data, against or self.plan.ablation.reference)
        if mine is None or theirs is None:
            return None
        pairs = list(zip(mine, theirs, strict=True))
        if not self.same_images(data, variant, against):
            return None
        if not all(metric in run.numbers and metric in run.resampled for pair in pairs for run in pair):
            return None
        differences = np.array([a.numbers[metric] - b.numbers[metric] for a, b in pairs])
        return difference_interval(differences, np.stack([a.resampled[metric] - b.resampled[metric] for a, b in pairs]))

    def same_images(self, data: str, variant: str, against: str | None = None) -> bool:
        """Whether all runs of two variants that count were measured on the same images."""
        cells = self.plan.of(data, variant) + self.plan.of(data, against or self.plan.ablation.reference)
        return len({self.runs[cell.name].images_key for cell in cells if cell.name in self.runs}) <= 1

    def classes(self, data: str) -> list[str]:
        """Names of the classes of a data set, as its runs know them."""
        cells = [cell for cell in self.plan.cells if cell.data == data and cell.name in self.runs]
        names = (name.partition("/")[2] for cell in cells[:1] for name in self.runs[cell.name].numbers if "/" in name)
        return list(dict.fromkeys(names))

    def lacking(self, data: str, variant: str) -> list[Cell]:
        """The cells of a variant that do not count."""
        return [cell for cell in self.plan.of(data, variant) if cell.name not in self.runs]

    def _runs(self, data: str, variant: str) -> list[Run] | None:
        cells = self.plan.of(data, variant)
        return None if self.lacking(data, variant) or not cells else [self.runs[cell.name] for cell in cells]


def summarize(
    plan: Plan,
    states: Mapping[str, State],
    resamplings: int = RESAMPLINGS,
    told: Callable[[Cell], None] = lambda cell: None,
) -> Summary:
    """Read every finished cell and resample its images; what cannot be read does not count, and it is said why.

    Args:
        plan: the cells.
        states: what lies in each folder, by name of the cell.
        resamplings: bootstrap samples.
        told: called with each cell before it is read.
    """
    runs, missing = {}, {}
    for cell in plan.cells:
        told(cell)
        state = states[cell.name]
        if state.what != "finished":
            missing[cell.name] = f"{state.what}: {state.reason}"
            continue
        try:
            runs[cell.name] = _read(plan.ablation.kind.evidence(cell.folder), state.numbers, resamplings)
        except (UserError, CorruptRun) as error:
            missing[cell.name] = str(error)
    return Summary(plan, runs, missing)


def _read(evidence: PerImageResults, numbers: Mapping[str, float], resamplings: int) -> Run:
    every = np.ones((1, evidence.num_images), dtype=np.int64)
    _require_same(numbers, {name: float(v[0]) for name, v in evidence.resampled(every).items()})
    counts = bootstrap_counts(evidence.num_images, resamplings)
    return Run(numbers, evidence.images_key, evidence.num_images, evidence.resampled(counts))


def _require_same(told: Mapping[str, float], found: Mapping[str, float]) -> None:
    """Check that what a run found gives the numbers that it told: else one of its files is not its own."""
    names: Sequence[str] = [name for name in told if name in found]
    for name in names:
        a, b = told[name], found[name]
        if math.isnan(a) != math.isnan(b) or abs(a - b) > TOLERANCE:
            raise CorruptRun(f"its metrics.json says {name} {a:.6f}, and its results give {b:.6f}")
