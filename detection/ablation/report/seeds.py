"""The main metric of an ablation seed by seed: how many learn, and how good those are that do."""

from detection.ablation.report import formatting
from detection.ablation.report.seed_figures import plot_seeds
from detection.ablation.summary import AblationSummary, Spread
from detection.evaluation.seeds import Learning, format_estimate
from detection.reports.document import Block, Figure, Paragraph, Table
from detection.reports.files import to_png


def seed_blocks(summary: AblationSummary, data: str) -> list[Block]:
    """State the level above which a seed has learned, and list every seed of the main metric, as table and figure."""
    metric, variants = summary.plan.ablation.metric, list(summary.plan.variants)
    learning = summary.learning(data, metric)
    found = {variant: summary.spread(data, variant, metric) for variant in variants}
    rows = [[v, *_row(summary, data, v, found[v], learning)] for v in variants]
    share = [] if learning is None else ["learned", "share of seeds that learn"]
    mean = "mean of all seeds" if learning is None else "mean among seeds that learned"
    head = ["variant", *share, mean, "each seed"]
    figure = plot_seeds(list(found.items()), learning, f"{metric} on {data}, every seed", metric)
    bar = "of all seeds" if learning is None else "among seeds that learned"
    caption = f"{metric} on {data}: every seed is a point; a bar is the mean {bar} with its t interval."
    if learning is not None:
        caption += " Hollow points have not learned; lines are chance and the level from which a seed has learned."
    return [
        Paragraph(_meaning(summary, data, learning)),
        Table(head, rows),
        Figure(f"seeds-{data}.png", caption, to_png(figure)),
    ]


def _row(
    summary: AblationSummary, data: str, variant: str, spread: Spread | None, learning: Learning | None
) -> list[str]:
    if spread is None:
        text = formatting.spread(summary, data, variant, summary.plan.ablation.metric)
        return [*(["", ""] if learning else []), text, ""]
    values = " ".join(f"{value:.3f}" for value in spread.values)
    if spread.learned is None:
        return [format_estimate(spread.estimate), values]
    never = f"has not learned in {summary.updates(data, variant)}"
    mean = format_estimate(spread.estimate) if spread.has_learned else never
    return [f"{sum(spread.learned)} of {len(spread.values)}", format_estimate(spread.share), mean, values]


def _meaning(summary: AblationSummary, data: str, learning: Learning | None) -> str:
    metric = summary.plan.ablation.metric
    if learning is None and not summary.of_data(data):
        return "No run is finished yet."
    if learning is None:
        return (
            f"No chance level of {metric} is stated for {data} (chance= in the ablation's file), so nothing is stated "
            "of learning: means and intervals are over all seeds, and mean little where some seeds stayed at chance."
        )
    above = f"a seed above {learning.threshold:.3f} has learned, being nearer to the best seed than to chance"
    if not learning.is_above_chance:
        above = "none is above chance by more than its images explain, so none has learned"
    return (
        f"By chance {metric} is {learning.chance:.3f}, and the best seed has {learning.best:.3f}: {above}. The share "
        "of seeds that learn has the exact 95 % interval of Clopper and Pearson; the mean among seeds that learned has "
        "a t interval, at 99 %, with which skewed seeds are covered at 95 %. Both are over seeds, on these images."
    )
