"""Differences between variants with their verdicts: of the primary comparisons, and of all others."""

from collections.abc import Iterator

from detection.ablation.primary import changes
from detection.ablation.report import figures, formatting
from detection.ablation.summary import AblationSummary
from detection.ablation.verdicts import Verdict, verdicts
from detection.evaluation.seeds import format_estimate
from detection.reports.document import Block, Bullets, Figure, Heading, Paragraph, Table
from detection.reports.files import to_png


def primary_comparisons(summary: AblationSummary) -> Iterator[Block]:
    """List the comparisons that were named before the first run, and what the file names otherwise now."""
    plan = summary.plan
    here = [one for one in plan.ablation.comparisons if one in plan.registered]
    changed = changes(plan.primary, plan.registered)
    if not here and not changed:
        return
    yield Heading(2, "Primary comparisons")
    if changed:
        yield Paragraph("The primary comparisons were changed after runs existed.", warning=True)
        yield Bullets(changed)
    if not here:
        return
    rows = []
    for one in here:
        verdict = verdicts(summary, one.data, one.metric)[one.variant, one.against]
        shares = [_share(summary, one.data, variant, one.metric) for variant in (one.variant, one.against)]
        rows.append([str(one), *shares, *_verdict(summary, one.data, one.metric, verdict, (one.variant, one.against))])
    yield Paragraph(
        "Named in the ablation's file before the first run. Each carries a verdict at 95 %, whatever the others show; "
        "its tests of the mean and of the share, where both are made, are adjusted by Holm."
    )
    head = ["comparison", "seeds that learn", "of the other", "difference among seeds that learned", "p", "verdict"]
    yield Table(head, rows)


def difference_blocks(summary: AblationSummary, data: str) -> list[Block]:
    """The differences to the reference of all metrics on a data set, with verdicts on the main one, and a figure."""
    ablation = summary.plan.ablation
    metric, reference = ablation.metric, ablation.reference
    columns = [column for column in dict.fromkeys(ablation.run_type.columns) if column != metric]
    others = [variant for variant in summary.plan.variants if variant != reference]
    if not others:
        return []
    found = {column: verdicts(summary, data, column) for column in (metric, *columns)}
    main = {v: found[metric][v, reference] for v in others}
    rows = [
        [v + " (primary)" * main[v].primary, *_verdict(summary, data, metric, main[v], (v, reference))]
        + [formatting.difference(summary, data, v, column, found[column][v, reference]) for column in columns]
        for v in others
    ]
    points = [(v, main[v], summary.seed_differences(data, v, metric)) for v in others]
    figure = figures.plot_differences(points, f"{metric} on {data}, 95 % interval", reference)
    caption = (
        f"{metric} on {data}: difference to {reference} with its 95 % interval, gray where it is undecided; every pair "
        "of seeds is a point, hollow where one of the two has not learned."
    )
    text = (
        "Mean difference over the seeds with which both variants learned [95 % interval of this comparison alone]. p "
        "is that of this difference or of the shares of seeds that learn, the smaller one; it is adjusted by Holm for "
        "all comparisons of a metric on this data set but the primary ones. An asterisk marks a difference whose own p "
        "is below 0.05."
    )
    return [
        Heading(3, f"Difference to {reference} on {data}"),
        Paragraph(text),
        Table(["variant", metric, "p", "verdict", *columns], rows),
        Figure(f"differences-{data}.png", caption, to_png(figure)),
    ]


def _share(summary: AblationSummary, data: str, variant: str, metric: str) -> str:
    spread = summary.spread(data, variant, metric)
    if spread is None or spread.share is None:
        return "missing" if spread is None else "no chance level"
    return format_estimate(spread.share)


def _verdict(summary: AblationSummary, data: str, metric: str, verdict: Verdict, pair: tuple[str, str]) -> list[str]:
    """Texts of the difference, the smallest p value of the comparison, and the verdict."""
    p_values = [p for p in (verdict.p_mean, verdict.p_share) if p is not None]
    p = formatting.p_value(min(p_values)) if p_values else "–"
    return [formatting.difference(summary, data, pair[0], metric, verdict, pair[1]), p, verdict.text]
