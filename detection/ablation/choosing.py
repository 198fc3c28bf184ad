"""Carry out an ablation's choice: an ablation of the options, and the variants with what was chosen."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

from detection.ablation.ablation import Ablation
from detection.ablation.choice import Choice, Chosen, trial_name
from detection.ablation.summary import AblationSummary
from detection.errors import UserError

FOLDER = "choice"
"""Where the runs of a choice are, in the folder of its ablation."""


def choice_ablation(ablation: Ablation, choice: Choice) -> Ablation:
    """Return the ablation whose variants are the options of all variants."""
    trials = choice.tried({variant: tuple(changes) for variant, changes in ablation.variants.items()})
    return Ablation(
        base=ablation.base,
        variants=trials,
        data=choice.data,
        seeds=choice.seeds,
        metric=ablation.metric,
        run_type=ablation.run_type,
    )


def choose(choice: Choice, summary: AblationSummary) -> dict[str, Chosen]:
    """Choose for every variant the option with the highest mean; of equal ones the first.

    Args:
        choice: what there is to choose from.
        summary: of its ablation.

    Raises:
        UserError: a run is missing, or a metric is not defined.
    """
    trials, chosen = summary.plan.ablation.variants, {}
    for variant, options in choice.options.items():
        means = {option: _mean(summary, trial_name(variant, option)) for option in options}
        best = max(means, key=lambda option: means[option])
        chosen[variant] = Chosen(best, tuple(trials[trial_name(variant, best)]), means)
    return chosen


def with_chosen(ablation: Ablation, chosen: Mapping[str, Chosen]) -> Ablation:
    """Return the ablation of the variants as they were chosen."""
    variants = {
        name: chosen[name].changes if name in chosen else changes for name, changes in ablation.variants.items()
    }
    return replace(ablation, variants=variants, choice=None)


def _mean(summary: AblationSummary, trial: str) -> float:
    ablation = summary.plan.ablation
    values: list[float] = []
    for data in ablation.data:
        spread = summary.spread(data, trial, ablation.metric)
        if spread is None:
            raise UserError(
                f"choice: {data}/{trial} has no {ablation.metric}: a run is missing or the metric is not defined. The "
                "same command tries missing runs again."
            )
        values += spread.values
    return fmean(values)
