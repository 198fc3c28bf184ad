"""Simulated coverage of the intervals over a suite (`detection.evaluation.suite`), on scores of known laws.

Shapes: n seeds, m data sets.
"""

from collections.abc import Callable

import numpy as np

from detection.evaluation.seeds import Estimate
from detection.evaluation.suite import improvement_interval, interquartile_mean, interquartile_mean_interval

SHAPES = ("normal", "skewed", "bimodal")


def draw_scores(rng: np.random.Generator, shape: str, size: tuple[int, ...], shift: float = 0.0) -> np.ndarray:
    """Draw scores (..., m) of a known law, whose means differ between the m data sets.

    `normal`: standard deviation 0.1; `skewed`: exponential below its upper end, as wide; `bimodal`: 0.9 with
    probability 0.6 and chance else, with a standard deviation of 0.02.
    """
    level = np.linspace(0.4, 0.6, size[-1]) + shift
    if shape == "bimodal":
        return np.where(rng.random(size) < 0.6 + shift, level + 0.4, 0.0) + 0.02 * rng.standard_normal(size)
    noise = rng.standard_normal(size) if shape == "normal" else 1 - rng.exponential(size=size)
    return level + 0.1 * noise


def simulated_coverage(
    n: int, m: int, repetitions: int = 200, resamplings: int = 400, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Compute how often the intervals cover their estimands on scores of n seeds on m data sets.

    The reference of the improvement has scores that are 0.05 lower.

    Returns:
        For each of `SHAPES` the share of the repetitions in which the interval of the interquartile mean covers, and
        that of the probability of improvement.
    """
    return {shape: _coverage(shape, n, m, repetitions, resamplings, seed) for shape in SHAPES}


def _coverage(shape: str, n: int, m: int, repetitions: int, resamplings: int, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    # The estimands, from 20 000 seeds; any pairing of these is a sample of all pairs.
    many, other = (draw_scores(rng, shape, (20_000, m), shift) for shift in (0.0, -0.05))
    true_mean, true_share = float(interquartile_mean(many)), float((many > other).mean())

    def covered(interval: Callable[..., Estimate], ground_truth: float, shifts: tuple[float, ...]) -> float:
        hits = 0
        for _ in range(repetitions):
            found = interval(
                *(draw_scores(rng, shape, (n, m), s) for s in shifts), resamplings, int(rng.integers(9**9))
            )
            hits += found.low <= ground_truth <= found.high
        return hits / repetitions

    return covered(interquartile_mean_interval, true_mean, (0.0,)), covered(
        improvement_interval, true_share, (0.0, -0.05)
    )
