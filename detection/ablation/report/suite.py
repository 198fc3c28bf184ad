"""Variants over all data sets of an ablation that state their chance level, as one suite."""

from collections.abc import Mapping

import numpy as np

from detection.ablation.report.seed_figures import MOST_BANDS, plot_profiles
from detection.ablation.summary import AblationSummary
from detection.evaluation import suite
from detection.evaluation.seeds import format_estimate
from detection.evaluation.simulated_coverage import simulated_coverage
from detection.reports.document import Block, Figure, Heading, Paragraph, Table
from detection.reports.files import to_png

_THRESHOLDS = np.linspace(0, 1, 101)


def suite_blocks(summary: AblationSummary) -> list[Block]:
    """Build the part on the suite; empty where there are fewer than three data sets."""
    ablation = summary.plan.ablation
    trained = summary.plan.trained_data  # an evaluation of the same runs again is no further task
    stated = [data for data in trained if ablation.metric in summary.plan.chance(data)]
    if len(trained) < suite.SMALLEST_SUITE:
        return []
    heading = Heading(2, "All data sets as one suite")
    if len(stated) < suite.SMALLEST_SUITE:
        text = f"{len(stated)} of {len(trained)} data sets state the chance level of {ablation.metric}"
        return [heading, Paragraph(f"Not aggregated: {text}, and {suite.SMALLEST_SUITE} are needed.")]
    scores = {variant: _scores(summary, stated, variant) for variant in summary.plan.variants}
    known = {variant: found for variant, found in scores.items() if found is not None}
    reference = known.get(ablation.reference)
    rows = []
    for variant, found in scores.items():
        mean, wins = "missing", "" if variant == ablation.reference else "missing"
        if found is not None:
            mean = format_estimate(suite.interquartile_mean_interval(found))
            if wins and reference is not None:
                wins = format_estimate(suite.improvement_interval(found, reference))
        rows.append([variant, mean, wins])
    head = ["variant", "interquartile mean", f"probability of improvement over {ablation.reference}"]
    blocks: list[Block] = [heading, Paragraph(_meaning(summary, stated)), Table(head, rows)]
    if known and len(ablation.seeds) > 1:
        blocks.append(Paragraph(_coverage(len(ablation.seeds), len(stated))))
    return [*blocks, _profile(known, f"{ablation.metric} over {len(stated)} data sets")] if known else blocks


def _profile(scores: Mapping[str, np.ndarray], title: str) -> Figure:
    profiles = [(variant, suite.profile(found, _THRESHOLDS)) for variant, found in scores.items()]
    caption = "Performance profile: the share of all runs with a score above each value. "
    caption += "Bands are exact 95 % intervals at each value." if len(scores) <= MOST_BANDS else ""
    return Figure("profile.png", caption.strip(), to_png(plot_profiles(profiles, _THRESHOLDS.tolist(), title)))


def _scores(summary: AblationSummary, stated: list[str], variant: str) -> np.ndarray | None:
    """Scores of a variant, (seeds, data sets); None where a run is missing."""
    metric, columns = summary.plan.ablation.metric, []
    for data in stated:
        spread = summary.spread(data, variant, metric)
        if spread is None:
            return None
        columns.append(suite.normalized(np.array(spread.values), summary.plan.chance(data)[metric]))
    return np.stack(columns, axis=1)


def _meaning(summary: AblationSummary, stated: list[str]) -> str:
    ablation = summary.plan.ablation
    left = [data for data in summary.plan.trained_data if data not in stated]
    text = (
        f"Scores are ({ablation.metric} − chance) / (1 − chance), of all seeds, whether they learned or not, on "
        f"{', '.join(stated)} (Agarwal et al. 2021): the mean of the middle half of all runs, and the probability that "
        f"a run beats one of {ablation.reference} on the same data set. Brackets are 95 % intervals from a bootstrap "
        "of the seeds within each data set, expanded for few seeds; they carry no verdict."
    )
    return text + (f" Left out, without a chance level: {', '.join(left)}." if left else "")


def _coverage(seeds: int, data_sets: int) -> str:
    found = simulated_coverage(seeds, data_sets)
    parts = [f"{shape} {mean:.2f} and {share:.2f}" for shape, (mean, share) in found.items()]
    return (
        f"Simulated coverage of both intervals with {seeds} seeds on {data_sets} data sets (200 repetitions each, by "
        f"the law of the seeds): {'; '.join(parts)}."
    )
