"""The 95 % interval of a difference that is known covers it as often as it says."""

import numpy as np
import pytest

from detection.evaluation.bootstrap import average_precision
from detection.evaluation.intervals import difference_interval
from tests.ablation.synthetic import counts_with_identity, draw, true_ap

IMAGES, RESAMPLINGS, REPETITIONS = 150, 150, 300


def interval(rng, seeds, seed_sd, shared, own, empty, crowd):
    """Variant against reference, p 0.7 against 0.6.

    The variant finds more in one half of the images and less in the other, by `shared`, in every seed; each trained
    network does, by `own`, for halves of its own; and each seed moves p.
    """
    half, is_empty = rng.choice([-1, 1], IMAGES), rng.random(IMAGES) < empty
    counts = counts_with_identity(rng, IMAGES, RESAMPLINGS)

    def ap(p, effect):
        p_of_image = p + seed_sd * rng.standard_normal() + effect + own * rng.choice([-1, 1], IMAGES)
        return average_precision(draw(rng, p_of_image, is_empty, crowd), counts)[:, 0]

    differences = np.array([ap(0.7, shared * half) - ap(0.6, 0 * half) for _ in range(seeds)])
    return difference_interval(differences[:, 0], differences[:, 1:])


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "shared", "own", "empty", "crowd"),
    [(3, 0.04, 0.1, 0.05, 0, 0), (1, 0.0, 0.15, 0.1, 0, 0), (3, 0.04, 0.1, 0.05, 0.6, 0.5)],
    ids=["three seeds", "one seed, which moves nothing", "three seeds, empty images and crowd regions"],
)
def test_the_interval_covers_the_true_difference(seeds, seed_sd, shared, own, empty, crowd):
    rng = np.random.default_rng(2)
    ground_truth = true_ap(0.7, seed_sd, empty, crowd) - true_ap(0.6, seed_sd, empty, crowd)
    intervals = [interval(rng, seeds, seed_sd, shared, own, empty, crowd) for _ in range(REPETITIONS)]
    covered = np.mean([i.low <= ground_truth <= i.high for i in intervals])
    assert 0.93 <= covered <= 0.97, covered
    # It would cover anything if it were wide enough: how far differences really scatter is the measure.
    scatter = np.std([i.value for i in intervals])
    assert np.median([i.high - i.low for i in intervals]) / (2 * 1.96 * scatter) < 2
