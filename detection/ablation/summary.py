"""Metrics of an ablation. It fails closed: a variant with a missing seed has no mean and no difference.

Every value covers all seeds of the ablation, or is None. Where the chance level is stated, means and differences are
those of the seeds that learned (`detection.evaluation.seeds`).
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
from detection.evaluation.seeds import Estimate, Learning, chance_margin, mean_interval, share_interval

TOLERANCE = 1e-6
"""Between a metric in metrics.json and the same computed from the results."""


@dataclass(frozen=True)
class Spread:
    """A metric over seeds.

    Attributes:
        values: of each seed.
        learned: whether each seed has learned; None where no chance level is stated.
    """

    values: tuple[float, ...]
    learned: tuple[bool, ...] | None = None

    @property
    def has_learned(self) -> bool:
        """Whether any seed has, or may have."""
        return self.learned is None or any(self.learned)

    @property
    def share(self) -> Estimate | None:
        """The share of seeds that learn, with its interval; None where no chance level is stated."""
        return None if self.learned is None else share_interval(sum(self.learned), len(self.learned))

    @property
    def estimate(self) -> Estimate:
        """The mean among seeds that learned with its interval; among all where none has, or no chance is stated."""
        return mean_interval(self._kind)

    @property
    def mean(self) -> float:
        """The value of `estimate`."""
        return float(np.mean(self._kind))

    @property
    def sd(self) -> float | None:
        """Standard deviation of the same seeds over n − 1, None of one seed."""
        return float(np.std(self._kind, ddof=1)) if len(self._kind) > 1 else None

    @property
    def _kind(self) -> list[float]:
        if self.learned is None or not any(self.learned):
            return list(self.values)
        return [value for value, learned in zip(self.values, self.learned, strict=True) if learned]


@dataclass(frozen=True)
class RunResult:
    """Results of a finished run.

    Attributes:
        images_key: identifies the images that it was evaluated on.
        resampled: its metrics on bootstrap samples of these images, (S,) each.
        updates: updates of the weights that it was trained for; None if unknown.
    """

    metrics: Mapping[str, float]
    images_key: str
    num_images: int
    resampled: Mapping[str, np.ndarray]
    updates: int | None = None


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
        return Spread(tuple(values.tolist()), self._learned(data, metric, results))

    def difference(self, data: str, variant: str, metric: str, against: str | None = None) -> Interval | None:
        """Variant − `against` (None for the reference), over the seeds with which both learned.

        None where a seed or equal images are missing, or no seed has learned with both.
        """
        mine, theirs = self._results(data, variant), self._results(data, against or self.plan.ablation.reference)
        if mine is None or theirs is None or not self.same_images(data, variant, against):
            return None
        # Pairs of one seed: the luck that both have from it, such as the order of images, cancels in the difference.
        learned = [self._learned(data, metric, results) or (True,) * len(results) for results in (mine, theirs)]
        pairs = [pair for pair, *both in zip(zip(mine, theirs, strict=True), *learned, strict=True) if all(both)]
        if not pairs:
            return None
        if not all(metric in result.metrics and metric in result.resampled for pair in pairs for result in pair):
            return None
        differences = np.array([a.metrics[metric] - b.metrics[metric] for a, b in pairs])
        return difference_interval(differences, np.stack([a.resampled[metric] - b.resampled[metric] for a, b in pairs]))

    def seed_differences(self, data: str, variant: str, metric: str) -> list[tuple[float, bool]]:
        """Variant − reference of every seed, and whether both have learned; empty where a seed is missing."""
        mine, theirs = self.spread(data, variant, metric), self.spread(data, self.plan.ablation.reference, metric)
        if mine is None or theirs is None:
            return []
        learned = [spread.learned or (True,) * len(spread.values) for spread in (mine, theirs)]
        rows = zip(mine.values, theirs.values, *learned, strict=True)
        return [(a - b, both and other) for a, b, both, other in rows]

    def same_images(self, data: str, variant: str, against: str | None = None) -> bool:
        """Return whether all runs of two variants that count were evaluated on the same images."""
        runs = self.plan.of(data, variant) + self.plan.of(data, against or self.plan.ablation.reference)
        return len({self.results[run.name].images_key for run in runs if run.name in self.results}) <= 1

    def learning(self, data: str, metric: str) -> Learning | None:
        """The level above which a seed has learned by a metric; None where none is stated for it.

        A metric without its own chance level has that of the main metric, by which a seed has learned or not.
        """
        basis, chance = self._basis(data, metric)
        found = [r for r in self.of_data(data) if not math.isnan(r.metrics.get(basis, math.nan))] if basis else []
        if not found:
            return None
        best = max(found, key=lambda result: result.metrics[basis])
        return Learning(chance, best.metrics[basis], chance_margin(best.resampled[basis], len(found)))

    def _basis(self, data: str, metric: str) -> tuple[str, float]:
        """The metric that decides which seeds have learned, and its chance level; empty where none is stated."""
        chance = self.plan.chance(data)
        basis = next((name for name in (metric, self.plan.ablation.metric) if name in chance), "")
        return basis, chance.get(basis, 0.0)

    def _learned(self, data: str, metric: str, results: list[RunResult]) -> tuple[bool, ...] | None:
        learning = self.learning(data, metric)
        if learning is None:
            return None
        basis, _ = self._basis(data, metric)
        return tuple(learning.learned([result.metrics.get(basis, math.nan) for result in results]).tolist())

    def updates(self, data: str, variant: str) -> str:
        """Describe the length of a variant's training, as `376 updates`."""
        found = sorted({result.updates for result in self._results(data, variant) or () if result.updates})
        return f"{' to '.join(map(str, found[:: max(1, len(found) - 1)]))} updates" if found else "its training"

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
            run_type, trained = plan.ablation.run_type, run.trained or run
            read = run_type.per_image_results if run.trained is None else run_type.per_image_evaluation
            per_image, updates = read(run.folder), run_type.updates(trained.folder)
            results[run.name] = _resample(per_image, status.metrics, resamplings, updates)
        except (UserError, CorruptRun) as error:
            missing[run.name] = str(error)
    return AblationSummary(plan, results, missing)


def _resample(
    per_image: PerImageResults, metrics: Mapping[str, float], resamplings: int, updates: int | None
) -> RunResult:
    every = np.ones((1, per_image.num_images), dtype=np.int64)
    _require_same(metrics, {name: float(v[0]) for name, v in per_image.resampled(every).items()})
    counts = bootstrap_counts(per_image.num_images, resamplings)
    return RunResult(metrics, per_image.images_key, per_image.num_images, per_image.resampled(counts), updates)


def _require_same(recorded: Mapping[str, float], computed: Mapping[str, float]) -> None:
    """Check that a run's results give its recorded metrics: else one of the files belongs to another run."""
    for name in (name for name in recorded if name in computed):
        a, b = recorded[name], computed[name]
        if math.isnan(a) != math.isnan(b) or abs(a - b) > TOLERANCE:
            raise CorruptRun(f"its metrics.json holds {name} {a:.6f}, and its results give {b:.6f}")
