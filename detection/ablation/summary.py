"""Metrics of an ablation. It fails closed: a variant with a missing seed has no mean and no difference.

Every value covers all seeds of the ablation, or is None.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from detection.ablation.launch.status import RunStatus
from detection.ablation.plan import Plan, Run
from detection.ablation.run_types import CorruptRun, PerImageResults
from detection.errors import UserError
from detection.evaluation.intervals import RESAMPLINGS, Interval, bootstrap_counts, difference_interval

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Spread:
    """A metric over seeds: mean, standard deviation (over n − 1, None of one seed), and the value of each seed."""

    mean: float
    sd: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunResult:
    """Results of a finished run.

    Attributes:
        images_key: identifies the images that it was evaluated on.
        resampled: its metrics on bootstrap samples of these images, (S,) each.
    """

    metrics: Mapping[str, float]
    images_key: str
    num_images: int
    resampled: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class AblationSummary:
    """Results of all runs of an ablation.

    Attributes:
        results: by name of the run; those that count.
        missing: why a run does not count, by its name.
    """

    plan: Plan
    results: Mapping[str, RunResult]
    missing: Mapping[str, str]

    def spread(self, data: str, variant: str, metric: str) -> Spread | None:
        """A metric of a variant; None where a seed is missing, or the metric is not defined."""
        results = self._results(data, variant)
        values = np.array([result.metrics.get(metric, math.nan) for result in results or ()])
        if results is None or np.isnan(values).any():
            return None
        sd = float(values.std(ddof=1)) if len(values) > 1 else None
        return Spread(float(values.mean()), sd, tuple(values.tolist()))

    def difference(self, data: str, variant: str, metric: str, against: str | None = None) -> Interval | None:
        """Variant − `against` (None for the reference), seed by seed; None where a seed or equal images are missing."""
        mine, theirs = self._results(data, variant), self._results(data, against or self.plan.ablation.reference)
        if mine is None or theirs is None or not self.same_images(data, variant, against):
            return None
        pairs = list(zip(mine, theirs, strict=True))
        if not all(metric in result.metrics and metric in result.resampled for pair in pairs for result in pair):
            return None
        differences = np.array([a.metrics[metric] - b.metrics[metric] for a, b in pairs])
        return difference_interval(differences, np.stack([a.resampled[metric] - b.resampled[metric] for a, b in pairs]))

    def same_images(self, data: str, variant: str, against: str | None = None) -> bool:
        """Whether all runs of two variants that count were evaluated on the same images."""
        runs = self.plan.of(data, variant) + self.plan.of(data, against or self.plan.ablation.reference)
        return len({self.results[run.name].images_key for run in runs if run.name in self.results}) <= 1

    def of_data(self, data: str) -> list[RunResult]:
        """The results on a data set."""
        return [self.results[run.name] for run in self.plan.runs if run.data == data and run.name in self.results]

    def class_metrics(self, data: str) -> list[tuple[str, str]]:
        """Metric and class of all metrics of single classes on a data set."""
        names = (name.partition("/") for result in self.of_data(data)[:1] for name in result.metrics if "/" in name)
        return [(metric, of_class) for metric, _, of_class in names]

    def missing_seeds(self, data: str, variant: str) -> list[int]:
        """Seeds of a variant whose runs do not count."""
        return [run.seed for run in self.plan.of(data, variant) if run.name not in self.results]

    def _results(self, data: str, variant: str) -> list[RunResult] | None:
        runs = self.plan.of(data, variant)
        complete = runs and not self.missing_seeds(data, variant)
        return [self.results[run.name] for run in runs] if complete else None


def summarize(
    plan: Plan,
    statuses: Mapping[str, RunStatus],
    resamplings: int = RESAMPLINGS,
    on_run: Callable[[Run], object] = lambda run: None,
) -> AblationSummary:
    """Read every finished run and resample its images; runs that cannot be read are missing, with the reason.

    Statuses are by name of the run, `resamplings` is the number of bootstrap samples, and `on_run` is called with each
    run before it is read.
    """
    results, missing = {}, {}
    for run in plan.runs:
        on_run(run)
        status = statuses[run.name]
        if status.state != "finished":
            missing[run.name] = f"{status.state}: {status.reason}"
            continue
        try:
            per_image = plan.ablation.run_type.per_image_results(run.folder)
            results[run.name] = _resample(per_image, status.metrics, resamplings)
        except (UserError, CorruptRun) as error:
            missing[run.name] = str(error)
    return AblationSummary(plan, results, missing)


def _resample(per_image: PerImageResults, metrics: Mapping[str, float], resamplings: int) -> RunResult:
    every = np.ones((1, per_image.num_images), dtype=np.int64)
    _require_same(metrics, {name: float(v[0]) for name, v in per_image.resampled(every).items()})
    counts = bootstrap_counts(per_image.num_images, resamplings)
    return RunResult(metrics, per_image.images_key, per_image.num_images, per_image.resampled(counts))


def _require_same(recorded: Mapping[str, float], computed: Mapping[str, float]) -> None:
    """Check that a run's results give its recorded metrics: else one of the files belongs to another run."""
    for name in (name for name in recorded if name in computed):
        a, b = recorded[name], computed[name]
        if math.isnan(a) != math.isnan(b) or abs(a - b) > TOLERANCE:
            raise CorruptRun(f"its metrics.json holds {name} {a:.6f}, and its results give {b:.6f}")
